package sessions

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/supabase"
)

// consoleConfig accepts sessions of VelaFlows, but of no other API.
const consoleConfig = `apis:
  velaflows:
    workspace: {header: x-workspace-id, by: id, required: true}
    credentials: [{kind: workspace_token, prefix: sk_live_}]
    session: {issuer: https://auth.example/auth/v1, hs256_secret: 0123456789-0123456789-0123456789-, console_only: true, scopes: [admin:all, workspaces:list]}
`

// TestSessionsOfVelaFlowsOpenOnlyTheConsole tests the built-in setting console_only of VelaFlows through Envoy. `explain` agrees.
func TestSessionsOfVelaFlowsOpenOnlyTheConsole(t *testing.T) {
	t.Parallel()
	issuer := supabase.Start()
	defer issuer.Close()
	var environ []string
	for _, variable := range issuer.Environ() {
		environ = append(environ, strings.Replace(variable, "_VELOCITY_", "_VELAFLOWS_", 1))
	}
	s := harness.StartStack(t, demo.Config{Environ: environ})
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	if err := os.WriteFile(config, []byte(consoleConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	user := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	workspaces := make(map[string]string) // role → id of the workspace
	for _, role := range []string{"owner", "admin", "member", "guest"} {
		workspaces[role] = harness.CreateWorkspace(t, s).ID
		harness.Keywicket[any](t, s, "member", "set", "--workspace", workspaces[role], "--user", user.ID, "--role", role)
	}
	elsewhere := harness.CreateWorkspace(t, s).ID
	administrator := harness.IssueToken(t, s, "sk_live_", workspaces["owner"], "admin:all").Token
	client, session := harness.NewClient(t, s, 1), issuer.Token(user.ID, nil)
	const refused = "UNAUTHORIZED unknown"

	for _, c := range []struct{ line, workspace, outcome string }{
		{"GET /api/keywicket/v1/tokens", workspaces["owner"], "allow"},
		{"POST /api/keywicket/v1/tokens/7/rotate", workspaces["admin"], "allow"},
		{"GET /api/keywicket/v1/tokens", workspaces["member"], "FORBIDDEN missing_scope"},
		{"GET /api/keywicket/v1/tokens", workspaces["guest"], "FORBIDDEN missing_scope"},
		{"GET /api/keywicket/v1/tokens", elsewhere, "WORKSPACE_ACCESS_DENIED workspace_mismatch"},
		{"GET /api/keywicket/v1/tokens", "", "WORKSPACE_ACCESS_DENIED workspace_required"},
		{"GET /api/keywicket/v1/workspaces", "", "allow"},
		{"GET /api/keywicket/v1/workspaces", workspaces["guest"], "allow"},
		{"GET /api/keywicket/v1/nothing", workspaces["owner"], "FORBIDDEN no_route"},
		{"OPTIONS /api/keywicket/v1/tokens", workspaces["owner"], "FORBIDDEN no_route"},
		{harness.Conversations, workspaces["owner"], refused},
		{"GET /api/v1/admin/audit", workspaces["owner"], refused},
		{"OPTIONS /api/v1/tags", workspaces["owner"], refused},
		{"GET /api/v1/nothing", workspaces["owner"], refused},
		{"GET /api/keywicket/v2/tokens", workspaces["owner"], refused},
		{"GET /api/keywicket/v1/../../v1/tags", workspaces["owner"], refused},
		{"GET /api/keywicket/v1;x=y/tokens", workspaces["owner"], refused},
	} {
		q := harness.NewRequest("velaflows", c.line, session, c.workspace)
		got, _ := client.SendWithRetry(t, q)
		if got.Outcome != c.outcome {
			t.Errorf("%s in %q: %s, not %s", c.line, c.workspace, got.Outcome, c.outcome)
		}
		args := []string{"explain", q.Method, q.Path, "--user", user.ID, "--config", config}
		if c.workspace != "" {
			args = append(args, "--workspace", c.workspace)
		}
		explained := harness.Keywicket[struct {
			Allow        bool
			Code, Reason string
		}](t, s, args...)
		outcome := explained.Code + " " + explained.Reason
		if explained.Allow {
			outcome = "allow"
		}
		if outcome != c.outcome {
			t.Errorf("explain %s in %q: %s, not %s", c.line, c.workspace, outcome, c.outcome)
		}
		if c.outcome != refused {
			continue
		}
		// The deployment accepts no sessions of VelaFlows. Its response is the same.
		without := harness.NewClient(t, deployment.Stack, 1).Send(t, q)
		if got.Status != without.Status || !slices.Equal(got.Header.Values("www-authenticate"), without.Header.Values("www-authenticate")) ||
			withoutID(got.Body) != withoutID(without.Body) {
			t.Errorf("%s: got %d %v %s, but without sessions %d %v %s", c.line, got.Status, got.Header, got.Body, without.Status, without.Header, without.Body)
		}
	}
	// A token of the workspace has no user, and lists no workspaces.
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/keywicket/v1/tokens", administrator, workspaces["owner"]), "allow")
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/keywicket/v1/workspaces", administrator, workspaces["owner"]), "FORBIDDEN missing_scope", "workspaces:list")
	// The sidecar reads no cookie.
	cookie := [2]string{"cookie", "sb-project-auth-token=" + session}
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/keywicket/v1/tokens", "", workspaces["owner"], cookie), "UNAUTHORIZED missing")
	client.Expect(t, harness.NewRequest("velaflows", "GET /settings/developer/api-tokens", "", "", cookie), "allow")
	if status, body := harness.Probe(t, s, "/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if issuer.Fetches() == 0 {
		t.Error("the sidecar has not fetched the keys")
	}
	harness.Keywicket[any](t, s, "session", "revoke", "--user", user.ID)
	harness.Await(t, "the session is revoked", func() bool {
		return client.Send(t, harness.NewRequest("velaflows", "GET /api/keywicket/v1/tokens", session, workspaces["owner"])).Outcome == "UNAUTHORIZED revoked"
	})
}

// withoutID returns the body of a denial without the id of the decision.
func withoutID(body string) string {
	return regexp.MustCompile(`"decision_id":"[^"]*"`).ReplaceAllString(body, "")
}
