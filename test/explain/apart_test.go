package explain

import (
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

// If a sender has lost its access, and also never had a right that the request needs, explain makes two proposals: `fix` restores the
// access, and `widen` grants the right.
func TestExplainKeepsRestoringAndWideningApart(t *testing.T) {
	d, db := deployment, harness.OpenDatabase(t, deployment.Stack)
	home, other := harness.CreateWorkspace(t, d.Stack), harness.CreateWorkspace(t, d.Stack)
	user := func(role string, name ...string) string {
		u := harness.Keywicket[registry.User](t, d.Stack, "user", "create", "--email", strings.ToLower(t.Name()+role+strings.Join(name, ""))+"@example.com")
		harness.Keywicket[registry.Member](t, d.Stack, "member", "set", "--workspace", home.Slug, "--user", u.ID, "--role", role)
		return u.ID
	}
	ada, eve, bob, cat, dan := user("owner"), user("guest"), user("member"), user("admin"), user("guest", "dan")
	nowhere := registry.Workspace{ID: "nowhere", Slug: "nowhere"}
	const (
		expire = `UPDATE keywicket.tokens SET expires_at = clock_timestamp() WHERE id = $1`
		revoke = `UPDATE keywicket.tokens SET revoked_at = clock_timestamp() WHERE id = $1`
		banned = `the user is banned until 2099-01-02T03:04:05Z: wait, or set banned_until in keywicket.users to null`
		again  = "the user has to consent again, in the app"
	)
	token := func(prefix, owner, scopes, change string) string {
		n := registry.NewToken{Name: "n", Scopes: strings.Split(scopes, ",")}
		if n.User = owner; owner == home.Slug {
			n.User, n.Workspace = "", owner
		}
		made, _ := d.CreateToken(t, prefix, n)
		if change != "" {
			db.MustExec(change, made.ID)
		}
		return made.ID
	}
	appToken := func(owner, scopes, change string, workspaces ...string) string {
		issued := d.Grant(t, owner, strings.Split(scopes, ","), workspaces...)
		var id string
		if err := db.Get(&id, `SELECT id FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, issued.Grant); err != nil {
			t.Fatal(err)
		}
		switch change {
		case expire:
			db.MustExec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp() WHERE id = $1`, id)
		case revoke:
			harness.Keywicket[registry.Grant](t, d.Stack, "grant", "revoke", issued.Grant)
		}
		return id
	}
	create := func(prefix, owner, scopes string) string {
		return "keywicket token create --prefix " + prefix + " " + owner + " --name=n --scope " + scopes
	}
	ofHome := "--workspace " + home.Slug
	setMember := func(w registry.Workspace, user, role string) string {
		return "keywicket member set --workspace " + w.Slug + " --user " + user + " --role " + role
	}
	noWorkspace := appToken(dan, "issues:read", "")
	cases := map[string]struct {
		line, token string
		workspace   registry.Workspace
		fix, widen  string
	}{
		// One proposal.
		"missing scope":        {"POST /api/issues", token("vel_", home.Slug, "issues:read", ""), home, create("vel_", ofHome, "issues:read,issues:write"), ""},
		"revoked":              {"GET /api/issues", token("vel_", home.Slug, "issues:read", revoke), home, create("vel_", ofHome, "issues:read"), ""},
		"role too low":         {"POST /api/issues", token("velu_", eve, "issues:write", ""), home, setMember(home, eve, "member"), ""},
		"no member":            {"POST /api/issues", token("velu_", eve, "issues:write", ""), other, setMember(other, eve, "member"), ""},
		"banned":               {"GET /api/issues", token("velu_", bob, "issues:read", ""), home, banned, ""},
		"revoked, no header":   {"GET /api/issues", token("velu_", ada, "issues:read", revoke), registry.Workspace{}, create("velu_", "--user "+ada, "issues:read") + "; then send the header x-workspace-slug: " + home.Slug, ""},
		"banned, no header":    {"GET /api/issues", token("velu_", bob, "issues:read", ""), registry.Workspace{}, banned + "; then send the header x-workspace-slug: " + home.Slug, ""},
		"banned and revoked":   {"GET /api/issues", token("velu_", bob, "issues:read", revoke), home, banned + "; then " + create("velu_", "--user "+bob, "issues:read"), ""},
		"banned, not allowed":  {"GET /api/issues", appToken(bob, "issues:read", "", home.Slug), home, banned, ""},
		"app: banned, revoked": {"GET /api/issues", appToken(bob, "issues:read", revoke, home.Slug), home, banned + "; then " + again + ", unless the app itself was revoked", ""},
		"app: left, unknown workspace": {"GET /api/issues", appToken(cat, "issues:read", "", home.Slug), nowhere,
			"send the header x-workspace-slug: " + home.Slug + "; then " + setMember(home, cat, "guest"), ""},
		"app: expired, left, unknown workspace": {"POST /api/issues", appToken(cat, "issues:write", expire, home.Slug), nowhere,
			"the app has to refresh the token; then send the header x-workspace-slug: " + home.Slug + "; then " + setMember(home, cat, "member"), ""},
		// Two proposals.
		"expired, missing scope":   {"POST /api/issues", token("vel_", home.Slug, "issues:read", expire), home, create("vel_", ofHome, "issues:read") + " --expires-in 1d", "instead of that token: " + create("vel_", ofHome, "issues:read,issues:write") + " --expires-in 1d"},
		"revoked, missing scope":   {"POST /api/issues", token("vel_", home.Slug, "issues:read", revoke), home, create("vel_", ofHome, "issues:read"), "instead of that token: " + create("vel_", ofHome, "issues:read,issues:write")},
		"revoked, role too low":    {"POST /api/issues", token("velu_", eve, "issues:write", revoke), home, create("velu_", "--user "+eve, "issues:write"), setMember(home, eve, "member")},
		"revoked, no route":        {"GET /api/nothing", token("vel_", home.Slug, "issues:read", revoke), home, create("vel_", ofHome, "issues:read"), "add the row .*"},
		"banned, missing scope":    {"POST /api/issues", token("velu_", bob, "issues:read", ""), home, banned, create("velu_", "--user "+bob, "issues:read,issues:write")},
		"banned, role too low":     {"PATCH /api/workspace", token("velu_", bob, "workspace:admin", ""), home, banned, setMember(home, bob, "owner")},
		"banned, no route":         {"GET /api/nothing", token("velu_", bob, "issues:read", ""), home, banned, "add the row .*"},
		"no member, missing scope": {"POST /api/issues", token("velu_", eve, "issues:read", ""), other, setMember(other, eve, "member"), create("velu_", "--user "+eve, "issues:read,issues:write")},
		"banned, revoked, missing scope": {"POST /api/issues", token("velu_", bob, "issues:read", revoke), home, banned + "; then " + create("velu_", "--user "+bob, "issues:read"),
			"instead of that token: " + create("velu_", "--user "+bob, "issues:read,issues:write")},
		// An app's token.
		"app: expired, missing scope":             {"GET /api/projects", appToken(ada, "issues:read", expire, home.Slug), home, "the app has to refresh the token", again + "; the app has to request projects:read"},
		"app: revoked, missing scope":             {"GET /api/projects", appToken(ada, "issues:read", revoke, home.Slug), home, again + ", unless the app itself was revoked", again + "; the app has to request projects:read"},
		"app: expired, role too low":              {"POST /api/issues", appToken(eve, "issues:write", expire, home.Slug), home, "the app has to refresh the token", setMember(home, eve, "member")},
		"app: expired, not granted":               {"GET /api/issues", appToken(ada, "issues:read", expire, home.Slug), other, "the app has to refresh the token", setMember(other, ada, "guest") + "; then " + again + "; the user has to choose the workspace " + other.Slug},
		"app: banned, missing scope":              {"GET /api/projects", appToken(bob, "issues:read", "", home.Slug), home, banned, again + "; the app has to request projects:read"},
		"app: expired, no route":                  {"GET /api/nothing", appToken(ada, "issues:read", expire, home.Slug), home, "the app has to refresh the token", "add the row .*"},
		"app: missing scope and grant":            {"GET /api/projects", appToken(ada, "issues:read", "", home.Slug), other, setMember(other, ada, "guest") + "; then " + again + "; the app has to request projects:read; the user has to choose the workspace " + other.Slug, ""},
		"app: a role too low, not granted":        {"POST /api/issues", appToken(dan, "issues:write", "", home.Slug), other, setMember(other, dan, "member") + "; then " + again + "; the user has to choose the workspace " + other.Slug, ""},
		"app: nothing granted, unknown workspace": {"GET /api/issues", noWorkspace, nowhere, again + "; the user has to choose the workspace " + other.Slug + "; then send the header x-workspace-slug: " + other.Slug, ""},
		"app: nothing granted":                    {"GET /api/issues", noWorkspace, registry.Workspace{}, again + "; the user has to choose the workspace " + other.Slug, ""},
		"app: another API":                        {"GET /api/v1/tags", noWorkspace, registry.Workspace{}, "the token is for velocity: keywicket token create --prefix sk_live_ --workspace W --name=Planner --scope tags:read.*; then send the header x-workspace-id: W", ""},
		// A misspelled path: the fix is for the route that the table has.
		"misspelled, missing scope":        {"POST /api/issues/", token("vel_", home.Slug, "issues:read", ""), home, "the table has POST /api/issues .*; then " + create("vel_", ofHome, "issues:read,issues:write"), ""},
		"misspelled, about the user":       {"GET /api/user/", token("velu_", ada, "user:read", ""), other, "the table has GET /api/user .*; then send no x-workspace-slug header.*", ""},
		"misspelled, public":               {"GET /Healthz", token("vel_", home.Slug, "issues:read", revoke), home, "the table has GET /healthz .*these slashes", ""},
		"app: misspelled, about the user":  {"GET /api/user/", appToken(dan, "user:read", ""), registry.Workspace{}, "the table has GET /api/user .*these slashes", ""},
		"no credential, unknown workspace": {"GET /api/issues", "", nowhere, "send a token: keywicket token create --prefix vel_ --workspace W --name=NAME --scope issues:read; then send the header x-workspace-slug: W", ""},
		"app: no route, not granted":       {"GET /api/issues/", appToken(dan, "issues:read", "", home.Slug), other, "the table has GET /api/issues .*; then " + again + "; the user has to choose the workspace " + other.Slug, ""},
	}
	db.MustExec(`UPDATE keywicket.users SET banned_until = '2099-01-02 03:04:05Z' WHERE id = $1`, bob)
	harness.Keywicket[registry.Member](t, d.Stack, "member", "set", "--workspace", other.Slug, "--user", dan, "--role", "guest")
	for _, user := range []string{cat, dan} {
		if err := d.Registry.RemoveMember(t.Context(), home.Slug, user); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range cases {
		args := append([]string{"explain"}, strings.Fields(c.line)...)
		if c.token != "" {
			args = append(args, "--token-id", c.token)
		}
		if strings.Contains(c.line, "/v1/") {
			args = append(args, "--api", "velaflows")
		}
		if c.workspace.ID != "" {
			args = append(args, "--workspace", c.workspace.Slug)
		}
		e := explain(t, d.Stack, "", args...)
		matches := func(text, pattern string) bool {
			pattern = strings.ReplaceAll(regexp.QuoteMeta(pattern), `\.\*`, ".*")
			return regexp.MustCompile("^" + pattern + "$").MatchString(text)
		}
		if e.Allow || !matches(e.Fix, c.fix) || !matches(e.Widen, c.widen) {
			t.Errorf("%s:\n fix   %s\n not   %s\n widen %s\n not   %s", name, e.Fix, c.fix, e.Widen, c.widen)
		}
	}
}
