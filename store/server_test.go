package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/store"
)

// pair is a primary with a standby, and a sidecar that reaches either over a proxy.
type pair struct {
	*fixture
	primary, standby *postgres.Server
	proxy            *proxy
	directory        *store.Directory
	log              *safeBuffer
	good             authz.Lookup // a token that is revoked only on the new primary
	promoted         *sqlx.DB
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p := &pair{log: new(safeBuffer)}
	var err error
	if p.primary, err = postgres.Start(ctx, postgres.Config{Log: p.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.primary.Close() })
	if p.standby, err = p.primary.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.standby.Close() })
	p.fixture = fixtureAt(t, p.primary.URL("postgres"))
	_, key := p.workspaceToken(t, "issues:read")
	p.good = lookup(key)
	p.proxy = newProxy(t, p.url)
	p.directory = p.cachedDirectory(t, func(c *store.Config) {
		c.URL, c.NoHints, c.LookupTimeout = p.proxy.through(c.URL), true, 10*time.Second
	})
	p.occupyConnections(t, p.directory)()
	eventually(t, "the token is cached", func() bool {
		return must(p.directory.Lookup(t.Context(), p.good)).Cache == authz.CacheHit
	})
	return p
}

// failOver promotes the standby, redirects new connections to it, and revokes the token there. The old primary and all connections to
// it keep working.
func (p *pair) failOver(t *testing.T) {
	t.Helper()
	p.promoted = openDB(t, with(p.standby.URL("postgres"), "target_session_attrs", "read-write"))
	direct := must(sqlx.Open("postgres", p.standby.URL("postgres")))
	defer func() { _ = direct.Close() }()
	eventually(t, "the standby has caught up", func() bool {
		var n int
		err := direct.Get(&n, `SELECT count(*) FROM keywicket.tokens`)
		return err == nil && n > 0
	})
	must(direct.Exec(`SELECT pg_promote()`))
	eventually(t, "the standby is promoted", func() bool {
		_, err := p.promoted.Exec(revokeAll)
		return err == nil
	})
	p.proxy.redirect(p.standby.URL("postgres"))
}

// terminate ends the sidecar's connections to the old primary whose last query matches like.
func (p *pair) terminate(t *testing.T, like string) {
	t.Helper()
	n := value[int](t, p.db, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE application_name = 'keywicket' AND pid <> pg_backend_pid() AND usename = 'postgres' AND query LIKE '`+like+`'`)
	if n == 0 {
		t.Fatalf("no connection has a query like %s", like)
	}
}

const (
	lookingUp = `%LEFT JOIN LATERAL (%CASE WHEN t.revoked_at%`
	reading   = `%keywicket.world%`
)

// The sidecar detects a failover that cuts no connection as soon as one of its connections reaches the new primary.
func TestFailoverThatCutsNoConnection(t *testing.T) {
	for name, reach := range map[string]func(*testing.T, *pair){
		"a look-up reaches the new primary":       func(t *testing.T, p *pair) { p.terminateOneLookup(t) },
		"the change feed reaches the new primary": func(t *testing.T, p *pair) { p.terminate(t, reading) },
		"a fresh connection does, after a second": func(*testing.T, *pair) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.failOver(t)
			if got := must(p.directory.Lookup(t.Context(), p.good)); got.Denial != "" {
				t.Fatalf("nothing has reached the new primary: %+v", got)
			}
			reach(t, p)
			// Alternate a look-up that needs a query with the cached one.
			n := 0
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				n++
				_, _ = p.directory.Lookup(t.Context(), lookup(authz.Secret(fmt.Sprint("vel_unknown_", n))))
				got, err := p.directory.Lookup(t.Context(), p.good)
				if err == nil && got.Denial == authz.ReasonRevoked {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the answer is still from the old primary: %+v, %v", got, err)
				}
			}
			eventually(t, "the cache is in use again", func() bool {
				got, err := p.directory.Lookup(t.Context(), p.good)
				return err == nil && got.Denial == authz.ReasonRevoked && got.Cache == authz.CacheHit
			})
			if n := value[int](t, p.db, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keywicket'
				AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '`+lookingUp+`'`); n != 0 {
				t.Errorf("%d look-ups are at the old primary", n)
			}

			// If the address leads to the old primary again, look-ups must not get answers from it.
			p.proxy.redirect(p.url)
			must(p.promoted.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = 'keywicket' AND pid <> pg_backend_pid()`))
			denied := 0
			for range 100 {
				got, err := p.directory.Lookup(t.Context(), p.good)
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

func (p *pair) terminateOneLookup(t *testing.T) {
	t.Helper()
	if !value[bool](t, p.db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'keywicket' AND pid <> pg_backend_pid() AND query LIKE '`+lookingUp+`' LIMIT 1`) {
		t.Fatal("no connection looks up")
	}
}

// The sidecar treats a restarted server as another server, because commits that were answered before may be lost.
func TestRestartForgetsEverything(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t, "issues:read")
	d := f.cachedDirectory(t)
	restart := stopServer(t)
	restart()
	eventually(t, "all answers are discarded", func() bool { return d.CacheStats().Epochs["world"] > 0 })
	eventually(t, "the cache is in use again", func() bool {
		got, err := d.Lookup(t.Context(), lookup(key))
		return err == nil && got.Cache == authz.CacheHit && got.Denial == ""
	})
}

// A crash of one backend restarts all backends, but not the postmaster. Commits that were not flushed are lost.
func TestCrashForgetsEverything(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t, "issues:read")
	d := f.cachedDirectory(t)
	f.exec(t, `CHECKPOINT`) // so that the token is not lost
	started := value[string](t, f.db, `SELECT pg_postmaster_start_time()::text`)
	crashBackend(t, value[int](t, f.db, `SELECT pg_backend_pid()`))
	eventually(t, "all answers are discarded", func() bool { return d.CacheStats().Epochs["world"] > 0 })
	eventually(t, "the cache is in use again", func() bool {
		got, err := d.Lookup(t.Context(), lookup(key))
		return err == nil && got.Cache == authz.CacheHit && got.Denial == ""
	})
	if now := value[string](t, f.db, `SELECT pg_postmaster_start_time()::text`); now != started {
		t.Error("the postmaster was restarted too: this test proves nothing")
	}
}

// The first sidecar that detects another server notifies the others. If there are many sidecars, each of them alone would check only
// after minutes.
func TestSidecarIsToldOfAnotherServer(t *testing.T) {
	f := newFixture(t)
	p := newProxy(t, f.url)
	f.exec(t, `INSERT INTO keywicket.sidecars (id, version, policies, bound, stale_if_error, snapshot, lease, lag)
		SELECT 'other-' || n, '', '', '1s', '0', '1:1:', '0', '0' FROM generate_series(1, 500) n`)
	f.cachedDirectory(t, func(c *store.Config) { c.URL, c.NoHints = p.through(c.URL), true }) // reads how many sidecars there are
	time.Sleep(2 * time.Second) // until the last of the connections that it opened each second
	before := p.connections()
	time.Sleep(3 * time.Second)
	if n := p.connections(); n != before {
		t.Fatalf("each of 500 sidecars opens %d connections in three seconds", n-before)
	}
	f.exec(t, `INSERT INTO keywicket.changes (keys) VALUES ('moved')`)
	eventually(t, "it opens a new connection", func() bool { return p.connections() > before })
}
