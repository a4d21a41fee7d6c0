// Package admission bounds how much work is taken in at once, so that many who come together do not starve one who comes alone:
// a [Gate] for each class of work, [Shares] for each caller within it, and [Handshakes] for those who are not known yet. What
// does not fit waits for a while in the order in which it came, and is then told when to come again.
package admission

import (
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Limit bounds one class of work.
type Limit struct {
	// Running is how much is worked on at once.
	Running int
	// Waiting is how many may wait for a place.
	Waiting int
	// Wait is how long one waits at most.
	Wait time.Duration
	// Again is after how long one who was turned away should come again: a random time between the two.
	Again [2]time.Duration
}

// BusyError turns somebody away.
type BusyError struct {
	After time.Duration
	code  api.Code
	text  string
}

func (e *BusyError) Error() string { return e.text }

// Unwrap makes it an api.Unavailable or api.RateLimited error.
func (e *BusyError) Unwrap() error { return api.Errorf(e.code, "%s", e.text) }

// Seconds is what a Retry-After header says: whole seconds, at least one.
func (e *BusyError) Seconds() int64 { return max(1, int64((e.After+time.Second-1)/time.Second)) }

// again picks a time, so that those who are turned away together do not come back together.
func (l Limit) again() time.Duration {
	if l.Again[1] <= l.Again[0] {
		return l.Again[0]
	}
	return l.Again[0] + rand.N(l.Again[1]-l.Again[0])
}

// Gate lets a bounded number in.
type Gate struct {
	name  string
	limit Limit

	mu      sync.Mutex // covers what follows
	running int
	queue   list.List // of chan struct{}, closed when its owner got a place
	refused int64
}

// NewGate makes a gate; its name stands in what those who are turned away are told.
func NewGate(name string, limit Limit) *Gate { return &Gate{name: name, limit: limit} }

// Enter takes a place, waiting for one if need be. leave must be called once when it is nil-error.
func (g *Gate) Enter(ctx context.Context) (leave func(), err error) {
	g.mu.Lock()
	if g.running < g.limit.Running && g.queue.Len() == 0 {
		g.running++
		g.mu.Unlock()
		return g.leave, nil
	}
	if g.queue.Len() >= g.limit.Waiting {
		err := g.refuse()
		g.mu.Unlock()
		return nil, err
	}
	turn := make(chan struct{})
	e := g.queue.PushBack(turn)
	g.mu.Unlock()
	patience := time.NewTimer(g.limit.Wait)
	defer patience.Stop()
	return g.await(ctx, turn, e, patience.C)
}

// Return takes a place again that was left for a while in the middle of the work. It goes before all who wait, and is not turned
// away.
func (g *Gate) Return(ctx context.Context) (leave func(), err error) {
	g.mu.Lock()
	if g.running < g.limit.Running {
		g.running++
		g.mu.Unlock()
		return g.leave, nil
	}
	turn := make(chan struct{})
	e := g.queue.PushFront(turn)
	g.mu.Unlock()
	return g.await(ctx, turn, e, nil)
}

func (g *Gate) await(ctx context.Context, turn chan struct{}, e *list.Element, patience <-chan time.Time) (leave func(), err error) {
	select {
	case <-turn:
		return g.leave, nil
	case <-patience:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-turn: // just now
		return g.leave, nil
	default:
	}
	g.queue.Remove(e)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, g.refuse()
}

// refuse is called with the lock held.
func (g *Gate) refuse() error {
	g.refused++
	return &BusyError{After: g.limit.again(), code: api.Unavailable, text: fmt.Sprintf("too many %s at once; come again later", g.name)}
}

// leave gives the place to who has waited longest.
func (g *Gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if first := g.queue.Front(); first != nil {
		close(g.queue.Remove(first).(chan struct{}))
		return
	}
	g.running--
}

// Load is how a gate is at a moment.
type Load struct {
	Running, Waiting int
	Refused          int64 // since the start
}

// Load says how the gate is.
func (g *Gate) Load() Load {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Load{Running: g.running, Waiting: g.queue.Len(), Refused: g.refused}
}
