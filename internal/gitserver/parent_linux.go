package gitserver

import "syscall"

// withParent has a process end when this one does.
func withParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
