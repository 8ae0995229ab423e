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
	// The folder receives a cache of the requests that have found something.
	output := run(t, t.TempDir(), python(t), "-m", "schemathesis.cli", "--config-file", absolute(t, "schemathesis.toml"), "run", "--origin", d.Velocity,
		"--no-color", documentWithScopes(t))
	t.Log(output)
	generated := regexp.MustCompile(`(\d+) generated`).FindStringSubmatch(output)
	if generated == nil || storetest.Must(strconv.Atoi(generated[1])) < 500 {
		t.Errorf("schemathesis has generated too few requests: %q", generated)
	}
	// Random values rarely create an object. So this test checks that the requests have had an effect.
	db := harness.OpenDatabase(t, d.Stack)
	counts := map[string]int{}
	var rows []struct {
		Change string
		Count  int
	}
	err := db.SelectContext(t.Context(), &rows, `SELECT object_kind || ' ' || action AS change, count(*) FROM keywicket.audit_log WHERE actor_kind = 'user' GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		counts[r.Change] = r.Count
	}
	// A rotation changes the expiry of the old token.
	for _, change := range []string{"token create", "token change", "token revoke", "app create", "app rotate", "app revoke", "workspace change"} {
		if counts[change] < 3 {
			t.Errorf("%s: too few of %v", change, counts)
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
