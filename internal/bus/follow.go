package bus

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// followBuffer is how many entries a follower may lag behind before entries are left out for it. Writers never wait for it.
const followBuffer = 512

// Follower gives the last entries of a key and then every new one. When the bus goes away and comes back, it first gives what
// was added meanwhile.
type Follower struct {
	ring    *Ring
	key     string
	history []Entry
	given   idSet // ids of what was given, or waits in history: the subscription began before the history was read
	last    int64 // the newest id given
	live    chan Entry
	gap     chan struct{} // the bus was away
	skipped atomic.Int64
	sub     *nats.Subscription
}

// Follow starts with the newest n entries since a time; n may be 0.
func (r *Ring) Follow(ctx context.Context, key string, n int, since time.Time) (*Follower, error) {
	subject, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	f := &Follower{
		ring: r, key: key, live: make(chan Entry, followBuffer), gap: make(chan struct{}, 1), last: time.Now().UnixNano(),
	}
	f.sub, err = r.bus.conn.Subscribe(subject, func(m *nats.Msg) {
		e, ok := decode(m)
		if !ok {
			return
		}
		select {
		case f.live <- e:
		default:
			f.skipped.Add(1)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("bus: follow %s: %w", key, err)
	}
	r.bus.mu.Lock()
	r.bus.followers[f] = struct{}{}
	r.bus.mu.Unlock()
	if err := r.bus.Healthy(ctx); err != nil {
		f.Close()
		return nil, fmt.Errorf("bus: follow %s: %w", key, err)
	}
	if f.history, err = r.Last(ctx, key, n, since); err != nil {
		f.Close()
		return nil, err
	}
	for _, e := range f.history {
		f.given.add(e.ID)
	}
	return f, nil
}

// Next waits for the next entry. It also says how many entries were left out before it because this follower was too slow.
func (f *Follower) Next(ctx context.Context) (Entry, int64, error) {
	for {
		if len(f.history) > 0 {
			e := f.history[0]
			f.history = f.history[1:]
			f.last = max(f.last, e.ID)
			return e, 0, nil
		}
		select {
		case e := <-f.live:
			if f.given.add(e.ID) {
				f.last = max(f.last, e.ID)
				return e, f.skipped.Swap(0), nil
			}
		case <-f.gap:
			f.fill(ctx)
		case <-ctx.Done():
			return Entry{}, 0, ctx.Err()
		}
	}
}

// gapTime is how long reading what was missed may take. Should the bus go away again, its next return repeats it.
const gapTime = 10 * time.Second

// fill reads what was added while the bus was away.
func (f *Follower) fill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, gapTime)
	defer cancel()
	missed, err := f.ring.Last(ctx, f.key, f.ring.cfg.PerKey, time.Unix(0, f.last))
	if err != nil {
		return
	}
	for _, e := range missed {
		if e.ID > f.last && f.given.add(e.ID) {
			f.history = append(f.history, e)
		}
	}
}

// fillGaps tells the followers that the bus was away.
func (b *Bus) fillGaps() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for f := range b.followers {
		select {
		case f.gap <- struct{}{}:
		default:
		}
	}
}

// Close ends it.
func (f *Follower) Close() {
	f.ring.bus.mu.Lock()
	delete(f.ring.bus.followers, f)
	f.ring.bus.mu.Unlock()
	_ = f.sub.Unsubscribe()
}

// idSet remembers the newest ids that were added to it.
type idSet struct {
	has   map[int64]struct{}
	order []int64 // as a circle, from next
	next  int
}

// keepIDs is how many ids are remembered: more than a ring has entries and a follower's buffer together.
const keepIDs = 2048

// add reports whether the id is new.
func (s *idSet) add(id int64) bool {
	if s.has == nil {
		s.has = map[int64]struct{}{}
	}
	if _, known := s.has[id]; known {
		return false
	}
	s.has[id] = struct{}{}
	if len(s.order) < keepIDs {
		s.order = append(s.order, id)
		return true
	}
	delete(s.has, s.order[s.next])
	s.order[s.next] = id
	s.next = (s.next + 1) % keepIDs
	return true
}
