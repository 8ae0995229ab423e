package process

import "syscall"

// dieWithParent makes the kernel kill the child when the thread that started the child ends (see Process.run).
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
