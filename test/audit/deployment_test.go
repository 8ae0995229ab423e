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

// bound is the default of cache.staleness_bound.
const bound = time.Second

// options are the options of a deployment.
type options struct {
	binary               string // path of keywicket's binary
	sidecars             int
	pooledSidecars       int // number of sidecars that use a transaction pooler; these are the last sidecars of the list
	subjects             int
	clients              int           // number of clients that send checks to each sidecar
	checkInterval        time.Duration // interval between two checks of a client
	changeInterval       time.Duration // interval between two changes
	changeKinds          []changeKind  // kinds of changes to the rows
	replicated           bool          // the cluster has a synchronous standby
	noHints              bool          // sidecars only read the log and do not listen for notifications
	preparedTransactions bool          // the server allows prepared transactions
	seed                 uint64
	log                  func(format string, args ...any)
	output               io.Writer // destination of the sidecars' logs; nil discards them
}

// deployment is the running system under audit.
type deployment struct {
	options
	dir      string
	issuer   *supabase.Issuer
	cluster  *cluster
	relay    *relay
	pooler   *pgbouncer.Pooler // nil: none
	sidecars []*sidecar
	subjects []*subject
	history  *history
	start    time.Time

	changing sync.Mutex // held during a change, and while the resulting rows are read
	// failover is locked from the promotion of the standby until every sidecar has reached the new primary.
	failover      sync.RWMutex
	lastDump      dump           // the dump to restore next; zero: none
	version       int            // version of the server, for example 150018
	failedChanges map[string]int // number of changes that returned an error, by kind

	// Clients use these fields to choose subjects. A subject is a credential with its request. Until the time in ambiguousUntil,
	// more than one outcome of the subject's request is correct. Clients send more checks of the subjects in focus.
	ambiguousUntil    []atomic.Int64
	focus             atomic.Pointer[[]int]
	checks, ambiguous atomic.Int64
	changedAt         []atomic.Int64 // time of a subject's last change
	affectedSidecar   atomic.Int32   // index of the sidecar that a fault affects, plus 1; 0: no sidecar, or all
}

func newDeployment(ctx context.Context, o options) (_ *deployment, err error) {
	d := &deployment{options: o, issuer: supabase.Start(), failedChanges: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.dir, err = os.MkdirTemp("", "keywicket-audit-"); err != nil {
		return nil, err
	}
	// If the test runs as root, Postgres runs as another user, which must be able to traverse the folder.
	if err = os.Chmod(d.dir, 0o711); err != nil { //nolint:gosec // other users cannot list it
		return nil, err
	}
	settings := map[string]string{}
	if o.preparedTransactions {
		settings["max_prepared_transactions"] = "10"
	}
	if d.cluster, err = newCluster(ctx, d.dir, false, settings); err != nil {
		return nil, err
	}
	primary := d.cluster.currentPrimary()
	if o.replicated && !primary.HasProgram("pg_basebackup") {
		o.log("the server has no pg_basebackup: the audit runs without a standby and without failovers")
		d.replicated, o.replicated = false, false
	}
	if err = primary.operator.GetContext(ctx, &d.version, `SELECT current_setting('server_version_num')::int`); err != nil {
		return nil, err
	}
	login, err := d.migrate(ctx)
	if err != nil {
		return nil, err
	}
	if o.replicated {
		if err = d.cluster.addStandby(ctx); err != nil {
			return nil, err
		}
	}
	if d.relay, err = newRelay(primary.Address()); err != nil {
		return nil, err
	}
	proxies := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	environ := append(d.issuer.Environ(), "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms", "KEYWICKET_LOG_LEVEL=warn",
		fmt.Sprint("KEYWICKET_DATABASE_HINTS=", !o.noHints))
	if o.pooledSidecars > 0 {
		if err = d.startPooler(ctx, login); err != nil {
			return nil, err
		}
	}
	for i := range o.sidecars {
		lookups := d.relay.address()
		if i >= o.sidecars-o.pooledSidecars {
			lookups = d.pooler.Address()
		}
		s, err := newSidecar(proxies, o.binary, login, lookups, d.relay.address(), o.output, environ)
		if err != nil {
			return nil, err
		}
		d.sidecars = append(d.sidecars, s)
	}
	return d, d.waitUntilWarm(ctx)
}

// startPooler starts a pooler that connects to the database through the relay, as the sidecars do.
func (d *deployment) startPooler(ctx context.Context, login string) error {
	viaRelay, err := withAddress(login, d.relay.address())
	if err != nil {
		return err
	}
	d.pooler, err = pgbouncer.Start(ctx, pgbouncer.Config{Logins: []string{viaRelay}, Restart: true, Settings: map[string]string{
		// The pooler replaces its connections after this time in seconds, so it reaches the new primary even if a failover
		// closes no connection. The default is an hour.
		"server_lifetime": "1",
		// With the defaults, the pooler would refuse its clients for 15 s while the database accepts no connection, as in recovery.
		"server_login_retry": "0.1", "server_connect_timeout": "2",
	}})
	return err
}

// migrate creates the schema, the subjects, and two logins: one for the sidecars, and one without privileges.
func (d *deployment) migrate(ctx context.Context) (login string, err error) {
	n := d.cluster.currentPrimary()
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
	for i := range d.options.subjects {
		s := newSubject(kinds[i%len(kinds)], i, d.issuer)
		d.subjects = append(d.subjects, s)
		if err := n.exec(ctx, s.allowSQL()); err != nil {
			return "", err
		}
	}
	// Some subjects are denied at first.
	for i, s := range d.subjects {
		if i%10 == 0 {
			if err := n.exec(ctx, denyingEdits(s)[0].sql); err != nil {
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
func (d *deployment) unprivilegedURL(n *node) (string, error) {
	u, err := url.Parse(d.sidecars[0].environ[slices.IndexFunc(d.sidecars[0].environ, isDatabaseURL)][len(databaseVariable):])
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

// waitUntilWarm waits until each sidecar returns, for each subject, the outcome that the rows define. At this time there are no
// changes and no faults, so all checks must get these outcomes. If a sidecar returned other outcomes now, the audit could not find
// out which wrong answers the changes and faults cause.
func (d *deployment) waitUntilWarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	first, err := outcomes(ctx, d.cluster.currentPrimary().operator, d.subjects)
	if err != nil {
		return err
	}
	for _, s := range d.sidecars {
		if err := s.waitReady(ctx); err != nil {
			return err
		}
		for i, subject := range d.subjects {
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
	d.history = newHistory(first)
	d.ambiguousUntil, d.changedAt = make([]atomic.Int64, len(first)), make([]atomic.Int64, len(first))
	for i := range d.changedAt {
		d.changedAt[i].Store(int64(beforeHistory))
	}
	d.start = time.Now()
	return nil
}

func (d *deployment) now() time.Duration { return time.Since(d.start) }

// run performs the audit for the given duration. Then it judges the history. Only one fault occurs at a time.
func (d *deployment) run(ctx context.Context, duration time.Duration, faults []fault) (*report, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var failed error
	var changes, clients sync.WaitGroup
	clientCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for i := range d.sidecars {
		for n := range d.options.clients {
			clients.Go(func() { d.sendChecks(clientCtx, i, mathrand.New(mathrand.NewPCG(d.seed, uint64(1000*i+n)))) })
		}
	}
	changes.Go(func() { d.makeChanges(ctx, mathrand.New(mathrand.NewPCG(d.seed, 1))) })
	failed = d.injectFaults(ctx, faults, mathrand.New(mathrand.NewPCG(d.seed, 2)))
	if failed != nil {
		cancel()
	}
	changes.Wait()
	// Clients continue to send checks for longer than the bound after the last changes.
	pause(clientCtx, 2*bound)
	stop()
	clients.Wait()
	return judgeAll(d.history, bound), failed
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
func (d *deployment) close() error {
	var errs []error
	for _, s := range d.sidecars {
		errs = append(errs, s.close())
	}
	if d.pooler != nil {
		errs = append(errs, d.pooler.Close())
	}
	if d.relay != nil {
		errs = append(errs, d.relay.close())
	}
	if d.cluster != nil {
		errs = append(errs, d.cluster.close())
	}
	d.issuer.Close()
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	d.sidecars, d.pooler, d.relay, d.cluster, d.dir = nil, nil, nil, nil, ""
	return errors.Join(errs...)
}

// build builds keywicket and returns the binary's path. The parameter `overlay` is the path of the JSON file for the flag -overlay
// of `go build`.
func build(ctx context.Context, dir, overlay string) (string, error) {
	binary := filepath.Join(dir, "keywicket")
	if out, err := command(ctx, "go", "build", "-o", binary, "-overlay", overlay, "github.com/keywicket/keywicket/cmd/keywicket"); err != nil {
		return "", fmt.Errorf("build keywicket: %w\n%s", err, out)
	}
	return binary, nil
}
