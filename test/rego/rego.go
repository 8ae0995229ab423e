// Package rego makes copies of the built-in policy that a test may change, and tests them with the stock opa.
package rego

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywicket/keywicket/policies"
)

// Folder returns a copy of the built-in policy.
func Folder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Test runs the folder's tests as a policy's author does.
func Test(t testing.TB, dir string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // includes the build of opa
	defer cancel()
	opa := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/opa.mod", "opa", "test", dir)
	opa.Dir = filepath.Join("..", "..") // the root, from a folder of test/
	out, err := opa.CombinedOutput()
	t.Logf("opa test: %s", out)
	return err
}
