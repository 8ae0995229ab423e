// Package escalation tests that nobody gets more rights through the console than they have: a generated table of who tries to do what to
// whom, and attacks on the pages. All requests pass through Envoy. The sidecar, the console and Postgres are real.
package escalation

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/signin"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// world is a stack with a console, its users and their credentials.
type world struct {
	*harness.Deployment
	signIn     *signin.Server
	db         *sqlx.DB
	config     string                        // a setting, as NAME=value
	workspaces map[string]registry.Workspace // by slug
	users      map[string]registry.User      // by the first part of the email
	victims    map[string]victim
	reaches    map[string]map[string]bool
}

// roles are the members of the workspaces. Gus is a guest in one workspace, and owns the other one. Nina is in no workspace.
var roles = map[string]map[string]string{
	"olga": {"acme": "owner"}, "adam": {"acme": "admin"}, "mia": {"acme": "member"}, "gus": {"acme": "guest", "globex": "owner"},
	"zed": {"globex": "owner"}, "nina": {}, "bea": {"acme": "owner"}, "rex": {"acme": "owner"},
}

// onlyOwners writes a configuration file, and returns the setting that uses it. In Velocity, only owners give a workspace's key full
// access. All else is as in the defaults.
func onlyOwners(t *testing.T) string {
	t.Helper()
	const limit = "override_roles: []}"
	text := string(storetest.Must(os.ReadFile("../../service/config/defaults.yaml")))
	if strings.Count(text, limit) != 1 {
		t.Fatal("the defaults have changed")
	}
	path := filepath.Join(t.TempDir(), "keywicket.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(text, limit, "override_roles: [owner]}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return "KEYWICKET_CONFIG=" + path
}

// start starts a world. Bea is banned.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{config: onlyOwners(t), victims: map[string]victim{}, reaches: map[string]map[string]bool{}, workspaces: map[string]registry.Workspace{}, users: map[string]registry.User{}}
	w.signIn = storetest.Must(signin.Start("127.0.0.1:0"))
	t.Cleanup(func() { _ = w.signIn.Close() })
	stack := harness.StartStack(t, demo.Config{Console: true, Environ: append(w.signIn.Environ(), w.config, "KEYWICKET_CONSOLE_ADDRESS_LIMIT=0", harness.LongLookupTimeout)})
	w.Deployment = &harness.Deployment{
		Stack: stack, Registry: storetest.Must(registry.Open(t.Context(), stack.DatabaseURL())), Grants: storetest.Must(issuer.Open(stack.DatabaseURL())),
	}
	t.Cleanup(func() { _ = w.Registry.Close(); _ = w.Grants.Close() })
	w.db = harness.OpenDatabase(t, stack)
	for _, slug := range []string{"acme", "globex"} {
		w.workspaces[slug] = storetest.Must(w.Registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: slug, Name: slug}))
	}
	for name, memberships := range roles {
		w.users[name] = storetest.Must(w.Registry.CreateUser(t.Context(), registry.User{Email: name + "@example.com"}))
		w.signIn.AddUser(w.users[name].ID, name+"@example.com")
		for slug, role := range memberships {
			storetest.Must(w.Registry.SetMember(t.Context(), slug, w.users[name].ID, role))
		}
	}
	w.db.MustExec(`UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = $1`, w.users["bea"].ID)
	return w
}

// caller is who tries to do something.
type caller struct {
	name, kind string // session, workspace, personal, app; empty: no credential
	user       string // empty: the credential belongs to a workspace
	workspace  string // of a workspace's token
	scopes     []string
	expires    *time.Time
	dead       bool // the credential is not valid
	secret     string
}

// The scopes that permit everything in a workspace, or also everything in the user's account.
var fullAccess = map[string]map[string][]string{
	"velaflows": {"workspace": {"admin:all"}},
	"velocity":  {"workspace": {"workspace:admin", "admin"}, "user": {"admin"}},
}

func (c caller) hasFullAccess(api, level string) bool {
	return slices.ContainsFunc(c.scopes, func(s string) bool { return slices.Contains(fullAccess[api][level], s) })
}

// scopesOf returns the scopes of the level, sorted.
func scopesOf(api, level string) (scopes []string) {
	all := product.DocumentedAPIs[api].Workspace
	if level == "user" {
		all = product.DocumentedAPIs[api].User
	}
	for scope := range all {
		scopes = append(scopes, scope)
	}
	return slices.Sorted(slices.Values(scopes))
}

// session returns a session of a user.
func (w *world) session(user string, lifetime time.Duration) string {
	return storetest.Must(w.signIn.Token(w.users[user].ID, "session-of-"+user, lifetime))
}

// callers returns who tries to use an API.
func (w *world) callers(t *testing.T, api string) (all []caller) {
	t.Helper()
	for _, user := range []string{"olga", "adam", "mia", "gus", "nina", "zed", "bea", "rex"} {
		all = append(all, caller{name: "the session of " + user, kind: "session", user: user, dead: user == "bea" || user == "rex", secret: w.session(user, time.Hour)})
	}
	storetest.Must(w.Registry.RevokeUserSessions(t.Context(), w.users["rex"].ID))
	all = append(all, caller{name: "an expired session", kind: "session", user: "olga", dead: true, secret: w.session("olga", -time.Hour)}, caller{name: "nobody", dead: true})

	token := func(name, prefix, owner string, lifetime time.Duration, scopes ...string) caller {
		c := caller{name: name, kind: "workspace", workspace: owner, scopes: scopes}
		n := registry.NewToken{Name: name, Scopes: scopes, Workspace: owner}
		if prefix == "velu_" {
			c.kind, c.user, c.workspace, n.User, n.Workspace = "personal", owner, "", w.users[owner].ID, ""
		}
		if lifetime != 0 {
			n.ExpiresIn = &lifetime
		}
		var created registry.Token
		created, c.secret = w.CreateToken(t, prefix, n)
		c.expires = created.ExpiresAt
		switch {
		case strings.Contains(name, "revoked"):
			storetest.Must(w.Registry.RevokeToken(t.Context(), created.ID))
			c.dead = true
		case strings.Contains(name, "expired"):
			w.AwaitExpiry(t, created.ID)
			c.dead = true
		case strings.Contains(name, "other API"):
			c.dead = true
		}
		all = append(all, c)
		return c
	}
	prefix, other, full := "sk_live_", "vel_", "admin:all"
	if api == "velocity" {
		prefix, other, full = "vel_", "sk_live_", "workspace:admin"
	}
	narrow := slices.DeleteFunc(scopesOf(api, "workspace"), func(s string) bool { return s == full })
	token("a token with full access", prefix, "acme", 0, full)
	token("a token without full access", prefix, "acme", 0, narrow...)
	token("a token with full access that ends in an hour", prefix, "acme", time.Hour, full)
	token("a revoked token", prefix, "acme", 0, full)
	token("an expired token", prefix, "acme", time.Millisecond, full)
	token("a token of the other workspace", prefix, "globex", 0, full)
	token("a token of the other API", other, "acme", 0, fullAccess[map[string]string{"vel_": "velocity", "sk_live_": "velaflows"}[other]]["workspace"][0])
	if api == "velaflows" {
		token("a token of the sandbox", "sk_test_", "acme", 0, full)
		return all
	}
	rest := append(narrow, slices.DeleteFunc(scopesOf(api, "user"), func(s string) bool { return s == "admin" })...)
	for _, user := range []string{"olga", "adam", "mia", "gus", "bea"} {
		for _, scopes := range [][]string{{"admin"}, {"workspace:admin"}, rest} {
			token(fmt.Sprintf("the key of %s with %s", user, scopes), "velu_", user, 0, scopes...)
			all[len(all)-1].dead = user == "bea"
		}
	}
	token("the key of olga that ends in an hour", "velu_", "olga", time.Hour, "admin")
	token("the revoked key of olga", "velu_", "olga", 0, "admin")
	granted := w.Grant(t, w.users["olga"].ID, rest, "acme")
	return append(all, caller{name: "an app of olga", kind: "app", user: "olga", scopes: rest, secret: granted.Access.Reveal()})
}
