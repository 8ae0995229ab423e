package management

import (
	"net/http"
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

type fields map[string]any

// issues is a route of Velocity that needs the scope issues:read.
const issues = "GET /api/issues"

// A token works at once. During the overlap, the old token and the new token work, and after it, only the new one. A revoked token does not work.
func TestLifeOfToken(t *testing.T) {
	d := start(t)
	tokens := "POST " + api + "/tokens"
	created := d.send(t, d.session, tokens, fields{"name": "CI", "scopes": []string{"issues:read"}})
	first := created.of("token")
	if got := d.send(t, first, issues, nil); created.status != http.StatusCreated || got.status != http.StatusOK {
		t.Fatalf("created %d %s, used %d", created.status, created.text, got.status)
	}
	rotated := d.send(t, d.session, tokens+"/"+created.of("id")+"/rotate", fields{"overlap": 2})
	second := rotated.of("token")
	for name, token := range map[string]string{"old": first, "new": second} {
		if got := d.send(t, token, issues, nil); got.status != http.StatusOK {
			t.Errorf("during the overlap, the %s token gets %d %s", name, got.status, got.text)
		}
	}
	harness.Await(t, "the overlap ends", func() bool { return d.send(t, first, issues, nil).reason() == "expired" })
	if got := d.send(t, second, issues, nil); got.status != http.StatusOK {
		t.Errorf("after the overlap, the new token gets %d", got.status)
	}
	revoked := d.send(t, d.session, "DELETE "+api+"/tokens/"+rotated.of("id"), nil)
	if revoked.status != http.StatusOK || revoked.of("status") != "revoked" {
		t.Errorf("revoked: %d %s", revoked.status, revoked.text)
	}
	harness.Await(t, "the token is revoked", func() bool { return d.send(t, second, issues, nil).reason() == "revoked" })
}

// The sidecar checks the requests to the management API, as all others.
func TestCallersNeedTheOverride(t *testing.T) {
	d := start(t)
	tokens := "POST " + api + "/tokens"
	create := func(path, scope string) string {
		return d.send(t, d.session, "POST "+api+path, fields{"name": scope, "scopes": []string{scope}}).of("token")
	}
	body := fields{"name": "by a token", "scopes": []string{"issues:read"}}
	for name, c := range map[string]struct {
		token, line string
		status      int
		reason      string
	}{
		"no token":                 {"", tokens, 401, "missing"},
		"an unknown token":         {"vel_none0000000000000000000000000000000000", tokens, 401, "unknown"},
		"a key without override":   {create("/tokens", "issues:read"), tokens, 403, "missing_scope"},
		"a key with override":      {create("/tokens", "workspace:admin"), tokens, 201, ""},
		"a personal key":           {create("/personal-keys", "user:read"), "POST " + api + "/personal-keys", 403, "missing_scope"},
		"a personal key of admins": {create("/personal-keys", "admin"), tokens, 201, ""},
		"a user's workspaces":      {create("/personal-keys", "workspaces:list"), "GET " + api + "/workspaces", 200, ""},
		"a workspace's workspaces": {create("/tokens", "workspace:admin"), "GET " + api + "/workspaces", 403, "missing_scope"},
		"an unknown path":          {d.session, "GET " + api + "/none", 403, "no_route"},
		"an unknown method":        {d.session, "PUT " + api + "/tokens", 403, "no_route"},
		"the document":             {"", "GET " + api + "/openapi.json", 200, ""},
	} {
		var content any
		if c.line[:4] == "POST" {
			content = body
		}
		got := d.send(t, c.token, c.line, content)
		if got.status != c.status || got.reason() != c.reason {
			t.Errorf("%s: %d %s", name, got.status, got.text)
		}
	}
	if got := d.send(t, "", "GET "+api+"/openapi.json", nil); got.of("openapi") != "3.1.0" {
		t.Errorf("the document is %.100s", got.text)
	}
}

// "API Response — Returned when you list your workspaces via the auth API": a user of VelaFlows finds the workspace id there, and
// creates a token for the sandbox. The session opens no other path.
func TestVelaFlows(t *testing.T) {
	d := start(t)
	call := func(token, workspace, line string, body any) response {
		return send(t, d.VelaFlows, line, body, "Authorization", "Bearer "+token, "x-workspace-id", workspace)
	}
	list := send(t, d.VelaFlows, "GET "+api+"/workspaces", nil, "Authorization", "Bearer "+d.session)
	workspaces, _ := list.body["workspaces"].([]any)
	if list.status != http.StatusOK || len(workspaces) != 1 {
		t.Fatalf("the workspaces are %d %s", list.status, list.text)
	}
	first, _ := workspaces[0].(map[string]any)
	id, _ := first["id"].(string)
	created := call(d.session, id, "POST "+api+"/tokens", fields{"name": "Zapier", "scopes": []string{"inbox:read"}, "prefix": "sk_test_"})
	if created.status != http.StatusCreated || created.of("environment") != "sandbox" {
		t.Fatalf("created %d %s", created.status, created.text)
	}
	if got := call(created.of("token"), id, harness.Conversations, nil); got.status != http.StatusOK || got.of("upstream") != "sandbox" {
		t.Errorf("the token gets %d %s", got.status, got.text)
	}
	if got := call(d.session, id, harness.Conversations, nil); got.status != http.StatusUnauthorized {
		t.Errorf("the session gets %d %s", got.status, got.text)
	}
	admin := call(d.session, id, "POST "+api+"/tokens", fields{"name": "Admin", "scopes": []string{"admin:all"}}).of("token")
	if got := call(admin, id, "GET "+api+"/tokens?q=zap", nil); got.status != http.StatusOK || len(got.body["tokens"].([]any)) != 1 {
		t.Errorf("a token with admin:all gets %d %s", got.status, got.text)
	}
}
