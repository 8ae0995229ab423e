package store_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// Every statement that changes something that an answer depends on writes one notice. Other statements write none.
func TestEveryChangeIsOneNotice(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t, "issues:read")
	d := f.cachedDirectory(t)
	// Notices of the fixture's own changes may still arrive.
	heard := func() uint64 {
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
		notices   uint64
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
		{`DELETE FROM keywicket.users WHERE id LIKE 'u%'`, 2}, // one for users, one for their memberships
		{`INSERT INTO keywicket.token_usage SELECT id, now() FROM keywicket.tokens`, 0},
	} {
		before := heard()
		f.exec(t, c.statement)
		eventually(t, "the notice is read: "+c.statement, func() bool { return d.CacheStats().Changes-before >= c.notices })
		if got := heard() - before; got != c.notices {
			t.Errorf("%s: %d notices, not %d", c.statement, got, c.notices)
		}
	}
	// The triggers compute the same keys as the cache. Otherwise the answer would still be cached here.
	l := lookup(key)
	for d2 := must(d.Lookup(t.Context(), l)); d2.Cache != authz.CacheHit; d2 = must(d.Lookup(t.Context(), l)) {
		time.Sleep(time.Millisecond)
	}
	epochs := d.CacheStats().Epochs["notice"]
	before := heard()
	f.exec(t, `UPDATE keywicket.tokens SET scopes = '{projects:read}'`)
	eventually(t, "the notice is read", func() bool { return d.CacheStats().Changes > before })
	if got := must(d.Lookup(t.Context(), l)); got.Cache != authz.CacheMiss || got.Principal.Scopes[0] != "projects:read" {
		t.Errorf("after %d notices: %+v", heard()-before, got)
	}
	if got := d.CacheStats().Epochs["notice"]; got != epochs {
		t.Error("all answers were discarded because of one change")
	}
}

// A change of more than a hundred rows writes one notice that everything may have changed.
func TestMassChangeIsOneNotice(t *testing.T) {
	f := newFixture(t)
	d := f.cachedDirectory(t)
	insert := `INSERT INTO keywicket.users (id, email) SELECT 'u' || n, n || '@example.com' FROM generate_series(1, %) n`
	for rows, want := range map[string]uint64{"100": 0, "101": 1} {
		f.exec(t, `DELETE FROM keywicket.users WHERE id = ANY (SELECT 'u' || n FROM generate_series(1, 50) n)`)
		f.exec(t, `DELETE FROM keywicket.users WHERE id LIKE 'u%' AND id <> 'u'`)
		time.Sleep(100 * time.Millisecond)
		before := d.CacheStats()
		f.exec(t, strings.Replace(insert, "%", rows, 1))
		deadline := time.Now().Add(10 * time.Second)
		for d.CacheStats().Changes == before.Changes && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if got := d.CacheStats().Epochs["notice"] - before.Epochs["notice"]; got != want {
			t.Errorf("%s rows: %d notices of everything, not %d", rows, got, want)
		}
	}
}

func TestDirectoryClosesWithoutADatabase(t *testing.T) {
	d, err := store.OpenDirectory(store.Config{URL: "postgres://nobody@127.0.0.1:1/none?sslmode=disable"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "database") {
		t.Errorf("it is ready: %v", err)
	}
	if err := d.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A notice has the keys of the new row and of the old row.
func TestOldAndNewKeysAreTold(t *testing.T) {
	f := newFixture(t)
	token, key := f.workspaceToken(t, "issues:read")
	_, mine := f.userToken(t, "issues:read")
	d := f.cachedDirectory(t)
	lookupCached := func(l authz.Lookup) authz.Found {
		t.Helper()
		var found authz.Found
		eventually(t, "it is cached", func() bool {
			found = must(d.Lookup(t.Context(), l))
			return found.Cache == authz.CacheHit
		})
		return found
	}
	// eventually gives up well before max_age, after which every answer would be loaded again.
	becomes := func(what string, l authz.Lookup, is func(authz.Found) bool) {
		t.Helper()
		eventually(t, what, func() bool { return is(must(d.Lookup(t.Context(), l))) })
	}

	other := authz.Secret("vel_another0123456789").Digest()
	lookupCached(lookup(key))
	if got := lookupCached(authz.Lookup{Digest: other, API: "velocity"}); got.Denial != authz.ReasonUnknown {
		t.Fatalf("%+v", got)
	}
	f.exec(t, `UPDATE keywicket.tokens SET digest = $1 WHERE id = $2`, other[:], token.ID)
	becomes("the old digest is unknown", lookup(key), func(got authz.Found) bool { return got.Denial == authz.ReasonUnknown })
	becomes("the new digest is the token's", authz.Lookup{Digest: other, API: "velocity"}, func(got authz.Found) bool { return got.Denial == "" })

	inWorkspace := func(slug string) authz.Lookup {
		return authz.Lookup{Digest: mine.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
	}
	if lookupCached(inWorkspace("acme")).Workspace.ID == "" || lookupCached(inWorkspace("renamed")).Workspace.ID != "" {
		t.Fatal("ada's memberships are wrong")
	}
	f.exec(t, `UPDATE keywicket.workspaces SET slug = 'renamed' WHERE slug = 'acme'`)
	becomes("no workspace has the old name", inWorkspace("acme"), func(got authz.Found) bool { return got.Workspace.ID == "" })
	becomes("the workspace has the new name", inWorkspace("renamed"), func(got authz.Found) bool { return got.Workspace.ID != "" })
	f.exec(t, `INSERT INTO keywicket.users (id, email) VALUES ('eve', 'eve@example.com')`)
	lookupCached(inWorkspace("renamed"))
	f.exec(t, `UPDATE keywicket.members SET user_id = 'eve' WHERE user_id = $1`, f.ada.ID)
	becomes("another user has the membership", inWorkspace("renamed"), func(got authz.Found) bool { return got.Workspace.ID == "" })

	// A row that this version cannot read may mean anything.
	before := d.CacheStats().Epochs["notice"]
	f.exec(t, `INSERT INTO keywicket.changes (keys) VALUES ('gibberish')`)
	eventually(t, "all answers are discarded", func() bool { return d.CacheStats().Epochs["notice"] > before })
}

// The triggers' function runs with the privileges of the writer. No other role can use it, because its arguments are SQL.
func TestTriggersLendNobodyTheirRights(t *testing.T) {
	f := newFixture(t)
	var lent []string
	err := f.db.Select(&lent, `SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'keywicket'::regnamespace AND prosecdef`)
	if err != nil || !slices.Equal(lent, []string{"keywicket.keep_up()"}) { // it has no arguments, so a caller cannot choose what it deletes
		t.Errorf("these functions run with their owner's privileges: %v, %v", lent, err)
	}
	sidecar := openDB(t, sidecarURL(f.url))
	sidecar.SetMaxOpenConns(1)
	sidecar.MustExec(`CREATE TEMP TABLE own (a int)`)
	_, err = sidecar.Exec(`CREATE TRIGGER own AFTER INSERT ON own REFERENCING NEW TABLE AS new_rows
		FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes('token', 'version()')`)
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("the sidecar's login may use the function: %v", err)
	}
}

// A connection that is silent but not closed is replaced by a new one.
func TestSilentFeedIsReplaced(t *testing.T) {
	f := newFixture(t)
	p := newProxy(t, f.url)
	d := f.cachedDirectory(t, func(c *store.Config) {
		c.URL = p.through(c.URL)
		c.Cache.StalenessBound = 100 * time.Millisecond
	})
	cacheInUse := func() bool { return d.CacheStats().LeaseLeft > 0 }
	p.onNextByte(silence)
	eventually(t, "the cache is not in use", func() bool { return !cacheInUse() })
	eventually(t, "the cache is in use again", cacheInUse)
}

// If the sidecar cannot listen for notifications, it logs this once and without the secrets of the URL.
func TestHintsThatCannotBeHeardAreLogged(t *testing.T) {
	f := newFixture(t)
	var log safeBuffer
	nowhere := must(url.Parse(f.url))
	nowhere.Host, nowhere.User = "127.0.0.1:1", url.UserPassword("listener", "of-the-listener")
	c := store.Config{URL: sidecarURL(f.url), FeedURL: nowhere.String(), LookupTimeout: 10 * time.Second}
	d := must(store.OpenDirectory(c, log.logger()))
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	const message = "notifications of changes are not heard"
	eventually(t, "it is logged", log.contains(message))
	time.Sleep(500 * time.Millisecond) // several attempts
	if n := strings.Count(log.String(), message); n != 1 || strings.Contains(log.String(), "of-the-listener") {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}
