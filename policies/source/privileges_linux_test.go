package source_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"
)

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
