//go:build unix

package process

import (
	"os"
	"syscall"
)

// OwnGroup returns attributes that start a process in its own process group. The terminal's signals do not reach such a process,
// and the process may outlive its parent.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func attributes(user *User) *syscall.SysProcAttr {
	a := OwnGroup()
	if user != nil {
		a.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID}
	}
	dieWithParent(a)
	return a
}

// killGroup kills every process of the child's group. It ignores the error for a group that has already ended.
func killGroup(leader *os.Process) {
	_ = syscall.Kill(-leader.Pid, syscall.SIGKILL)
}
