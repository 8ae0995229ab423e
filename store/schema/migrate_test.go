package schema_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestMigrate(t *testing.T) {
	db := storetest.OpenDB(t, storetest.EmptyDatabase(t))
	for _, m := range storetest.Must(schema.Status(t.Context(), db)) {
		if m.AppliedAt != nil {
			t.Errorf("in an empty database, the migration %+v is applied", m)
		}
	}
	if storetest.Value[bool](t, db, `SELECT to_regnamespace('keywicket') IS NOT NULL`) {
		t.Error("reading the status changed the database")
	}
	applied := storetest.Must(schema.Migrate(t.Context(), db))
	status := storetest.Must(schema.Status(t.Context(), db))
	if len(applied) == 0 || len(applied) != len(status) {
		t.Fatalf("%d of %d migrations ran", len(applied), len(status))
	}
	for i, m := range status {
		if m.AppliedAt == nil || time.Since(*m.AppliedAt).Abs() > time.Minute {
			t.Errorf("AppliedAt is wrong: %+v", m)
		}
		if a := applied[i]; a.Version != int64(i+1) || a.Version != m.Version || a.Name == "" || a.Name != m.Name ||
			strings.ContainsAny(a.Name, "/.") {
			t.Errorf("applied %+v, status %+v", a, m)
		}
	}
	if again := storetest.Must(schema.Migrate(t.Context(), db)); len(again) != 0 {
		t.Errorf("the second call ran %+v", again)
	}
	if others := storetest.Value[int](t, db, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public'`); others != 0 {
		t.Errorf("%d relations are outside of the schema keywicket", others)
	}
}

func TestMigrateWithAnExistingSchema(t *testing.T) {
	db := storetest.OpenDB(t, storetest.EmptyDatabase(t))
	storetest.Must(db.ExecContext(t.Context(), `CREATE SCHEMA keywicket`))
	if applied := storetest.Must(schema.Migrate(t.Context(), db)); len(applied) == 0 {
		t.Error("no migration ran")
	}
}

// The roles belong to the whole cluster, so migrations of different databases may create the same roles at the same time. This
// test needs a cluster in which the roles do not exist yet, so it starts its own cluster.
func TestConcurrentMigrations(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster := storetest.Must(postgres.Start(ctx, postgres.Config{}))
	defer func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	}()
	names := []string{"one", "two", "three"}
	administrator := storetest.OpenDB(t, cluster.URL("postgres"))
	for _, name := range names {
		storetest.Must(administrator.ExecContext(ctx, "CREATE DATABASE "+name))
	}
	// This transaction creates a role before the migrations do. The transaction commits when a migration of each database waits
	// for this role.
	roleCreator := storetest.Must(administrator.BeginTxx(ctx, nil))
	defer func() { _ = roleCreator.Rollback() }()
	storetest.Must(roleCreator.ExecContext(ctx, `CREATE ROLE keywicket_sidecar NOLOGIN`))
	ran := make([]int, len(names))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, name := range names {
		for range 3 {
			db := storetest.OpenDB(t, cluster.URL(name))
			wg.Go(func() {
				applied, err := schema.Migrate(ctx, db)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				ran[i] += len(applied)
			})
		}
	}
	storetest.Eventually(t, "each database's migration waits for the role", func() bool {
		waiting := storetest.Value[int](t, administrator, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)
		return waiting == len(names)
	})
	if err := roleCreator.Commit(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for i, name := range names {
		if n := len(storetest.Must(schema.Status(ctx, storetest.OpenDB(t, cluster.URL(name))))); ran[i] != n {
			t.Errorf("%s: %d of %d migrations ran", name, ran[i], n)
		}
	}
}

func TestMigrateStopsWaitingWhenItsContextEnds(t *testing.T) {
	url := storetest.EmptyDatabase(t)
	db := storetest.OpenDB(t, url)
	holder := storetest.Must(storetest.OpenDB(t, url).Connx(t.Context()))
	defer func() { _ = holder.Close() }()
	storetest.Must(holder.ExecContext(t.Context(), `SELECT pg_advisory_lock(7161532148870344113)`))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if applied, err := schema.Migrate(ctx, db); err == nil {
		t.Errorf("during another migration, %+v ran", applied)
	}
}

// For each role, the statements in `allowed` work. The statements in `forbidden` fail because the role lacks a privilege.
func TestRolesHaveExactlyTheNeededPrivileges(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.WorkspaceToken(t)
	f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, clock_timestamp())`, token.ID)
	const selectLookupColumns = `SELECT id, api, kind, environment, digest, scopes, workspace_id, user_id, expires_at, revoked_at, attributes
		FROM keywicket.tokens`
	for role, c := range map[string]struct{ allowed, forbidden []string }{
		"keywicket_sidecar": {
			allowed: []string{
				selectLookupColumns,
				`SELECT id, slug, attributes FROM keywicket.workspaces`,
				`SELECT workspace_id, user_id, role FROM keywicket.members`,
				`SELECT id, attributes FROM keywicket.users`,
				`SELECT session_id, user_id, revoked_at FROM keywicket.revoked_sessions`,
				`SELECT id, api, revoked_at FROM keywicket.oauth_apps`,
				`SELECT id, app_id, user_id, revoked_at FROM keywicket.oauth_grants`,
				`SELECT grant_id, workspace_id FROM keywicket.oauth_grant_workspaces`,
				`SELECT id, digest, grant_id, scopes, expires_at, revoked_at FROM keywicket.oauth_access_tokens`,
				`SELECT token_id, last_used_at FROM keywicket.token_usage`,
				`UPDATE keywicket.token_usage SET last_used_at = last_used_at`,
				`INSERT INTO keywicket.token_use AS u (token_id, day, allowed, denied) VALUES ('t', '2026-11-28', 1, 0)
					ON CONFLICT (token_id, day) DO UPDATE SET allowed = u.allowed + excluded.allowed`,
				`INSERT INTO keywicket.grant_usage AS u (grant_id, last_used_at) VALUES ('g', now())
					ON CONFLICT (grant_id) DO UPDATE SET last_used_at = excluded.last_used_at WHERE u.last_used_at < now()`,
			},
			forbidden: []string{
				`SELECT name FROM keywicket.tokens`,
				`SELECT visible_prefix FROM keywicket.tokens`,
				`SELECT name FROM keywicket.workspaces`,
				`SELECT email FROM keywicket.users`,
				`INSERT INTO keywicket.revoked_sessions (session_id) VALUES ('s')`,
				`DELETE FROM keywicket.revoked_sessions`,
				`SELECT secret_digest FROM keywicket.oauth_apps`,
				`SELECT digest FROM keywicket.oauth_codes`,
				`SELECT digest FROM keywicket.oauth_refresh_tokens`,
				`UPDATE keywicket.oauth_grants SET revoked_at = NULL`,
				`INSERT INTO keywicket.oauth_access_tokens SELECT * FROM keywicket.oauth_access_tokens`,
				`SELECT version_id FROM keywicket.migrations`,
				`INSERT INTO keywicket.tokens SELECT * FROM keywicket.tokens`,
				`UPDATE keywicket.tokens SET revoked_at = NULL`,
				`UPDATE keywicket.tokens SET scopes = '{admin:all}'`,
				`UPDATE keywicket.tokens SET attributes = '{}'`,
				`UPDATE keywicket.users SET attributes = '{}'`,
				`UPDATE keywicket.workspaces SET attributes = '{}'`,
				`SELECT id FROM keywicket.tokens FOR UPDATE`,
				`SELECT id FROM keywicket.audit_log`,
				`DELETE FROM keywicket.tokens`,
				`TRUNCATE keywicket.tokens`,
				`DELETE FROM keywicket.token_usage`,
				`DELETE FROM keywicket.token_use`,
				`DELETE FROM keywicket.grant_usage`,
				`UPDATE keywicket.members SET role = 'owner'`,
				`INSERT INTO keywicket.members VALUES ('` + f.Acme.ID + `', '` + f.Bob.ID + `', 'owner')`,
				`INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('0123456789abcdef01234567', 'x', 'x')`,
				`CREATE TABLE keywicket.x ()`,
			},
		},
		"keywicket_issuer": {
			allowed: []string{
				`SELECT id, slug, name, created_at FROM keywicket.workspaces`,
				`SELECT id, email, created_at FROM keywicket.users`,
				`SELECT workspace_id, user_id, role, created_at FROM keywicket.members`,
				`SELECT session_id, user_id, revoked_at FROM keywicket.revoked_sessions`,
				`SELECT secret_digest FROM keywicket.oauth_apps`,
				`UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp()`,
				`DELETE FROM keywicket.oauth_codes`,
				`DELETE FROM keywicket.oauth_refresh_tokens`,
				`DELETE FROM keywicket.oauth_access_tokens`,
				`DELETE FROM keywicket.oauth_grants`,
			},
			forbidden: []string{
				selectLookupColumns,
				`INSERT INTO keywicket.tokens SELECT * FROM keywicket.tokens`,
				`INSERT INTO keywicket.revoked_sessions (session_id) VALUES ('s')`,
				`UPDATE keywicket.oauth_apps SET secret_digest = secret_digest`,
				`UPDATE keywicket.oauth_apps SET revoked_at = NULL`,
				`DELETE FROM keywicket.oauth_apps`,
				`UPDATE keywicket.oauth_grants SET scopes = '{admin}'`,
				`UPDATE keywicket.oauth_access_tokens SET expires_at = 'infinity'`,
				`SELECT token_id FROM keywicket.token_usage`,
				`SELECT token_id FROM keywicket.token_use`,
				`SELECT grant_id FROM keywicket.grant_usage`,
				`UPDATE keywicket.members SET role = 'owner'`,
				`UPDATE keywicket.users SET email = 'x@example.com'`,
				`UPDATE keywicket.users SET attributes = '{}'`,
				`SELECT id FROM keywicket.audit_log`,
				`DELETE FROM keywicket.workspaces`,
				`CREATE TABLE keywicket.x ()`,
			},
		},
		"keywicket_console": {
			allowed: []string{
				`SELECT id, slug, name, created_at FROM keywicket.workspaces`,
				`SELECT id, email, banned_until, mfa_enrolled FROM keywicket.users`,
				`SELECT workspace_id, user_id, role FROM keywicket.members`,
				`SELECT id, visible_prefix, name, scopes, created_at, expires_at, revoked_at FROM keywicket.tokens`,
				`UPDATE keywicket.tokens SET revoked_at = clock_timestamp()`,
				`UPDATE keywicket.oauth_apps SET secret_digest = sha256('x'), revoked_at = clock_timestamp()`,
				`UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp()`,
				`SELECT id, actor_id, before, after FROM keywicket.audit_log`,
				`DELETE FROM keywicket.idempotency_keys`,
			},
			forbidden: []string{
				`SELECT digest FROM keywicket.tokens`,
				`SELECT secret_digest FROM keywicket.oauth_apps`,
				`SELECT digest FROM keywicket.oauth_access_tokens`,
				`SELECT digest FROM keywicket.oauth_codes`,
				`SELECT digest FROM keywicket.oauth_refresh_tokens`,
				`UPDATE keywicket.tokens SET expires_at = 'infinity'`,
				`UPDATE keywicket.tokens SET scopes = '{admin:all}'`,
				`UPDATE keywicket.tokens SET name = 'x'`,
				`DELETE FROM keywicket.tokens`,
				`TRUNCATE keywicket.tokens`,
				`UPDATE keywicket.members SET role = 'owner'`,
				`INSERT INTO keywicket.members VALUES ('` + f.Acme.ID + `', '` + f.Bob.ID + `', 'owner')`,
				`INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('0123456789abcdef01234567', 'x', 'x')`,
				`UPDATE keywicket.users SET email = 'x@example.com'`,
				`UPDATE keywicket.oauth_apps SET owner_id = NULL`,
				`UPDATE keywicket.oauth_apps SET redirect_uris = '{https://evil.example}'`,
				`UPDATE keywicket.oauth_grants SET scopes = '{admin}'`,
				`INSERT INTO keywicket.oauth_grants (app_id, user_id, scopes) VALUES ('a', 'b', '{}')`,
				`INSERT INTO keywicket.revoked_sessions (session_id) VALUES ('s')`,
				`DELETE FROM keywicket.audit_log`,
				`UPDATE keywicket.audit_log SET actor_id = 'x'`,
				`SELECT keywicket.expire_audit_log('1 day')`,
				`CREATE TABLE keywicket.x ()`,
			},
		},
		"keywicket_retention": {
			allowed: []string{`SELECT keywicket.expire_audit_log('1 day')`},
			forbidden: []string{
				`SELECT id FROM keywicket.audit_log`,
				`DELETE FROM keywicket.audit_log`,
				`SELECT id FROM keywicket.workspaces`,
				selectLookupColumns,
				`CREATE TABLE keywicket.x ()`,
			},
		},
		"keywicket_nobody": {
			forbidden: []string{`SELECT id FROM keywicket.workspaces`, selectLookupColumns, `CREATE TABLE keywicket.x ()`},
		},
	} {
		t.Run(role, func(t *testing.T) {
			if role == "keywicket_nobody" {
				f.Exec(t, `CREATE ROLE keywicket_nobody`)
				defer f.Exec(t, `DROP ROLE keywicket_nobody`)
			} else if storetest.Value[bool](t, f.DB, `SELECT rolcanlogin FROM pg_roles WHERE rolname = $1`, role) {
				t.Error("the role can log in")
			}
			db := storetest.OpenDB(t, storetest.WithOption(f.URL, "role", role))
			for _, statement := range c.allowed {
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Errorf("%s: %v", statement, err)
				}
			}
			for _, statement := range c.forbidden {
				if _, err := db.ExecContext(t.Context(), statement); pq.As(err, pqerror.InsufficientPrivilege) == nil {
					t.Errorf("%s: %v", statement, err)
				}
			}
			_ = db.Close()
		})
	}
}

// The issuer finds apps before migration 00017 has added their scopes.
func TestAppsBeforeScopesExist(t *testing.T) {
	url := storetest.EmptyDatabase(t)
	db := storetest.OpenDB(t, url)
	if err := schema.MigrateTo(t.Context(), db, 13); err != nil {
		t.Fatal(err)
	}
	db.MustExec(`INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential)
		VALUES ('planner', 'velocity', 'Planner', '{https://planner.example/cb}', sha256('secret'), false)`)
	apps := storetest.Must(issuer.Open(url))
	defer func() { _ = apps.Close() }()
	expectScopes := func(when string, want ...string) {
		t.Helper()
		if got, err := apps.Client(t.Context(), "planner"); err != nil || !slices.Equal(got.Scopes, want) || !got.HasSecret("secret") {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
	}
	expectScopes("before")
	storetest.Must(schema.Migrate(t.Context(), db))
	expectScopes("after")
	db.MustExec(`UPDATE keywicket.oauth_apps SET scopes = '{issues:read,user:read}'`)
	expectScopes("with scopes", "issues:read", "user:read")
}

// Look-ups work before migrations 00010 and 00012 have added their columns. After these migrations, look-ups read the new
// columns.
func TestLookupsBeforeNewColumnsExist(t *testing.T) {
	for _, version := range []int64{9, 11} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			url := storetest.EmptyDatabase(t)
			db := storetest.OpenDB(t, url)
			if err := schema.MigrateTo(t.Context(), db, version); err != nil {
				t.Fatal(err)
			}
			db.MustExec(`INSERT INTO keywicket.users (id, email) VALUES ('ada', 'ada@example.com')`)
			db.MustExec(`INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('64f1a2b3c4d5e6f7a8b9c0d1', 'acme', 'Acme')`)
			db.MustExec(`INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES ('64f1a2b3c4d5e6f7a8b9c0d1', 'ada', 'guest')`)
			db.MustExec(`INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, user_id)
				VALUES ('velocity', 'personal_key', 'live', 'velu_', sha256('key'), 'n', '{}', 'ada')`)
			d := storetest.Must(directory.Open(directory.Config{URL: storetest.SidecarURL(url), NoCache: true, LookupTimeout: 10 * time.Second}, nil))
			defer func() { _ = d.Close(t.Context()) }()
			grants := storetest.Must(issuer.Open(url))
			defer func() { _ = grants.Close() }()
			session := storetest.SessionOf("ada", time.Now())
			key := storetest.Lookup("key")
			key.Workspace.Slug = "acme"
			expectAnswers := func(when string, want authz.Reason, attributes [3]authz.Attributes) {
				t.Helper()
				for name, l := range map[string]authz.Lookup{"key": key, "session": storetest.InWorkspace(session, "acme")} {
					attributes := attributes
					if name == "session" {
						attributes[0] = ""
					}
					got, err := d.Lookup(t.Context(), l)
					p := got.Principal
					if err != nil || got.Denial != want || attributes != [3]authz.Attributes{p.Attributes, p.UserAttributes, got.Workspace.Attributes} {
						t.Errorf("%s, %s: %+v, %v, not %q, %q", when, name, got, err, want, attributes)
					}
				}
				if _, err := grants.ConsentUser(t.Context(), session); (err == nil) != (want == "") {
					t.Errorf("%s, ConsentUser: %v", when, err)
				}
				if got, err := d.Lookup(t.Context(), authz.Lookup{Kind: authz.KindOAuthToken, API: "velocity"}); err != nil || got.Denial != authz.ReasonUnknown {
					t.Errorf("%s, an app's token: %+v, %v", when, got, err)
				}
			}
			none := [3]authz.Attributes{}
			expectAnswers("before", "", none)
			storetest.Must(schema.Migrate(t.Context(), db))
			expectAnswers("after", "", none)
			db.MustExec(`UPDATE keywicket.tokens SET attributes = '{"of": "token"}'`)
			db.MustExec(`UPDATE keywicket.users SET attributes = '{"of": "user"}'`)
			db.MustExec(`UPDATE keywicket.workspaces SET attributes = '{"of": "workspace"}'`)
			expectAnswers("with attributes", "", [3]authz.Attributes{`{"of": "token"}`, `{"of": "user"}`, `{"of": "workspace"}`})
			db.MustExec(`UPDATE keywicket.users SET banned_until = now() + interval '1 hour'`)
			expectAnswers("after a ban", authz.ReasonRevoked, none)
		})
	}
}

// The issuer works before migration 00014. Before it, every second use of a refresh token revokes the grant, and no app is in
// development. After it, only refreshes that the issuer makes afterwards may be repeated.
func TestIssuerBeforeMigration14(t *testing.T) {
	url := storetest.EmptyDatabase(t)
	db := storetest.OpenDB(t, url)
	if err := schema.MigrateTo(t.Context(), db, 13); err != nil {
		t.Fatal(err)
	}
	db.MustExec(`INSERT INTO keywicket.users (id, email) VALUES ('ada', 'ada@example.com')`)
	db.MustExec(`INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential)
		VALUES ('app', 'velocity', 'Planner', '{r}', sha256('secret'), false)`)
	grants := storetest.Must(issuer.Open(storetest.WithOption(url, "role", "keywicket_issuer")))
	defer func() { _ = grants.Close() }()
	tokens := func() issuer.TokenPair {
		approved := storetest.Must(grants.Approve(t.Context(), issuer.Approval{Client: "app", User: "ada", RedirectURI: "r", Challenge: strings.Repeat("c", 43)}))
		return storetest.Must(grants.Exchange(t.Context(), approved.Code, storetest.Velo, storetest.AcceptCode))
	}
	refresh := func(p issuer.TokenPair) (issuer.TokenPair, error) {
		return grants.Refresh(t.Context(), issuer.RefreshRequest{Token: p.Refresh, Client: "app", Format: storetest.Velo, ReuseWindow: time.Minute}, storetest.AllScopes)
	}
	if c, err := grants.Client(t.Context(), "app"); err != nil || c.Development || c.Name != "Planner" {
		t.Errorf("%+v, %v", c, err)
	}
	early, earlier := tokens(), tokens()
	storetest.Must(refresh(early))
	if _, err := refresh(early); !errors.Is(err, issuer.ErrReused) {
		t.Errorf("before the migration: %v", err)
	}
	next := storetest.Must(refresh(earlier))
	storetest.Must(schema.Migrate(t.Context(), db))
	db.MustExec(`UPDATE keywicket.oauth_apps SET development = true`)
	if c, err := grants.Client(t.Context(), "app"); err != nil || !c.Development {
		t.Errorf("%+v, %v", c, err)
	}
	storetest.Must(refresh(next))
	if again, err := refresh(next); err != nil || !again.Repeated {
		t.Errorf("after the migration: %+v, %v", again, err)
	}
	if _, err := refresh(earlier); !errors.Is(err, issuer.ErrReused) {
		t.Errorf("a token that was used before the migration: %v", err)
	}
}
