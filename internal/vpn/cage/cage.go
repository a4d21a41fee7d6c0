// Package cage is the process around openvpn and the network namespace that both live in. The namespace has no way out: what comes in
// are connections that somebody else accepted, what goes out are connections to tunnel addresses of devices, handed to the vpn role. Its
// firewall is one file, rules.nft; a watcher sends a packet down every closed way and ends the process when one is open.
package cage

import (
	"context"
	"log/slog"
	"os"
)

// Prepare makes the role's secrets.
func Prepare(string) error { return nil }

// Build makes the namespace, as root.
func Build(dir string, uid, gid int) error { _, _, _ = dir, uid, gid; return nil }

// Cage is the process.
type Cage struct{}

// New makes it.
func New(cfg Config, end *os.File, log *slog.Logger) (*Cage, error) {
	_, _, _ = cfg, end, log
	return &Cage{}, nil
}

// Healthy says what is wrong.
func (c *Cage) Healthy(context.Context) error { return nil }

// Tells is for people.
func (c *Cage) Tells() string { return "" }

// Run runs it.
func (c *Cage) Run(ctx context.Context) error { <-ctx.Done(); return nil }
