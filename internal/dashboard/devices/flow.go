package devices

import (
	"context"
	"sync"

	"github.com/roadstead-io/roadstead/api"
)

// flow counts what a browser was sent and has not shown yet.
type flow struct {
	mu     sync.Mutex // covers unseen
	unseen int
}

// take adds n bytes if there is room for them.
func (f *flow) take(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unseen+n > maxUnseen {
		return false
	}
	f.unseen += n
	return true
}

// give takes what was shown off again; a browser that claims more has shown all.
func (f *flow) give(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unseen = max(0, f.unseen-n)
}

// seen is the browser's word that it has shown n bytes more.
func (t *terminal) seen(n int) {
	t.give(n)
	select {
	case t.room <- struct{}{}:
	default:
	}
}

// terminals counts those that are open, and ends them with the role.
type terminals struct {
	most, perUser int
	life          context.Context
	stop          context.CancelFunc

	mu   sync.Mutex // covers what follows
	all  int
	of   map[int64]int // by user
	over bool
	none chan struct{} // closed when the last one is over, once over is set
}

func newTerminals(most, perUser int) *terminals {
	t := &terminals{most: most, perUser: perUser, of: map[int64]int{}, none: make(chan struct{})}
	t.life, t.stop = context.WithCancel(context.Background())
	return t
}

// enter lets a user open one more, until leave is called.
func (t *terminals) enter(user int64) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
		return nil, api.Errorf(api.Unavailable, "The dashboard stops.")
	case t.of[user] >= t.perUser:
		return nil, api.Errorf(api.RateLimited, "You have %d terminals open already. Close one first.", t.of[user])
	case t.all >= t.most:
		return nil, api.Errorf(api.RateLimited, "There are %d terminals open already. Try again later.", t.all)
	}
	t.all++
	t.of[user]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		if t.of[user]--; t.of[user] == 0 {
			delete(t.of, user)
		}
		if t.over && t.all == 0 {
			close(t.none)
		}
	}), nil
}

// end ends all of them, and waits until they are.
func (t *terminals) end() {
	t.mu.Lock()
	already, all := t.over, t.all
	t.over = true
	if !already && all == 0 {
		close(t.none)
	}
	t.mu.Unlock()
	t.stop()
	<-t.none
}
