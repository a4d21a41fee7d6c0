//go:build !unix

package ownerkey

import (
	"errors"
	"os/exec"
)

func withoutTerminal(*exec.Cmd) error {
	return errors.New("keys on FIDO2 tokens are for systems like Linux and macOS")
}
