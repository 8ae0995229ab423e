package settings_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// fixture has the operations with a login that has only the role keywicket_console.
type fixture struct {
	*storetest.Fixture
	settings *settings.Settings
	velocity settings.API
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Fixture: storetest.NewFixture(t)}
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = store.Close() })
	if err := store.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f.settings = settings.New(store)
	f.velocity = settings.API{
		Name: "velocity", Rules: issuance.Rules{Table: engine.Tables()["velocity"]}, HasApps: true,
		Formats: []authz.CredentialFormat{storetest.Vel, storetest.Velu},
	}
	return f
}

// session returns a user's session in a workspace.
func (f *fixture) session(user registry.User, w registry.Workspace, role string) settings.Caller {
	return settings.Caller{
		API: f.velocity, User: console.User{ID: user.ID, Email: user.Email}, Workspace: console.Membership{ID: w.ID, Slug: w.Slug, Role: role},
		Actor: database.Actor{Kind: database.ActorUser, ID: user.ID, Source: "203.0.113.9", RequestID: "r-1"},
		Maker: issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: role},
	}
}

func (f *fixture) admin() settings.Caller { return f.session(f.Ada, f.Acme, "admin") }

var newKey = settings.NewToken{Name: " CI ", Scopes: []string{"issues:write", "issues:read", "issues:read"}}

func (f *fixture) create(t *testing.T, c settings.Caller, o settings.Owner, n settings.NewToken) settings.Created[registry.Token] {
	t.Helper()
	created, err := f.settings.CreateToken(t.Context(), c, o, n)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// A created token is valid at once, and the audit log has the user, the address and the request.
func TestCreateToken(t *testing.T) {
	f := newFixture(t)
	created := f.create(t, f.admin(), settings.OfWorkspace, newKey)
	token := created.Object
	if token.Name != "CI" || !slices.Equal(token.Scopes, []string{"issues:read", "issues:write"}) || *token.WorkspaceID != f.Acme.ID || token.API != "velocity" ||
		!strings.HasPrefix(created.Secret.Reveal(), token.Prefix) || created.Repeated {
		t.Errorf("%+v", created)
	}
	if found := storetest.Must(f.LookupDigest(t.Context(), storetest.Lookup(created.Secret))); found.Denial != "" || found.Principal.ID != token.ID {
		t.Errorf("%+v", found)
	}
	own := f.create(t, f.admin(), settings.OfUser, settings.NewToken{Name: "CLI", Scopes: []string{"user:read"}, ExpiresAt: new(time.Now().Add(time.Hour))}).Object
	if own.Kind != authz.KindPersonalKey || *own.UserID != f.Ada.ID || own.WorkspaceID != nil {
		t.Errorf("%+v", own)
	}
	for _, id := range []string{token.ID, own.ID} {
		f.expectActor(t, id, "create", "user "+f.Ada.ID+" 203.0.113.9 r-1")
	}
}

// expectActor tests who did what to an object, according to the audit log.
func (f *fixture) expectActor(t *testing.T, id, action, want string) {
	t.Helper()
	got := storetest.Value[string](t, f.DB, `SELECT COALESCE(string_agg(concat_ws(' ', actor_kind, actor_id, source, request_id), ', '), '')
		FROM keywicket.audit_log WHERE object_id = $1 AND action = $2`, id, action)
	if got != want {
		t.Errorf("%s: %q, not %q", action, got, want)
	}
}

func TestRotateAndRevoke(t *testing.T) {
	f := newFixture(t)
	c := f.admin()
	old := f.create(t, c, settings.OfWorkspace, newKey).Object
	rotated, err := f.settings.RotateToken(t.Context(), c, settings.OfWorkspace, old.ID, time.Hour, "")
	if err != nil || rotated.Object.ID == old.ID || rotated.Object.Name != "CI" || rotated.Secret == "" {
		t.Fatalf("%+v, %v", rotated, err)
	}
	if still := storetest.Must(f.settings.Token(t.Context(), c, settings.OfWorkspace, old.ID)); still.Status != registry.Active || still.ExpiresAt == nil {
		t.Errorf("the old token: %+v", still)
	}
	for range 2 { // the second time changes nothing
		revoked, err := f.settings.RevokeToken(t.Context(), c, settings.OfWorkspace, rotated.Object.ID)
		if err != nil || revoked.Status != registry.Revoked {
			t.Errorf("%+v, %v", revoked, err)
		}
	}
	f.expectActor(t, rotated.Object.ID, "revoke", "user "+f.Ada.ID+" 203.0.113.9 r-1")
	if _, err := f.settings.RotateToken(t.Context(), c, settings.OfWorkspace, rotated.Object.ID, 0, ""); !errors.Is(err, settings.ErrInvalid) {
		t.Errorf("a revoked token can be rotated: %v", err)
	}
	if _, err := f.settings.RotateToken(t.Context(), c, settings.OfWorkspace, old.ID, 31*24*time.Hour, ""); !errors.Is(err, settings.ErrInvalid) {
		t.Errorf("the overlap is not limited: %v", err)
	}
}

// A caller sees only the tokens of their workspace and their own keys, of one API. All other tokens do not exist for the caller.
func TestOtherTokensDoNotExist(t *testing.T) {
	f := newFixture(t)
	storetest.Must(f.SetMember(t.Context(), "globex", f.Bob.ID, "owner"))
	bob := f.session(f.Bob, f.Globex, "owner")
	foreign := map[string]settings.Owner{
		f.create(t, bob, settings.OfWorkspace, newKey).Object.ID:  settings.OfWorkspace,
		f.create(t, bob, settings.OfUser, newKey).Object.ID:       settings.OfUser,
		f.create(t, f.admin(), settings.OfUser, newKey).Object.ID: settings.OfWorkspace, // her own key is no token of the workspace
		f.ofOtherAPI(t): settings.OfWorkspace,
		"nonesuch":      settings.OfWorkspace,
		"":              settings.OfUser,
	}
	for id, owner := range foreign {
		_, getErr := f.settings.Token(t.Context(), f.admin(), owner, id)
		_, rotateErr := f.settings.RotateToken(t.Context(), f.admin(), owner, id, 0, "")
		_, revokeErr := f.settings.RevokeToken(t.Context(), f.admin(), owner, id)
		for _, err := range []error{getErr, rotateErr, revokeErr} {
			if !errors.Is(err, settings.ErrNotFound) || err.Error() != "There is no such token here." {
				t.Errorf("%s %q: %v", owner, id, err)
			}
		}
	}
	if revoked := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL`); revoked != 0 {
		t.Errorf("%d tokens have changed", revoked)
	}
}

// Who may not manage tokens can do nothing with them: not even find out whether a token exists.
func TestForbiddenCallers(t *testing.T) {
	f := newFixture(t)
	id := f.create(t, f.admin(), settings.OfWorkspace, newKey).Object.ID
	for name, c := range map[string]settings.Caller{
		"a guest":                      f.session(f.Ada, f.Globex, "guest"),
		"a member":                     f.session(f.Ada, f.Acme, "member"),
		"outside of workspaces":        f.session(f.Ada, registry.Workspace{}, ""),
		"a key without the override":   f.token(t, "workspace_key", "issues:write"),
		"the access token of an app":   f.token(t, "oauth_token", "workspace:admin", "admin"),
		"a credential without a scope": f.token(t, "workspace_key"),
	} {
		for _, of := range []string{id, "nonesuch"} {
			_, err := f.settings.Token(t.Context(), c, settings.OfWorkspace, of)
			_, createErr := f.settings.CreateToken(t.Context(), c, settings.OfWorkspace, newKey)
			_, revokeErr := f.settings.RevokeToken(t.Context(), c, settings.OfWorkspace, of)
			for _, err := range []error{err, createErr, revokeErr} {
				if !errors.Is(err, settings.ErrForbidden) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// token returns a caller with a token in the workspace acme.
func (f *fixture) token(t *testing.T, kind authz.Kind, scopes ...string) settings.Caller {
	t.Helper()
	token, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "Caller", Scopes: scopes, Workspace: "acme"})
	return settings.Caller{
		API: f.velocity, Workspace: console.Membership{ID: f.Acme.ID, Slug: f.Acme.Slug},
		Actor: database.Actor{Kind: database.ActorToken, ID: token.ID}, Maker: issuance.Maker{Kind: kind, Scopes: scopes},
	}
}

// A token that manages tokens is the actor of its changes.
func TestTokenAsActor(t *testing.T) {
	f := newFixture(t)
	c := f.token(t, "workspace_key", "workspace:admin")
	created := f.create(t, c, settings.OfWorkspace, newKey)
	f.expectActor(t, created.Object.ID, "create", "token "+c.Actor.ID)
}

// Each wrong value is an error in its field, and creates nothing.
func TestWrongValues(t *testing.T) {
	f := newFixture(t)
	limited := f.admin()
	limited.API.Rules.Limits = tokenlimit.Limits{MaxLifetime: 24 * time.Hour}
	change := func(change func(*settings.NewToken)) settings.NewToken {
		n := newKey
		change(&n)
		return n
	}
	for name, c := range map[string]struct {
		caller settings.Caller
		n      settings.NewToken
		field  string
	}{
		"no name":                {f.admin(), change(func(n *settings.NewToken) { n.Name = " \t " }), "name"},
		"a long name":            {f.admin(), change(func(n *settings.NewToken) { n.Name = strings.Repeat("é", 101) }), "name"},
		"a control character":    {f.admin(), change(func(n *settings.NewToken) { n.Name = "a\x00b" }), "name"},
		"a line break":           {f.admin(), change(func(n *settings.NewToken) { n.Name = "a\nb" }), "name"},
		"not UTF-8":              {f.admin(), change(func(n *settings.NewToken) { n.Name = "a\xff" }), "name"},
		"no scopes":              {f.admin(), change(func(n *settings.NewToken) { n.Scopes = nil }), "scopes"},
		"an unknown scope":       {f.admin(), change(func(n *settings.NewToken) { n.Scopes = []string{"issues:burn"} }), "scopes"},
		"a scope of users":       {f.admin(), change(func(n *settings.NewToken) { n.Scopes = []string{"user:read"} }), "scopes"},
		"an unknown prefix":      {f.admin(), change(func(n *settings.NewToken) { n.Prefix = "sk_live_" }), "prefix"},
		"a prefix of users":      {f.admin(), change(func(n *settings.NewToken) { n.Prefix = "velu_" }), "prefix"},
		"an expiry in the past":  {f.admin(), change(func(n *settings.NewToken) { n.ExpiresAt = new(time.Now().Add(-time.Minute)) }), "expires_at"},
		"no expiry":              {limited, newKey, "expires_at"},
		"an expiry too far away": {limited, change(func(n *settings.NewToken) { n.ExpiresAt = new(time.Now().Add(25 * time.Hour)) }), "expires_at"},
	} {
		_, err := f.settings.CreateToken(t.Context(), c.caller, settings.OfWorkspace, c.n)
		wrong, ok := errors.AsType[*settings.FieldError](err)
		if !ok || wrong.Field != c.field || !errors.Is(err, settings.ErrInvalid) || !strings.HasSuffix(wrong.Text, ".") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens`); n != 0 {
		t.Errorf("%d tokens exist", n)
	}
}

// A repeated request creates nothing, even if both come at the same time, and never shows the secret again.
func TestIdempotencyKey(t *testing.T) {
	f := newFixture(t)
	n := newKey
	n.IdempotencyKey = "k"
	var wait sync.WaitGroup
	results := make([]settings.Created[registry.Token], 8)
	for i := range results {
		wait.Go(func() {
			var err error
			if results[i], err = f.settings.CreateToken(t.Context(), f.admin(), settings.OfWorkspace, n); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	secrets := 0
	for _, r := range results {
		if r.Object.ID != results[0].Object.ID || r.Repeated != (r.Secret == "") {
			t.Errorf("%+v", r)
		}
		if !r.Repeated {
			secrets++
		}
	}
	if secrets != 1 {
		t.Errorf("%d requests got a secret", secrets)
	}
	// Another request with this key is an error. Another caller's key is another key.
	other := n
	other.Name = "Other"
	if _, err := f.settings.CreateToken(t.Context(), f.admin(), settings.OfWorkspace, other); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("%v", err)
	}
	if _, err := f.settings.RotateToken(t.Context(), f.admin(), settings.OfWorkspace, results[0].Object.ID, 0, "k"); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("%v", err)
	}
	if created := f.create(t, f.token(t, "workspace_key", "workspace:admin"), settings.OfWorkspace, n); created.Repeated {
		t.Error("two callers share a key")
	}
	if created, err := f.settings.CreateToken(t.Context(), f.admin(), settings.OfUser, n); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("the user's own key, with the key of a workspace's token: %+v, %v", created, err)
	}
	// A failed creation does not use up the key.
	failed := n
	failed.IdempotencyKey, failed.Name = "failed", "a\x00b"
	if _, err := f.settings.CreateToken(t.Context(), f.admin(), settings.OfWorkspace, failed); err == nil {
		t.Error("no error")
	}
	failed.Name = "CI"
	if created := f.create(t, f.admin(), settings.OfWorkspace, failed); created.Repeated {
		t.Error("the key is used up")
	}
	// After a day, the key is free again.
	f.Exec(t, `UPDATE keywicket.idempotency_keys SET created_at = created_at - interval '25 hours'`)
	if created := f.create(t, f.admin(), settings.OfWorkspace, n); created.Repeated {
		t.Error("the key is remembered for more than a day")
	}
	// The database has no secret.
	stored, err := json.Marshal(storetest.Value[string](t, f.DB, `SELECT concat((SELECT json_agg(k) FROM keywicket.idempotency_keys k), (SELECT json_agg(a) FROM keywicket.audit_log a))`))
	if err != nil || len(stored) < 100 {
		t.Fatal(string(stored), err)
	}
	for _, r := range results {
		if r.Secret != "" && strings.Contains(string(stored), r.Secret.Reveal()) {
			t.Error("the database has a secret")
		}
	}
}

// A rotation cannot give a longer lifetime than the limits or the maker's own token allow.
func TestRotationKeepsTheLimits(t *testing.T) {
	f := newFixture(t)
	old := f.create(t, f.admin(), settings.OfWorkspace, newKey).Object
	limited := f.admin()
	limited.API.Rules.Limits.ExpiryRequired = true
	short := f.token(t, "workspace_key", "workspace:admin")
	short.Maker.Expires = new(time.Now().Add(time.Hour))
	for name, c := range map[string]settings.Caller{"the limits": limited, "the maker's expiry": short} {
		_, err := f.settings.RotateToken(t.Context(), c, settings.OfWorkspace, old.ID, 0, "")
		if wrong, ok := errors.AsType[*settings.FieldError](err); !ok || wrong.Field != "expires_at" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens`); n != 2 {
		t.Errorf("%d tokens exist", n)
	}
}

// ofOtherAPI returns the id of a token that the workspace acme has for another API.
func (f *fixture) ofOtherAPI(t *testing.T) string {
	t.Helper()
	token, _ := f.Create(t, registry.NewToken{Format: storetest.SkLive, API: "velaflows", Name: "t", Workspace: "acme"})
	return token.ID
}
