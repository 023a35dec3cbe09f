package lab

import "syscall"

// tieToParent makes the kernel kill the process when the thread that started it ends.
func tieToParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
