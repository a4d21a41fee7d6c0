package supervise

import (
	"context"
	"encoding/json"
	"os"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// running is one process as run/roles.json remembers it.
type running struct {
	Role    string `json:"role"`
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`
}

// saveChildren notes which processes run, for the next parent in case this one is killed.
func (p *Parent) saveChildren() {
	p.saving.Lock()
	defer p.saving.Unlock()
	list := []running{}
	for _, c := range p.children {
		c.mu.Lock()
		if c.pid != 0 {
			list = append(list, running{c.role.Name, c.pid, c.started})
		}
		c.mu.Unlock()
	}
	data, err := json.Marshal(list)
	if err != nil {
		return
	}
	// Not synced: after a loss of power there are no leftovers.
	tmp := p.layout.childrenFile() + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err == nil {
		_ = os.Rename(tmp, p.layout.childrenFile())
	}
}

// endLeftovers waits for the children of a parent that was killed. They end by themselves, for their pipe is closed; one that
// does not is killed. Only then may its successor open the same database.
func (p *Parent) endLeftovers(ctx context.Context) {
	data, err := os.ReadFile(p.layout.childrenFile())
	if err != nil {
		return
	}
	var list []running
	if json.Unmarshal(data, &list) != nil {
		return
	}
	kill := time.Now().Add(leftoverGrace)
	for _, r := range list {
		for ctx.Err() == nil && r.Started != 0 && startTime(r.PID) == r.Started && !zombie(r.PID) {
			if time.Now().After(kill) {
				p.log.Warn("a process of the last run is still there and is killed", "role", r.Role, "pid", r.PID)
				_ = syscall.Kill(-r.PID, syscall.SIGKILL)
				_ = syscall.Kill(r.PID, syscall.SIGKILL)
			}
			wait(ctx, 20*time.Millisecond)
		}
	}
	_ = durable.Remove(p.layout.childrenFile()) // it is written anew with the first child
}

// leftoverGrace is how long the children of a killed parent get to end by themselves.
const leftoverGrace = 3 * time.Second
