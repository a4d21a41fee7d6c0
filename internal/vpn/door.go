package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/handover"
)

// Bounds of those who want in.
const (
	halfOpen = 2000
	// forgotten is when a connection that has not become a session is one no longer: the process around openvpn has closed it by then.
	forgotten = 50 * time.Second
	// perSecond bounds the connections that one address opens: a building full of devices has one address.
	perSecond = 100
	burst     = 1500
)

// knock is a connection on its way in.
type knock struct {
	from string
	at   time.Time
}

// bucket counts the connections of an address.
type bucket struct {
	left float64
	at   time.Time
}

// take reports whether one more connection of an address comes at a bearable rate. Called with the server's lock.
func (s *Server) take(from string, now time.Time) bool {
	if len(s.buckets) > 10000 { // full ones say nothing
		for addr, b := range s.buckets {
			if now.Sub(b.at) > burst/perSecond*time.Second {
				delete(s.buckets, addr)
			}
		}
	}
	b := s.buckets[from]
	if b == nil {
		b = &bucket{left: burst, at: now}
		s.buckets[from] = b
	}
	b.left = min(burst, b.left+now.Sub(b.at).Seconds()*perSecond)
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// handOn accepts the public's OpenVPN connections and gives each to an openvpn process, until the context ends.
func (s *Server) handOn(ctx context.Context, public net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = public.Close() })
	defer stop()
	places := make(chan struct{}, 256)
	for {
		conn, err := public.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("openvpn's connections: %w", err)
		}
		places <- struct{}{}
		s.work.Go(func() {
			defer func() { <-places }()
			if err := s.enter(ctx, conn); err != nil && ctx.Err() == nil {
				s.log.DebugContext(ctx, "a connection was not handed on", "error", err)
			}
		})
	}
}

// enter gives one connection to the openvpn process that has the fewest.
func (s *Server) enter(ctx context.Context, conn net.Conn) error {
	raw, read := handover.Split(conn)
	defer func() { _ = raw.Close() }() // openvpn's side has a copy
	public, ok := raw.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a %T cannot be handed on", raw)
	}
	from, _, err := net.SplitHostPort(raw.RemoteAddr().String())
	if err != nil {
		return err
	}
	s.mu.Lock()
	var to *instance
	for _, i := range s.instances {
		if i.known && (to == nil || len(i.clients)+len(i.knocks) < len(to.clients)+len(to.knocks)) {
			to = i
		}
	}
	now := time.Now()
	if to == nil || !s.take(from, now) {
		s.mu.Unlock()
		return errors.New("no openvpn is there, or too many connections come from there")
	}
	away, awayFrom := s.makeRoom(now)
	s.mu.Unlock()
	if away != 0 {
		_ = s.line.Drop(ctx, awayFrom.number, away)
	}
	port, err := s.line.Take(ctx, to.number, from, read, public)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range to.clients {
		if one.port == port {
			return nil // it is in already: a device is quicker than word of it
		}
	}
	to.knocks[port] = &knock{from: from, at: now}
	return nil
}

// makeRoom finds the connection that gives way when as many are on their way in as may be: the oldest of the address that has most of them.
// Called with the server's lock; port is 0 when there is room.
func (s *Server) makeRoom(now time.Time) (port int, of *instance) {
	all, by := 0, map[string]int{}
	for _, i := range s.instances {
		for p, k := range i.knocks {
			if now.Sub(k.at) > forgotten {
				delete(i.knocks, p)
				continue
			}
			all++
		}
	}
	most := s.cfg.HalfOpen
	if most == 0 {
		most = halfOpen
	}
	if all < most {
		return 0, nil
	}
	heaviest := ""
	for _, i := range s.instances {
		for _, k := range i.knocks {
			if by[k.from]++; by[k.from] > by[heaviest] {
				heaviest = k.from
			}
		}
	}
	var oldest *knock
	for _, i := range s.instances {
		for p, k := range i.knocks {
			if k.from == heaviest && (oldest == nil || k.at.Before(oldest.at)) {
				oldest, port, of = k, p, i
			}
		}
	}
	delete(of.knocks, port)
	return port, of
}
