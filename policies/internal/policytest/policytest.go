// Package policytest creates policies that tests can edit, and engines for them.
package policytest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
)

// Load loads a policy and runs its tests. If the parameter `dir` is empty, Load loads the built-in policy.
func Load(t testing.TB, dir string) *policies.Engine {
	t.Helper()
	engine, err := policies.Load(t.Context(), policies.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// Explainer loads a policy, and skips its tests to save time.
func Explainer(t testing.TB, dir string) *policies.Explainer {
	t.Helper()
	e, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Copy copies the built-in policy to a temporary folder for editing.
func Copy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Edit replaces the first occurrence of the text old in a file.
func Edit(t testing.TB, dir, file, old, replacement string) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(file))
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	err = os.WriteFile(name, []byte(strings.Replace(string(text), old, replacement, 1)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
}

// Write writes a file of a folder, and creates the folders above it.
func Write(t testing.TB, dir, file, text string) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Input returns the input of a request with a token. The built-in policy allows this request.
func Input() authz.Input {
	path := "/api/v1/inbox/conversations"
	return authz.Input{
		API: "velaflows", Method: "GET", Path: path, Host: "api.example",
		Principal: &authz.Principal{
			ID: "t1", Kind: authz.KindWorkspaceToken, API: "velaflows", Environment: authz.Live,
			Scopes: []string{"inbox:read"},
		},
		Workspace: authz.Workspace{Requested: true, Granted: true, ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme"},
	}
}

// RemoveTests removes all tests of a policy.
func RemoveTests(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, "_test.rego") {
			return os.Remove(name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
