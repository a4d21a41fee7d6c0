// Package queue decides which build comes next. Organizations share the places for builds at work fairly: a place that becomes
// free goes to the organization that has the fewest builds at work, among equals to the one that has waited longest for its
// turn; within an organization the first that came is the first that is served.
package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Limits bounds a queue. All of them are positive.
type Limits struct {
	Running      int // at work at once
	RunningOfOne int // at work at once, of one organization
	Open         int // waiting or at work, or on their way in
	OpenOfOne    int // the same of one organization
}

var (
	// ErrFull says that Open builds are there already.
	ErrFull = errors.New("the queue is full")
	// ErrShareFull says that OpenOfOne builds of the organization are.
	ErrShareFull = errors.New("the organization's share of the queue is full")
)

// Place is where a waiting build stands.
type Place struct {
	Number int           // 1 comes next
	Of     int           // that wait
	Wait   time.Duration // until its turn, as the last builds went; 0 when that would be a guess
}

// Queue is safe for concurrent use.
type Queue struct {
	now func() time.Time

	mu      sync.Mutex // covers what follows
	limits  Limits
	open    int
	owners  map[int64]*owner
	turns   uint64    // given so far
	running []*Ticket // in the order in which they began
	took    []time.Duration
}

type owner struct {
	open    int
	running int
	last    uint64 // the turn that it was given last
	waiting []*Ticket
}

// Ticket is one build's place in the queue, from its arrival to its end.
type Ticket struct {
	q     *Queue
	owner int64 // of which organization; 0: not known yet
	began time.Time
	place Place
	ready chan struct{} // closed when its turn has come
	moved chan struct{} // holds one when its place has changed
	state state
}

type state int

const (
	entered state = iota
	waiting
	working
	gone
)

// kept is how many of the last builds are looked at to say how long a wait may be; with fewer than enough nothing is said, and
// neither when the longest took more than apart times as long as the shortest.
const (
	kept   = 20
	enough = 5
	apart  = 6
)

// New makes an empty queue. now may be nil.
func New(l Limits, now func() time.Time) *Queue {
	if now == nil {
		now = time.Now
	}
	return &Queue{now: now, limits: l, owners: map[int64]*owner{}}
}

// Enter takes a place for a build of which nothing is known yet. Whoever gets a ticket must call [Ticket.Leave] once.
func (q *Queue) Enter() (*Ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open >= q.limits.Open {
		return nil, ErrFull
	}
	q.open++
	return &Ticket{q: q, ready: make(chan struct{}), moved: make(chan struct{}, 1)}, nil
}

// Belong says whose the build is. It is called once, before [Ticket.Wait].
func (t *Ticket) Belong(organization int64) error {
	q := t.q
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.owners[organization]
	if o == nil {
		o = &owner{}
		q.owners[organization] = o
	}
	if o.open >= q.limits.OpenOfOne {
		return ErrShareFull
	}
	o.open++
	t.owner = organization
	return nil
}

// Wait waits until the build may work. moved, which may be nil, is told its place whenever that changes.
func (t *Ticket) Wait(ctx context.Context, moved func(Place)) error {
	t.join()
	for {
		select { // a turn that has come wins over everything else
		case <-t.ready:
			return nil
		default:
		}
		select {
		case <-t.ready:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.moved:
			if p, ok := t.Place(); ok && moved != nil {
				moved(p)
			}
		}
	}
}

func (t *Ticket) join() {
	q := t.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.state != entered {
		return
	}
	t.state = waiting
	o := q.owners[t.owner]
	if o == nil { // nobody said whose it is; such builds share
		o = &owner{open: 1}
		q.owners[t.owner] = o
	}
	o.waiting = append(o.waiting, t)
	q.serve()
}

// Place says where the build stands; false when it does not wait.
func (t *Ticket) Place() (Place, bool) {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	return t.place, t.state == waiting
}

// Done tells how long the work of a build took that came to its end by itself; others say nothing about the next ones.
func (t *Ticket) Done() {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if t.state == working {
		t.q.took = append(t.q.took, t.q.now().Sub(t.began))
		t.q.took = t.q.took[max(0, len(t.q.took)-kept):]
	}
}

// Leave gives the place up, wherever it is.
func (t *Ticket) Leave() {
	q := t.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.state == gone {
		return
	}
	was := t.state
	t.state = gone
	q.open--
	o := q.owners[t.owner]
	if o == nil {
		return
	}
	switch was {
	case waiting:
		o.waiting = slices.DeleteFunc(o.waiting, func(x *Ticket) bool { return x == t })
	case working:
		o.running--
		q.running = slices.DeleteFunc(q.running, func(x *Ticket) bool { return x == t })
	}
	if o.open--; o.open <= 0 {
		delete(q.owners, t.owner)
	}
	q.serve()
}

// serve gives free places away and tells those who still wait where they stand now.
func (q *Queue) serve() {
	for len(q.running) < q.limits.Running {
		_, o := next(q.owners, q.limits.RunningOfOne)
		if o == nil {
			break
		}
		t := o.waiting[0]
		o.waiting = o.waiting[1:]
		o.running++
		q.turns++
		o.last = q.turns
		t.state, t.began = working, q.now()
		q.running = append(q.running, t)
		close(t.ready)
	}
	q.tell()
}

// next is the organization whose turn it is.
func next(owners map[int64]*owner, most int) (id int64, best *owner) {
	for i, o := range owners {
		if len(o.waiting) == 0 || o.running >= most {
			continue
		}
		switch {
		case best == nil,
			o.running < best.running,
			o.running == best.running && o.last < best.last,
			o.running == best.running && o.last == best.last && i < id:
			id, best = i, o
		}
	}
	return id, best
}

// tell works out in which order those who wait will be served if nobody else comes, and builds end in the order in which they
// began; and wakes those whose place has changed.
func (q *Queue) tell() {
	owners := make(map[int64]*owner, len(q.owners))
	total := 0
	for id, o := range q.owners {
		owners[id] = &owner{running: o.running, last: o.last, waiting: o.waiting}
		total += len(o.waiting)
	}
	if total == 0 {
		return
	}
	at := make([]int64, len(q.running)) // whose are at work
	for i, t := range q.running {
		at[i] = t.owner
	}
	turns, each := q.turns, q.usual()
	for number := 1; number <= total; {
		id, o := next(owners, q.limits.RunningOfOne)
		if o == nil || len(at) >= q.limits.Running { // somebody must end first
			if len(at) == 0 {
				return
			}
			owners[at[0]].running--
			at = at[1:]
			continue
		}
		t := o.waiting[0]
		o.waiting = o.waiting[1:]
		o.running++
		turns++
		o.last = turns
		at = append(at, id)
		place := Place{Number: number, Of: total}
		if each > 0 {
			rounds := (number + q.limits.Running - 1) / q.limits.Running
			place.Wait = time.Duration(rounds) * each
		}
		before := t.place.Number
		if t.place = place; before != number {
			select {
			case t.moved <- struct{}{}:
			default:
			}
		}
		number++
	}
}

// usual is how long a build takes, as the last ones went; 0 when they went too differently to say, or were too few.
func (q *Queue) usual() time.Duration {
	if len(q.took) < enough {
		return 0
	}
	sorted := slices.Sorted(slices.Values(q.took))
	// One that is odd among many is no reason to be silent.
	if n := len(sorted); sorted[n-1-n/10] > apart*max(sorted[n/10], time.Second) {
		return 0
	}
	return sorted[len(sorted)/2]
}

// Counts says how many builds are at work and how many wait.
func (q *Queue) Counts() (working, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range q.owners {
		waiting += len(o.waiting)
	}
	return len(q.running), waiting
}
