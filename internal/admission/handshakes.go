package admission

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Handshakes bounds how many TLS handshakes are computed at once. A handshake takes a place when the client's first message is
// there and gives it back with the first answer, so that nobody keeps one by being slow: in between, there is only work.
type Handshakes struct {
	places chan struct{}
	wait   time.Duration
}

// NewHandshakes bounds handshakes to n at once; one that has waited too long is given up.
func NewHandshakes(n int, wait time.Duration) *Handshakes {
	return &Handshakes{places: make(chan struct{}, n), wait: wait}
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
	patience := time.NewTimer(c.h.wait)
	defer patience.Stop()
	select {
	case c.h.places <- struct{}{}:
	case <-patience.C:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside || c.over.Load() { // closed meanwhile
		<-c.h.places
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
		<-c.h.places
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
