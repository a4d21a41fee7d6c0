package bus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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

// Entry is one entry of a ring. IDs are unique within a ring, and follow the clock.
type Entry struct {
	ID   int64 // nanoseconds since 1970 when the entry was taken in, made unique
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
		MaxBytes:          b.srv.JetStreamConfig().MaxStore / 2,
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

// nextID gives the clock's nanoseconds, or one more than the last id when the clock stood still or went back.
func (r *Ring) nextID() int64 {
	for {
		last := r.last.Load()
		id := max(time.Now().UnixNano(), last+1)
		if r.last.CompareAndSwap(last, id) {
			return id
		}
	}
}

// Append adds entries to the ring of a key, in order. When it returns nil they are stored, and whoever follows has been sent them.
func (r *Ring) Append(ctx context.Context, key string, entries ...[]byte) error {
	subject, err := r.subject(key)
	if err != nil {
		return err
	}
	acks := make([]jetstream.PubAckFuture, 0, len(entries))
	for _, data := range entries {
		msg := make([]byte, 8+len(data))
		binary.BigEndian.PutUint64(msg, uint64(r.nextID()))
		copy(msg[8:], data)
		ack, err := r.bus.js.PublishAsync(subject, msg)
		if err != nil {
			return fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
		case <-ctx.Done():
			return fmt.Errorf("bus: ring %s: %w", r.cfg.Name, ctx.Err())
		}
	}
	return nil
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

// Last gives the newest n entries of a key that were taken in at or after since, oldest first.
func (r *Ring) Last(ctx context.Context, key string, n int, since time.Time) ([]Entry, error) {
	if n <= 0 {
		return nil, nil
	}
	subject, err := r.subject(key)
	if err != nil {
		return nil, err
	}
	req, err := json.Marshal(map[string]any{"batch": r.cfg.PerKey, "seq": 1, "next_by_subj": subject})
	if err != nil {
		return nil, err
	}
	inbox := r.bus.conn.NewInbox()
	sub, err := r.bus.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := r.bus.conn.PublishRequest("$JS.API.DIRECT.GET."+r.cfg.Name, inbox, req); err != nil {
		return nil, fmt.Errorf("bus: ring %s: %w", r.cfg.Name, err)
	}
	var out []Entry
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("bus: ring %s: read %s: %w", r.cfg.Name, key, err)
		}
		if status := m.Header.Get("Status"); status != "" {
			if status != "204" && status != "404" { // the end of the batch, and an empty ring
				return nil, fmt.Errorf("bus: ring %s: read %s: status %s %s", r.cfg.Name, key, status, m.Header.Get("Description"))
			}
			break
		}
		if e, ok := decode(m); ok && !e.Time().Before(since) {
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-n):], nil
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
