package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

// For a line of the sidecar's log, explain returns the decision of the line. It fills in what the line contains, and says what is not
// in the line.
func TestExplainALineOfTheDecisionLog(t *testing.T) {
	var log syncbuffer.Buffer
	s := harness.StartStack(t, demo.Config{Log: &log, Environ: []string{"KEYWICKET_LOG_ALLOW_SAMPLE=1", harness.ShortStaleness}})
	client := harness.NewClient(t, s, 1)
	home, other := harness.CreateWorkspace(t, s), harness.CreateWorkspace(t, s)
	ada := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	harness.Keywicket[registry.Member](t, s, "member", "set", "--workspace", home.Slug, "--user", ada.ID, "--role", "guest")
	crm := harness.IssueToken(t, s, "sk_live_", home.Slug, "crm:read")
	issues := harness.IssueToken(t, s, "vel_", home.Slug, "issues:read")
	personal := harness.Keywicket[harness.Token](t, s, "token", "create", "--prefix", "velu_", "--user", ada.ID, "--name", "n", "--scope", "issues:write")
	revoked := harness.IssueToken(t, s, "vel_", home.Slug, "issues:read")
	harness.Keywicket[harness.ListedToken](t, s, "token", "revoke", revoked.ID)

	run := func(line string, args ...string) (e explainOutput, message string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := harness.Command(ctx, t, s, append([]string{"explain", "--log-line", "-", "--output", "json"}, args...)...)
		var stdout, stderr bytes.Buffer
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(line), &stdout, &stderr
		if c.Run() == nil {
			if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
		}
		return e, strings.TrimSpace(stderr.String())
	}
	lines := make(map[string]string)
	for name, c := range map[string]struct {
		request harness.Request
		args    []string // the flags and arguments for what is not in the line
		refusal string   // the error without args; empty: args are not needed
		fix     string
	}{
		"missing scope":  {harness.NewRequest("velaflows", "DELETE /api/v1/crm/leads/7", crm.Token, home.ID), nil, "", "--scope crm:read,crm:delete"},
		"allowed":        {harness.NewRequest("velaflows", "GET /api/v1/crm/leads/7", crm.Token, home.ID), nil, "", ""},
		"no credential":  {harness.NewRequest("velocity", "GET /api/issues", "", ""), nil, "", "send a token: "},
		"public":         {harness.NewRequest("velocity", "GET /healthz", "", ""), nil, "", ""},
		"a role too low": {harness.NewRequest("velocity", "POST /api/issues", personal.Token, home.Slug), nil, "", "member set"},
		"no workspace":   {harness.NewRequest("velaflows", "GET /api/v1/crm/leads", crm.Token, ""), nil, "", "send the header x-workspace-id: " + home.ID},
		"mismatch": {harness.NewRequest("velocity", "GET /api/issues", issues.Token, other.Slug), []string{"--workspace", other.Slug},
			"the line does not contain the workspace header of the request: add --workspace", "send the header x-workspace-slug: " + home.Slug},
		"revoked": {harness.NewRequest("velocity", "GET /api/issues", revoked.Token, home.Slug), []string{"--token-id", revoked.ID, "--workspace", home.Slug},
			"the credential was refused (revoked), so the line does not contain its id: add --token-id or --user", "token create"},
		"unlisted": {harness.NewRequest("velocity", "PUT /api/issues/7", issues.Token, home.Slug), []string{"PUT", "/api/issues/7"},
			"no route matched the request, and the line does not contain its path: add the method and the path", `{method: PUT, path: "/api/issues/{issue}"`},
	} {
		before := log.String()
		sent := client.Send(t, c.request)
		line := ""
		harness.Await(t, "the log line of the decision", func() bool {
			for l := range strings.Lines(strings.TrimPrefix(log.String(), before)) {
				if strings.Contains(l, `"msg":"decision"`) && strings.HasSuffix(l, "\n") {
					line = l
				}
			}
			return line != ""
		})
		lines[name] = line
		if c.refusal != "" {
			if _, message := run(line); !strings.Contains(message, c.refusal) || strings.Count(message, "\n") > 0 {
				t.Errorf("%s: got %q, want %q", name, message, c.refusal)
			}
		}
		e, message := run(line, c.args...)
		outcome := "allow"
		if e.Code != nil {
			outcome = *e.Code + " " + *e.Reason
		}
		if outcome != sent.Outcome || !strings.Contains(e.Fix, c.fix) || (e.Fix == "") != e.Allow || e.Logged != "" || message != "" {
			t.Errorf("%s: a client got %s; explain: %+v, %s\n%s", name, sent.Outcome, e, message, line)
		}
	}

	// The decision is about the present. If it has changed, explain also prints the decision of the line.
	harness.Keywicket[registry.Member](t, s, "member", "set", "--workspace", home.Slug, "--user", ada.ID, "--role", "owner")
	if e, message := run(lines["a role too low"]); !e.Allow || e.Logged != "deny: FORBIDDEN, missing_scope" {
		t.Errorf("got %+v, %s", e, message)
	}
}
