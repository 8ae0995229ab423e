package pool_test

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/storetest"
)

// If a round trip takes 60 ms, connecting and the first query together take longer than lookup_timeout. Look-ups must still
// succeed after a while.
func TestLookupsSucceedOverASlowNetwork(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	p.FaultOnAllConnections(storetest.Delay)
	d := f.Directory(t, func(c *directory.Config) {
		c.URL = p.URL(c.URL)
		c.LookupTimeout = 200 * time.Millisecond
	})
	storetest.Eventually(t, "look-ups work", func() bool { return d.Ready(t.Context()) == nil })
	for range 20 {
		if got, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || got.Denial != "" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if n := p.Connections(); n > 8 {
		t.Errorf("the directory opened %d connections", n)
	}
}

// If a host is down or its Postgres hangs, the host does not answer at all. Look-ups must still reach the other host.
func TestUnresponsiveHostDoesNotBlockOthers(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	silent := storetest.Must(net.Listen("tcp", "127.0.0.1:0"))
	defer func() { _ = silent.Close() }()
	u := storetest.Must(url.Parse(f.URL))
	u.Host = silent.Addr().String() + "," + u.Host
	d := f.Directory(t, func(c *directory.Config) { c.URL = u.String() })
	storetest.Eventually(t, "look-ups work", func() bool {
		got, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && got.Denial == ""
	})
}

func TestRefusedLoginsAreRetriedSlowly(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) { c.URL = p.URL(c.URL) })
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))

	administrator := storetest.OpenDB(t, storetest.Server.URL("postgres"))
	name := storetest.Value[string](t, f.DB, `SELECT current_database()`)
	allowConnections := func(value string) {
		storetest.Must(administrator.ExecContext(t.Context(), `ALTER DATABASE "`+name+`" ALLOW_CONNECTIONS `+value))
	}
	allowConnections("false")
	storetest.Must(administrator.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name))
	before, lookups := p.Connections(), 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := d.Lookup(t.Context(), storetest.Lookup(key))
				if err == nil || !strings.Contains(err.Error(), "not currently accepting connections") {
					t.Errorf("the error is not the database's refusal: %v", err)
				}
				mu.Lock()
				lookups++
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if n := p.Connections() - before; n > 80 || lookups < 200 {
		t.Errorf("%d attempts to connect for %d look-ups in two seconds", n, lookups)
	}
	allowConnections("true")
	storetest.Eventually(t, "look-ups work again", func() bool {
		got, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && got.Denial == ""
	})
}

// Ready runs look-ups, because a database can be reachable but still unable to answer look-ups.
func TestReadyMeansThatLookupsWork(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.CachedDirectory(t)
	for _, c := range []struct{ name, breakSQL, repairSQL, want string }{
		{
			"a privilege is missing", `REVOKE SELECT ON keywicket.members FROM keywicket_sidecar`,
			`GRANT SELECT ON keywicket.members TO keywicket_sidecar`, "permission denied",
		},
		{
			"a privilege for sessions is missing", `REVOKE SELECT ON keywicket.revoked_sessions FROM keywicket_sidecar`,
			`GRANT SELECT ON keywicket.revoked_sessions TO keywicket_sidecar`, "permission denied",
		},
		{
			"a privilege for access tokens is missing", `REVOKE SELECT ON keywicket.oauth_grants FROM keywicket_sidecar`,
			`GRANT SELECT ON keywicket.oauth_grants TO keywicket_sidecar`, "permission denied",
		},
		{
			"a column has another name", `ALTER TABLE keywicket.tokens RENAME COLUMN scopes TO scope`,
			`ALTER TABLE keywicket.tokens RENAME COLUMN scope TO scopes`, "scopes",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.Exec(t, c.breakSQL)
			if err := d.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Ready returned %v", err)
			}
			f.Exec(t, c.repairSQL)
			if err := d.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("a table is locked", func(t *testing.T) {
		tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
		defer func() { _ = tx.Rollback() }()
		storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.workspaces IN ACCESS EXCLUSIVE MODE`))
		if err := d.Ready(t.Context()); err == nil {
			t.Error("Ready returned no error")
		}
	})
	t.Run("the cache is not in use", func(t *testing.T) {
		storetest.Eventually(t, "there is no warning", func() bool { return len(d.Warnings()) == 0 })
		f.Exec(t, `ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`)
		storetest.Eventually(t, "the warning appears", func() bool { return strings.Contains(strings.Join(d.Warnings(), ""), "does not write all changes") })
		if err := d.Ready(t.Context()); err != nil {
			t.Error("Ready returned an error, although look-ups work: ", err)
		}
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != "" || got.Cache == authz.CacheHit {
			t.Errorf("%+v", got)
		}
		f.Exec(t, `ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`)
		storetest.Eventually(t, "there is no warning", func() bool { return len(d.Warnings()) == 0 })
	})
}
