package deviceurl

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

const (
	leaveIdle = 30 * time.Second // after the last request of a visitor their permit ends
	maxLeaves = 20_000           // visitors known at a time
)

// leaves are the permits of visitors. A browser makes several connections and many requests: they are one visit, until it is over.
type leaves struct {
	permits *permit.Permits

	mu sync.Mutex // covers what follows
	of map[visitor]*held
}

// visitor is who is told from whom.
type visitor struct {
	uuid               api.DeviceUUID
	from, visit, token string
}

// held is the permit of a visitor, or a refusal.
type held struct {
	ready chan struct{} // closed when the answer is there
	leave *permit.Permit
	err   error
	users int         // requests that are under way
	timer *time.Timer // ends it, while there are none
}

func newLeaves(permits *permit.Permits) *leaves {
	return &leaves{permits: permits, of: map[visitor]*held{}}
}

// take gives the permit of a visitor, old or new; done says that the request is answered.
func (l *leaves) take(ctx context.Context, ask api.ReachRequest) (*permit.Permit, func(), error) {
	who := visitor{ask.UUID, ask.From, ask.Visit, ask.Token}
	l.mu.Lock()
	h := l.of[who]
	if h != nil && (h.leave != nil && h.leave.Context().Err() != nil || h.err != nil && h.users == 0) { // it ended; perhaps there is another
		l.drop(who, h)
		h = nil
	}
	if h == nil {
		if len(l.of) >= maxLeaves {
			l.mu.Unlock()
			return nil, nil, api.Errorf(api.RateLimited, "Too many people are here just now.")
		}
		h = &held{ready: make(chan struct{})}
		h.timer = time.AfterFunc(time.Hour, func() { l.idle(who, h) })
		l.of[who] = h
		go l.ask(who, h, ask)
	}
	h.users++
	h.timer.Stop()
	l.mu.Unlock()
	done := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.users--
		switch {
		case h.users > 0 || l.of[who] != h:
		case h.err != nil: // a refusal holds for those who waited for it together
			l.drop(who, h)
		default:
			h.timer.Reset(leaveIdle)
		}
	}
	select {
	case <-h.ready:
	case <-ctx.Done():
		done() // whatever the answer will be, it is kept for a while
		return nil, nil, ctx.Err()
	}
	if h.err != nil {
		done()
		return nil, nil, h.err
	}
	return h.leave, done, nil
}

// ask gets the answer. It ends by itself: the question is bounded in time.
func (l *leaves) ask(who visitor, h *held, ask api.ReachRequest) {
	leave, err := l.permits.Ask(context.Background(), ask)
	l.mu.Lock()
	defer l.mu.Unlock()
	h.leave, h.err = leave, err
	close(h.ready)
	if l.of[who] != h && leave != nil { // the service ended meanwhile
		leave.End(permit.WhyClosed)
	}
}

// idle ends a permit that nobody used for a while.
func (l *leaves) idle(who visitor, h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users == 0 && l.of[who] == h {
		l.drop(who, h)
	}
}

// drop forgets a visitor. The lock is held.
func (l *leaves) drop(who visitor, h *held) {
	h.timer.Stop()
	delete(l.of, who)
	if h.leave != nil {
		h.leave.End(permit.WhyClosed)
	}
}

func (l *leaves) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for who, h := range l.of {
		l.drop(who, h)
	}
}

// upload is the body of a request: it may stall for a while, and it is counted.
type upload struct {
	readCloser
	w     *http.ResponseController
	leave *permit.Permit
}

func (u *upload) Read(p []byte) (int, error) {
	_ = u.w.SetReadDeadline(time.Now().Add(stallTime))
	n, err := u.readCloser.Read(p)
	u.leave.Count(int64(n), 0)
	if err != nil { // from now on nobody need say anything
		_ = u.w.SetReadDeadline(time.Time{})
	}
	return n, err
}
