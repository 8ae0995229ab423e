package pool_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/storetest"
)

// serverPair is a primary, a standby, and a sidecar that reaches one of them through a proxy.
type serverPair struct {
	*storetest.Fixture
	primary, standby *postgres.Server
	proxy            *storetest.Proxy
	directory        *directory.Directory
	log              *storetest.Log
	revokedLater     authz.Lookup // look-up of a token that will be revoked only on the new primary
	promoted         *sqlx.DB
}

func newServerPair(t *testing.T) *serverPair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p := &serverPair{log: new(storetest.Log)}
	var err error
	if p.primary, err = postgres.Start(ctx, postgres.Config{Log: p.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.primary.Close() })
	if p.standby, err = p.primary.StartStandby(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.standby.Close() })
	p.Fixture = storetest.FixtureAt(t, p.primary.URL("postgres"))
	_, key := p.WorkspaceToken(t, "issues:read")
	p.revokedLater = storetest.Lookup(key)
	p.proxy = storetest.NewProxy(t, p.URL)
	p.directory = p.CachedDirectory(t, func(c *directory.Config) {
		c.URL, c.NoHints, c.LookupTimeout = p.proxy.URL(c.URL), true, 10*time.Second
	})
	p.OccupyConnections(t, p.directory)()
	storetest.Eventually(t, "the token is cached", func() bool {
		return storetest.Must(p.directory.Lookup(t.Context(), p.revokedLater)).Cache == authz.CacheHit
	})
	return p
}

// failOver promotes the standby, redirects new connections to it, and revokes the token there. The old primary and all connections to
// it keep working.
func (p *serverPair) failOver(t *testing.T) {
	t.Helper()
	p.promoted = storetest.OpenDB(t, storetest.WithOption(p.standby.URL("postgres"), "target_session_attrs", "read-write"))
	direct := storetest.Must(sqlx.Open("postgres", p.standby.URL("postgres")))
	defer func() { _ = direct.Close() }()
	storetest.Eventually(t, "the standby has caught up", func() bool {
		var n int
		err := direct.Get(&n, `SELECT count(*) FROM keywicket.tokens`)
		return err == nil && n > 0
	})
	storetest.Must(direct.Exec(`SELECT pg_promote()`))
	storetest.Eventually(t, "the standby is promoted", func() bool {
		_, err := p.promoted.Exec(storetest.RevokeAll)
		return err == nil
	})
	p.proxy.Redirect(p.standby.URL("postgres"))
}

// terminate closes those connections from the sidecar to the old primary whose last query matches the pattern.
func (p *serverPair) terminate(t *testing.T, pattern string) {
	t.Helper()
	n := storetest.Value[int](t, p.DB, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE application_name = 'keywicket' AND pid <> pg_backend_pid() AND usename = 'postgres' AND query LIKE '`+pattern+`'`)
	if n == 0 {
		t.Fatalf("no connection has a query like %s", pattern)
	}
}

const (
	lookupPattern = `%LEFT JOIN LATERAL (%CASE WHEN t.revoked_at%`
	pollPattern   = `%keywicket.world%`
)

// After a failover, all connections to the old primary may still be open. The sidecar then detects the failover when one of its new
// connections reaches the new primary.
func TestFailoverWithOpenConnections(t *testing.T) {
	for name, reach := range map[string]func(*testing.T, *serverPair){
		"a look-up reaches the new primary":        func(t *testing.T, p *serverPair) { p.terminateOneLookup(t) },
		"the change feed reaches the new primary":  func(t *testing.T, p *serverPair) { p.terminate(t, pollPattern) },
		"a new connection reaches the new primary": func(*testing.T, *serverPair) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newServerPair(t)
			p.failOver(t)
			if got := storetest.Must(p.directory.Lookup(t.Context(), p.revokedLater)); got.Denial != "" {
				t.Fatalf("before a connection reaches the new primary: %+v", got)
			}
			reach(t, p)
			// In turn, look up an unknown token, which needs a query, and the cached token.
			n := 0
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				n++
				_, _ = p.directory.Lookup(t.Context(), storetest.Lookup(authz.Secret(fmt.Sprint("vel_unknown_", n))))
				got, err := p.directory.Lookup(t.Context(), p.revokedLater)
				if err == nil && got.Denial == authz.ReasonRevoked {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the answer is still from the old primary: %+v, %v", got, err)
				}
			}
			storetest.Eventually(t, "the cache is in use again", func() bool {
				got, err := p.directory.Lookup(t.Context(), p.revokedLater)
				return err == nil && got.Denial == authz.ReasonRevoked && got.Cache == authz.CacheHit
			})
			if n := storetest.Value[int](t, p.DB, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keywicket'
				AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '`+lookupPattern+`'`); n != 0 {
				t.Errorf("%d connections to the old primary run look-ups", n)
			}

			// If the address leads to the old primary again, look-ups must not get answers from it.
			p.proxy.Redirect(p.URL)
			storetest.Must(p.promoted.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = 'keywicket' AND pid <> pg_backend_pid()`))
			denied := 0
			for range 100 {
				got, err := p.directory.Lookup(t.Context(), p.revokedLater)
				if err == nil && got.Denial == "" {
					t.Fatalf("the answer is from the old primary again: %+v", got)
				}
				if err != nil && strings.Contains(err.Error(), "different servers") {
					denied++
				}
				time.Sleep(20 * time.Millisecond)
			}
			if denied == 0 {
				t.Error("no error reports that the connections reach different servers")
			}
		})
	}
}

func (p *serverPair) terminateOneLookup(t *testing.T) {
	t.Helper()
	if !storetest.Value[bool](t, p.DB, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'keywicket' AND pid <> pg_backend_pid() AND query LIKE '`+lookupPattern+`' LIMIT 1`) {
		t.Fatal("no connection has run a look-up")
	}
}

// The sidecar treats a restarted server as another server, because earlier commits may be lost.
func TestRestartDropsTheCache(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t)
	restart := storetest.StopServer(t)
	restart()
	storetest.Eventually(t, "all cached answers are discarded", func() bool { return d.CacheStats().Discarded["world"] > 0 })
	storetest.Eventually(t, "the cache is in use again", func() bool {
		got, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && got.Cache == authz.CacheHit && got.Denial == ""
	})
}

// A crash of one backend restarts all backends, but not the postmaster. Commits that were not flushed are lost.
func TestCrashDropsTheCache(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t)
	f.Exec(t, `CHECKPOINT`) // without the checkpoint, the crash could lose the token
	started := storetest.Value[string](t, f.DB, `SELECT pg_postmaster_start_time()::text`)
	storetest.CrashBackend(t, storetest.Value[int](t, f.DB, `SELECT pg_backend_pid()`))
	storetest.Eventually(t, "all cached answers are discarded", func() bool { return d.CacheStats().Discarded["world"] > 0 })
	storetest.Eventually(t, "the cache is in use again", func() bool {
		got, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && got.Cache == authz.CacheHit && got.Denial == ""
	})
	if now := storetest.Value[string](t, f.DB, `SELECT pg_postmaster_start_time()::text`); now != started {
		t.Error("the postmaster was restarted too: the test proves nothing")
	}
}

// The first sidecar that detects another server notifies the others. This matters if there are many sidecars, because each
// sidecar itself checks the server only every few minutes.
func TestSidecarIsNotifiedOfAnotherServer(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	p := storetest.NewProxy(t, f.URL)
	f.Exec(t, `INSERT INTO keywicket.sidecars (id, version, policies, bound, stale_if_error, snapshot, lease, lag)
		SELECT 'other-' || n, '', '', '1s', '0', '1:1:', '0', '0' FROM generate_series(1, 500) n`)
	f.CachedDirectory(t, func(c *directory.Config) { c.URL, c.NoHints = p.URL(c.URL), true }) // this sidecar reads the number of sidecars
	time.Sleep(2 * time.Second)                                                               // after this time, the sidecar no longer opens a connection each second
	before := p.Connections()
	time.Sleep(3 * time.Second)
	if n := p.Connections(); n != before {
		t.Fatalf("each of 500 sidecars opens %d connections in three seconds", n-before)
	}
	f.Exec(t, `INSERT INTO keywicket.changes (keys) VALUES ('moved')`)
	storetest.Eventually(t, "the sidecar opens a new connection", func() bool { return p.Connections() > before })
}
