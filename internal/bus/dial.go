package bus

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// dialTime is how long one attempt to reach the bus may take, and how long the first of a process.
const (
	dialTime  = 10 * time.Second
	firstTime = 30 * time.Second
)

// dialer makes connections for the NATS client, which asks for them with its lock held: while it waits, nobody can publish. A
// bus that is being started again takes a while before it says its first word, so that is waited for here, beside the client.
type dialer struct {
	dial  func(ctx context.Context) (net.Conn, error)
	ready chan net.Conn // the bus has spoken on it

	mu     sync.Mutex // covers what follows
	end    context.CancelFunc
	busy   bool
	closed bool
	trying sync.WaitGroup
}

// first makes the first connection.
func (d *dialer) first() error {
	ctx, cancel := context.WithTimeout(context.Background(), firstTime)
	defer cancel()
	conn, err := d.attempt(ctx)
	if err != nil {
		return err
	}
	d.ready <- conn
	return nil
}

var errNotYet = errors.New("the bus does not answer yet")

// InProcessConn is what the client asks for a connection. It never waits: when there is none, it begins to make one.
func (d *dialer) InProcessConn() (net.Conn, error) {
	select {
	case conn := <-d.ready:
		return conn, nil
	default:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.busy && !d.closed {
		ctx, cancel := context.WithTimeout(context.Background(), dialTime)
		d.busy, d.end = true, cancel
		d.trying.Go(func() {
			defer cancel()
			conn, err := d.attempt(ctx)
			d.mu.Lock()
			defer d.mu.Unlock()
			d.busy = false
			if err == nil {
				d.ready <- conn // there is room: it was empty when this began, and only this fills it
			}
		})
	}
	return nil, errNotYet
}

// attempt connects and waits for the first byte, which the bus sends unasked.
func (d *dialer) attempt(ctx context.Context) (net.Conn, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	first := make([]byte, 1)
	if _, err = conn.Read(first); !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &begun{Conn: conn, first: first}, nil
}

// close ends what is being tried and drops what nobody took.
func (d *dialer) close() {
	d.mu.Lock()
	d.closed = true
	if d.busy {
		d.end()
	}
	d.mu.Unlock()
	d.trying.Wait()
	select {
	case conn := <-d.ready:
		_ = conn.Close()
	default:
	}
}

// begun is a connection whose first byte was read already.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
