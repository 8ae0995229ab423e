package source_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// TestUnreadableFoldersAndFiles tests the errors for folders and files that the sidecar has no permission to read.
func TestUnreadableFoldersAndFiles(t *testing.T) {
	for name, want := range map[string]string{
		".":                   "the folder cannot be read: permission denied",
		"keywicket":           "keywicket: the folder cannot be read: permission denied",
		"apis":                "apis: the folder cannot be read: permission denied",
		"keywicket/own.rego":  "keywicket/own.rego: the file cannot be read: permission denied",
		"apis/zoo/data.yaml":  "apis/zoo/data.yaml: the file cannot be read: permission denied",
		"facts/closed/a.json": passes,
	} {
		t.Run("no permission for "+name, func(t *testing.T) {
			dir := policyOf(t, ownRules)
			policytest.Write(t, dir, "facts/closed/a.json", "")
			makeReadable(t, filepath.Dir(dir))
			if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, name), 0o700) }) //nolint:gosec // lets the test remove the folder
			withoutPrivileges(t)
			_, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir})
			if got := errorText(err); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// makeReadable lets every user read a folder.
func makeReadable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(name, 0o755) //nolint:gosec // the purpose of makeReadable
		}
		return os.Chmod(name, 0o644) //nolint:gosec // the purpose of makeReadable
	})
	if err != nil {
		t.Fatal(err)
	}
}

// withoutPrivileges makes the test's thread access files as an ordinary user, because root may read every file.
func withoutPrivileges(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	runtime.LockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Setfsuid(0)
		runtime.UnlockOSThread()
	})
}
