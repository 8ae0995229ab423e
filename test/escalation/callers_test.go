package escalation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/product"
)

// caller is who tries to do something.
type caller struct {
	name, kind string // session, workspace, personal, app; empty: no credential
	user       string // empty: the credential belongs to a workspace
	workspace  string // of a workspace's token
	scopes     []string
	expires    *time.Time
	attributes string // of the token, in Postgres' spelling; empty: {}
	sandbox    bool   // the token is for test data
	dead       bool   // the credential is not valid
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

	token := func(name, prefix, owner string, lifetime time.Duration, scopes ...string) {
		c := caller{name: name, kind: "workspace", workspace: owner, scopes: scopes}
		n := registry.NewToken{Name: name, Scopes: scopes, Workspace: owner}
		if prefix == "velu_" {
			c.kind, c.user, c.workspace, n.User, n.Workspace = "personal", owner, "", w.users[owner].ID, ""
		}
		if lifetime != 0 {
			n.ExpiresIn = &lifetime
		}
		if strings.Contains(name, "attributes") {
			c.attributes, n.Attributes = `{"cages": ["north"]}`, `{"cages": ["north"]}`
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
	}
	prefix, other, full := "sk_live_", "vel_", "admin:all"
	if api == "velocity" {
		prefix, other, full = "vel_", "sk_live_", "workspace:admin"
	}
	narrow := slices.DeleteFunc(scopesOf(api, "workspace"), func(s string) bool { return s == full })
	token("a token with full access", prefix, "acme", 0, full)
	token("a token without full access", prefix, "acme", 0, narrow...)
	token("a token with full access that ends in an hour", prefix, "acme", time.Hour, full)
	token("a token with attributes", prefix, "acme", 0, full)
	token("a revoked token", prefix, "acme", 0, full)
	token("an expired token", prefix, "acme", time.Millisecond, full)
	token("a token of the other workspace", prefix, "globex", 0, full)
	token("a token of the other API", other, "acme", 0, fullAccess[map[string]string{"vel_": "velocity", "sk_live_": "velaflows"}[other]]["workspace"][0])
	if api == "velaflows" {
		token("a token of the sandbox", "sk_test_", "acme", 0, full)
		all[len(all)-1].sandbox = true
		return all
	}
	rest := slices.Concat(narrow, slices.DeleteFunc(scopesOf(api, "user"), func(s string) bool { return s == "admin" }))
	for _, user := range []string{"olga", "adam", "mia", "gus", "bea"} {
		for _, scopes := range [][]string{{"admin"}, {"workspace:admin"}, rest} {
			token(fmt.Sprintf("the key of %s with %s", user, scopes), "velu_", user, 0, scopes...)
			all[len(all)-1].dead = user == "bea"
		}
	}
	token("the key of olga that ends in an hour", "velu_", "olga", time.Hour, "admin")
	token("the key of olga with attributes", "velu_", "olga", 0, "admin")
	token("the revoked key of olga", "velu_", "olga", 0, "admin")
	granted := w.Grant(t, w.users["olga"].ID, rest, "acme")
	return append(all, caller{name: "an app of olga", kind: "app", user: "olga", scopes: rest, secret: granted.Access.Reveal()})
}
