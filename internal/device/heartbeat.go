package device

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	flushEvery = 2 * time.Second
	graceTime  = 15 * time.Second // after the second missed poll, a device is late that long before it is offline
)

// beat is one sign of life.
type beat struct {
	at       time.Time
	interval time.Duration // how often this device polls
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
	h.mu.Lock()
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
	err := h.db.Write(ctx, func(tx *db.Tx) error {
		// A device that was offline, or never seen, is online since this beat.
		stmt, err := tx.PrepareContext(ctx, `UPDATE device SET last_seen = ?1, heartbeat_due = ?2, heartbeat_until = ?3, is_active = 1,
			online_since = CASE WHEN heartbeat_until >= ?1 THEN online_since ELSE ?1 END
			WHERE id = ?4`)
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }()
		for id, b := range beats {
			due := b.at.Add(2 * b.interval)
			_, err := stmt.ExecContext(ctx, db.FormatTime(b.at), db.FormatTime(due), db.FormatTime(due.Add(graceTime)), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
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
