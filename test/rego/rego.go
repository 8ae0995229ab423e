// Package rego makes copies of the built-in policy that a test may change, and tests them with the official opa.
package rego

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/test/program"
)

// CopyBuiltin returns a copy of the built-in policy.
func CopyBuiltin(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	return dir
}

// RunTests runs the tests in the policy folder with `opa test -b`.
func RunTests(t testing.TB, dir string) error {
	t.Helper()
	opa, err := program.OPA()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), opa, "test", "-b", dir).CombinedOutput()
	t.Logf("opa test: %s", out)
	return err
}
