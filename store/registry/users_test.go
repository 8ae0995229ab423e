package registry_test

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// documentedSQL returns the four blocks of SQL in docs/configuration.md. Two are about sessions, one is about Supabase's users,
// and one is about attributes.
func documentedSQL(t *testing.T) []string {
	t.Helper()
	text := storetest.Must(os.ReadFile("../../docs/configuration.md"))
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(text, -1) {
		blocks = append(blocks, string(m[1]))
	}
	if len(blocks) != 4 {
		t.Fatalf("%d blocks of SQL", len(blocks))
	}
	return blocks
}

// supabaseSchema creates the part of Supabase Auth's schema auth that the triggers read. As in Supabase, the schema has row-level
// security, and its owner is a role without privileges in keywicket's schema. The role dashboard has the same privileges as
// Supabase's login postgres.
const supabaseSchema = `
CREATE ROLE supabase_auth_admin NOINHERIT;
CREATE ROLE dashboard BYPASSRLS;
GRANT CREATE, USAGE ON SCHEMA keywicket TO dashboard;
GRANT SELECT, INSERT, UPDATE, TRIGGER ON ALL TABLES IN SCHEMA keywicket TO dashboard;
CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
SET ROLE supabase_auth_admin;
CREATE TYPE auth.factor_type AS ENUM ('totp', 'webauthn', 'phone');
CREATE TYPE auth.factor_status AS ENUM ('unverified', 'verified');
CREATE TABLE auth.users (
    instance_id uuid, id uuid NOT NULL PRIMARY KEY, aud varchar(255), role varchar(255), email varchar(255),
    encrypted_password varchar(255), last_sign_in_at timestamptz, raw_app_meta_data jsonb, raw_user_meta_data jsonb,
    created_at timestamptz, updated_at timestamptz, banned_until timestamptz, deleted_at timestamptz,
    is_anonymous boolean NOT NULL DEFAULT false
);
CREATE TABLE auth.sessions (id uuid NOT NULL PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE);
CREATE TABLE auth.mfa_factors (
    id uuid NOT NULL PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE, friendly_name text,
    factor_type auth.factor_type NOT NULL, status auth.factor_status NOT NULL, created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL, secret text
);
ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.mfa_factors ENABLE ROW LEVEL SECURITY;
GRANT USAGE ON SCHEMA auth TO dashboard;
GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON ALL TABLES IN SCHEMA auth TO dashboard;
RESET ROLE;`

// The triggers in docs/configuration.md copy users' bans and second factors from Supabase.
func TestUsersOfSupabaseAreCopied(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, supabaseSchema)
	defer f.Exec(t, `DROP OWNED BY supabase_auth_admin, dashboard CASCADE; DROP ROLE supabase_auth_admin, dashboard`)
	auth := storetest.OpenDB(t, storetest.WithOption(f.URL, "role", "supabase_auth_admin"))
	const createdBefore, createdAfter, other = "5be86359-073c-434b-ad2d-a3932222dabe", "6be86359-073c-434b-ad2d-a3932222dabe", "7be86359-073c-434b-ad2d-a3932222dabe"
	for id, banned := range map[string]any{createdBefore: "2099-01-01", createdAfter: "2099-01-01", other: nil} {
		auth.MustExec(`INSERT INTO auth.users (id, banned_until) VALUES ($1, $2)`, id, banned)
		auth.MustExec(`INSERT INTO auth.mfa_factors VALUES ($1, $1, 'phone', 'totp', $2, now(), now())`,
			id, map[bool]string{true: "verified", false: "unverified"}[banned != nil])
	}
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: createdBefore, Email: "before@example.com"}))
	dashboard := storetest.OpenDB(t, storetest.WithOption(f.URL, "role", "dashboard"))
	for _, block := range documentedSQL(t)[1:3] {
		dashboard.MustExec(block)
	}
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: createdAfter, Email: "after@example.com"}))
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: other, Email: "other@example.com"}))
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: "auth0|7", Email: "seven@example.com"})) // this id is not a UUID
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: "8be86359-073c-434b-ad2d-a3932222dabe", Email: "eight@example.com"}))
	state := func(id string) string {
		return storetest.Value[string](t, f.DB, `SELECT COALESCE(banned_until::date::text, 'free') || ' ' || mfa_enrolled FROM keywicket.users WHERE id = $1`, id)
	}
	for id, want := range map[string]string{
		createdBefore: "2099-01-01 true", createdAfter: "2099-01-01 true", other: "free false", "auth0|7": "free false", f.Ada.ID: "free false",
		"8be86359-073c-434b-ad2d-a3932222dabe": "free false",
	} {
		if got := state(id); got != want {
			t.Errorf("%s is %s, not %s", id, got, want)
		}
	}
	for _, step := range []struct{ sql, want string }{
		{`UPDATE auth.users SET banned_until = '2098-01-01' WHERE id = $1`, "2098-01-01 false"},
		{`UPDATE auth.users SET banned_until = NULL WHERE id = $1`, "free false"},
		{`UPDATE auth.mfa_factors SET status = 'verified' WHERE user_id = $1`, "free true"},
		{`INSERT INTO auth.mfa_factors VALUES (gen_random_uuid(), $1, 'key', 'webauthn', 'unverified', now(), now())`, "free true"},
		{`UPDATE auth.mfa_factors SET status = 'unverified' WHERE user_id = $1`, "free false"},
		{`INSERT INTO auth.mfa_factors VALUES (gen_random_uuid(), $1, 'new', 'webauthn', 'verified', now(), now())`, "free true"},
		{`DELETE FROM auth.mfa_factors WHERE user_id = $1 AND status = 'unverified'`, "free true"},
		{`DELETE FROM auth.mfa_factors WHERE user_id = $1`, "free false"},
	} {
		auth.MustExec(step.sql, other)
		if got := state(other); got != step.want {
			t.Errorf("after %s: %s, not %s", step.sql, got, step.want)
		}
	}
	if got := state(createdBefore); got != "2099-01-01 true" {
		t.Errorf("another user is %s", got)
	}
	// Changes of a user's factors do not end a ban.
	f.Exec(t, `UPDATE keywicket.users SET banned_until = '2097-01-01' WHERE id = $1`, other)
	auth.MustExec(`INSERT INTO auth.mfa_factors VALUES (gen_random_uuid(), $1, 'x', 'totp', 'unverified', now(), now())`, other)
	auth.MustExec(`DELETE FROM auth.mfa_factors WHERE user_id = $1`, other)
	if got := state(other); got != "2097-01-01 false" {
		t.Errorf("after changes of factors: %s", got)
	}
	f.Exec(t, `UPDATE keywicket.users SET banned_until = NULL WHERE id = $1`, other)

	// Two transactions concurrently delete the last two factors. Neither sees the deletion by the other.
	auth.MustExec(`INSERT INTO auth.mfa_factors SELECT gen_random_uuid(), $1, n::text, 'totp', 'verified', now(), now() FROM generate_series(1, 2) n`, other)
	first := auth.MustBegin()
	first.MustExec(`DELETE FROM auth.mfa_factors WHERE user_id = $1 AND friendly_name = '1'`, other)
	second := make(chan error)
	go func() {
		_, err := auth.Exec(`DELETE FROM auth.mfa_factors WHERE user_id = $1 AND friendly_name = '2'`, other)
		second <- err
	}()
	storetest.Eventually(t, "the second deletion waits", func() bool {
		return storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	})
	if err := errors.Join(first.Commit(), <-second); err != nil {
		t.Fatal(err)
	}
	if got := state(other); got != "free false" {
		t.Errorf("without a factor: %s", got)
	}

	// A user who is deleted in Supabase, either softly or completely, is banned permanently, even if the user was already banned
	// for a time.
	for id, statement := range map[string]string{
		createdAfter: `UPDATE auth.users SET deleted_at = now() WHERE id = $1`, createdBefore: `DELETE FROM auth.users WHERE id = $1`, other: `DELETE FROM auth.users WHERE id = $1`,
	} {
		auth.MustExec(statement, id)
		if !storetest.Value[bool](t, f.DB, `SELECT banned_until = 'infinity' FROM keywicket.users WHERE id = $1`, id) {
			t.Errorf("after %s, %s is not banned", statement, id)
		}
	}
	if got := state(f.Ada.ID); got != "free false" {
		t.Errorf("another user is %s", got)
	}

	// The functions run with their owner's privileges. So other roles must not be able to use them in triggers of their own
	// tables.
	for _, role := range []string{"keywicket_sidecar", "keywicket_issuer"} {
		for _, function := range []string{"signed_out()", "copy_user('id')"} {
			db := storetest.OpenDB(t, storetest.WithOption(f.URL, "role", role))
			db.SetMaxOpenConns(1)
			db.MustExec(`CREATE TEMP TABLE own (id uuid)`)
			_, err := db.Exec(`CREATE TRIGGER t AFTER DELETE ON own FOR EACH ROW EXECUTE FUNCTION keywicket.` + function)
			if pq.As(err, pqerror.InsufficientPrivilege) == nil {
				t.Errorf("%s and %s: %v", role, function, err)
			}
		}
	}
	// If the owner of the trigger's function has no privilege to read the rows, banning a user fails with an error. Without the
	// error, nobody would notice that the ban has no effect.
	f.Exec(t, `ALTER ROLE dashboard NOBYPASSRLS`)
	if _, err := auth.Exec(`INSERT INTO auth.users (id, banned_until) VALUES ($1, 'infinity')`, createdBefore); pq.As(err, pqerror.InsufficientPrivilege) == nil {
		t.Errorf("without the privilege to read the rows: %v", err)
	}
}

// While a user is banned, all their credentials are denied, with and without a cache, and on the consent page. After the ban, the
// credentials are valid again.
func TestBannedUser(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	f := g.Fixture
	_, key := f.UserToken(t, "issues:read")
	_, workspaceKey := f.WorkspaceToken(t, "issues:read")
	issued := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID))
	access, refresh, code := issued.Access, issued.Refresh, g.NewCode(t, g.Acme.ID)
	uncached, cached := f.Directory(t, nil), f.CachedDirectory(t)
	session := storetest.SessionOf(f.Ada.ID, time.Now())
	lookups := map[string]authz.Lookup{
		"key":     {Kind: authz.KindPersonalKey, Digest: key.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: "acme"}},
		"app":     {Kind: authz.KindOAuthToken, Digest: access.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: "acme"}},
		"session": storetest.InWorkspace(session, "acme"),
	}
	expectAll := func(want authz.Reason) {
		t.Helper()
		for name, l := range lookups {
			if got := storetest.Must(uncached.Lookup(t.Context(), l)); got.Denial != want {
				t.Errorf("%s, uncached: %+v, not %q", name, got, want)
			}
			storetest.Eventually(t, name+" is cached in the new state", func() bool {
				got := storetest.Must(cached.Lookup(t.Context(), l))
				return got.Denial == want && got.Cache == authz.CacheHit
			})
		}
		if _, err := g.ConsentUser(t.Context(), session); (err == nil) != (want == "") {
			t.Errorf("the consent page: %v", err)
		}
		if _, err := g.Introspect(t.Context(), access); (err == nil) != (want == "") {
			t.Errorf("introspection: %v", err)
		}
		if want != "" { // the ban refuses this use of the code and of the refresh token, but does not count it as a use
			if _, err := g.RefreshToken(t, refresh); !errors.Is(err, issuer.ErrGrant) {
				t.Errorf("refreshing: %v", err)
			}
			if _, err := g.Exchange(t.Context(), code, storetest.Velo, storetest.AcceptCode); !errors.Is(err, issuer.ErrGrant) {
				t.Errorf("exchanging: %v", err)
			}
		}
		if got := storetest.Must(uncached.Lookup(t.Context(), storetest.Lookup(workspaceKey))); got.Denial != "" {
			t.Errorf("a workspace key is denied: %s", got.Denial)
		}
	}
	expectAll("")
	for _, until := range []string{"clock_timestamp() + interval '1 hour'", "'infinity'", "'9999-12-31'"} {
		f.Exec(t, `UPDATE keywicket.users SET banned_until = `+until+` WHERE id = $1`, f.Ada.ID)
		expectAll(authz.ReasonRevoked)
		f.Exec(t, `UPDATE keywicket.users SET banned_until = NULL WHERE id = $1`, f.Ada.ID)
		expectAll("")
	}
	for _, ended := range []string{"clock_timestamp() - interval '1 second'", "'-infinity'", "'0044-03-15 BC'"} {
		f.Exec(t, `UPDATE keywicket.users SET banned_until = `+ended+` WHERE id = $1`, f.Ada.ID)
		expectAll("")
		if u, err := f.User(t.Context(), f.Ada.ID); err != nil || u.Banned(time.Now()) {
			t.Errorf("%s: %+v, %v", ended, u, err)
		} else if _, err := json.Marshal(u); err != nil {
			t.Errorf("%s: %v", ended, err)
		}
	}
	// A ban ends at its time without a change of the row, so the log has no row for the end.
	f.Exec(t, `UPDATE keywicket.users SET banned_until = clock_timestamp() + interval '2 seconds' WHERE id = $1`, f.Ada.ID)
	expectAll(authz.ReasonRevoked)
	for name, l := range lookups {
		storetest.Eventually(t, name+" is valid again", func() bool { return storetest.Must(cached.Lookup(t.Context(), l)).Denial == "" })
	}
	if got, err := g.RefreshToken(t, refresh); err != nil || got.Access == "" {
		t.Errorf("refreshing after the ban: %v", err)
	}
	if got := g.ExchangeCode(t, code); got.Access == "" {
		t.Error("after the ban, the exchange returned no access token")
	}
}

// The answer for a session contains the field MFAEnrolled, which the setting require_aal2 needs. Changes of the field take effect.
func TestSecondFactorOfAUser(t *testing.T) {
	f := storetest.NewFixture(t)
	uncached, cached := f.Directory(t, nil), f.CachedDirectory(t)
	l := storetest.InWorkspace(storetest.SessionOf(f.Ada.ID, time.Now()), "acme")
	for _, want := range []bool{false, true, false} {
		f.Exec(t, `UPDATE keywicket.users SET mfa_enrolled = $1 WHERE id = $2`, want, f.Ada.ID)
		if got := storetest.Must(uncached.Lookup(t.Context(), l)); got.MFAEnrolled != want {
			t.Errorf("uncached: %+v, not %v", got, want)
		}
		storetest.Eventually(t, "the new state is cached", func() bool {
			got := storetest.Must(cached.Lookup(t.Context(), l))
			return got.MFAEnrolled == want && got.Cache == authz.CacheHit
		})
	}
}
