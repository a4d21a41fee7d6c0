package device

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
)

// quietTime is how long a follower hears nothing before it is told that the stream still lives.
const quietTime = 58 * time.Second

// LogQuery says which lines of a log: the newest Count of those that came since a time.
type LogQuery struct {
	Count int
	Since time.Time
}

func (d *Devices) readable(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q LogQuery) (int64, LogQuery, error) {
	var dev located
	err := d.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		dev, err = locate(ctx, tx, by, uuid)
		return err
	})
	q.Count = max(0, min(q.Count, logLines))
	if q.Since.Before(dev.created) { // lines of an earlier device of that uuid are nobody's business
		q.Since = dev.created
	}
	return dev.id, q, err
}

// ReadLog gives lines of a device's log, oldest first.
func (d *Devices) ReadLog(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q LogQuery) ([]api.LogLine, error) {
	_, q, err := d.readable(ctx, by, uuid, q)
	if err != nil {
		return nil, err
	}
	entries, err := d.logs.Last(ctx, string(uuid), q.Count, q.Since)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", uuid, err)
	}
	lines := make([]api.LogLine, 0, len(entries))
	for _, e := range entries {
		if line, err := logLine(e); err == nil {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func logLine(e bus.Entry) (line api.LogLine, err error) {
	err = json.Unmarshal(e.Data, &line)
	line.CreatedAt = e.Time().UnixMilli()
	return line, err
}

// LogFollower gives lines of a device's log and then every new one, for as long as the caller may read them.
type LogFollower struct {
	ctx  context.Context // ends with the right to read, which the handler must hear of
	done func()
	f    *bus.Follower
	next *api.LogLine // to be given before anything else
}

// FollowLog begins to follow a log. It must be closed.
func (d *Devices) FollowLog(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q LogQuery) (*LogFollower, error) {
	id, q, err := d.readable(ctx, by, uuid, q)
	if err != nil {
		return nil, err
	}
	l := &LogFollower{}
	l.ctx, l.done = d.streams.begin(ctx, by, id)
	if l.f, err = d.logs.Follow(l.ctx, string(uuid), q.Count, q.Since); err != nil {
		l.done()
		return nil, fmt.Errorf("log of %s: %w", uuid, err)
	}
	return l, nil
}

// Context ends when the right to read does. Whoever writes lines to somewhere slow must then end that write.
func (l *LogFollower) Context() context.Context { return l.ctx }

// Close ends it.
func (l *LogFollower) Close() {
	l.f.Close()
	l.done()
}

// Next waits for the next line. It gives nil when there was nothing to say for a while, and a warning in place of lines that
// were left out because the follower was slow. It fails when the follower's context has ended.
func (l *LogFollower) Next() (*api.LogLine, error) {
	if line := l.next; line != nil {
		l.next = nil
		return line, nil
	}
	quiet, cancel := context.WithTimeout(l.ctx, quietTime)
	defer cancel()
	for {
		e, skipped, err := l.f.Next(quiet)
		if err != nil || l.ctx.Err() != nil {
			return nil, l.ctx.Err() // nil when it is only quiet
		}
		line, err := logLine(e)
		if err != nil {
			continue // nothing that we wrote
		}
		if skipped > 0 {
			w := warning(int(skipped), "slow reading")
			w.CreatedAt = w.Timestamp
			l.next = &line
			return &w, nil
		}
		return &line, nil
	}
}
