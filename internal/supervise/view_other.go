//go:build unix && !linux

package supervise

import (
	"syscall"

	"github.com/roadstead-io/roadstead/internal/sandbox"
)

func (p *Parent) privateView(*syscall.SysProcAttr, sandbox.Plan) {}
