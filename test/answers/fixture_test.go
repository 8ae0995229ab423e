package answers

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/supabase"
)

// fixture is the data for the requests of the matrix to one API. All personal keys belong to one user. The user owns the
// workspace `home`, has a different role in each workspace of `elsewhere`, and is not a member of the workspace "another".
type fixture struct {
	api, home, user string
	workspaces      map[string]registry.Workspace // value of the API's header → workspace
	roles           map[string]string             // value of the API's header → the user's role
	credentials     []credential
	targets         []target // for all credentials
	elsewhere       []target // further targets, for valid credentials of a user
}

func newFixture(t *testing.T, api string) *fixture {
	f := &fixture{api: api, workspaces: make(map[string]registry.Workspace), roles: make(map[string]string)}
	user, err := deployment.Registry.CreateUser(t.Context(), registry.User{Email: strings.ToLower(rand.Text()) + "@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	f.user = user.ID
	f.home = f.workspace(t, "owner")
	another := f.workspace(t, "")
	for _, role := range []string{"admin", "member", "guest"} {
		f.elsewhere = append(f.elsewhere, target{role, []string{f.workspace(t, role)}})
	}
	f.targets = []target{
		{"absent", nil}, {"home", []string{f.home}}, {"another", []string{another}},
		{"unknown", []string{f.home[:len(f.home)-6] + "ffffff"}}, {"malformed", []string{"-" + f.home}},
		{"empty", []string{""}}, {"repeated", []string{f.home, f.home}}, {"upper-case", []string{strings.ToUpper(f.home)}},
	}
	f.credentials = []credential{{name: "no token", denial: "missing"}}
	for other, d := range product.DocumentedAPIs {
		if other != api {
			f.add(t, d.Prefixes[0], "unknown", d.Override)
		}
	}
	d := product.DocumentedAPIs[api]
	all := slices.Sorted(maps.Keys(d.Workspace))
	for _, prefix := range d.Prefixes {
		_, format := product.FormatOf(prefix)
		f.credentials = append(f.credentials,
			credential{name: prefix + " that was not issued", denial: "unknown", secret: format.NewKey().Reveal()},
			credential{name: prefix + " malformed", denial: "malformed", secret: prefix + "short"})
		f.add(t, prefix, "revoked", d.Override)
		f.add(t, prefix, "expired", d.Override)
		f.add(t, prefix, "", slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == d.Override })...)
		singles := all
		switch prefix {
		case "sk_test_": // like sk_live_, but with another upstream
			singles = []string{d.Override}
		case "velu_":
			singles = slices.Concat(all, slices.Sorted(maps.Keys(d.User)))
		}
		for _, scope := range singles {
			f.add(t, prefix, "", scope)
		}
	}
	if api == "velocity" {
		guests := f.elsewhere[2].values[0]
		f.addGrant(t, "", all, f.home)
		f.addGrant(t, "", all, guests)
		f.addGrant(t, "", []string{"issues:read", "user:read"}, f.home, guests)
		f.addGrant(t, "", []string{"issues:write", "workspaces:list"})
		f.addGrant(t, "revoked", all, f.home)
		f.addGrant(t, "expired", all, f.home)
		f.addSession(t, "", nil)
		f.addSession(t, "revoked", supabase.Fields{"session_id": rand.Text()})
		f.addSession(t, "expired", supabase.Fields{"exp": 1})
		f.addSession(t, "unknown", supabase.Fields{"sub": "nobody"})
		f.addSession(t, "unknown", supabase.Fields{"role": "service_role"})
		f.addSession(t, "malformed", supabase.Fields{"exp": nil})
	}
	return f
}

// addGrant adds the token of an app. The user has consented that the app acts for the user in the granted workspaces.
func (f *fixture) addGrant(t *testing.T, denial string, scopes []string, granted ...string) {
	issued := deployment.Grant(t, f.user, scopes, granted...)
	c := credential{
		name: fmt.Sprint("velo_ ", denial, " ", scopes, granted), prefix: "velo_", denial: denial, scopes: slices.Sorted(slices.Values(scopes)),
		user: f.user, roles: make(map[string]string), secret: issued.Access.Reveal(),
	}
	for _, w := range granted {
		c.roles[w] = f.roles[w]
	}
	db := harness.OpenDatabase(t, deployment.Stack)
	err := db.GetContext(t.Context(), &c.id, `SELECT id FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, issued.Grant)
	switch {
	case err != nil:
	case denial == "revoked":
		_, err = deployment.Registry.RevokeGrant(t.Context(), issued.Grant)
	case denial == "expired":
		_, err = db.ExecContext(t.Context(), `UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp() WHERE grant_id = $1`, issued.Grant)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.credentials = append(f.credentials, c)
}

// sessionKind is the value of credential.prefix for session tokens, which have no prefix.
const sessionKind = "session"

// addSession adds a session of the user. The parameter `change` contains the claims in which the token differs from a valid
// session token.
func (f *fixture) addSession(t *testing.T, denial string, change supabase.Fields) {
	c := credential{
		name: fmt.Sprint("session ", denial, change), prefix: sessionKind, denial: denial, scopes: []string{"admin"},
		id: f.user, user: f.user, roles: f.roles, secret: deployment.Sessions.Token(f.user, change),
	}
	if denial == "revoked" {
		if _, err := deployment.Registry.RevokeSession(t.Context(), change["session_id"].(string)); err != nil {
			t.Fatal(err)
		}
	}
	f.credentials = append(f.credentials, c)
}

// workspace creates a workspace in which the user has the role. If role is empty, the user is not a member. It returns the
// value of the API's header that selects the workspace.
func (f *fixture) workspace(t *testing.T, role string) string {
	// The ID starts with letters, so that its upper-case form differs.
	id, slug := fmt.Sprintf("abcdef%018d", time.Now().UnixNano()%1e18), "w-"+strings.ToLower(rand.Text())
	w, err := deployment.Registry.CreateWorkspace(t.Context(), registry.Workspace{ID: id, Slug: slug, Name: "Matrix"})
	if err == nil && role != "" {
		_, err = deployment.Registry.SetMember(t.Context(), id, f.user, role)
	}
	if err != nil {
		t.Fatal(err)
	}
	ref := map[string]string{"velaflows": id, "velocity": slug}[f.api]
	f.workspaces[ref] = w
	if role != "" {
		f.roles[ref] = role
	}
	return ref
}

// add adds a token. The parameter `denial` is the reason why its requests are denied; "" means that the token is valid. The reason
// is "unknown" for a token of another API.
func (f *fixture) add(t *testing.T, prefix, denial string, scopes ...string) {
	c := credential{name: strings.Join(append([]string{prefix, denial}, scopes...), " "), prefix: prefix, denial: denial, scopes: scopes}
	k := caseKey{Prefix: prefix, Scopes: scopes, Expired: denial == "expired", Revoked: denial == "revoked"}
	if prefix == "velu_" {
		k.User, c.user, c.roles = f.user, f.user, f.roles
	} else {
		k.Workspace, c.roles = f.home, map[string]string{f.home: ""}
	}
	var token registry.Token
	token, c.secret = k.create(t, c.name)
	c.id = token.ID
	f.credentials = append(f.credentials, c)
}
