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

	"github.com/keywicket/keywicket/store"
	"github.com/keywicket/keywicket/test/pgbouncer"
	"github.com/keywicket/keywicket/test/supabase"
)

// bound is S, the default of cache.staleness_bound.
const bound = time.Second

// options of a world.
type options struct {
	binary     string // of keywicket
	sidecars   int
	pooled     int // of the sidecars, the last: they are behind a pooler of transactions
	subjects   int
	readers    int           // of each sidecar
	pace       time.Duration // of a reader: one request in so long
	interval   time.Duration // between two changes
	ways       []way         // to change
	replicated bool
	noHints    bool // sidecars read the log only
	prepared   bool // the server takes prepared transactions
	seed       uint64
	log        func(format string, args ...any)
	output     io.Writer // what the sidecars log; nil drops it
}

// world is all that is audited, running.
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

	changing sync.Mutex // one change at a time, and none while rows are read back
	// moving is held from the promotion of another primary until every sidecar has reached it.
	moving  sync.RWMutex
	dumped  dump
	version int            // of the server: 150018
	failed  map[string]int // changes that got an error, by way

	// What readers ask for: until says until when states within the bound may disagree; focus are subjects of interest.
	until            []atomic.Int64
	focus            atomic.Pointer[[]int]
	asked, ambiguous atomic.Int64
	touched          []atomic.Int64 // when a subject was last changed
	suspect          atomic.Int32   // the sidecar that a fault is about, from 1; 0: none, or all
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
	// Root's Postgres runs as another user, who has to pass through.
	if err = os.Chmod(w.dir, 0o711); err != nil { //nolint:gosec // nothing in it can be listed
		return nil, err
	}
	settings := map[string]string{}
	if o.prepared {
		settings["max_prepared_transactions"] = "10"
	}
	if w.cluster, err = newCluster(ctx, w.dir, false, settings); err != nil {
		return nil, err
	}
	primary := w.cluster.now()
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

// pool starts a pooler whose connections to the database go over the relay, as those of the sidecars do.
func (w *world) pool(ctx context.Context, login string) error {
	over, err := at(login, w.relay.address())
	if err != nil {
		return err
	}
	w.pooler, err = pgbouncer.Start(ctx, pgbouncer.Config{Logins: []string{over}, Restart: true, Settings: map[string]string{
		// The pooler makes its connections anew from time to time, and so follows a failover that cuts none of them. By default it
		// takes an hour. A sidecar looks every second.
		"server_lifetime": "1",
		// Where the database takes no connection, as while it recovers, the pooler would refuse its clients for 15 s.
		"server_login_retry": "0.1", "server_connect_timeout": "2",
	}})
	return err
}

// migrate makes the schema, the subjects, and the logins of the sidecars and of somebody else.
func (w *world) migrate(ctx context.Context) (login string, err error) {
	n := w.cluster.now()
	db, err := store.Open(n.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Close() }()
	if _, err := store.Migrate(ctx, db); err != nil {
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
		if err := n.exec(ctx, s.establish()); err != nil {
			return "", err
		}
	}
	// Some begin as ones who are denied.
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

// other is the URL of a login that may do nothing.
func (w *world) other(n *node) (string, error) {
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

// warm waits until each sidecar answers for each subject what the rows say: if that is not so without changes and faults, there
// is nothing to audit.
func (w *world) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	first, err := outcomes(ctx, w.cluster.now().operator, w.subjects)
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
					return fmt.Errorf("%s of subject %d is answered %v, and has to be %v", subject.kind, i, got, first[i])
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	w.history = newHistory(first)
	w.until, w.touched = make([]atomic.Int64, len(first)), make([]atomic.Int64, len(first))
	for i := range w.touched {
		w.touched[i].Store(int64(always))
	}
	w.began = time.Now()
	return nil
}

func (w *world) now() time.Duration { return time.Since(w.began) }

// run audits until the time is over, and judges. Faults come one at a time.
func (w *world) run(ctx context.Context, duration time.Duration, faults []fault) (*report, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var failed error
	var changes, readers sync.WaitGroup
	asking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for i := range w.sidecars {
		for n := range w.options.readers {
			readers.Go(func() { w.read(asking, i, mathrand.New(mathrand.NewPCG(w.seed, uint64(1000*i+n)))) })
		}
	}
	changes.Go(func() { w.change(ctx, mathrand.New(mathrand.NewPCG(w.seed, 1))) })
	failed = w.failAll(ctx, faults, mathrand.New(mathrand.NewPCG(w.seed, 2)))
	if failed != nil {
		cancel()
	}
	changes.Wait()
	// The last changes are to be asked for after the bound.
	pause(asking, 2*bound)
	stop()
	readers.Wait()
	return judgeAll(w.history, bound), failed
}

// pause lets time pass that belongs to the experiment: it waits for nothing.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// close stops what runs and removes every file. Closing twice is no error.
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

// build makes a keywicket; overlay is what `go build -overlay` takes, or empty.
func build(ctx context.Context, dir, overlay string) (string, error) {
	binary := filepath.Join(dir, "keywicket")
	args := []string{"build", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if out, err := command(ctx, "go", append(args, "github.com/keywicket/keywicket/cmd/keywicket")...); err != nil {
		return "", fmt.Errorf("build keywicket: %w\n%s", err, out)
	}
	return binary, nil
}
