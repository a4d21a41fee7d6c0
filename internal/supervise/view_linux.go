package supervise

import (
	"syscall"

	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// privateView gives a child a mount namespace when its user could not reach its files otherwise, see sandbox.Plan.Show.
func (p *Parent) privateView(attr *syscall.SysProcAttr, plan sandbox.Plan) {
	for _, path := range plan.Show {
		if plan.Closed(path) != "" {
			attr.Unshareflags |= syscall.CLONE_NEWNS
			return
		}
	}
}
