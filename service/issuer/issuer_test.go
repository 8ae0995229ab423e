package issuer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/service/config"
)

// Apps may request all scopes except overrides, because an override satisfies the required scopes of every route of a level.
func TestIssuerOffersNoOverride(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "apis", "velocity", "data.yaml")
	table, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(table), "  user: [admin]", "  user: [admin, workspace:read]", 1)
	for text, want := range map[string]string{
		string(table): "documents:read documents:write issues:read issues:write projects:read projects:write user:read user:write " +
			"workspace:read workspaces:create workspaces:delete workspaces:list workspaces:update",
		changed: "documents:read documents:write issues:read issues:write projects:read projects:write user:read user:write " +
			"workspaces:create workspaces:delete workspaces:list workspaces:update",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load("", []string{
			"KEYWICKET_POLICIES_DIR=" + dir, "KEYWICKET_APIS_VELOCITY_SESSION_ISSUER=https://auth.example",
			"KEYWICKET_APIS_VELOCITY_SESSION_HS256_SECRET=" + strings.Repeat("s", 32),
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o, err := oauthConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, scope := range o.Scopes {
			names = append(names, scope.Name)
			if scope.Description == "" || scope.Workspace == slices.Contains([]string{"user", "workspaces"}, strings.Split(scope.Name, ":")[0]) {
				t.Errorf("%+v", scope)
			}
		}
		if slices.Sort(names); strings.Join(names, " ") != want {
			t.Errorf("%v", names)
		}
		if o.Format.Prefix != "velo_" || o.API != "velocity" {
			t.Errorf("%+v", o)
		}
	}
}
