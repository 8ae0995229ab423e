package process

import (
	"os"
	"syscall"
)

// With this file, the package compiles on Windows. The demo does not run there: Windows cannot send a signal to a process group,
// and cannot start a process as another user in this way.

// OwnGroup does nothing.
func OwnGroup() *syscall.SysProcAttr { return nil }

func attributes(*User) *syscall.SysProcAttr { return nil }

func killGroup(leader *os.Process) { _ = leader.Kill() }
