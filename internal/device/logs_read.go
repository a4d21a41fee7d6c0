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

// FollowLog gives lines of a device's log and then every new one, until the context ends, emit fails, or the right to read is
// gone. begin is called once when the log may be read, with a context that ends with the right. emit gets nil when there was
// nothing to say for a while; while it blocks, lines are left out and counted.
func (d *Devices) FollowLog(ctx context.Context, by access.Caller, uuid api.DeviceUUID, q LogQuery,
	begin func(context.Context), emit func(*api.LogLine) error) error {
	id, q, err := d.readable(ctx, by, uuid, q)
	if err != nil {
		return err
	}
	ctx, done := d.streams.begin(ctx, by, id)
	defer done()
	f, err := d.logs.Follow(ctx, string(uuid), q.Count, q.Since)
	if err != nil {
		return fmt.Errorf("log of %s: %w", uuid, err)
	}
	defer f.Close()
	begin(ctx)
	for {
		quiet, cancel := context.WithTimeout(ctx, quietTime)
		e, skipped, err := f.Next(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil: // nothing came
			err = emit(nil)
		default:
			err = emitEntry(e, skipped, emit)
		}
		if err != nil {
			return nil //nolint:nilerr // the reader is gone, which is how followers end
		}
	}
}

func emitEntry(e bus.Entry, skipped int64, emit func(*api.LogLine) error) error {
	if skipped > 0 {
		w := warning(int(skipped), "slow reading")
		w.CreatedAt = w.Timestamp
		if err := emit(&w); err != nil {
			return err
		}
	}
	line, err := logLine(e)
	if err != nil {
		return nil //nolint:nilerr // skipped: nothing that we wrote
	}
	return emit(&line)
}
