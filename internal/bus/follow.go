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

// Follower gives the last entries of a key and then every new one.
type Follower struct {
	history []Entry
	seen    map[int64]bool // ids of the history: the subscription began before the history was read
	live    chan Entry
	skipped atomic.Int64
	sub     *nats.Subscription
}

// Follow starts with the newest n entries since a time; n may be 0.
func (r *Ring) Follow(ctx context.Context, key string, n int, since time.Time) (*Follower, error) {
	subject, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	f := &Follower{live: make(chan Entry, followBuffer), seen: map[int64]bool{}}
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
	if err := r.bus.Healthy(ctx); err != nil {
		f.Close()
		return nil, fmt.Errorf("bus: follow %s: %w", key, err)
	}
	if f.history, err = r.Last(ctx, key, n, since); err != nil {
		f.Close()
		return nil, err
	}
	for _, e := range f.history {
		f.seen[e.ID] = true
	}
	return f, nil
}

// Next waits for the next entry. It also says how many entries were left out before it because this follower was too slow.
func (f *Follower) Next(ctx context.Context) (Entry, int64, error) {
	if len(f.history) > 0 {
		e := f.history[0]
		f.history = f.history[1:]
		return e, 0, nil
	}
	for {
		select {
		case e := <-f.live:
			if f.seen[e.ID] {
				delete(f.seen, e.ID)
				continue
			}
			return e, f.skipped.Swap(0), nil
		case <-ctx.Done():
			return Entry{}, 0, ctx.Err()
		}
	}
}

// Close ends it.
func (f *Follower) Close() { _ = f.sub.Unsubscribe() }
