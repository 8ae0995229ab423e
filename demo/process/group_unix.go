//go:build unix

package process

import (
	"os"
	"syscall"
)

func attributes(user *User) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
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
