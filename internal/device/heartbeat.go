package device

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	flushEvery = 2 * time.Second
	// beatsAtOnce is how many beats one statement writes.
	beatsAtOnce = 100
	graceTime   = 15 * time.Second // after the second missed poll, a device is late that long before it is offline
)

// beat is one sign of life.
type beat struct {
	at       time.Time
	interval time.Duration // how often this device polls
	first    bool          // the device was not online before
}

// columns gives a beat as the database has it: when it was, when the next is due, and until when the device counts as online.
func (b beat) columns() (at, due, until string) {
	next := b.at.Add(2 * b.interval)
	return db.FormatTime(b.at), db.FormatTime(next), db.FormatTime(next.Add(graceTime))
}

// hearts keeps signs of life in memory and writes them together: a poll must not cost a write. Only the first one after a
// silence is written at once, because it changes what people see.
type hearts struct {
	db   *db.DB
	wake chan struct{}

	mu      sync.Mutex // covers what follows
	pending map[int64]beat
	written chan struct{} // closed when what is pending now is in the database
}

func newHearts(d *db.DB) *hearts {
	return &hearts{db: d, wake: make(chan struct{}, 1), pending: map[int64]beat{}, written: make(chan struct{})}
}

// beat takes a sign of life. When the device was not online before, it waits until the database says that it is; a full second
// at most, for a poll is worth more than its heartbeat.
func (h *hearts) beat(ctx context.Context, device int64, b beat, wasOnline bool) {
	b.first = !wasOnline
	h.mu.Lock()
	b.first = b.first || h.pending[device].first
	h.pending[device] = b
	written := h.written
	h.mu.Unlock()
	if wasOnline {
		return
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case <-written:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// run writes what is pending, at once when woken and otherwise every two seconds, and a last time when the context ends.
func (h *hearts) run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			return h.flush(last)
		case <-h.wake:
		case <-tick.C:
		}
		if err := h.flush(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "write heartbeats", "error", err)
		}
	}
}

// flush writes what is pending in one transaction. What could not be written stays pending, unless a newer beat came.
func (h *hearts) flush(ctx context.Context) error {
	h.mu.Lock()
	beats, written := h.pending, h.written
	if len(beats) == 0 {
		h.mu.Unlock()
		return nil
	}
	h.pending, h.written = map[int64]beat{}, make(chan struct{})
	h.mu.Unlock()
	err := h.db.Write(ctx, func(tx *db.Tx) error { return writeBeats(ctx, tx, beats) })
	if err != nil {
		h.mu.Lock()
		for id, b := range beats {
			if _, newer := h.pending[id]; !newer {
				h.pending[id] = b
			}
		}
		h.mu.Unlock()
		return fmt.Errorf("device: write heartbeats: %w", err)
	}
	close(written)
	return nil
}

// writeBeats writes beats, many in one statement.
func writeBeats(ctx context.Context, tx *db.Tx, beats map[int64]beat) error {
	ids := slices.Sorted(maps.Keys(beats)) // in one order always: two writers never wait for each other in a circle
	for chunk := range slices.Chunk(ids, beatsAtOnce) {
		var woken []int64
		rows, args := make([]string, 0, len(chunk)), make([]any, 0, 4*len(chunk))
		for _, id := range chunk {
			b := beats[id]
			at, due, until := b.columns()
			rows = append(rows, "(CAST(? AS BIGINT), ?, ?, ?)")
			args = append(args, id, at, due, until)
			if b.first {
				woken = append(woken, id)
			}
		}
		sleeping, err := inactive(ctx, tx, woken)
		if err != nil {
			return err
		}
		// A device that was offline, or never seen, is online since this beat. Another process may have written a newer one.
		_, err = tx.ExecContext(ctx, `UPDATE device SET last_seen = b.column2, heartbeat_due = b.column3, heartbeat_until = b.column4,
			is_active = 1, online_since = CASE WHEN heartbeat_until >= b.column2 THEN online_since ELSE b.column2 END
			FROM (VALUES `+strings.Join(rows, ", ")+`) AS b
			WHERE device.id = b.column1 AND (device.last_seen IS NULL OR device.last_seen < b.column2)`, args...)
		if err != nil {
			return err
		}
		for id, actor := range sleeping {
			if err := record(ctx, tx, access.Caller{Kind: access.Device, Device: id, Actor: actor}, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// inactive gives the actors of those devices that have never been active, or were deactivated.
func inactive(ctx context.Context, tx *db.Tx, ids []int64) (map[int64]int64, error) {
	out := map[int64]int64{}
	if len(ids) == 0 {
		return out, nil
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, actor FROM device WHERE is_active = 0 AND id IN (?`+strings.Repeat(", ?", len(ids)-1)+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, actor int64
		if err := rows.Scan(&id, &actor); err != nil {
			return nil, err
		}
		out[id] = actor
	}
	return out, rows.Err()
}
