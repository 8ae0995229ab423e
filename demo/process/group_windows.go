package process

import (
	"os"
	"syscall"
)

// With this file, the package compiles on Windows. The demo does not run there: Windows cannot send a signal to a process group.
// On Windows, Go cannot start a process with the uid and gid of another user.

// OwnGroup does nothing.
func OwnGroup() *syscall.SysProcAttr { return nil }

func attributes(*User) *syscall.SysProcAttr { return nil }

func killGroup(leader *os.Process) { _ = leader.Kill() }
