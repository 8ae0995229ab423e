package feed_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/storetest"
)

// If a statement changes data on which answers depend, it writes one row to the change log for each changed table. Other statements
// write no row.
func TestEachChangingStatementWritesOneRow(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t)
	// changesRead waits until the number of read changes no longer grows: the sidecar may still read the fixture's changes.
	changesRead := func() uint64 {
		for n := d.CacheStats().Changes; ; {
			time.Sleep(50 * time.Millisecond)
			again := d.CacheStats().Changes
			if again == n {
				return n
			}
			n = again
		}
	}
	for _, c := range []struct {
		statement string
		rows      uint64
	}{
		{`UPDATE keywicket.tokens SET scopes = '{issues:write}'`, 1},
		{`UPDATE keywicket.tokens SET scopes = '{}' WHERE id = 'nobody'`, 0},
		{`INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('aaaaaaaaaaaaaaaaaaaaaaaa', 'a', 'a'), ('bbbbbbbbbbbbbbbbbbbbbbbb', 'b', 'b')`, 1},
		{`UPDATE keywicket.workspaces SET slug = 'c' WHERE slug = 'b'`, 1},
		{`UPDATE keywicket.tokens SET attributes = '{"plan": "pro"}'`, 1},
		{`UPDATE keywicket.workspaces SET attributes = '{"plan": "pro"}' WHERE slug = 'c'`, 1},
		{`UPDATE keywicket.users SET attributes = '{"plan": "pro"}' WHERE id = 'auth0|bob'`, 1},
		{`INSERT INTO keywicket.users (id, email) SELECT 'u' || n, n || '@example.com' FROM generate_series(1, 100) n`, 1},
		{`INSERT INTO keywicket.members (workspace_id, user_id, role) SELECT 'aaaaaaaaaaaaaaaaaaaaaaaa', 'u' || n, 'guest' FROM generate_series(1, 100) n`, 1},
		{`UPDATE keywicket.members SET role = 'member' WHERE user_id = 'u7'`, 1},
		{`INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES ('aaaaaaaaaaaaaaaaaaaaaaaa', 'u7', 'admin')
			ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = excluded.role`, 1},
		{`DELETE FROM keywicket.members WHERE user_id = 'u7'`, 1},
		{`DELETE FROM keywicket.users WHERE id LIKE 'u%'`, 2}, // one row for the users, and one row for their memberships
		{`INSERT INTO keywicket.token_usage SELECT id, now() FROM keywicket.tokens`, 0},
		{`INSERT INTO keywicket.token_use SELECT id, now(), 1, 0 FROM keywicket.tokens`, 0},
	} {
		before := changesRead()
		f.Exec(t, c.statement)
		storetest.Eventually(t, "the change is read: "+c.statement, func() bool { return d.CacheStats().Changes-before >= c.rows })
		if got := changesRead() - before; got != c.rows {
			t.Errorf("%s: %d rows, not %d", c.statement, got, c.rows)
		}
	}
	// The triggers must compute the same keys as the cache. If the keys were different, the cache would still return the old
	// answer.
	l := storetest.Lookup(key)
	for found := storetest.Must(d.Lookup(t.Context(), l)); found.Cache != authz.CacheHit; found = storetest.Must(d.Lookup(t.Context(), l)) {
		time.Sleep(time.Millisecond)
	}
	discarded := d.CacheStats().Discarded["notice"]
	before := changesRead()
	f.Exec(t, `UPDATE keywicket.tokens SET scopes = '{projects:read}'`)
	storetest.Eventually(t, "the change is read", func() bool { return d.CacheStats().Changes > before })
	if got := storetest.Must(d.Lookup(t.Context(), l)); got.Cache != authz.CacheMiss || got.Principal.Scopes[0] != "projects:read" {
		t.Errorf("after %d rows: %+v", changesRead()-before, got)
	}
	if got := d.CacheStats().Discarded["notice"]; got != discarded {
		t.Error("all cached answers were discarded because of one change")
	}
}

// A statement that changes more than 100 rows writes one row to the log. The content "*" of this row means that everything may have
// changed.
func TestManyChangedRowsWriteOneRow(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.CachedDirectory(t)
	insert := `INSERT INTO keywicket.users (id, email) SELECT 'u' || n, n || '@example.com' FROM generate_series(1, %) n`
	for rows, want := range map[string]uint64{"100": 0, "101": 1} {
		f.Exec(t, `DELETE FROM keywicket.users WHERE id = ANY (SELECT 'u' || n FROM generate_series(1, 50) n)`)
		f.Exec(t, `DELETE FROM keywicket.users WHERE id LIKE 'u%' AND id <> 'u'`)
		time.Sleep(100 * time.Millisecond)
		before := d.CacheStats()
		f.Exec(t, strings.Replace(insert, "%", rows, 1))
		deadline := time.Now().Add(10 * time.Second)
		for d.CacheStats().Changes == before.Changes && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if got := d.CacheStats().Discarded["notice"] - before.Discarded["notice"]; got != want {
			t.Errorf("%s rows: all cached answers were discarded %d times, not %d", rows, got, want)
		}
	}
}

func TestDirectoryClosesWithoutADatabase(t *testing.T) {
	d, err := directory.Open(directory.Config{URL: "postgres://nobody@127.0.0.1:1/none?sslmode=disable"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "database") {
		t.Errorf("Ready returned %v", err)
	}
	if err := d.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A row of the change log contains the keys that the changed row had before the change, and the keys that it has after the change.
func TestLogRowHasOldAndNewKeys(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t, "issues:read")
	_, userKey := f.UserToken(t, "issues:read")
	d := f.CachedDirectory(t)
	lookupCached := func(l authz.Lookup) authz.LookupResult {
		t.Helper()
		var found authz.LookupResult
		storetest.Eventually(t, "the answer is cached", func() bool {
			found = storetest.Must(d.Lookup(t.Context(), l))
			return found.Cache == authz.CacheHit
		})
		return found
	}
	// The timeout of Eventually is shorter than max_age, because after max_age the cache loads every answer again, even if it has
	// missed the change.
	becomes := func(what string, l authz.Lookup, condition func(authz.LookupResult) bool) {
		t.Helper()
		storetest.Eventually(t, what, func() bool { return condition(storetest.Must(d.Lookup(t.Context(), l))) })
	}

	other := authz.Secret("vel_another0123456789").Digest()
	lookupCached(storetest.Lookup(key))
	if got := lookupCached(authz.Lookup{Digest: other, API: "velocity"}); got.Denial != authz.ReasonUnknown {
		t.Fatalf("%+v", got)
	}
	f.Exec(t, `UPDATE keywicket.tokens SET digest = $1 WHERE id = $2`, other[:], token.ID)
	becomes("the old digest is unknown", storetest.Lookup(key), func(got authz.LookupResult) bool { return got.Denial == authz.ReasonUnknown })
	becomes("the new digest belongs to the token", authz.Lookup{Digest: other, API: "velocity"}, func(got authz.LookupResult) bool { return got.Denial == "" })

	inWorkspace := func(slug string) authz.Lookup {
		return authz.Lookup{Digest: userKey.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
	}
	if lookupCached(inWorkspace("acme")).Workspace.ID == "" || lookupCached(inWorkspace("renamed")).Workspace.ID != "" {
		t.Fatal("ada's memberships are wrong")
	}
	f.Exec(t, `UPDATE keywicket.workspaces SET slug = 'renamed' WHERE slug = 'acme'`)
	becomes("no workspace has the old slug", inWorkspace("acme"), func(got authz.LookupResult) bool { return got.Workspace.ID == "" })
	becomes("the workspace has the new slug", inWorkspace("renamed"), func(got authz.LookupResult) bool { return got.Workspace.ID != "" })
	f.Exec(t, `INSERT INTO keywicket.users (id, email) VALUES ('eve', 'eve@example.com')`)
	lookupCached(inWorkspace("renamed"))
	f.Exec(t, `UPDATE keywicket.members SET user_id = 'eve' WHERE user_id = $1`, f.Ada.ID)
	becomes("another user has the membership", inWorkspace("renamed"), func(got authz.LookupResult) bool { return got.Workspace.ID == "" })

	// A row that this version cannot parse counts as a change of everything.
	before := d.CacheStats().Discarded["notice"]
	f.Exec(t, `INSERT INTO keywicket.changes (keys) VALUES ('gibberish')`)
	storetest.Eventually(t, "all cached answers are discarded", func() bool { return d.CacheStats().Discarded["notice"] > before })
}

// The triggers' function runs with the privileges of the role that changes the table. A role must not be able to create its own
// triggers with this function, because the function's arguments are SQL.
func TestTriggerFunctionsGrantNoPrivileges(t *testing.T) {
	f := storetest.NewFixture(t)
	var definers []string
	err := f.DB.Select(&definers, `
		SELECT proname || CASE WHEN has_function_privilege('keywicket_sidecar', oid, 'EXECUTE') THEN ' for sidecars' ELSE '' END
		FROM pg_proc WHERE pronamespace = 'keywicket'::regnamespace AND prosecdef ORDER BY proname`)
	// keep_up has no arguments, so a caller cannot choose which rows are deleted. acting_user is the default of a column, so every
	// login that writes the column needs it; it changes nothing.
	if err != nil || !slices.Equal(definers, []string{
		"acting_user for sidecars", "audit", "end_leavers_tokens", "expire_audit_log", "hold_creator", "keep_up for sidecars", "revoke_leaked", "shorten_token",
	}) {
		t.Errorf("these functions run with their owner's privileges: %v, %v", definers, err)
	}
	sidecar := storetest.OpenDB(t, storetest.SidecarURL(f.URL))
	sidecar.SetMaxOpenConns(1)
	sidecar.MustExec(`CREATE TEMP TABLE own (a int)`)
	for _, function := range []string{`tell_changes('token', 'version()')`, `audit('token', 'a')`, `end_leavers_tokens()`, `hold_creator()`} {
		_, err = sidecar.Exec(`CREATE TRIGGER own AFTER INSERT ON own REFERENCING NEW TABLE AS new_rows
			FOR EACH STATEMENT EXECUTE FUNCTION keywicket.` + function)
		if err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("the sidecar's login may use the function %s: %v", function, err)
		}
	}
}

// If the feed's connection stays open but receives nothing, the feed replaces it.
func TestSilentFeedConnectionIsReplaced(t *testing.T) {
	f := storetest.NewFixture(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.CachedDirectory(t, func(c *directory.Config) {
		c.URL = p.URL(c.URL)
		c.Cache.StalenessBound = 100 * time.Millisecond
	})
	cacheInUse := func() bool { return d.CacheStats().LeaseLeft > 0 }
	p.FaultOnOpenConnections(storetest.Silence)
	storetest.Eventually(t, "the cache is not in use", func() bool { return !cacheInUse() })
	storetest.Eventually(t, "the cache is in use again", cacheInUse)
}

// If the sidecar cannot listen for notifications, it logs one message, which does not contain the secrets of the URL.
func TestUnavailableHintsAreLogged(t *testing.T) {
	f := storetest.NewFixture(t)
	var log storetest.Log
	nowhere := storetest.Must(url.Parse(f.URL))
	nowhere.Host, nowhere.User = "127.0.0.1:1", url.UserPassword("listener", "of-the-listener")
	c := directory.Config{URL: storetest.SidecarURL(f.URL), FeedURL: nowhere.String(), LookupTimeout: 10 * time.Second}
	d := storetest.Must(directory.Open(c, log.Logger()))
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	const message = "notifications of changes are not received"
	storetest.Eventually(t, "the message is logged", log.Contains(message))
	time.Sleep(500 * time.Millisecond) // time for several attempts
	if n := strings.Count(log.String(), message); n != 1 || strings.Contains(log.String(), "of-the-listener") {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}
