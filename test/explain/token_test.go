package explain

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

// `keywicket explain` accepts the ID of an app's access token that the log contains. The fix tells what an operator, the user
// or the app has to do.
func TestExplainAccessToken(t *testing.T) {
	client := harness.NewClient(t, deployment.Stack, 1)
	one, two, other := harness.CreateWorkspace(t, deployment.Stack), harness.CreateWorkspace(t, deployment.Stack), harness.CreateWorkspace(t, deployment.Stack)
	ada := harness.Keywicket[registry.User](t, deployment.Stack, "user", "create", "--email", strings.ToLower(t.Name())+"@example.com")
	for _, w := range []registry.Workspace{one, two, other} {
		harness.Keywicket[registry.Member](t, deployment.Stack, "member", "set", "--workspace", w.Slug, "--user", ada.ID, "--role", "guest")
	}
	const again = "the user has to consent again, in the app"
	leftWorkspace := harness.CreateWorkspace(t, deployment.Stack)
	harness.Keywicket[registry.Member](t, deployment.Stack, "member", "set", "--workspace", leftWorkspace.Slug, "--user", ada.ID, "--role", "guest")
	db := harness.OpenDatabase(t, deployment.Stack)
	for name, c := range map[string]struct {
		line       string
		scopes     []string
		granted    []string
		workspace  string
		revoked    bool
		outcome    string
		fix        string
		appliesFix bool // the test applies the fix, and the request is then allowed
	}{
		"allowed":                               {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", false, "allow", "", false},
		"missing scope":                         {"GET /api/projects", []string{"issues:read"}, []string{one.Slug}, "", false, "FORBIDDEN missing_scope", again + "; the app has to request projects:read", false},
		"a role too low":                        {"POST /api/issues", []string{"issues:write"}, []string{one.Slug}, "", false, "FORBIDDEN missing_scope", "keywicket member set --workspace " + one.Slug + " --user " + ada.ID + " --role member", true},
		"several workspaces, no header":         {"GET /api/issues", []string{"issues:read"}, []string{one.Slug, two.Slug}, "", false, "WORKSPACE_ACCESS_DENIED workspace_required", "send the header x-workspace-slug: ", true},
		"another workspace":                     {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, other.Slug, false, "WORKSPACE_ACCESS_DENIED workspace_mismatch", again + "; the user has to choose the workspace " + other.Slug, false},
		"a workspace that the user left":        {"GET /api/issues", []string{"issues:read"}, []string{leftWorkspace.Slug}, "", false, "WORKSPACE_ACCESS_DENIED workspace_required", "keywicket member set --workspace " + leftWorkspace.Slug + " --user " + ada.ID + " --role ", false},
		"an expired token":                      {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", false, "UNAUTHORIZED expired", "the app has to refresh the token", false},
		"the user's profile, another workspace": {"GET /api/user", []string{"user:read"}, nil, other.Slug, false, "WORKSPACE_ACCESS_DENIED workspace_mismatch", "send no x-workspace-slug header: ", true},
		"a revoked grant":                       {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", true, "UNAUTHORIZED revoked", again, false},
		"an unlisted route":                     {"GET /api/nothing", []string{"issues:read"}, []string{one.Slug}, "", false, "FORBIDDEN no_route", "add the row ", false},
	} {
		t.Run(name, func(t *testing.T) {
			issued := deployment.Grant(t, ada.ID, c.scopes, c.granted...)
			if c.revoked {
				harness.Keywicket[registry.Grant](t, deployment.Stack, "grant", "revoke", issued.Grant)
			}
			var id string
			if err := db.Get(&id, `SELECT id FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, issued.Grant); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "a workspace that the user left":
				if err := deployment.Registry.RemoveMember(t.Context(), leftWorkspace.Slug, ada.ID); err != nil {
					t.Fatal(err)
				}
			case "an expired token":
				db.MustExec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp() WHERE id = $1`, id)
			}
			harness.Await(t, c.outcome, func() bool {
				return client.Send(t, harness.NewRequest("velocity", c.line, issued.Access.Reveal(), c.workspace)).Outcome == c.outcome
			})
			args := append(strings.Fields("explain "+c.line), "--token-id", id)
			if c.workspace != "" {
				args = append(args, "--workspace", c.workspace)
			}
			e := explain(t, deployment.Stack, "", args...)
			outcome := "allow"
			if !e.Allow {
				outcome = *e.Code + " " + *e.Reason
			}
			if outcome != c.outcome || !strings.HasPrefix(e.Fix, c.fix) || (c.fix == "") != (e.Fix == "") || len(e.Held) != len(c.scopes) {
				t.Fatalf("explain returns %+v", e)
			}
			if !c.appliesFix {
				return
			}
			workspace := c.workspace
			if m := fixHeader.FindStringSubmatch(e.Fix); m != nil {
				workspace = m[2]
			} else if fixNoHeader.MatchString(e.Fix) {
				workspace = ""
			} else {
				runFix(t, deployment.Stack, fixCommand.FindString(e.Fix))
				defer harness.Keywicket[registry.Member](t, deployment.Stack, "member", "set", "--workspace", one.Slug, "--user", ada.ID, "--role", "guest")
			}
			if a := client.Send(t, harness.NewRequest("velocity", c.line, issued.Access.Reveal(), workspace)); a.Outcome != "allow" {
				t.Errorf("after %q: %s", e.Fix, a.Outcome)
			}
		})
	}
}

func TestExplainWithoutAToken(t *testing.T) {
	const (
		addRowFix   = `add the row  - {method: %s, path: %q, scopes: [SCOPE]}  to apis/velocity/data.yaml of the policies`
		spellingFix = `^the table has GET /api/issues \(.*data\.yaml:\d+\): use exactly this letter case`
	)
	addRow := func(method, path string) string { return regexp.QuoteMeta(fmt.Sprintf(addRowFix, method, path)) + "$" }
	for _, c := range []struct {
		args    []string
		outcome string
		fix     string // a regular expression; empty: the request is allowed
	}{
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:read", "--workspace", "any"}, "", ""},
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:write", "--workspace", "any"}, "missing_scope", `^keywicket token create --prefix sk_live_ --workspace any --name=NAME --scope tags:write,tags:read$`},
		{[]string{"GET", "/api/v1/tags", "--scope", "admin:all"}, "workspace_required", `^send the header x-workspace-id: W$`},
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:write"}, "workspace_required", `^keywicket token create --prefix sk_live_ --workspace W --name=NAME --scope tags:write,tags:read; then send the header x-workspace-id: W$`},
		{[]string{"GET", "/api/user", "--scope", "user:read,user:write"}, "", ""},
		{[]string{"GET", "/api/issues", "--scope", "user:read"}, "workspace_required", `^keywicket token create --prefix velu_ --user U --name=NAME --scope user:read,issues:read; then send the header x-workspace-slug: W$`},
		{[]string{"GET", "/healthz", "--api", "velocity", "--scope", "user:read"}, "", ""},
		{[]string{"GET", "/api//issues", "--scope", "issues:read", "--workspace", "any"}, "", ""},
		{[]string{"GET", "/api/a%2Fb", "--scope", "issues:read"}, "bad_request", `^the path has an escaped slash`},
		{[]string{"GET", "/api/v1/tags", "--scope", "issues:read"}, "no_route", `^velaflows has this route \(.*data\.yaml:\d+\): use --api velaflows$`},
		{[]string{"GET", "/api/issues/", "--scope", "issues:read"}, "no_route", spellingFix},
		{[]string{"GET", "/API/issues", "--scope", "issues:read"}, "no_route", spellingFix},
		{[]string{"PUT", "/api/issues", "--scope", "issues:read"}, "no_route", `^the path is listed for GET \(.*data\.yaml:\d+\), POST \(.*data\.yaml:\d+\); to allow PUT, ` + addRow("PUT", "/api/issues")},
		{[]string{"GET", "/api/a,b:c", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/a,b:c")},
		{[]string{"get", "/api/issues", "--scope", "issues:read"}, "bad_request", "Envoy does not know the method"},
		{[]string{"", "/api/new", "--scope", "issues:read"}, "bad_request", "Envoy does not know the method"},
		{[]string{"GET", "/api/new*", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/new%2A")},
		{[]string{"GET", "/api/:new", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/%3Anew")},
	} {
		e := explain(t, deployment.Stack, "", append([]string{"explain"}, c.args...)...)
		reason := ""
		if e.Reason != nil {
			reason = *e.Reason
		}
		if e.Allow != (c.fix == "") || reason != c.outcome || len(e.Held) == 0 && reason != "bad_request" ||
			(e.Fix == "") != e.Allow || !regexp.MustCompile(c.fix).MatchString(e.Fix) {
			t.Errorf("%v: %+v", c.args, e)
		}
	}
}

// For a banned user, `keywicket explain` does not propose a new token, because a new token would not help.
func TestExplainBannedUser(t *testing.T) {
	user, workspace := deployment.CreateOwner(t)
	token, _ := deployment.CreateToken(t, "velu_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, User: user})
	db := harness.OpenDatabase(t, deployment.Stack)
	for until, banned := range map[string]bool{"2099-01-02 03:04:05Z": true, "infinity": true, "2020-01-01": false} {
		db.MustExec(`UPDATE keywicket.users SET banned_until = $1 WHERE id = $2`, until, user)
		for _, who := range [][]string{{"--token-id", token.ID}, {"--user", user}} {
			e := explain(t, deployment.Stack, "", append([]string{"explain", "GET", "/api/issues", "--workspace", workspace}, who...)...)
			if reported := strings.HasPrefix(e.Fix, "the user is banned until "); e.Allow == banned || reported != banned {
				t.Errorf("%s, %v: %+v", until, who, e)
			}
		}
	}
}
