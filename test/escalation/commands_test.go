package escalation

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/harness"
)

// login creates a database login with a role, and returns its URL.
func (w *world) login(role string) string {
	name := "login_of_" + role
	w.db.MustExec(`CREATE ROLE ` + name + ` LOGIN PASSWORD 'secret' IN ROLE ` + role)
	u := storetest.Must(url.Parse(w.DatabaseURL()))
	u.User = url.UserPassword(name, "secret")
	return u.String()
}

// The operator's commands give each kind of token only the scopes of this kind. Only the retention's role deletes the record of changes.
// With the login of the console, of the sidecar or of the issuer, nobody can use the commands.
func TestCommandsOfEachLogin(t *testing.T) {
	w := shared
	token, _ := w.CreateToken(t, "vel_", registry.NewToken{Name: "victim", Scopes: []string{"workspace:admin"}, Workspace: "acme"})
	mia := w.users["mia"].ID
	create := []string{"token", "create", "--name", "created", "--prefix"}
	const operator, retention = "keywicket_operator", "keywicket_retention"
	type command struct {
		args []string
		may  string // the role that may do it; empty: nobody
	}
	commands := []command{
		{append(create, "vel_", "--workspace", "acme", "--scope", "workspace:admin"), operator},
		{append(create, "velu_", "--user", mia, "--scope", "admin"), operator},
		{append(create, "sk_test_", "--workspace", "acme", "--scope", "admin:all"), operator},
		{append(create, "vel_", "--user", mia, "--scope", "issues:read"), ""},
		{append(create, "velu_", "--workspace", "acme", "--scope", "issues:read"), ""},
		{append(create, "velo_", "--user", mia, "--scope", "issues:read"), ""},
		{append(create, "vel_", "--workspace", "acme", "--scope", "issues:read", "--expires-at", "2020-01-01T00:00:00Z"), ""},
		{append(create, "vel_", "--workspace", "none", "--scope", "issues:read"), ""},
		{[]string{"token", "rotate", token.ID}, operator},
		{[]string{"token", "revoke", token.ID}, operator},
		{[]string{"oauth-app", "create", "--name", "created", "--redirect-uri", "https://a.example/cb"}, operator},
		{[]string{"workspace", "set", "acme", "--leaver-rule", "end"}, operator},
		{[]string{"token", "set", token.ID, "--attributes", `{"plan":"free"}`}, operator},
		{[]string{"workspace", "set", "acme", "--attributes", `{"plan":"free"}`}, operator},
		{[]string{"workspace", "create", "--slug", "created", "--name", "Created"}, operator},
		{[]string{"user", "create", "--email", "created@example.com"}, operator},
		{[]string{"user", "set", mia, "--attributes", `{"plan":"free"}`}, operator},
		{[]string{"member", "set", "--workspace", "acme", "--user", mia, "--role", "owner"}, operator},
		{[]string{"member", "remove", "--workspace", "acme", "--user", mia}, operator},
		{[]string{"session", "revoke", "--user", mia}, operator},
		{[]string{"audit", "expire", "--older-than", "24h"}, retention},
	}
	cut := testing.Short()
	for _, scope := range slices.Concat(scopesOf("velaflows", "workspace"), scopesOf("velocity", "workspace"), scopesOf("velocity", "user"), []string{"issues:burn"}) {
		if cut && !slices.Contains([]string{"issues:read", "user:read", "admin", "inbox:read", "issues:burn"}, scope) {
			continue
		}
		for prefix, api := range map[string]string{"vel_": "velocity", "velu_": "velocity", "sk_live_": "velaflows"} {
			may, owner := "", []string{"--workspace", "acme"}
			if slices.Contains(scopesOf(api, "workspace"), scope) {
				may = operator
			}
			if prefix == "velu_" {
				owner = []string{"--user", mia}
				if slices.Contains(scopesOf(api, "user"), scope) {
					may = operator
				}
			}
			commands = append(commands, command{slices.Concat(create, []string{prefix, "--scope", scope}, owner), may})
		}
	}
	for _, role := range []string{operator, retention, "keywicket_console", "keywicket_sidecar", "keywicket_issuer"} {
		login := w.login(role)
		for n, c := range commands {
			if role != operator && (n > 20 || cut && n%3 != 0) {
				continue
			}
			if strings.HasPrefix(strings.Join(c.args, " "), "token r") {
				fresh, _ := w.CreateToken(t, "vel_", registry.NewToken{Name: "victim", Scopes: []string{"workspace:admin"}, Workspace: "acme"})
				c.args = []string{"token", c.args[1], fresh.ID}
			}
			run := harness.Command(t.Context(), t, w.Stack, c.args...)
			run.Env = append(run.Env, "KEYWICKET_DATABASE_URL="+login, w.config)
			before := w.state(t)
			output, err := run.CombinedOutput()
			after := w.state(t)
			if accepted := err == nil; accepted != (c.may == role) {
				t.Errorf("%s: %q: %v: %s", role, c.args, err, output)
			}
			if err != nil && (after != before || strings.Count(strings.TrimSpace(string(output)), "\n") > 0) {
				t.Errorf("%s: %q: %s: the database changes from %s to %s", role, c.args, output, before, after)
			}
		}
	}
}
