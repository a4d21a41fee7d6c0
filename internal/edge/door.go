package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxUndecided bounds how many connections may be at the door, their first message not read or not taken over yet; it is what
// a flood of silent clients costs. A connection beyond it is closed.
const maxUndecided = 8192

// HandOver makes the edge hand the connections for a name, given by its first label, over to the role that serves it, unread but for the
// name they ask for, instead of reading and forwarding their requests. Call it before Run.
func (s *Server) HandOver(label string, g *handover.Giver) { s.givers[label] = g }

// labelOpenVPN is the label of connections that speak OpenVPN.
const labelOpenVPN = "openvpn"

// door accepts the public's connections and gives each to who serves the name that it asks for.
type door struct {
	*Server
	public net.Listener
	own    *inside
}

// run lets connections in until the context ends, and waits for those that are still at the door.
func (d *door) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range d.givers {
		group.Go(func() error { return g.Run(ctx) })
	}
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { _ = d.public.Close() })
		defer stop()
		var entering sync.WaitGroup
		defer entering.Wait()
		places := make(chan struct{}, maxUndecided)
		for wait := time.Millisecond; ; {
			conn, err := d.public.Accept()
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return fmt.Errorf("edge: accept: %w", err)
				}
				d.log.WarnContext(ctx, "a connection could not be accepted", "error", err, "again_in", wait)
				_ = pause(ctx, wait) // out of files, most likely: others must end first
				wait = min(2*wait, time.Second)
				continue
			}
			wait = time.Millisecond
			select {
			case places <- struct{}{}:
			default:
				_ = conn.Close()
				continue
			}
			entering.Go(func() {
				defer func() { <-places }()
				stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
				defer stop()
				d.enter(ctx, conn)
			})
		}
	})
	return group.Wait()
}

// enter finds out whom a connection is for.
func (d *door) enter(ctx context.Context, conn net.Conn) {
	name, read, err := readHello(conn)
	if err != nil || ctx.Err() != nil {
		_ = conn.Close()
		return
	}
	label := d.label(name)
	if name == nameOpenVPN {
		if label = labelOpenVPN; d.givers[label] == nil {
			_ = conn.Close() // there is no control channel here
			return
		}
	}
	giver := d.givers[label]
	tcp, ok := conn.(*net.TCPConn)
	if !ok || giver == nil {
		d.own.put(handover.Replayed(conn, read))
		return
	}
	switch err := giver.Give(ctx, tcp, read); {
	case err == nil:
	case ctx.Err() != nil:
		_ = conn.Close()
	case label == labelOpenVPN:
		_ = conn.Close() // it comes again by itself
	default:
		d.log.WarnContext(ctx, "a role did not take a connection", "role", served[label], "error", err)
		d.turnAway(ctx, served[label], handover.Replayed(conn, read), conn)
	}
}

// Times of an answer to a client that is turned away.
const (
	turnTimeout = 10 * time.Second
	quiet       = 300 * time.Millisecond // without a byte from the client, its request is here or not coming
)

// turnAway answers 503 in a role's place. It does not decrypt the request: no token and no password is ever read here, whatever happens.
func (s *Server) turnAway(ctx context.Context, role string, conn, raw net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(turnTimeout))
	cfg := s.publicTLS()
	cfg.NextProtos = []string{"http/1.1"}
	cfg.SessionTicketsDisabled = true // the next connection is that role's, which would not know the ticket
	secure := tls.Server(conn, cfg)
	if secure.HandshakeContext(ctx) != nil {
		return
	}
	buf := make([]byte, 4<<10)
	_ = raw.SetReadDeadline(time.Now().Add(quiet))
	_, _ = raw.Read(buf) // an answer before the request would confuse its client
	_ = raw.SetReadDeadline(time.Now().Add(lingerTime))
	if _, err := secure.Write([]byte(turnedAway(role))); err != nil || secure.CloseWrite() != nil {
		return
	}
	for { // what is still on its way must not become a reset that overtakes the answer
		if _, err := raw.Read(buf); err != nil {
			return
		}
	}
}

func turnedAway(role string) string {
	body := `"the ` + role + ` role is not answering; it is being restarted"`
	return "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 2\r\n" +
		"Strict-Transport-Security: " + web.StrictTransport + "\r\nConnection: close\r\n" +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// inside is the listener of the connections that the edge serves itself.
type inside struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newInside(addr net.Addr) *inside {
	return &inside{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (i *inside) put(conn net.Conn) {
	select {
	case i.conns <- conn:
	case <-i.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (i *inside) Accept() (net.Conn, error) {
	select {
	case conn := <-i.conns:
		return conn, nil
	case <-i.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (i *inside) Close() error {
	i.once.Do(func() { close(i.closed) })
	return nil
}

// Addr implements net.Listener.
func (i *inside) Addr() net.Addr { return i.addr }
