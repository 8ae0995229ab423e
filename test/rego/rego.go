// Package rego makes copies of the built-in policy that a test may change, and tests them with the official opa.
package rego

import (
	"errors"
	"fmt"
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

// CopyRules returns a copy of the built-in policy without its APIs.
func CopyRules(t testing.TB) string {
	t.Helper()
	dir := CopyBuiltin(t)
	if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// RunTests runs the tests in the policy folder with `opa test -b`.
func RunTests(t testing.TB, dir string) error {
	t.Helper()
	return run(t, "test", "-b", dir)
}

// Check checks and tests the policy folder as `make test-policies` does.
func Check(t testing.TB, dir string) error {
	t.Helper()
	return errors.Join(
		run(t, "check", "-b", "--strict", dir),
		run(t, "fmt", "--fail", "--list", dir),
		run(t, "test", "-b", dir),
		run(t, "test", "-b", dir, "--coverage", "--threshold", "100"),
	)
}

// run runs the official opa. The error contains the output.
func run(t testing.TB, args ...string) error {
	t.Helper()
	opa, err := program.OPA()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), opa, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("opa %s: %w\n%s", args[0], err, out)
	}
	return nil
}
