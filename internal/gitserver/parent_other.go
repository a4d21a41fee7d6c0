//go:build !linux

package gitserver

import "syscall"

// withParent is for Linux.
func withParent(*syscall.SysProcAttr) {}
