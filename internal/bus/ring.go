package bus

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RingConfig bounds a set of rings.
type RingConfig struct {
	Name   string        // one word
	PerKey int           // entries kept for each key; the oldest go first
	MaxAge time.Duration // how long an entry is kept at most
}

// Ring keeps the last entries of each key.
type Ring struct {
	bus  *Bus
	cfg  RingConfig
	last atomic.Int64
}

// Entry is one entry of a ring. IDs are unique within a ring, also when several processes write it, and follow the clock.
type Entry struct {
	ID   int64 // nanoseconds since 1970 when the entry was taken in, made unique; its last four bits are the writer's node
	Data []byte
}

// Time is when the entry was taken in.
func (e Entry) Time() time.Time { return time.Unix(0, e.ID) }

// Ring makes (or finds) a set of rings.
func (b *Bus) Ring(ctx context.Context, cfg RingConfig) (*Ring, error) {
	if cfg.Name == "" || cfg.PerKey <= 0 || cfg.MaxAge <= 0 {
		return nil, errors.New("bus: a ring needs a name and bounds")
	}
	_, err := b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              cfg.Name,
		Subjects:          []string{cfg.Name + ".*"},
		Storage:           jetstream.FileStorage,
		Compression:       jetstream.S2Compression,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: int64(cfg.PerKey),
		MaxAge:            cfg.MaxAge,
		MaxMsgSize:        256 << 10,
		MaxBytes:          b.max / 2,
		Duplicates:        100 * time.Millisecond, // no message carries an id of its own: nothing to remember
		AllowDirect:       true,
	})
	if err != nil {
		return nil, fmt.Errorf("bus: ring %s: %w", cfg.Name, err)
	}
	return &Ring{bus: b, cfg: cfg}, nil
}

func (r *Ring) subject(key string) (string, error) {
	if key == "" || strings.ContainsAny(key, " .*>\t\r\n") {
		return "", fmt.Errorf("bus: ring %s: %q is no key", r.cfg.Name, key)
	}
	return r.cfg.Name + "." + key, nil
}

// nextID gives the clock's nanoseconds, or more than the last id when the clock stood still or went back.
func (r *Ring) nextID() int64 {
	for {
		last := r.last.Load()
		id := max(time.Now().UnixNano(), last+maxNodes)&^(maxNodes-1) | r.bus.node
		if r.last.CompareAndSwap(last, id) {
			return id
		}
	}
}

// retryWait is the pause before entries are handed over once more to a bus that went away.
const retryWait = 100 * time.Millisecond

// Append adds entries to the ring of a key, in order. When it returns nil they are stored, and whoever follows has been sent
// them. When the bus goes away meanwhile, it is waited for until the context ends.
func (r *Ring) Append(ctx context.Context, key string, entries ...[]byte) error {
	subject, err := r.subject(key)
	if err != nil {
		return err
	}
	msgs := make([][]byte, len(entries))
	for i, data := range entries {
		msg := make([]byte, 8+len(data))
		binary.BigEndian.PutUint64(msg, uint64(r.nextID()))
		copy(msg[8:], data)
		msgs[i] = msg
	}
	for {
		// What was stored although its answer was lost is stored twice, under the same id; readers drop the second.
		if msgs, err = r.send(ctx, subject, msgs); err == nil {
			return nil
		}
		err = fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
		if r.bus.own != nil { // it is in this process: it cannot be away
			return err
		}
		wait := time.NewTimer(retryWait)
		select {
		case <-ctx.Done():
			wait.Stop()
			return errors.Join(err, ctx.Err())
		case <-wait.C:
		}
	}
}

// send hands messages over and gives those of which it is not known whether they were stored, from the first such on.
func (r *Ring) send(ctx context.Context, subject string, msgs [][]byte) (left [][]byte, err error) {
	if !r.bus.conn.IsConnected() { // else they would wait in a buffer, and be sent again beside it
		return msgs, nats.ErrDisconnected
	}
	acks := make([]jetstream.PubAckFuture, 0, len(msgs))
	for _, msg := range msgs {
		ack, err := r.bus.js.PublishAsync(subject, msg)
		if err != nil {
			return msgs, err
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return msgs[i:], err
		case <-ctx.Done():
			return msgs[i:], ctx.Err()
		}
	}
	return nil, nil
}

// Drop empties the ring of a key.
func (r *Ring) Drop(ctx context.Context, key string) error {
	subject, err := r.subject(key)
	if err != nil {
		return err
	}
	stream, err := r.bus.js.Stream(ctx, r.cfg.Name)
	if err != nil {
		return fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
		return fmt.Errorf("bus: ring %s: drop %s: %w", r.cfg.Name, key, err)
	}
	return nil
}

// readTries is how often a read is repeated whose answer got lost with the bus, readTime how long one is waited for.
const (
	readTries = 4
	readTime  = 5 * time.Second
)

// Last gives the newest n entries of a key that were taken in at or after since, oldest first.
func (r *Ring) Last(ctx context.Context, key string, n int, since time.Time) (out []Entry, err error) {
	if n <= 0 {
		return nil, nil
	}
	subject, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	for range readTries {
		try, cancel := context.WithTimeout(ctx, readTime)
		out, err = r.read(try, subject, since)
		lost := try.Err() != nil && ctx.Err() == nil
		cancel()
		if !lost {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bus: ring %s: read %s: %w", r.cfg.Name, key, err)
	}
	return out[max(0, len(out)-n):], nil
}

// read gives the entries of a subject in the order of their ids, each once.
func (r *Ring) read(ctx context.Context, subject string, since time.Time) ([]Entry, error) {
	req, err := json.Marshal(map[string]any{"batch": r.cfg.PerKey, "seq": 1, "next_by_subj": subject})
	if err != nil {
		return nil, err
	}
	inbox := r.bus.conn.NewInbox()
	sub, err := r.bus.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := r.bus.conn.PublishRequest("$JS.API.DIRECT.GET."+r.cfg.Name, inbox, req); err != nil {
		return nil, err
	}
	var out []Entry
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		if status := m.Header.Get("Status"); status != "" {
			if status != "204" && status != "404" { // the end of the batch, and an empty ring
				return nil, fmt.Errorf("status %s %s", status, m.Header.Get("Description"))
			}
			break
		}
		if e, ok := decode(m); ok && !e.Time().Before(since) {
			out = append(out, e)
		}
	}
	byID := func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortStableFunc(out, byID) // nearly sorted: only the repeats of an interrupted Append are not in their place
	return slices.CompactFunc(out, func(a, b Entry) bool { return a.ID == b.ID }), nil
}

func decode(m *nats.Msg) (Entry, bool) {
	if len(m.Data) < 8 {
		return Entry{}, false
	}
	id := binary.BigEndian.Uint64(m.Data)
	return Entry{ID: int64(id), Data: m.Data[8:]}, true
}

// Count says how many entries a key has.
func (r *Ring) Count(ctx context.Context, key string) (int, error) {
	subject, err := r.subject(key)
	if err != nil {
		return 0, err
	}
	stream, err := r.bus.js.Stream(ctx, r.cfg.Name)
	if err != nil {
		return 0, fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
	}
	return int(info.State.Subjects[subject]), nil
}
