package policies

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
)

const drafts = `
  - {method: GET, path: "/api/v1/inbox/drafts/{draft}", scopes: [inbox:read]}
`

const draftsTest = `
test_reading_drafts_needs_inbox_read if {
	allows("GET /api/v1/inbox/drafts/7", ["inbox:read"])
	not allows("GET /api/v1/inbox/drafts/7", ["inbox:write"])
}
`

func TestRouteAddedAsData(t *testing.T) {
	t.Parallel()
	dir := rego.CopyBuiltin(t)
	harness.AppendFile(t, filepath.Join(dir, "apis", "velaflows", "data.yaml"), drafts)
	harness.AppendFile(t, filepath.Join(dir, "apis", "velaflows", "velaflows_test.rego"), draftsTest)
	if err := rego.RunTests(t, dir); err != nil {
		t.Error(err)
	}
	s := harness.StartStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir}})
	client := harness.NewClient(t, s, 1)
	home := harness.CreateWorkspace(t, s)
	reader := harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read")
	writer := harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:write")
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/v1/inbox/drafts/7", reader.Token, home.ID), "allow")
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/v1/inbox/drafts/7", writer.Token, home.ID), "FORBIDDEN missing_scope", "inbox:read")
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/v1/inbox/drafts", reader.Token, home.ID), "FORBIDDEN no_route")
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, reader.Token, home.ID), "allow")

	// The built-in policy does not have the new route.
	home = harness.CreateWorkspace(t, deployment.Stack)
	client = harness.NewClient(t, deployment.Stack, 1)
	reader = harness.IssueToken(t, deployment.Stack, "sk_live_", home.Slug, "inbox:read")
	client.Expect(t, harness.NewRequest("velaflows", "GET /api/v1/inbox/drafts/7", reader.Token, home.ID), "FORBIDDEN no_route")
}

const zooTable = `
scopes:
  workspace:
    animals:read: Look at animals
    animals:feed: Feed animals
    zoo:keeper: Everything
overrides:
  workspace: [zoo:keeper]
roles: {}
routes:
  - {method: GET, path: /, public: true}
  - {method: GET, path: /animals, scopes: [animals:read]}
  - {method: POST, path: "/animals/{animal}/meals", scopes: [animals:read, animals:feed]}
`

const zooTest = `package zoo_test

import data.keywicket
import data.keywicket.fixture

test_feeding_needs_both_scopes if {
	request := fixture.at(fixture.anonymous("zoo", "POST /animals/7/meals"), fixture.own)
	keywicket.decision.allow with input as fixture.by(request, fixture.workspace_key(["animals:read", "animals:feed"]))
	not keywicket.decision.allow with input as fixture.by(request, fixture.workspace_key(["animals:feed"]))
}
`

// A configuration file with the key `apis` replaces all built-in APIs.
const zooConfiguration = `
policies: {dir: DIR}
apis:
  velaflows:
    workspace: {header: x-workspace-id, by: id, required: true}
    credentials:
      - {kind: workspace_token, prefix: sk_live_, visible_prefix: 16, body_length: 40}
  zoo:
    workspace: {header: x-zoo, by: slug}
    credentials:
      - {kind: workspace_key, prefix: zoo_}
`

func TestThirdAPIAddedAsData(t *testing.T) {
	t.Parallel()
	dir := rego.CopyBuiltin(t)
	harness.AppendFile(t, filepath.Join(dir, "apis", "zoo", "data.yaml"), zooTable)
	harness.AppendFile(t, filepath.Join(dir, "apis", "zoo", "zoo_test.rego"), zooTest)
	if err := rego.RunTests(t, dir); err != nil {
		t.Error(err)
	}
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	harness.AppendFile(t, config, strings.Replace(zooConfiguration, "DIR", `"`+dir+`"`, 1))
	s := harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		// Velocity's listener becomes the zoo's listener, and sends the zoo's workspace header with the check.
		EnvoyConfig: func(envoy []byte) []byte {
			envoy = harness.Replace(t, envoy, "{api: velocity}", "{api: zoo}", 1)
			return harness.Replace(t, envoy, "exact: x-workspace-slug", "exact: x-zoo", 1)
		},
	})
	home, other := harness.CreateWorkspace(t, s), harness.CreateWorkspace(t, s)
	client := harness.NewClient(t, s, 1)
	zooHeader := func(workspace string) [2]string { return [2]string{"X-Zoo", workspace} }
	reader := harness.IssueToken(t, s, "zoo_", home.Slug, "animals:read", "--config", config)
	feeder := harness.IssueToken(t, s, "zoo_", home.Slug, "animals:read,animals:feed", "--config", config)
	keeper := harness.IssueToken(t, s, "zoo_", home.Slug, "zoo:keeper", "--config", config)
	velaflowsKey := harness.IssueToken(t, s, "sk_live_", home.Slug, "admin:all", "--config", config)
	if !strings.HasPrefix(reader.Token, "zoo_") || !strings.HasPrefix(reader.Token, reader.Prefix) {
		t.Errorf("the visible prefix of a zoo_ key is %q", reader.Prefix)
	}

	const zoo = "velocity" // requests for velocity go to the listener that now belongs to the zoo
	a := client.Expect(t, harness.NewRequest(zoo, "GET /animals", reader.Token, ""), "allow")
	if received := a.Echo.Headers["x-keywicket-api"]; len(received) != 1 || received[0] != "zoo" {
		t.Errorf("the upstream received the API %q", received)
	}
	client.Expect(t, harness.NewRequest(zoo, "GET /", "", ""), "allow")
	client.Expect(t, harness.NewRequest(zoo, "GET /animals", "", ""), "UNAUTHORIZED missing")
	client.Expect(t, harness.NewRequest(zoo, "GET /animals", reader.Token, "", zooHeader(home.Slug)), "allow")
	client.Expect(t, harness.NewRequest(zoo, "GET /animals", reader.Token, "", zooHeader(other.Slug)), "WORKSPACE_ACCESS_DENIED workspace_mismatch")
	client.Expect(t, harness.NewRequest(zoo, "POST /animals/7/meals", reader.Token, ""), "FORBIDDEN missing_scope", "animals:read", "animals:feed")
	client.Expect(t, harness.NewRequest(zoo, "POST /animals/7/meals", feeder.Token, ""), "allow")
	client.Expect(t, harness.NewRequest(zoo, "POST /animals/7/meals", keeper.Token, ""), "allow")
	client.Expect(t, harness.NewRequest(zoo, "GET /api/issues", keeper.Token, ""), "FORBIDDEN no_route")
	client.Expect(t, harness.NewRequest(zoo, "GET /animals", velaflowsKey.Token, ""), "UNAUTHORIZED unknown")
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, velaflowsKey.Token, home.ID), "allow")
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, keeper.Token, home.ID), "UNAUTHORIZED unknown")
}

// The sidecar refuses to start with a policy that fails its own tests.
func TestPolicyRefusedAtStart(t *testing.T) {
	t.Parallel()
	for _, broken := range []struct {
		name, file, text, want string
	}{
		{"a test that fails", "apis/velaflows/velaflows_test.rego", strings.Replace(draftsTest, "reading_drafts_needs_inbox_read", "missing_row_is_allowed", 1),
			" test_missing_row_is_allowed"},
		{"a rule that does not compile", "keywicket/decision.rego", "\nbroken if nowhere.at_all\n", "nowhere"},
		{"a row with a scope that is not in the catalogue", "apis/velaflows/data.yaml", strings.Replace(drafts, "inbox:read", "inbox:reed", 1),
			`apis/velaflows/data.yaml:`},
	} {
		t.Run(broken.name, func(t *testing.T) {
			dir := rego.CopyBuiltin(t)
			harness.AppendFile(t, filepath.Join(dir, filepath.FromSlash(broken.file)), broken.text)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			serve := harness.Command(ctx, t, deployment.Stack, "serve", "--policies-dir", dir, "--listen-grpc", "127.0.0.1:0", "--listen-operations", "127.0.0.1:0")
			var stdout, stderr bytes.Buffer
			serve.Stdout, serve.Stderr = &stdout, &stderr
			err := serve.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("got %v, want the exit status 1", err)
			}
			message := stderr.String()
			if stdout.Len() > 0 || strings.Count(message, "\n") != 1 || !strings.HasPrefix(message, "keywicket: policies ("+dir+"): ") || !strings.Contains(message, broken.want) ||
				strings.Contains(message, "serving") {
				t.Errorf("standard output: %s; standard error: %s", &stdout, message)
			}
		})
	}
}
