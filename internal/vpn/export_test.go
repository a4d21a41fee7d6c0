package vpn

import (
	"context"

	"github.com/roadstead-io/roadstead/internal/vpn/line"
)

// Sizes is how much the server remembers, by what it is of.
func (s *Server) Sizes() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{"devices": len(s.devices), "addresses": len(s.buckets), "calls": len(s.calls)}
	for _, i := range s.instances {
		n["knocks"] += len(i.knocks)
		n["clients"] += len(i.clients)
		n["up"] += len(i.up)
		n["down"] += len(i.down)
		for _, one := range i.clients {
			n["connections"] += len(one.conns)
		}
	}
	return n
}

// Flows is what the process around openvpn carries.
func (s *Server) Flows(ctx context.Context) ([]line.Flow, error) { return s.line.Flows(ctx, 0) }
