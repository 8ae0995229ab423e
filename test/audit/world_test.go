package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/test/pgbouncer"
	"github.com/keywicket/keywicket/test/supabase"
)

// bound is the default of cache.staleness_bound, which the plot calls S.
const bound = time.Second

// options are the options of a world, the running system under audit.
type options struct {
	binary     string // path of keywicket's binary
	sidecars   int
	pooled     int // number of sidecars behind a transaction pooler: those with the highest numbers
	subjects   int
	readers    int           // number of readers of each sidecar
	pace       time.Duration // interval between two checks of a reader
	interval   time.Duration // interval between two changes
	ways       []way         // ways to change
	replicated bool
	noHints    bool // sidecars only read the log and do not listen for notifications
	prepared   bool // the server allows prepared transactions
	seed       uint64
	log        func(format string, args ...any)
	output     io.Writer // destination of the sidecars' logs; nil discards them
}

// world is the running system under audit.
type world struct {
	options
	dir      string
	issuer   *supabase.Issuer
	cluster  *cluster
	relay    *relay
	pooler   *pgbouncer.Pooler // nil: none
	sidecars []*sidecar
	subjects []*subject
	history  *history
	began    time.Time

	changing sync.Mutex // held during a change, and while the resulting rows are read
	// moving is locked from the promotion of another primary until every sidecar has reached the new primary.
	moving  sync.RWMutex
	dumped  dump
	version int            // version of the server, for example 150018
	failed  map[string]int // number of changes that returned an error, by way

	// Readers use these fields to choose subjects. Until the time in ambiguousUntil, more than one outcome of a subject is correct.
	// Readers send more checks of the subjects in focus.
	ambiguousUntil    []atomic.Int64
	focus             atomic.Pointer[[]int]
	checks, ambiguous atomic.Int64
	changedAt         []atomic.Int64 // time of a subject's last change
	affected          atomic.Int32   // number of the sidecar that a fault affects, from 1; 0: none, or all
}

func newWorld(ctx context.Context, o options) (_ *world, err error) {
	w := &world{options: o, issuer: supabase.Start(), failed: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "keywicket-audit-"); err != nil {
		return nil, err
	}
	// If the test runs as root, Postgres runs as another user, which must be able to traverse the folder.
	if err = os.Chmod(w.dir, 0o711); err != nil { //nolint:gosec // other users cannot list it
		return nil, err
	}
	settings := map[string]string{}
	if o.prepared {
		settings["max_prepared_transactions"] = "10"
	}
	if w.cluster, err = newCluster(ctx, w.dir, false, settings); err != nil {
		return nil, err
	}
	primary := w.cluster.currentPrimary()
	if o.replicated && !primary.Has("pg_basebackup") {
		o.log("no pg_basebackup beside the server: there is no standby, and no failover")
		w.replicated, o.replicated = false, false
	}
	if err = primary.operator.GetContext(ctx, &w.version, `SELECT current_setting('server_version_num')::int`); err != nil {
		return nil, err
	}
	login, err := w.migrate(ctx)
	if err != nil {
		return nil, err
	}
	if o.replicated {
		if err = w.cluster.follow(ctx); err != nil {
			return nil, err
		}
	}
	if w.relay, err = newRelay(primary.Address()); err != nil {
		return nil, err
	}
	proxies := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	environ := append(w.issuer.Environ(), "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms", "KEYWICKET_LOG_LEVEL=warn",
		fmt.Sprint("KEYWICKET_DATABASE_HINTS=", !o.noHints))
	if o.pooled > 0 {
		if err = w.pool(ctx, login); err != nil {
			return nil, err
		}
	}
	for i := range o.sidecars {
		lookups := w.relay.address()
		if i >= o.sidecars-o.pooled {
			lookups = w.pooler.Address()
		}
		s, err := newSidecar(proxies, o.binary, login, lookups, w.relay.address(), o.output, environ)
		if err != nil {
			return nil, err
		}
		w.sidecars = append(w.sidecars, s)
	}
	return w, w.warm(ctx)
}

// pool starts a pooler that connects to the database over the relay, as the sidecars do.
func (w *world) pool(ctx context.Context, login string) error {
	viaRelay, err := withAddress(login, w.relay.address())
	if err != nil {
		return err
	}
	w.pooler, err = pgbouncer.Start(ctx, pgbouncer.Config{Logins: []string{viaRelay}, Restart: true, Settings: map[string]string{
		// The pooler replaces its connections after this time in seconds, so it reaches the new primary even if a failover
		// closes no connection. The default is an hour. A sidecar checks every second.
		"server_lifetime": "1",
		// With the defaults, the pooler would refuse its clients for 15 s while the database accepts no connection, as in recovery.
		"server_login_retry": "0.1", "server_connect_timeout": "2",
	}})
	return err
}

// migrate creates the schema, the subjects, and two logins: one for the sidecars, and one without privileges.
func (w *world) migrate(ctx context.Context) (login string, err error) {
	n := w.cluster.currentPrimary()
	db, err := database.Open(n.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Close() }()
	if _, err := schema.Migrate(ctx, db); err != nil {
		return "", err
	}
	password := rand.Text()
	if err := n.exec(ctx,
		`CREATE ROLE audited LOGIN PASSWORD '`+password+`' IN ROLE keywicket_sidecar`,
		`CREATE ROLE other LOGIN PASSWORD '`+password+`'`); err != nil {
		return "", err
	}
	for i := range w.options.subjects {
		s := newSubject(kinds[i%len(kinds)], i, w.issuer)
		w.subjects = append(w.subjects, s)
		if err := n.exec(ctx, s.allowSQL()); err != nil {
			return "", err
		}
	}
	// Some subjects are denied at first.
	for i, s := range w.subjects {
		if i%10 == 0 {
			if err := n.exec(ctx, denials(s)[0].sql); err != nil {
				return "", err
			}
		}
	}
	u, err := url.Parse(n.URL("postgres"))
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword("audited", password)
	return u.String(), nil
}

// unprivilegedURL returns the URL of a login without privileges.
func (w *world) unprivilegedURL(n *node) (string, error) {
	u, err := url.Parse(w.sidecars[0].environ[slices.IndexFunc(w.sidecars[0].environ, isDatabaseURL)][len(databaseVariable):])
	if err != nil {
		return "", err
	}
	password, _ := u.User.Password()
	u.User, u.Host = url.UserPassword("other", password), n.Address()
	return u.String(), nil
}

const databaseVariable = "KEYWICKET_DATABASE_URL="

func isDatabaseURL(entry string) bool {
	return len(entry) > len(databaseVariable) && entry[:len(databaseVariable)] == databaseVariable
}

// warm waits until each sidecar returns, for each subject, the outcome that the rows define. Without changes and faults, it must
// succeed: otherwise the audit would test nothing.
func (w *world) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	first, err := outcomes(ctx, w.cluster.currentPrimary().operator, w.subjects)
	if err != nil {
		return err
	}
	for _, s := range w.sidecars {
		if err := s.ready(ctx); err != nil {
			return err
		}
		for i, subject := range w.subjects {
			err := await(ctx, "a sidecar answers", func(ctx context.Context) error {
				if got := s.check(ctx, subject.request); got != first[i] {
					return fmt.Errorf("%s of subject %d gets %v, not %v", subject.kind, i, got, first[i])
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	w.history = newHistory(first)
	w.ambiguousUntil, w.changedAt = make([]atomic.Int64, len(first)), make([]atomic.Int64, len(first))
	for i := range w.changedAt {
		w.changedAt[i].Store(int64(always))
	}
	w.began = time.Now()
	return nil
}

func (w *world) now() time.Duration { return time.Since(w.began) }

// run audits for the duration and judges the history. Faults occur one at a time.
func (w *world) run(ctx context.Context, duration time.Duration, faults []fault) (*report, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var failed error
	var changes, readers sync.WaitGroup
	readCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for i := range w.sidecars {
		for n := range w.options.readers {
			readers.Go(func() { w.read(readCtx, i, mathrand.New(mathrand.NewPCG(w.seed, uint64(1000*i+n)))) })
		}
	}
	changes.Go(func() { w.change(ctx, mathrand.New(mathrand.NewPCG(w.seed, 1))) })
	failed = w.failAll(ctx, faults, mathrand.New(mathrand.NewPCG(w.seed, 2)))
	if failed != nil {
		cancel()
	}
	changes.Wait()
	// Readers continue for longer than the bound after the last changes.
	pause(readCtx, 2*bound)
	stop()
	readers.Wait()
	return judgeAll(w.history, bound), failed
}

// pause waits for a fixed time, which is part of the experiment. It does not wait for an event.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// close stops all processes and removes all files. A second call does nothing.
func (w *world) close() error {
	var errs []error
	for _, s := range w.sidecars {
		errs = append(errs, s.close())
	}
	if w.pooler != nil {
		errs = append(errs, w.pooler.Close())
	}
	if w.relay != nil {
		errs = append(errs, w.relay.close())
	}
	if w.cluster != nil {
		errs = append(errs, w.cluster.close())
	}
	w.issuer.Close()
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	w.sidecars, w.pooler, w.relay, w.cluster, w.dir = nil, nil, nil, nil, ""
	return errors.Join(errs...)
}

// build builds keywicket with the file of `go build -overlay`, and returns the binary's path.
func build(ctx context.Context, dir, overlay string) (string, error) {
	binary := filepath.Join(dir, "keywicket")
	if out, err := command(ctx, "go", "build", "-o", binary, "-overlay", overlay, "github.com/keywicket/keywicket/cmd/keywicket"); err != nil {
		return "", fmt.Errorf("build keywicket: %w\n%s", err, out)
	}
	return binary, nil
}
