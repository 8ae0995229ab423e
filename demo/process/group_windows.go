package process

import (
	"os"
	"syscall"
)

// Windows has no process groups to signal and cannot start a process as another user this way. The demo's servers do not run
// there, but the rest of the binary does.

// OwnGroup does nothing.
func OwnGroup() *syscall.SysProcAttr { return nil }

func attributes(*User) *syscall.SysProcAttr { return nil }

func killGroup(leader *os.Process) { _ = leader.Kill() }
