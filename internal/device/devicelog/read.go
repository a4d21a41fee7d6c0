package devicelog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Query says which lines of a log: the newest Count of those that came since a time and that are of a kind.
type Query struct {
	Count int
	Since time.Time
	// Services are names or ids; when any are given, only their lines are meant. System adds the lines of the supervisor and the
	// host to them, or means those alone, or leaves them out: true with services, true without, false.
	Services []string
	System   *bool

	ids map[int64]bool // of Services
}

// filters says whether not every line is meant.
func (q *Query) filters() bool { return len(q.Services) > 0 || q.System != nil }

// means says whether a line is meant.
func (q *Query) means(line *api.LogLine) bool {
	switch {
	case !q.filters():
		return true
	case q.System != nil && *q.System && line.IsSystem:
		return true
	case len(q.Services) > 0:
		return line.ServiceID != nil && q.ids[*line.ServiceID]
	default:
		return !*q.System && !line.IsSystem
	}
}

// find looks up the services of a query among those of a device.
func (q *Query) find(ctx context.Context, tx *db.Tx, device int64) error {
	q.ids = map[int64]bool{}
	for _, name := range q.Services {
		var id int64
		err := tx.QueryRowContext(ctx, `SELECT s.id FROM service s WHERE (s.service_name = ? OR CAST(s.id AS TEXT) = ?) AND (
				s.application = (SELECT d.belongs_to__application FROM device d WHERE d.id = ?)
				OR s.id IN (SELECT i.installs__service FROM service_install i WHERE i.device = ?))
			ORDER BY CASE WHEN s.service_name = ? THEN 0 ELSE 1 END, s.id LIMIT 1`, name, name, device, device, name).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return api.Errorf(api.Invalid, "the device has no service %q", cut(name, 100))
		}
		if err != nil {
			return fmt.Errorf("find service: %w", err)
		}
		q.ids[id] = true
	}
	return nil
}

func (l *Logs) readable(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q Query) (int64, Query, error) {
	var dev located
	err := l.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		if dev, err = locate(ctx, tx, by, uuid); err != nil {
			return err
		}
		return q.find(ctx, tx, dev.id)
	})
	q.Count = max(0, min(q.Count, Lines))
	if q.Since.Before(dev.created) { // lines of an earlier device of that uuid are nobody's business
		q.Since = dev.created
	}
	return dev.id, q, err
}

// Read gives lines of a device's log, oldest first.
func (l *Logs) Read(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q Query) ([]api.LogLine, error) {
	_, q, err := l.readable(ctx, by, uuid, q)
	if err != nil {
		return nil, err
	}
	lines, _, err := l.lastLines(ctx, uuid, q)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", uuid, err)
	}
	return lines, nil
}

// lastLines gives the lines that a query means, and the ids of all entries that were looked at.
func (l *Logs) lastLines(ctx context.Context, uuid api.DeviceUUID, q Query) ([]api.LogLine, map[int64]bool, error) {
	n := q.Count
	if n > 0 && q.filters() {
		n = Lines
	}
	entries, err := l.ring.Last(ctx, string(uuid), n, q.Since)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[int64]bool, len(entries))
	lines := make([]api.LogLine, 0, min(len(entries), q.Count))
	for _, e := range entries {
		seen[e.ID] = true
		if line, err := logLine(e); err == nil && q.means(&line) {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-q.Count):], seen, nil
}

func logLine(e bus.Entry) (line api.LogLine, err error) {
	err = json.Unmarshal(e.Data, &line)
	line.CreatedAt = e.Time().UnixMilli()
	return line, err
}

// Follower gives lines of a device's log and then every new one, for as long as the caller may read them.
type Follower struct {
	ctx  context.Context // ends with the right to read, which the handler must hear of
	done func()
	f    *bus.Follower
	q    Query
	next []api.LogLine  // to be given before anything else
	seen map[int64]bool // ids that may come again: the follower began before the past was read
	wait time.Duration  // how long it may be quiet
}

// Follow begins to follow a log. It must be closed.
func (l *Logs) Follow(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q Query) (*Follower, error) {
	id, q, err := l.readable(ctx, by, uuid, q)
	if err != nil {
		return nil, err
	}
	f := &Follower{q: q, wait: l.cfg.Quiet}
	if f.ctx, f.done, err = l.streams.begin(ctx, by, id, l.cfg); err != nil {
		return nil, err
	}
	if f.f, err = l.ring.Follow(f.ctx, string(uuid), 0, q.Since); err != nil {
		f.done()
		return nil, fmt.Errorf("log of %s: %w", uuid, err)
	}
	if f.next, f.seen, err = l.lastLines(f.ctx, uuid, q); err != nil {
		f.Close()
		return nil, fmt.Errorf("log of %s: %w", uuid, err)
	}
	return f, nil
}

// Context ends when the right to read does. Whoever writes lines to somewhere slow must then end that write.
func (f *Follower) Context() context.Context { return f.ctx }

// Close ends it.
func (f *Follower) Close() {
	f.f.Close()
	f.done()
}

// Next waits for the next line. It gives nil when there was nothing to say for a while, and a warning in place of lines that
// were left out because the follower was slow. It fails when the follower's context has ended.
func (f *Follower) Next() (*api.LogLine, error) {
	if len(f.next) > 0 {
		line := &f.next[0]
		f.next = f.next[1:]
		return line, nil
	}
	quiet, cancel := context.WithTimeout(f.ctx, f.wait)
	defer cancel()
	for {
		e, skipped, err := f.f.Next(quiet)
		if err != nil || f.ctx.Err() != nil {
			return nil, f.ctx.Err() // nil when it is only quiet
		}
		line, err := logLine(e)
		means := err == nil && !f.seen[e.ID] && f.q.means(&line) // what cannot be read we did not write
		delete(f.seen, e.ID)
		switch {
		case skipped > 0:
			w := warning(int(skipped), "slow reading")
			w.CreatedAt = w.Timestamp
			if means {
				f.next = append(f.next, line)
			}
			return &w, nil
		case means:
			return &line, nil
		}
	}
}
