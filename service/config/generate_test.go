package config

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
)

// The generated file has the same APIs and policies as the returned configuration. A built-in API has its default section. Any other
// API has a section with its name.
func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	for name, scopes := range map[string]string{
		"velocity": "{workspace: {a:read: Read}}", "zoo": "{workspace: {a:read: Read}, user: {me: Me}}", "pet_shop": "{workspace: {a:read: Read}}",
	} {
		text := "scopes: " + scopes + "\noverrides: {}\nroles: {}\nroutes: [{method: GET, path: /a, scopes: [\"a:read\"]}]\n"
		if err := os.MkdirAll(filepath.Join(dir, "apis", name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "apis", name, "data.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, text, err := Generate(policies.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(configFile(t, string(text)), nil, nil)
	if err != nil || !reflect.DeepEqual(loaded, c) {
		t.Errorf("%v: the file has %+v, not %+v", err, loaded, c)
	}
	builtin, err := Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.APIs) != 3 || !reflect.DeepEqual(c.APIs["velocity"], builtin.APIs["velocity"]) {
		t.Errorf("%+v", c.APIs)
	}
	for api, prefixes := range map[string][]string{"zoo": {"zoo_", "zoou_"}, "pet_shop": {"pet-shop_"}} {
		var got []string
		for _, f := range c.APIs[api].Credentials {
			got = append(got, f.Prefix)
		}
		if header := (authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug}); !reflect.DeepEqual(got, prefixes) || c.APIs[api].Workspace != header {
			t.Errorf("%s: %q, %+v", api, got, c.APIs[api].Workspace)
		}
	}
	if _, _, err := Generate(policies.Config{Dir: filepath.Join(dir, "nowhere")}); err == nil {
		t.Error("there is no error for a folder that does not exist")
	}
}
