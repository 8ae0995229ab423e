//go:build unix

package process

import (
	"os"
	"syscall"
)

// Apart starts a process in a group of its own, which the terminal's signals do not reach, and lets it outlive its parent.
func Apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func attributes(user *User) *syscall.SysProcAttr {
	a := Apart()
	if user != nil {
		a.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID}
	}
	dieWithParent(a)
	return a
}

// killGroup ends every process of the child's group. That the group is gone already is no error.
func killGroup(leader *os.Process) {
	_ = syscall.Kill(-leader.Pid, syscall.SIGKILL)
}
