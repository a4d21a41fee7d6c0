package admission

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// Idle bounds how many connections of an HTTP server stay open with nothing to do: each holds some 30 KiB. Of more, those that have
// been idle for longest are closed, as their time would have them closed later: a client that comes back makes a new one.
type Idle struct {
	most int

	mu    sync.Mutex // covers what follows
	order list.List  // of net.Conn, the longest idle in front
	place map[net.Conn]*list.Element
}

// NewIdle lets so many connections stay.
func NewIdle(most int) *Idle { return &Idle{most: most, place: map[net.Conn]*list.Element{}} }

// State hears what becomes of a connection; it is for http.Server.ConnState.
func (i *Idle) State(c net.Conn, s http.ConnState) {
	if over := i.note(c, s == http.StateIdle); over != nil {
		_ = over.Close() // whose request comes at this moment is answered like one that came to a connection whose time was up
	}
}

// note gives the connection that is one too many; nil: none is.
func (i *Idle) note(c net.Conn, idle bool) net.Conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e, ok := i.place[c]; ok {
		i.order.Remove(e)
		delete(i.place, c)
	}
	if !idle {
		return nil
	}
	i.place[c] = i.order.PushBack(c)
	if i.order.Len() <= i.most {
		return nil
	}
	over, _ := i.order.Remove(i.order.Front()).(net.Conn)
	delete(i.place, over)
	return over
}

// Len is how many are idle.
func (i *Idle) Len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.order.Len()
}
