package apiserver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
)

// How long and how many callers are remembered. A revocation is heard of at once, in this process and over the bus in others;
// should the bus be away, trust ends by itself before the two seconds that a revocation may take.
const (
	rememberFor = 1500 * time.Millisecond
	rememberMax = 8192 // twice as many at most
)

// callers remembers for a moment whom tokens stand for: a page is many requests, and so is a device's update. It holds no token,
// only sums of them, and nothing that is not in the database.
type callers struct {
	now func() time.Time

	mu          sync.Mutex // covers what follows
	round       uint64     // goes up with every revocation
	recent, old map[[sha256.Size]byte]remembered
}

type remembered struct {
	caller access.Caller
	until  time.Time
}

func newCallers() *callers {
	return &callers{now: time.Now, recent: map[[sha256.Size]byte]remembered{}}
}

// find gives the caller of a token. If it is not known, round is to be given to keep with what the database says.
func (c *callers) find(sum [sha256.Size]byte) (_ access.Caller, known bool, round uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.recent[sum]
	if !ok {
		r, ok = c.old[sum]
	}
	return r.caller, ok && c.now().Before(r.until), c.round
}

// keep remembers a caller, unless something was revoked since round. expires is when the token ends; zero means never.
func (c *callers) keep(sum [sha256.Size]byte, caller access.Caller, expires time.Time, round uint64) {
	until := c.now().Add(rememberFor)
	if !expires.IsZero() && expires.Before(until) {
		until = expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round != round {
		return // the database was asked before the revocation, perhaps
	}
	if len(c.recent) >= rememberMax {
		c.old, c.recent = c.recent, map[[sha256.Size]byte]remembered{}
	}
	c.recent[sum] = remembered{caller, until}
}

// forget forgets everybody: somebody's right has ended, and who it was is asked anew of all.
func (c *callers) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	clear(c.recent)
	c.old = nil
}

// forgetRevoked hears of revocations by other processes, until the context ends.
func (s *Server) forgetRevoked(ctx context.Context) error {
	stop, err := s.bus.Subscribe("revoked.>", func(string, []byte) { s.callers.forget() })
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer stop()
	<-ctx.Done()
	return nil
}
