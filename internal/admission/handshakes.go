package admission

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Handshakes bounds how many TLS handshakes are computed at once. A handshake takes a place when the client's first message is
// there and gives it back with the first answer, so that nobody keeps one by being slow: in between, there is only work.
//
// Who came last goes first. When there are more than can be served at once, somebody must wait long; if it were everybody in
// turn, a person who comes while a fleet reconnects would wait for all of it. It is the fleet that can wait, and comes again.
type Handshakes struct {
	wait time.Duration

	mu     sync.Mutex // covers what follows
	free   int
	queue  []*queued // the last is the next; those that gave up are among them until their turn
	giveUp int       // how many are
}

type queued struct {
	turn chan struct{} // closed when it has a place
	gone bool
}

// NewHandshakes bounds handshakes to n at once; one that has waited too long is given up.
func NewHandshakes(n int, wait time.Duration) *Handshakes { return &Handshakes{free: n, wait: wait} }

func (h *Handshakes) enter(ctx context.Context) error {
	h.mu.Lock()
	if h.free > 0 {
		h.free--
		h.mu.Unlock()
		return nil
	}
	q := &queued{turn: make(chan struct{})}
	h.queue = append(h.queue, q)
	h.mu.Unlock()
	patience := time.NewTimer(h.wait)
	defer patience.Stop()
	err := context.DeadlineExceeded
	select {
	case <-q.turn:
		return nil
	case <-patience.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-q.turn: // just now
		return nil
	default:
	}
	q.gone = true
	if h.giveUp++; h.giveUp > len(h.queue)/2 { // they are kept no longer than they are few
		h.queue = slices.DeleteFunc(h.queue, func(q *queued) bool { return q.gone })
		h.giveUp = 0
	}
	return err
}

func (h *Handshakes) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.queue) > 0 {
		q := h.queue[len(h.queue)-1]
		h.queue[len(h.queue)-1] = nil
		h.queue = h.queue[:len(h.queue)-1]
		if !q.gone {
			close(q.turn)
			return
		}
		h.giveUp--
	}
	h.free++
}

// Listener wraps the connections of a listener for Config.
func (h *Handshakes) Listener(ln net.Listener) net.Listener { return &bounded{Listener: ln, h: h} }

// Config makes a server configuration for connections of [Handshakes.Listener].
func (h *Handshakes) Config(base *tls.Config) *tls.Config {
	c := base.Clone()
	inner := base.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if conn, ok := hello.Conn.(*shaking); ok {
			if err := conn.enter(hello.Context()); err != nil {
				return nil, err
			}
		}
		if inner != nil {
			return inner(hello)
		}
		return nil, nil //nolint:nilnil // it means: the same configuration
	}
	return c
}

type bounded struct {
	net.Listener
	h *Handshakes
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &shaking{Conn: conn, h: b.h}, nil
}

// shaking is a connection that may hold a place until it first writes.
type shaking struct {
	net.Conn
	h    *Handshakes
	over atomic.Bool // it has written, or is closed

	mu     sync.Mutex // covers inside
	inside bool
}

func (c *shaking) enter(ctx context.Context) error {
	if c.over.Load() {
		return nil
	}
	if err := c.h.enter(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside || c.over.Load() { // closed meanwhile
		c.h.leave()
		return nil
	}
	c.inside = true
	return nil
}

func (c *shaking) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over.Store(true)
	if c.inside {
		c.inside = false
		c.h.leave()
	}
}

// Write implements net.Conn.
func (c *shaking) Write(p []byte) (int, error) {
	if !c.over.Load() {
		c.leave()
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *shaking) Close() error {
	c.leave()
	return c.Conn.Close()
}
