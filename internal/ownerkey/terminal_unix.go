//go:build unix

package ownerkey

import (
	"os/exec"
	"syscall"
)

// withoutTerminal has a program run where it finds no terminal.
func withoutTerminal(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return nil
}
