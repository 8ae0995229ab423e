package registry_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// A look-up of each kind of credential returns the attributes of its token, user and workspace. Changes take effect within the
// staleness bound.
func TestLookupsFollowAttributes(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	f := g.Fixture
	personal, key := f.UserToken(t)
	workspaceToken, workspaceKey := f.WorkspaceToken(t)
	app := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID)).Access
	uncached, cached := f.Directory(t, nil), f.CachedDirectory(t)
	inAcme := storetest.Lookup(key)
	inAcme.Workspace.Slug = "acme"
	type attributes struct{ token, user, workspace authz.Attributes }
	attributesOf := func(found authz.LookupResult) attributes {
		return attributes{found.Principal.Attributes, found.Principal.UserAttributes, found.Workspace.Attributes}
	}
	credentials := map[string]struct {
		lookup authz.Lookup
		token  bool // the answer contains the token's attributes
		user   bool // the answer contains the user's attributes
	}{
		"workspace key": {storetest.Lookup(workspaceKey), true, false},
		"personal key":  {inAcme, true, true},
		"app":           {storetest.AccessLookup(app, "acme"), false, true},
		"session":       {storetest.InWorkspace(storetest.SessionOf(f.Ada.ID, time.Now()), "acme"), false, true},
	}
	var expected attributes
	expectAll := func(what string) {
		t.Helper()
		changed := time.Now()
		for name, c := range credentials {
			want := expected
			if !c.token {
				want.token = ""
			}
			if !c.user {
				want.user = ""
			}
			if got := attributesOf(storetest.Must(uncached.Lookup(t.Context(), c.lookup))); got != want {
				t.Errorf("%s, %s, uncached: %+v, not %+v", what, name, got, want)
			}
			storetest.Eventually(t, what+": "+name+" is cached in the new state", func() bool {
				began := time.Now()
				got := storetest.Must(cached.Lookup(t.Context(), c.lookup))
				if attributesOf(got) != want && began.Sub(changed) > time.Second {
					t.Fatalf("%s, %s: %v after the change, the attributes are %+v, not %+v", what, name, began.Sub(changed), attributesOf(got), want)
				}
				return attributesOf(got) == want && got.Cache == authz.CacheHit
			})
		}
	}
	expectAll("at first")
	for _, c := range []struct {
		name, statement string
		arguments       []any
		value           *authz.Attributes
	}{
		{"the tokens", `UPDATE keywicket.tokens SET attributes = $1 WHERE id IN ($2, $3)`, []any{personal.ID, workspaceToken.ID}, &expected.token},
		{"the user", `UPDATE keywicket.users SET attributes = $1 WHERE id = $2`, []any{f.Ada.ID}, &expected.user},
		{"the workspace", `UPDATE keywicket.workspaces SET attributes = $1 WHERE id = $2`, []any{f.Acme.ID}, &expected.workspace},
	} {
		for _, text := range []authz.Attributes{`{"plan": "pro", "limit": 12345678901234567890.10}`, `{"of": "` + authz.Attributes(c.name) + `"}`} {
			f.Exec(t, c.statement, append([]any{string(text)}, c.arguments...)...)
			*c.value = text
			expectAll(c.name)
		}
	}
	f.Exec(t, `UPDATE keywicket.users SET attributes = '{}'`)
	expected.user = ""
	expectAll("the user's attributes are removed")

	// If the user is not a member, the answer contains no attributes of the workspace. A denial contains no attributes at all.
	nowhere := inAcme
	nowhere.Workspace.Slug = "nowhere"
	if got := attributesOf(storetest.Must(uncached.Lookup(t.Context(), nowhere))); got.workspace != "" {
		t.Errorf("in no workspace: %+v", got)
	}
	storetest.Must(f.RevokeToken(t.Context(), personal.ID))
	if got := attributesOf(storetest.Must(uncached.Lookup(t.Context(), inAcme))); got != (attributes{}) {
		t.Errorf("revoked: %+v", got)
	}
}

func TestAttributesOfTheRegistry(t *testing.T) {
	f := storetest.NewFixture(t)
	const first, second = authz.Attributes(`{"plan": "pro"}`), authz.Attributes(`{"region": ["eu", "us"]}`)
	w := storetest.Must(f.CreateWorkspace(t.Context(), registry.Workspace{Slug: "initech", Name: "Initech", Attributes: `{"plan":"pro"}`}))
	u := storetest.Must(f.CreateUser(t.Context(), registry.User{Email: "eve@example.com", Attributes: first}))
	token, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "n", Workspace: "initech", Attributes: first})
	if w.Attributes != first || u.Attributes != first || token.Attributes != first {
		t.Errorf("created with %q, %q, %q", w.Attributes, u.Attributes, token.Attributes)
	}
	if w, err := f.SetWorkspaceAttributes(t.Context(), "initech", second); err != nil || w.Attributes != second || w.Slug != "initech" {
		t.Errorf("%+v, %v", w, err)
	}
	if u, err := f.SetUserAttributes(t.Context(), "EVE@example.com", second); err != nil || u.Attributes != second || u.ID == "" {
		t.Errorf("%+v, %v", u, err)
	}
	if token, err := f.SetTokenAttributes(t.Context(), token.ID, second); err != nil || token.Attributes != second || token.Name != "n" {
		t.Errorf("%+v, %v", token, err)
	}
	// Each command changes only one row.
	for table, id := range map[string]string{"workspaces": w.ID, "users": u.ID, "tokens": token.ID} {
		if others := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.`+table+` WHERE id <> $1 AND attributes <> '{}'`, id); others > 0 {
			t.Errorf("%d other %s were changed", others, table)
		}
	}
	if token, err := f.SetTokenAttributes(t.Context(), token.ID, ""); err != nil || token.Attributes.JSON() != "{}" {
		t.Errorf("set to an empty text: %+v, %v", token, err)
	}
	setters := map[string]func(id string, a authz.Attributes) error{
		"workspaces": func(id string, a authz.Attributes) error {
			_, err := f.SetWorkspaceAttributes(t.Context(), id, a)
			return err
		},
		"users": func(id string, a authz.Attributes) error {
			_, err := f.SetUserAttributes(t.Context(), id, a)
			return err
		},
		"tokens": func(id string, a authz.Attributes) error {
			_, err := f.SetTokenAttributes(t.Context(), id, a)
			return err
		},
	}
	ids := map[string]string{"workspaces": w.ID, "users": u.ID, "tokens": token.ID}
	for table, set := range setters {
		if err := set("nowhere", first); !errors.Is(err, database.ErrNotFound) {
			t.Errorf("%s, an unknown id: %v", table, err)
		}
		if err := set(ids[table], "[]"); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%s, an array: %v", table, err)
		}
		// A database may have stricter constraints than this program.
		f.Exec(t, `ALTER TABLE keywicket.`+table+` DROP CONSTRAINT `+table+`_attributes_form`)
		f.Exec(t, `ALTER TABLE keywicket.`+table+` ADD CONSTRAINT `+table+`_attributes_form CHECK (attributes <> '{"odd": true}')`)
		if err := set(ids[table], `{"odd": true}`); !errors.Is(err, database.ErrInvalid) || strings.Contains(err.Error(), "pq:") {
			t.Errorf("%s, attributes that the database rejects: %v", table, err)
		}
	}
	_, err := f.CreateWorkspace(t.Context(), registry.Workspace{Slug: "odd", Name: "n", Attributes: `{"odd": true}`})
	_, err2 := f.CreateUser(t.Context(), registry.User{Email: "odd@example.com", Attributes: `{"odd": true}`})
	_, _, err3 := f.CreateToken(t.Context(), registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "n", Workspace: "acme", Attributes: `{"odd": true}`})
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, database.ErrInvalid) || strings.Contains(err.Error(), "pq:") {
			t.Errorf("created with attributes that the database rejects: %v", err)
		}
	}
}

func TestDocumentedSQLSetsAttributes(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `INSERT INTO keywicket.users (id, email, attributes) VALUES ('5be86359-073c-434b-ad2d-a3932222dabe', 'eve@example.com', '{"a": 1}')`)
	token, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "n", Workspace: "acme", Attributes: `{"a": 1, "plan": "pro"}`})
	f.Exec(t, `UPDATE keywicket.tokens SET id = '0b5a2b3c-1111-2222-3333-444455556666' WHERE id = $1`, token.ID)
	f.Exec(t, documentedSQL(t)[3])
	w := storetest.Must(f.Workspace(t.Context(), "acme"))
	u := storetest.Must(f.User(t.Context(), "eve@example.com"))
	token = storetest.Must(f.Token(t.Context(), "0b5a2b3c-1111-2222-3333-444455556666"))
	if w.Attributes != `{"plan": "pro", "seats": 20}` || u.Attributes != `{"a": 1, "beta": true}` || token.Attributes != `{"a": 1}` {
		t.Errorf("%q, %q, %q", w.Attributes, u.Attributes, token.Attributes)
	}
}

// The database itself checks attributes that a product writes with SQL.
func TestDatabaseLimitsAttributes(t *testing.T) {
	f := storetest.NewFixture(t)
	f.WorkspaceToken(t)
	for _, table := range []string{"tokens", "users", "workspaces"} {
		for _, text := range []string{`[]`, `"a"`, `null`, `1`, `{"a": "` + strings.Repeat("a", 4096) + `"}`} {
			_, err := f.DB.Exec(`UPDATE keywicket.`+table+` SET attributes = $1`, text)
			if violation := pq.As(err, pqerror.CheckViolation); violation == nil || violation.Constraint != table+"_attributes_form" {
				t.Errorf("%s, %.10s: %v", table, text, err)
			}
		}
		if _, err := f.DB.Exec(`UPDATE keywicket.` + table + ` SET attributes = NULL`); pq.As(err, pqerror.NotNullViolation) == nil {
			t.Errorf("%s, NULL: %v", table, err)
		}
	}
}
