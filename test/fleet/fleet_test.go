package fleet

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/test/pgbouncer"
)

var format = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live,
	VisiblePrefix: 16, BodyLength: 40}

// stepTimeout is the time limit of every step on a busy machine.
const stepTimeout = 2 * time.Minute

// fleet is a group of sidecars with one common database. Each fleet has a different database.
type fleet struct {
	db       *sqlx.DB // as the superuser
	registry *registry.Registry
	name     string // name of the database
	sidecars []*directory.Directory
	pooler   *pgbouncer.Pooler // nil: none
}

// If there is a pooler, every fourth sidecar connects through the pooler.
const pooledShare = 4

func (f *fleet) isPooled(sidecar int) bool {
	return f.pooler != nil && sidecar%pooledShare == pooledShare-1
}

// token is a token that sidecars look up.
type token struct {
	id     string
	lookup authz.Lookup
}

// newFleet starts the sidecars one by one over the time startDuration, so that they do not all read the log at the same
// moments.
func newFleet(t *testing.T, sidecars int, hints, pooled bool, staleness, startDuration time.Duration) *fleet {
	t.Helper()
	f := &fleet{name: fmt.Sprintf("fleet_%d_%t_%t", sidecars, hints, pooled)}
	admin := open(t, server.URL("postgres"))
	if _, err := admin.ExecContext(t.Context(), `CREATE DATABASE `+f.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.ExecContext(context.Background(), `DROP DATABASE `+f.name+` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	ownerURL := withParameter(t, server.URL(f.name), "application_name", "fleet")
	f.db = open(t, ownerURL)
	if _, err := schema.Migrate(t.Context(), f.db); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.registry, err = registry.Open(t.Context(), ownerURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.registry.Close() })
	if _, err := f.registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: "acme", Name: "Acme"}); err != nil {
		t.Fatal(err)
	}

	config := directory.Config{
		URL: withParameter(t, server.URL(f.name), "role", "keywicket_sidecar"), NoHints: !hints, LookupTimeout: stepTimeout,
		// With this maximum age, no cached answer expires during a test.
		Cache: cache.Config{MaxBytes: cache.MinBytes, StalenessBound: staleness, MaxAge: time.Hour},
	}
	pooledConfig := config
	if pooled {
		pooledConfig.URL = f.startPooler(t)
	}
	for i := range sidecars {
		config := config
		if f.isPooled(i) {
			config = pooledConfig
		}
		d, err := directory.Open(config, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.sidecars = append(f.sidecars, d)
		time.Sleep(startDuration / time.Duration(sidecars))
	}
	t.Cleanup(func() {
		// All sidecars write the usage of the same tokens at the same moment. Some writes may fail, which does not matter here.
		_ = f.forEach(func(_ int, d *directory.Directory) error { _ = d.Close(context.Background()); return nil })
	})
	f.requireForEach(t, func(_ int, d *directory.Directory) error {
		return eventually("the log is read", func() bool { return d.Ready(t.Context()) == nil && d.CacheStats().LeaseLeft > 0 })
	})
	return f
}

// startPooler starts a pooler in transaction mode, and returns the database URL for a sidecar behind the pooler. A pooler
// refuses the startup parameter "role", so this URL has another login than the URLs of the direct sidecars. The login also
// distinguishes the pooler's connections from other connections in pg_stat_activity.
func (f *fleet) startPooler(t *testing.T) string {
	t.Helper()
	const login = "pooled"
	password := cryptorand.Text()
	if _, err := f.db.ExecContext(t.Context(), `CREATE ROLE `+login+` LOGIN PASSWORD '`+password+`' IN ROLE keywicket_sidecar`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := open(t, server.URL("postgres")).ExecContext(context.Background(), `DROP ROLE `+login); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server.URL(f.name))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(login, password)
	f.pooler, err = pgbouncer.Start(t.Context(), pgbouncer.Config{Logins: []string{u.String()}, PoolSize: poolSize, MaxClients: poolClients})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.pooler.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(f.pooler.Log())
		}
	})
	pooledURL, err := f.pooler.URL(u.String())
	if err != nil {
		t.Fatal(err)
	}
	return pooledURL
}

func open(t *testing.T, databaseURL string) *sqlx.DB {
	t.Helper()
	db, err := database.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// withParameter adds a parameter to a URL.
func withParameter(t *testing.T, databaseURL, key, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// forEach calls do for every sidecar, at most 16 at a time. After an error, forEach starts no further call.
func (f *fleet) forEach(do func(int, *directory.Directory) error) error {
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		failed []error
	)
	slots := make(chan struct{}, 16)
	for i, d := range f.sidecars {
		slots <- struct{}{}
		mu.Lock()
		hasFailed := len(failed) > 0
		mu.Unlock()
		if hasFailed {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := do(i, d); err != nil {
				mu.Lock()
				failed = append(failed, fmt.Errorf("sidecar %d: %w", i, err))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (f *fleet) requireForEach(t *testing.T, do func(int, *directory.Directory) error) {
	t.Helper()
	if err := f.forEach(do); err != nil {
		t.Fatal(err)
	}
}

func eventually(what string, condition func() bool) error {
	return eventuallyWithin(stepTimeout, what, condition)
}

func eventuallyWithin(limit time.Duration, what string, condition func() bool) error {
	for end := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("timeout: " + what)
		}
	}
	return nil
}

// createTokens creates tokens, and waits until every sidecar has read these changes.
func (f *fleet) createTokens(t *testing.T, n int) []token {
	t.Helper()
	w := f.watch()
	var all []token
	for i := range n {
		created, secret, err := f.registry.CreateToken(t.Context(), registry.NewToken{
			Format: format, API: "velaflows", Name: fmt.Sprint("token ", i), Scopes: []string{"contacts:read"}, Workspace: "acme",
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, token{created.ID, authz.Lookup{Digest: secret.Digest(), API: "velaflows"}})
		w.recordCommit()
	}
	if _, _, missed := w.awaitCommits(n); missed > 0 {
		t.Fatalf("%d changes of new tokens were not read", missed)
	}
	return all
}

// cacheTokens looks up each token in every sidecar until the sidecar has cached a valid answer.
func (f *fleet) cacheTokens(t *testing.T, tokens []token) {
	t.Helper()
	f.requireForEach(t, func(_ int, d *directory.Directory) error {
		for _, k := range tokens {
			err := eventually("a valid answer is cached", func() bool {
				found, err := d.Lookup(t.Context(), k.lookup)
				valid := err == nil && found.Denial == "" && found.Cache == authz.CacheHit
				if valid {
					d.CountUse(&found.Principal, true)
				}
				return valid
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// requireRevoked requires every sidecar to deny each token.
func (f *fleet) requireRevoked(t *testing.T, tokens []token) {
	t.Helper()
	f.requireForEach(t, func(_ int, d *directory.Directory) error {
		for _, k := range tokens {
			if found, err := d.Lookup(t.Context(), k.lookup); err != nil || found.Denial != authz.ReasonRevoked {
				return fmt.Errorf("a revoked token: denial %q, cache %q, error %w", found.Denial, found.Cache, err)
			}
		}
		return nil
	})
}

const revoke = `UPDATE keywicket.tokens SET revoked_at = clock_timestamp() WHERE id = $1`

// revoke revokes the tokens in overlapping transactions. Each transaction writes immediately and stays open for a random time,
// shorter than the parameter `maxHold`. So the order of the commits differs from the order of the starts. About one transaction in
// four is rolled back and repeated. After each COMMIT, revoke calls the parameter `onCommit`.
func (f *fleet) revoke(t *testing.T, tokens []token, writers int, maxHold time.Duration, onCommit func()) {
	t.Helper()
	queue := make(chan token, len(tokens))
	for _, k := range tokens {
		queue <- k
	}
	close(queue)
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for k := range queue {
				for done := false; !done; {
					tx, err := f.db.BeginTxx(t.Context(), nil)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := tx.ExecContext(t.Context(), revoke, k.id); err != nil {
						t.Error(err)
					}
					time.Sleep(rand.N(maxHold))
					if done = rand.N(4) != 0; !done {
						_ = tx.Rollback()
					} else if err := tx.Commit(); err != nil {
						t.Error(err)
					} else {
						onCommit()
					}
				}
			}
		})
	}
	writing.Wait()
}

// watch records which changes each sidecar has received.
type watch struct {
	fleet         *fleet
	changesBefore []uint64 // for each sidecar: the number of changes that it had received before the watch began
	hintsBefore   []uint64 // for each sidecar: the number of hints (notifications) before the watch began
	received      []int    // for each sidecar: the number of commits that it has received since the watch began

	mu        sync.Mutex
	committed []time.Time // time after each COMMIT
}

func (f *fleet) watch() *watch {
	w := &watch{fleet: f, received: make([]int, len(f.sidecars))}
	for _, d := range f.sidecars {
		changes, hints := d.ChangeCounts()
		w.changesBefore, w.hintsBefore = append(w.changesBefore, changes), append(w.hintsBefore, hints)
	}
	return w
}

func (w *watch) recordCommit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.committed = append(w.committed, time.Now())
}

// awaitCommits waits until every sidecar has received the given number of commits. It returns the delays of all commits:
// `direct` for direct sidecars, and `pooled` for sidecars behind the pooler. A sidecar that reads a commit in the log has also
// read all earlier commits. So n received commits are always the first n commits.
func (w *watch) awaitCommits(commits int) (direct, pooled []time.Duration, missed int) {
	for end := time.Now().Add(stepTimeout); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		committed := w.committed
		w.mu.Unlock()
		missed = 0
		for i, d := range w.fleet.sidecars {
			if w.received[i] < len(committed) {
				changes, hints := d.ChangeCounts()
				now := time.Now()
				// A sidecar receives each change in a hint, from the log, or both. The earlier one counts.
				received := int(max(changes-w.changesBefore[i], hints-w.hintsBefore[i])) //nolint:gosec // some dozens
				for ; w.received[i] < min(received, len(committed)); w.received[i]++ {
					if late := now.Sub(committed[w.received[i]]); w.fleet.isPooled(i) {
						pooled = append(pooled, late)
					} else {
						direct = append(direct, late)
					}
				}
			}
			missed += commits - w.received[i]
		}
		if missed == 0 || time.Now().After(end) {
			return direct, pooled, missed
		}
	}
}

// duplicates returns how often sidecars have read a change that they had already read.
func (w *watch) duplicates() (n int) {
	for i, d := range w.fleet.sidecars {
		changes, _ := d.ChangeCounts()
		n += int(changes-w.changesBefore[i]) - w.received[i] //nolint:gosec // some dozens
	}
	return n
}

// connections returns the current numbers of connections to the database: the connections of direct sidecars, and the
// connections of the pooler.
func (f *fleet) connections(t *testing.T) (direct, pooled int) {
	t.Helper()
	const query = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND `
	return queryValue[int](t, f.db, query+`application_name = 'keywicket' AND usename <> 'pooled'`), queryValue[int](t, f.db, query+`usename = 'pooled'`)
}

func queryValue[T any](t *testing.T, db *sqlx.DB, query string) (v T) {
	t.Helper()
	if err := db.GetContext(t.Context(), &v, query); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEverySidecarReceivesEveryChange(t *testing.T) {
	for _, c := range []struct {
		sidecars      int
		hints, pooled bool
	}{
		{sidecars: 10, hints: true}, {sidecars: 10}, {sidecars: 50, hints: true}, {sidecars: 50}, {sidecars: 40, hints: true, pooled: true},
	} {
		t.Run(fmt.Sprintf("%d sidecars, hints %t, pooler %t", c.sidecars, c.hints, c.pooled), func(t *testing.T) {
			f := newFleet(t, c.sidecars, c.hints, c.pooled, time.Second, 0)
			tokens := f.createTokens(t, 16)
			f.cacheTokens(t, tokens)
			w := f.watch()
			f.revoke(t, tokens, 8, 200*time.Millisecond, w.recordCommit)
			if _, _, missed := w.awaitCommits(len(tokens)); missed > 0 {
				t.Errorf("%d changes were missed", missed)
			}
			f.requireRevoked(t, tokens)
			// A hint may arrive while the sidecar reads the log. This reading may then return the change of the hint a second
			// time.
			if n := w.duplicates(); n > 0 && !c.hints {
				t.Errorf("%d changes were read twice", n)
			}
			each := 2 // one for look-ups, one for reading the log
			if c.hints {
				each = 3
			}
			maxDirect := each * c.sidecars
			if c.pooled {
				maxDirect -= each * c.sidecars / pooledShare
			}
			// A surplus connection stays open for two minutes.
			if err := eventuallyWithin(2*time.Minute+stepTimeout, "the surplus connections are closed", func() bool { direct, _ := f.connections(t); return direct <= maxDirect }); err != nil {
				direct, _ := f.connections(t)
				t.Errorf("%v: %d connections of %d sidecars", err, direct, c.sidecars)
			}
			if _, pooled := f.connections(t); pooled > poolSize || c.pooled == (pooled == 0) {
				t.Errorf("the pooler has %d connections", pooled)
			}
		})
	}
}
