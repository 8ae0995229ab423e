package explain_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/service/config"
)

// The proposed row has parameters where the table's rows have parameters, and for segments that are ids.
func TestExplainProposesARowWithParameters(t *testing.T) {
	x := builtin(t)
	for line, want := range map[string]string{
		"PUT /api/v1/contacts/7":                          "/api/v1/contacts/{contact}",
		"GET /api/v1/contacts/7/notes":                    "/api/v1/contacts/{contact}/notes",
		"GET /api/v1/contacts/ada%20b/notes/9":            "/api/v1/contacts/{contact}/notes/{id}",
		"GET /api/v1//contacts/x/../7/notes":              "/api/v1/contacts/{contact}/notes",
		"PUT /api/v1/inbox/conversations/a/messages":      "/api/v1/inbox/conversations/{conversation}/messages",
		"GET /api/v1/inbox/conversations/a/messages/2/3":  "/api/v1/inbox/conversations/{conversation}/messages/{id}/{id2}",
		"GET /api/v1/deals/64f1a2b3c4d5e6f7a8b9c0d1/name": "/api/v1/deals/{id}/name",
		"GET /api/v1/deals/0b5a2b3c-1111-2222-3333-4444":  "/api/v1/deals/{id}",
		"GET /api/v1/deals/ENG-12":                        "/api/v1/deals/{id}",
		"DELETE /api/v1/ai/settings":                      "/api/v1/ai/settings",
		"GET /api/v1/deals/open":                          "/api/v1/deals/open",
		"GET /api/v2/contacts":                            "/api/v2/contacts",
		"GET /v1/feedback":                                "/v1/feedback",
	} {
		method, path, _ := strings.Cut(line, " ")
		e, err := x.Explain(t.Context(), explain.Request{Method: method, Path: path, Scopes: []string{"contacts:read"}, Workspace: "acme"})
		if row := "add the row  - {method: " + method + `, path: "` + want + `", `; err != nil || !strings.Contains(e.Fix, row) {
			t.Errorf("%s: got %v, %v, want %s", line, e.Fix, err, row)
		}
	}

	// A table without parameters gets a row without parameters. The texts of a row's other forms stay as they are.
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	velaflows, velocity := filepath.Join(dir, "apis/velaflows/data.yaml"), filepath.Join(dir, "apis/velocity/data.yaml")
	for file, rows := range map[string]string{
		velaflows: `{method: GET, path: "/files/{path...}", scopes: [a]}, {method: GET, path: "/caf%C3%A9/{name}.json", scopes: [a]}, {method: GET, path: "/a/{b}", scopes: [a]}, {method: GET, path: "/a/c", scopes: [a]}, {method: GET, path: "/a/d/{id}", scopes: [a]}`,
		velocity:  `{method: GET, path: "/files", scopes: [b]}`,
	} {
		scope := rows[strings.Index(rows, "scopes: [")+len("scopes: ["):][:1]
		if err := os.WriteFile(file, []byte("scopes: {workspace: {"+scope+": A}}\nroutes: ["+rows+"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	x = explainer(t, explain.Config{APIs: cfg.APIs}, policies.Config{Dir: dir})
	for _, c := range []struct{ scope, path, want string }{
		{"a", "/files/a/7", "/files/{path...}"},
		{"a", "/files", "/files"},
		{"a", "/caf%c3%a9/a.json/b", "/caf%C3%A9/{name}.json/b"},
		{"a", "/a/c", "/a/c"},
		{"a", "/a/c/7", "/a/c/{id}"},
		{"a", "/a/x/7", "/a/{b}/{id}"},
		{"a", "/a/d/x/7/x/8", "/a/d/{id}/{id2}/x/{id3}"},
		{"b", "/files/7", "/files/7"},
	} {
		e, err := x.Explain(t.Context(), explain.Request{Method: "PUT", Path: c.path, Scopes: []string{c.scope}, Workspace: "acme"})
		if err != nil || !strings.Contains(e.Fix, `, path: "`+c.want+`", `) {
			t.Errorf("%s: got %v, %v, want %s", c.path, e.Fix, err, c.want)
		}
	}
}
