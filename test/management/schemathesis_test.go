package management

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/harness"
)

// schemathesis generates requests from the document: valid and invalid ones, and sequences that use the ids of earlier responses. It finds
// no response with a status of 500 or more, and no undocumented response.
func TestSchemathesis(t *testing.T) {
	harness.SkipIfShort(t)
	d := start(t)
	t.Setenv("TOKEN", d.session)
	output := run(t, ".", python(t), "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", "--origin", d.Velocity,
		"--no-color", documentWithScopes(t))
	t.Log(output)
	generated := regexp.MustCompile(`(\d+) generated`).FindStringSubmatch(output)
	if generated == nil || storetest.Must(strconv.Atoi(generated[1])) < 500 {
		t.Errorf("schemathesis has generated too few requests: %q", generated)
	}
	// Random values rarely create a token. So this test checks that the requests have had an effect.
	db := harness.OpenDatabase(t, d.Stack)
	var actions []string
	_ = db.SelectContext(t.Context(), &actions, `SELECT concat_ws(' ', object_kind, action, count(*)) FROM keywicket.audit_log GROUP BY object_kind, action`)
	t.Log(actions)
	for action, least := range map[string]int{"create": 20, "rotate": 1, "revoke": 5} {
		n := storetest.Value[int](t, db, `SELECT count(*) FROM keywicket.audit_log WHERE object_kind = 'token' AND action = $1 AND actor_kind = 'user'`, action)
		if n < least {
			t.Errorf("the action %s has happened %d times, not %d times", action, n, least)
		}
	}
}

// documentWithScopes writes the document with a list of valid scopes, and returns its path. The document itself cannot list the scopes,
// because each API has its own.
func documentWithScopes(t *testing.T) string {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal(storetest.Must(os.ReadFile(document)), &d); err != nil {
		t.Fatal(err)
	}
	schemas := d["components"].(map[string]any)["schemas"].(map[string]any)
	schemas["Scope"] = map[string]any{"type": "string", "enum": []string{"issues:read", "issues:write", "projects:read", "workspace:read"}}
	path := filepath.Join(t.TempDir(), "openapi.json")
	if err := os.WriteFile(path, storetest.Must(json.Marshal(d)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
