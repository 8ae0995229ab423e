package directory_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestLookupGrantsAWorkspaceTokenItsOwnWorkspace(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	token, key := f.Create(t, registry.NewToken{Format: storetest.SkTest, API: "velaflows", Name: "t",
		Scopes: []string{"crm:read", "crm:update"}, Workspace: "acme"})
	want := authz.LookupResult{
		Principal: authz.Principal{ID: token.ID, Kind: authz.KindWorkspaceToken, API: "velaflows",
			Environment: authz.Sandbox, Scopes: []string{"crm:read", "crm:update"}},
		Workspace: authz.Membership{ID: f.Acme.ID, Slug: "acme"},
	}
	for name, requested := range map[string]authz.WorkspaceRef{
		"no workspace is requested": {},
		"its own workspace by id":   {ID: f.Acme.ID},
		"its own workspace by slug": {Slug: "acme"},
		"another workspace by id":   {ID: f.Globex.ID},
		"another workspace by slug": {Slug: "globex"},
		"an unknown id":             {ID: strings.Repeat("0", 24)},
		"an unknown slug":           {Slug: "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.Lookup(t.Context(), authz.Lookup{Digest: key.Digest(), API: "velaflows", Workspace: requested})
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestLookupGrantsAMemberTheRequestedWorkspace(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	_, adaKey := f.UserToken(t, "issues:read", "user:read")
	_, bobKey := f.Create(t, registry.NewToken{Format: storetest.Velu, API: "velocity", Name: "t", User: f.Bob.Email})
	for _, c := range []struct {
		name      string
		key       authz.Secret
		requested authz.WorkspaceRef
		want      authz.Membership
	}{
		{"no workspace is requested", adaKey, authz.WorkspaceRef{}, authz.Membership{}},
		{"by id", adaKey, authz.WorkspaceRef{ID: f.Acme.ID}, authz.Membership{ID: f.Acme.ID, Slug: "acme", Role: "admin"}},
		{"by slug", adaKey, authz.WorkspaceRef{Slug: "acme"}, authz.Membership{ID: f.Acme.ID, Slug: "acme", Role: "admin"}},
		{"a workspace with another role", adaKey, authz.WorkspaceRef{Slug: "globex"},
			authz.Membership{ID: f.Globex.ID, Slug: "globex", Role: "guest"}},
		{"unknown id", adaKey, authz.WorkspaceRef{ID: strings.Repeat("0", 24)}, authz.Membership{}},
		{"unknown slug", adaKey, authz.WorkspaceRef{Slug: "nowhere"}, authz.Membership{}},
		{"an id given as a slug", adaKey, authz.WorkspaceRef{Slug: f.Acme.ID}, authz.Membership{}},
		{"a slug given as an id", adaKey, authz.WorkspaceRef{ID: "acme"}, authz.Membership{}},
		{"not a member, by id", bobKey, authz.WorkspaceRef{ID: f.Acme.ID}, authz.Membership{}},
		{"not a member, by slug", bobKey, authz.WorkspaceRef{Slug: "acme"}, authz.Membership{}},
		{"not a member, no workspace is requested", bobKey, authz.WorkspaceRef{}, authz.Membership{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := d.Lookup(t.Context(), authz.Lookup{Digest: c.key.Digest(), API: "velocity", Workspace: c.requested})
			if err != nil || got.Denial != "" || got.Workspace != c.want {
				t.Errorf("got %+v, %v, want the workspace %+v", got, err, c.want)
			}
		})
	}

	got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(adaKey)))
	if p := got.Principal; p.UserID != f.Ada.ID || p.Kind != authz.KindPersonalKey || p.Environment != authz.Live ||
		!reflect.DeepEqual(p.Scopes, []string{"issues:read", "user:read"}) {
		t.Errorf("the principal is %+v", p)
	}
	storetest.Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "member"))
	inAcme := storetest.Lookup(adaKey)
	inAcme.Workspace.Slug = "acme"
	if got := storetest.Must(d.Lookup(t.Context(), inAcme)); got.Workspace.Role != "member" {
		t.Errorf("after a change of role: %+v", got.Workspace)
	}
	if err := f.RemoveMember(t.Context(), "acme", f.Ada.ID); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Must(d.Lookup(t.Context(), inAcme)); got.Denial != "" || got.Workspace != (authz.Membership{}) {
		t.Errorf("after the membership ended: %+v", got)
	}
}

func TestLookupDenies(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	const (
		revoke         = `UPDATE keywicket.tokens SET revoked_at = clock_timestamp() WHERE id = $1`
		expire         = `UPDATE keywicket.tokens SET expires_at = clock_timestamp() WHERE id = $1`
		expireInAnHour = `UPDATE keywicket.tokens SET expires_at = clock_timestamp() + interval '1 hour' WHERE id = $1`
		remove         = `DELETE FROM keywicket.tokens WHERE id = $1`
	)
	for _, c := range []struct {
		name    string
		changes []string
		api     string
		want    authz.Reason
	}{
		{"valid", nil, "velocity", ""},
		{"valid, with an expiry", []string{expireInAnHour}, "velocity", ""},
		{"expired", []string{expire}, "velocity", authz.ReasonExpired},
		{"revoked", []string{revoke}, "velocity", authz.ReasonRevoked},
		{"revoked before it would expire", []string{expireInAnHour, revoke}, "velocity", authz.ReasonRevoked},
		{"revoked and expired", []string{expire, revoke}, "velocity", authz.ReasonRevoked},
		{"deleted", []string{remove}, "velocity", authz.ReasonUnknown},
		{"token of another API", nil, "velaflows", authz.ReasonUnknown},
		{"revoked token of another API", []string{revoke}, "velaflows", authz.ReasonUnknown},
		{"empty API", nil, "", authz.ReasonUnknown},
	} {
		for kind, create := range map[string]func(testing.TB, ...string) (registry.Token, authz.Secret){
			"workspace": f.WorkspaceToken, "user": f.UserToken,
		} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				token, key := create(t, "issues:read")
				for _, change := range c.changes {
					f.Exec(t, change, token.ID)
				}
				got, err := d.Lookup(t.Context(), authz.Lookup{Digest: key.Digest(), API: c.api,
					Workspace: authz.WorkspaceRef{Slug: "acme"}})
				if err != nil || got.Denial != c.want {
					t.Fatalf("got %+v, %v, want %q", got, err, c.want)
				}
				if c.want != "" && !reflect.DeepEqual(got, authz.LookupResult{Denial: c.want}) {
					t.Errorf("a denial contains other data: %+v", got)
				}
			})
		}
	}
	if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(storetest.Vel.NewKey()))); got.Denial != authz.ReasonUnknown {
		t.Errorf("a key that was never created: %+v", got)
	}
	_, key := f.WorkspaceToken(t)
	almostEqual := storetest.Lookup(key)
	almostEqual.Digest[31]++
	if got := storetest.Must(d.Lookup(t.Context(), almostEqual)); got.Denial != authz.ReasonUnknown {
		t.Errorf("a digest that differs in the last bit: %+v", got)
	}
}

func TestExpiryUsesTheDatabaseClock(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme",
		ExpiresIn: new(time.Hour)})
	clockAhead := func(c *directory.Config) { c.Clock = func() time.Time { return time.Now().Add(24 * time.Hour) } }
	if got := storetest.Must(f.Directory(t, clockAhead).Lookup(t.Context(), storetest.Lookup(key))); got.Denial != "" {
		t.Errorf("the sidecar's clock is a day ahead: %+v", got)
	}
	// The search path has the schema of this function before pg_catalog. So the function replaces the database's clock.
	f.Exec(t, `CREATE SCHEMA ahead`)
	f.Exec(t, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$`)
	f.Exec(t, `GRANT USAGE ON SCHEMA ahead TO PUBLIC`)
	d := f.Directory(t, func(c *directory.Config) { c.URL = storetest.WithOption(c.URL, "search_path", "ahead, pg_catalog") })
	if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != authz.ReasonExpired {
		t.Errorf("the database's clock is two hours ahead: %+v", got)
	}
}

// In a product's data, a time in the far future may mean "never". An import keeps such times.
func TestExpiryMayBeInTheFarFuture(t *testing.T) {
	f := storetest.NewFixture(t)
	for _, at := range []string{"9999-12-31", "294276-12-31", "infinity"} {
		for name, uncached := range map[string]bool{"cached": false, "not cached": true} {
			t.Run(at+", "+name, func(t *testing.T) {
				_, key := f.WorkspaceToken(t)
				digest := key.Digest()
				f.Exec(t, `UPDATE keywicket.tokens SET expires_at = $1 WHERE digest = $2`, at, digest[:])
				d := f.Directory(t, func(c *directory.Config) { c.NoCache = uncached })
				if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != "" {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// A look-up needs one query, which is prepared once.
func TestLookupIsOneQuery(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.UserToken(t)
	_, other := f.WorkspaceToken(t)
	d := f.Directory(t, func(c *directory.Config) { c.URL = storetest.WithOption(c.URL, "log_min_duration_statement", "0") })
	before := len(storetest.ServerLog.String())
	const lookups = 100
	for i := range lookups {
		l := storetest.Lookup([]authz.Secret{key, other, "vel_unknown"}[i%3])
		l.Workspace.Slug = "acme"
		storetest.Must(d.Lookup(t.Context(), l))
	}
	// The log keeps the order of statements, so the line of this statement comes after the lines of all look-ups.
	storetest.Must(storetest.OpenDB(t, storetest.WithOption(f.URL, "log_statement", "all")).ExecContext(t.Context(), `SELECT 'the end'`))
	storetest.Eventually(t, "the log contains the end", storetest.ServerLog.Contains("the end"))
	logged, _, _ := strings.Cut(storetest.ServerLog.String()[before:], "the end")
	for what, want := range map[string]int{"  parse 1: ": 1, "  bind 1: ": lookups, "  execute 1: ": lookups} {
		if n := strings.Count(logged, what); n != want {
			t.Errorf("for %d look-ups the log has %q %d times, not %d", lookups, what, n, want)
		}
	}
	// When the connection is opened, the sidecar also identifies the server, prepares the queries of the three lanes, and sets and
	// resets a timeout. Each of these statements writes a line. The statement that contains "the end" also writes a line.
	const otherLines = 10
	if n := strings.Count(logged, "LOG:  "); n > 2*lookups+otherLines {
		t.Errorf("for %d look-ups there are %d lines", lookups, n)
	}
}

func TestLookupUsesIndexesOnly(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `INSERT INTO keywicket.workspaces (id, slug, name)
		SELECT lpad(to_hex(n), 24, '0'), 'w' || n, 'w' FROM generate_series(1, 5000) n`)
	f.Exec(t, `INSERT INTO keywicket.users (id, email) 
		SELECT 'u' || n, n || '@example.com' FROM generate_series(1, 5000) n`)
	f.Exec(t, `INSERT INTO keywicket.members (workspace_id, user_id, role)
		SELECT lpad(to_hex(n), 24, '0'), 'u' || (n + k) % 5000 + 1, 'member'
		FROM generate_series(1, 5000) n, generate_series(1, 3) k`)
	f.Exec(t, `INSERT INTO keywicket.tokens
			(api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(n::text::bytea), 't', '{issues:read}',
			CASE WHEN n % 2 = 0 THEN lpad(to_hex(n % 5000 + 1), 24, '0') END, CASE WHEN n % 2 = 1 THEN 'u' || n % 5000 + 1 END
		FROM generate_series(1, 10000) n`)
	f.Exec(t, `ANALYZE`)
	f.DB.SetMaxOpenConns(1)
	f.Exec(t, `SET plan_cache_mode = force_generic_plan`)
	f.Exec(t, `PREPARE q AS `+lookup.TokenQuery)
	var plan []string
	err := f.DB.SelectContext(t.Context(), &plan,
		`EXPLAIN (ANALYZE, TIMING off) EXECUTE q(ARRAY[sha256('7')], '{velocity}', '{""}', '{w8}')`)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	// The query uses five index scans: tokens by digest, users by id, workspaces by slug and by id, members by both columns.
	if strings.Count(text, "Index Scan using")+strings.Count(text, "Index Only Scan using") != 5 {
		t.Error("the plan does not have five index scans")
	}
	for _, other := range []string{"Seq Scan", "Bitmap", "Hash", "Materialize", "Sort"} {
		if strings.Contains(text, other) {
			t.Errorf("the plan has a %s", other)
		}
	}
	if !strings.Contains(text, "tokens_digest_key") || t.Failed() {
		t.Errorf("the plan reads more than necessary:\n%s", text)
	}
}

// If Postgres made a new plan for each look-up, look-ups would take three times as long.
func TestLookupsKeepTheirPlan(t *testing.T) {
	f := storetest.NewFixture(t)
	f.DB.SetMaxOpenConns(1)
	for name, c := range map[string]struct{ query, arguments string }{
		"tokens":   {lookup.TokenQuery, `ARRAY[sha256('7')], '{velocity}', '{""}', '{w8}'`},
		"sessions": {lookup.SessionQuery, `'{s}', '{u}', '{1}', '{""}', '{w8}'`},
		"oauth":    {lookup.OAuthQuery, `ARRAY[sha256('7')], '{velocity}', '{""}', '{w8}'`},
	} {
		f.Exec(t, `PREPARE `+name+` AS `+c.query)
		for range 20 {
			f.Exec(t, `EXECUTE `+name+`(`+c.arguments+`)`)
		}
		if n := storetest.Value[int](t, f.DB, `SELECT generic_plans FROM pg_prepared_statements WHERE name = '`+name+`'`); n < 10 {
			t.Errorf("%s: %d of 20 look-ups had the generic plan", name, n)
		}
	}
}

func TestConcurrentLookupsDoNotMixAnswers(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, func(c *directory.Config) { c.UsageInterval = 5 * time.Millisecond })
	type entry struct {
		lookup authz.Lookup
		want   authz.LookupResult
	}
	var entries []entry
	for i := range 10 {
		for _, create := range []func(testing.TB, ...string) (registry.Token, authz.Secret){f.WorkspaceToken, f.UserToken} {
			_, key := create(t, fmt.Sprintf("s:%d", i))
			l := storetest.Lookup(key)
			l.Workspace.ID = f.Acme.ID
			entries = append(entries, entry{l, storetest.Must(d.Lookup(t.Context(), l))})
		}
	}
	entries = append(entries, entry{storetest.Lookup("vel_unknown"), authz.LookupResult{Denial: authz.ReasonUnknown}})
	var wg sync.WaitGroup
	for worker := range 32 {
		wg.Go(func() {
			for i := range 100 {
				e := entries[(worker+i)%len(entries)]
				if got, err := d.Lookup(t.Context(), e.lookup); err != nil || !reflect.DeepEqual(got, e.want) {
					t.Errorf("got %+v, %v, want %+v", got, err, e.want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestLookupsShareTheConfiguredConnections(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, func(c *directory.Config) { c.MaxOpenConnections = 1 })
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))) // this look-up opens the connection
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.tokens IN ACCESS EXCLUSIVE MODE`))
	waiting := func() int {
		return storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	}
	first := make(chan error)
	go func() { _, err := d.Lookup(context.Background(), storetest.Lookup(key)); first <- err }()
	storetest.Eventually(t, "the first look-up has the connection", func() bool { return waiting() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Lookup(ctx, storetest.Lookup(key)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE '%pg_postmaster_start_time%' AND state = 'active' AND pid <> pg_backend_pid()`); n != 1 {
		t.Errorf("%d connections run look-ups", n)
	}
	if err := errors.Join(tx.Rollback(), <-first); err != nil {
		t.Error(err)
	}
}

func TestLookupTimeoutLimitsAQueryThatWaits(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = 100 * time.Millisecond })
	succeeds := func() bool {
		got, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && got.Denial == ""
	}
	storetest.Eventually(t, "a look-up succeeds", succeeds)

	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.tokens IN ACCESS EXCLUSIVE MODE`))
	started := time.Now()
	_, err := d.Lookup(t.Context(), storetest.Lookup(key))
	if took := time.Since(started); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Lookup(ctx, storetest.Lookup(key)); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller has canceled the look-up: %v", err)
	}
	// The sidecar must cancel a query that timed out. Otherwise, such queries would use all connections of the server.
	storetest.Eventually(t, "the query that timed out is cancelled on the server", func() bool {
		return storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0
	})
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, "a look-up succeeds after the lock was released", succeeds)
}

func TestDirectoryWorksAfterTheSchemaIsCreated(t *testing.T) {
	url := storetest.EmptyDatabase(t)
	d := storetest.Must(directory.Open(directory.Config{URL: url, LookupTimeout: 10 * time.Second}, nil))
	defer func() { _ = d.Close(t.Context()) }()
	if _, err := d.Lookup(t.Context(), storetest.Lookup("vel_unknown")); err == nil {
		t.Error("a look-up without the schema returned no error")
	}
	if err := d.Ready(t.Context()); err == nil {
		t.Error("without the schema, Ready returned no error")
	}
	storetest.Must(schema.Migrate(t.Context(), storetest.OpenDB(t, url)))
	storetest.Eventually(t, "the directory is ready", func() bool { return d.Ready(t.Context()) == nil })
	if got, err := d.Lookup(t.Context(), storetest.Lookup("vel_unknown")); err != nil || got.Denial != authz.ReasonUnknown {
		t.Errorf("%+v, %v", got, err)
	}
}

// While a trigger that writes to the change log is disabled, the sidecar does not use its cache.
func TestCacheIsNotUsedWithoutChangeTriggers(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	f.Exec(t, `ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`)
	d := f.Directory(t, func(c *directory.Config) { c.NoCache = false })
	storetest.Eventually(t, "Ready returns the cause", func() bool {
		err := d.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "does not write all changes")
	})
	cacheInUse := func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	}
	for range 3 {
		if cacheInUse() {
			t.Error("a cached answer is used")
		}
	}
	f.Exec(t, `ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`)
	storetest.Eventually(t, "the cache is in use", cacheInUse)
	f.Exec(t, `ALTER TABLE keywicket.revoked_sessions DISABLE TRIGGER tell_insert`)
	storetest.Eventually(t, "the cache is not in use while the trigger for sessions is disabled", func() bool { return !cacheInUse() })
	f.Exec(t, `ALTER TABLE keywicket.revoked_sessions ENABLE ALWAYS TRIGGER tell_insert`)
	storetest.Eventually(t, "the cache is in use", cacheInUse)
	f.Exec(t, `ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`)
	storetest.Eventually(t, "the cache is not in use", func() bool { return !cacheInUse() })
	f.Exec(t, `UPDATE keywicket.tokens SET revoked_at = clock_timestamp()`)
	f.Exec(t, `ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`)
	storetest.Eventually(t, "the cache is in use again", cacheInUse)
	if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != authz.ReasonRevoked {
		t.Errorf("%+v", got)
	}
}

func BenchmarkLookup(b *testing.B) {
	f := storetest.NewFixture(b)
	f.Exec(b, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(n::text::bytea), 't', '{issues:read}', $1
		FROM generate_series(1, 10000) n`, f.Acme.ID)
	_, workspaceKey := f.WorkspaceToken(b, "issues:read", "issues:write")
	_, userKey := f.UserToken(b, "issues:read", "issues:write")
	f.Exec(b, `ANALYZE`)
	for name, l := range map[string]authz.Lookup{
		"workspace_token": storetest.Lookup(workspaceKey),
		"user_in_workspace": {Digest: userKey.Digest(), API: "velocity",
			Workspace: authz.WorkspaceRef{Slug: "acme"}},
		"unknown": storetest.Lookup("vel_unknown"),
	} {
		b.Run(name, func(b *testing.B) {
			d := f.Directory(b, nil)
			storetest.Must(d.Lookup(b.Context(), l))
			b.ReportAllocs()
			for b.Loop() {
				storetest.Must(d.Lookup(b.Context(), l))
			}
		})
		b.Run(name+"/warm", func(b *testing.B) {
			d := f.Directory(b, func(c *directory.Config) { c.NoCache = false })
			for storetest.Must(d.Lookup(b.Context(), l)).Cache != authz.CacheHit {
				time.Sleep(time.Millisecond) // until the log has been read
			}
			b.ReportAllocs()
			for b.Loop() {
				storetest.Must(d.Lookup(b.Context(), l))
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			d := f.Directory(b, nil)
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					storetest.Must(d.Lookup(b.Context(), l))
				}
			})
		})
	}
}
