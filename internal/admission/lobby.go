package admission

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Lobby is the connections that have not said who they are. It has so many places; when all are taken, the connection goes that came first
// of those from the address that has most of them. So a flood of silent connections costs a bounded amount, and whoever says at once who
// they are gets through.
type Lobby struct {
	places int

	mu    sync.Mutex // covers what follows
	count int
	by    map[netip.Prefix][]net.Conn // oldest first
}

// NewLobby makes one with so many places.
func NewLobby(places int) *Lobby { return &Lobby{places: places, by: map[netip.Prefix][]net.Conn{}} }

// Group is who a connection is counted with: an IPv4 address, or an IPv6 network such as one customer gets.
func Group(conn net.Conn) netip.Prefix {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	prefix, _ := addr.Prefix(bits) // both are in range
	return prefix
}

// Enter gives a connection a place, if need be another's.
func (l *Lobby) Enter(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= l.places {
		var most netip.Prefix
		for g, conns := range l.by {
			if len(conns) > len(l.by[most]) {
				most = g
			}
		}
		l.drop(most, l.by[most][0])
	}
	g := Group(conn)
	l.by[g] = append(l.by[g], conn)
	l.count++
}

// drop ends a connection and frees its place. l.mu is held.
func (l *Lobby) drop(g netip.Prefix, conn net.Conn) {
	_ = conn.Close()
	l.forget(g, conn)
}

func (l *Lobby) forget(g netip.Prefix, conn net.Conn) {
	i := slices.Index(l.by[g], conn)
	if i < 0 {
		return
	}
	l.by[g] = slices.Delete(l.by[g], i, i+1)
	if len(l.by[g]) == 0 {
		delete(l.by, g)
	}
	l.count--
}

// Leave frees a connection's place: it has said who it is, or has ended.
func (l *Lobby) Leave(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(Group(conn), conn)
}
