package registry_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// With and without a cache, a session acts for its user in the user's workspaces.
func TestSessionsActAsTheirUsers(t *testing.T) {
	f := storetest.NewFixture(t)
	for name, d := range map[string]*directory.Directory{"uncached": f.Directory(t, nil), "cached": f.CachedDirectory(t)} {
		t.Run(name, func(t *testing.T) {
			ada := storetest.SessionOf(f.Ada.ID, time.Now())
			for slug, want := range map[string]authz.Membership{
				"acme": {ID: f.Acme.ID, Slug: "acme", Role: "admin"}, "globex": {ID: f.Globex.ID, Slug: "globex", Role: "guest"},
				"nowhere": {}, "": {},
			} {
				for range 3 {
					got := storetest.Must(d.Lookup(t.Context(), storetest.InWorkspace(ada, slug)))
					if got.Denial != "" || got.Workspace != want || got.Principal.ID != f.Ada.ID || got.Principal.UserID != f.Ada.ID ||
						got.Principal.Kind != authz.KindSession || got.Principal.SessionID != ada.ID || got.Principal.Environment != authz.Live {
						t.Errorf("in %q: %+v", slug, got)
					}
				}
			}
			byID := authz.Lookup{Kind: authz.KindSession, Session: ada, API: "velocity", Workspace: authz.WorkspaceRef{ID: f.Acme.ID}}
			if got := storetest.Must(d.Lookup(t.Context(), byID)); got.Workspace.Role != "admin" {
				t.Errorf("by id: %+v", got)
			}
			if got := storetest.Must(d.Lookup(t.Context(), storetest.InWorkspace(storetest.SessionOf(f.Bob.ID, time.Now()), "acme"))); got.Denial != "" || got.Workspace.ID != "" {
				t.Errorf("a user in no workspace: %+v", got)
			}
			if got := storetest.Must(d.Lookup(t.Context(), storetest.InWorkspace(storetest.SessionOf("nobody", time.Now()), "acme"))); got.Denial != authz.ReasonUnknown || got.Principal.ID != "" {
				t.Errorf("an unknown user: %+v", got)
			}
		})
	}
}

// The trigger in docs/configuration.md revokes the session when a user signs out from Supabase.
func TestSigningOutRevokesTheSession(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `CREATE SCHEMA auth; CREATE TABLE auth.sessions (id uuid PRIMARY KEY, user_id uuid NOT NULL)`)
	f.Exec(t, `CREATE ROLE gotrue; GRANT USAGE ON SCHEMA auth TO gotrue; GRANT SELECT, INSERT, DELETE ON auth.sessions TO gotrue`)
	defer f.Exec(t, `DROP OWNED BY gotrue; DROP ROLE gotrue`)
	for _, block := range documentedSQL(t)[:2] {
		f.Exec(t, block)
	}
	if got := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.revoked_sessions`); got != 2 {
		t.Errorf("the first block inserted %d rows", got)
	}
	d := f.CachedDirectory(t)
	s := storetest.SessionOf(f.Ada.ID, time.Now())
	s.ID = "9f8e7d6c-1111-2222-3333-444455556666"
	f.Exec(t, `INSERT INTO auth.sessions VALUES ($1, gen_random_uuid())`, s.ID)
	storetest.Eventually(t, "the answer is cached", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.InWorkspace(s, "acme"))).Cache == authz.CacheHit
	})
	storetest.OpenDB(t, storetest.WithOption(f.URL, "role", "gotrue")).MustExec(`DELETE FROM auth.sessions`)
	storetest.Eventually(t, "the session is revoked", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.InWorkspace(s, "acme"))).Denial == authz.ReasonRevoked
	})
}

// A revocation by the registry or by the product's SQL takes effect with and without a cache. It affects no other session.
func TestSessionsAreRevoked(t *testing.T) {
	f := storetest.NewFixture(t)
	uncached, cached := f.Directory(t, nil), f.CachedDirectory(t)
	denial := func(s authz.Session) authz.Reason {
		t.Helper()
		want := storetest.Must(uncached.Lookup(t.Context(), storetest.InWorkspace(s, "acme"))).Denial
		storetest.Eventually(t, "the cached answer has the same denial", func() bool {
			return storetest.Must(cached.Lookup(t.Context(), storetest.InWorkspace(s, "acme"))).Denial == want
		})
		return want
	}
	one, other := storetest.SessionOf(f.Ada.ID, time.Now()), storetest.SessionOf(f.Ada.ID, time.Now())
	other.ID = "another"
	bobSession := storetest.SessionOf(f.Bob.ID, time.Now())
	for _, s := range []authz.Session{one, other, bobSession} {
		if got := denial(s); got != "" {
			t.Fatalf("%+v is %s", s, got)
		}
	}
	first := storetest.Must(f.RevokeSession(t.Context(), one.ID))
	again := storetest.Must(f.RevokeSession(t.Context(), one.ID))
	if *first.SessionID != one.ID || first.UserID != nil || !again.RevokedAt.Equal(first.RevokedAt) {
		t.Errorf("%+v, and again %+v", first, again)
	}
	later := one
	later.StartedAt += 3600 // the session has the same id but a later start
	if denial(one) != authz.ReasonRevoked || denial(later) != authz.ReasonRevoked || denial(other) != "" || denial(bobSession) != "" {
		t.Errorf("one %s, later %s, other %s, bob's %s", denial(one), denial(later), denial(other), denial(bobSession))
	}
	f.Exec(t, `INSERT INTO keywicket.revoked_sessions (session_id) VALUES ('another')`)
	if got := denial(other); got != authz.ReasonRevoked {
		t.Errorf("revoked by SQL: %q", got)
	}

	all := storetest.Must(f.RevokeUserSessions(t.Context(), "bob@example.com"))
	if all.SessionID != nil || *all.UserID != f.Bob.ID {
		t.Errorf("%+v", all)
	}
	for began, want := range map[time.Duration]authz.Reason{
		-time.Hour: authz.ReasonRevoked, -time.Second: authz.ReasonRevoked, 0: authz.ReasonRevoked, time.Second: "", time.Hour: "",
	} {
		s := storetest.SessionOf(f.Bob.ID, all.RevokedAt.Add(began))
		s.ID = began.String()
		if got := denial(s); got != want {
			t.Errorf("a session that began %v after the revocation: %q", began, got)
		}
	}
	f.Exec(t, `INSERT INTO keywicket.revoked_sessions (user_id, revoked_at) VALUES ($1, to_timestamp(1700000000))`, f.Ada.ID)
	for began, want := range map[int64]authz.Reason{1_699_999_999: authz.ReasonRevoked, 1_700_000_000: authz.ReasonRevoked, 1_700_000_001: ""} {
		if got := denial(authz.Session{ID: "exact", UserID: f.Ada.ID, StartedAt: began}); got != want {
			t.Errorf("a session that began at %d: %q", began, got)
		}
	}
	s := storetest.SessionOf(f.Bob.ID, all.RevokedAt.Add(time.Minute))
	f.Exec(t, `INSERT INTO keywicket.revoked_sessions (user_id, revoked_at) VALUES ($1, now() + interval '1 hour')`, f.Bob.ID)
	if got := denial(s); got != authz.ReasonRevoked {
		t.Errorf("revoked by SQL: %q", got)
	}
	f.Exec(t, `DELETE FROM keywicket.revoked_sessions`)
	for _, s := range []authz.Session{one, other, s} {
		if got := denial(s); got != "" {
			t.Errorf("after the deletion of all revocations: %q", got)
		}
	}
	f.Exec(t, `INSERT INTO keywicket.revoked_sessions (session_id) VALUES ($1)`, one.ID)
	if got := denial(one); got != authz.ReasonRevoked {
		t.Errorf("revoked again: %q", got)
	}
	f.Exec(t, `UPDATE keywicket.workspaces SET slug = 'renamed' WHERE slug = 'acme'`)
	for slug, want := range map[string]string{"acme": "", "renamed": f.Acme.ID} {
		storetest.Eventually(t, "the workspace has another slug", func() bool {
			return storetest.Must(cached.Lookup(t.Context(), storetest.InWorkspace(other, slug))).Workspace.ID == want
		})
	}
	f.Exec(t, `UPDATE keywicket.workspaces SET slug = 'acme' WHERE slug = 'renamed'`)
	f.Exec(t, `TRUNCATE keywicket.revoked_sessions`)
	if got := denial(one); got != "" {
		t.Errorf("after TRUNCATE: %q", got)
	}

	for _, id := range []string{
		"", " ", " s", "s\n", "{s}", "session_id=s", "s\x00", "\xff", "s\ufffd", strings.Repeat("s", 256), f.Ada.ID, "Ada@example.com",
		"eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
	} {
		if _, err := f.RevokeSession(t.Context(), id); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := f.RevokeUserSessions(t.Context(), "nobody@example.com"); !errors.Is(err, database.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// An id that belongs to another object is refused: no session can have it. The error names the command for the object.
func TestTheIdOfAnotherObjectIsNoSession(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.UserToken(t, "admin")
	app, _, err := f.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "app", RedirectURIs: []string{"https://app.example/cb"}})
	if err != nil {
		t.Fatal(err)
	}
	grant := storetest.Value[string](t, f.DB, `INSERT INTO keywicket.oauth_grants (app_id, user_id, scopes) VALUES ($1, $2, '{admin}') RETURNING id`, app.ID, f.Ada.ID)
	access := storetest.Value[string](t, f.DB, `INSERT INTO keywicket.oauth_access_tokens (digest, grant_id, scopes, expires_at)
		VALUES (sha256('a'), $1, '{admin}', now() + interval '1 hour') RETURNING id`, grant)
	for id, want := range map[string]string{
		token.ID: "token revoke", app.ID: "oauth-app revoke", grant: "grant revoke", access: "an app's access token",
		f.Acme.ID: "a workspace", "acme": "a workspace", f.Ada.ID: "--user",
	} {
		if _, err := f.RevokeSession(t.Context(), id); !errors.Is(err, database.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", id, err, want)
		}
	}
	if got := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.revoked_sessions`); got != 0 {
		t.Errorf("%d revocations", got)
	}
}

// If the schema keywicket is in Supabase's own database, RevokeSession reports whether Supabase Auth has the session.
func TestAnUnknownSessionIsReported(t *testing.T) {
	f := storetest.NewFixture(t)
	seen := func(id string) *bool {
		t.Helper()
		return storetest.Must(f.RevokeSession(t.Context(), id)).Seen
	}
	const known, unknown = "9f8e7d6c-1111-2222-3333-444455556666", "00000000-1111-2222-3333-444455556666"
	if got := seen(known); got != nil {
		t.Errorf("without a list of sessions: %v", *got)
	}
	f.Exec(t, `CREATE SCHEMA auth; CREATE TABLE auth.sessions (id uuid PRIMARY KEY); INSERT INTO auth.sessions VALUES ('`+known+`')`)
	for id, want := range map[string]bool{known: true, unknown: false, "no-uuid": false, strings.ToUpper(known): false} {
		if got := seen(id); got == nil || *got != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
	// A row-level policy hides rows from this login, so the answer is not known.
	f.Exec(t, `ALTER TABLE auth.sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`)
	f.Exec(t, `CREATE ROLE keywicket_list LOGIN; GRANT USAGE ON SCHEMA keywicket, auth TO keywicket_list;
		GRANT SELECT ON ALL TABLES IN SCHEMA keywicket TO keywicket_list; GRANT INSERT ON keywicket.revoked_sessions TO keywicket_list`)
	defer f.Exec(t, `DROP OWNED BY keywicket_list; DROP ROLE keywicket_list`)
	r := storetest.Must(registry.Open(t.Context(), storetest.WithOption(f.URL, "role", "keywicket_list")))
	defer func() { _ = r.Close() }()
	for _, grant := range []string{"SELECT 1", "GRANT SELECT ON auth.sessions TO keywicket_list"} {
		f.Exec(t, grant)
		if got := storetest.Must(r.RevokeSession(t.Context(), known)).Seen; got != nil {
			t.Errorf("after %s: %v", grant, *got)
		}
	}
}
