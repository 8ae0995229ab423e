//go:build unix

package process

import (
	"os"
	"syscall"
)

// OwnGroup returns attributes that start a process in its own group. The terminal's signals do not reach it, and it may outlive
// its parent.
func OwnGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func attributes(user *User) *syscall.SysProcAttr {
	a := OwnGroup()
	if user != nil {
		a.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID}
	}
	dieWithParent(a)
	return a
}

// killGroup kills every process of the child's group. It ignores that the group may have ended already.
func killGroup(leader *os.Process) {
	_ = syscall.Kill(-leader.Pid, syscall.SIGKILL)
}
