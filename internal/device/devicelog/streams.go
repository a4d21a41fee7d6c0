package devicelog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// maxStreams is how many streams one device may have open; a new one ends the oldest, for that is most likely a dead connection.
const maxStreams = 8

// keysAtOnce is how many keys one query looks at.
const keysAtOnce = 1000

// ErrRevoked is why a stream's context ended when its caller lost the right to it.
var ErrRevoked = errors.New("the right to this stream was revoked")

var errReplaced = errors.New("a newer stream took this one's place")

// stream is a request that stays open and whose right is looked at again and again.
type stream struct {
	by     access.Caller
	device int64 // whose log is written or read
	opened time.Time
	end    context.CancelCauseFunc
}

// streams are those that are open.
type streams struct {
	mu   sync.Mutex // covers open
	open map[*stream]struct{}
}

func newStreams() *streams { return &streams{open: map[*stream]struct{}{}} }

// begin registers a stream. Its context ends when the right to it does; done must be called. A person who has too many open, or a
// device that too many people follow, gets no further one.
func (s *streams) begin(ctx context.Context, by access.Caller, device int64, cfg Config) (_ context.Context, done func(), _ error) {
	ctx, cancel := context.WithCancelCause(ctx)
	st := &stream{by: by, device: device, opened: time.Now(), end: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if by.Kind != access.Device {
		if err := s.room(by, device, cfg); err != nil {
			cancel(err)
			return nil, nil, err
		}
	}
	if by.Kind == access.Device {
		var oldest *stream
		n := 0
		for o := range s.open {
			if o.by.Kind == access.Device && o.by.Device == by.Device {
				if n++; oldest == nil || o.opened.Before(oldest.opened) {
					oldest = o
				}
			}
		}
		if n >= maxStreams {
			oldest.end(errReplaced)
			delete(s.open, oldest)
		}
	}
	s.open[st] = struct{}{}
	return ctx, func() {
		s.mu.Lock()
		delete(s.open, st)
		s.mu.Unlock()
		cancel(nil)
	}, nil
}

// room refuses a follower beyond the bounds. The caller holds the lock.
func (s *streams) room(by access.Caller, device int64, cfg Config) error {
	own, here := 0, 0
	for o := range s.open {
		if o.by.Kind == access.Device {
			continue
		}
		if o.by.Actor == by.Actor {
			own++
		}
		if o.device == device {
			here++
		}
	}
	switch {
	case own >= cfg.OfUser:
		return api.Errorf(api.RateLimited, "you follow %d logs already; end one of them first", own)
	case here >= cfg.OfDevice:
		return api.Errorf(api.Unavailable, "%d people follow the log of this device already; try again later", here)
	}
	return nil
}

func (s *streams) list() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*stream, 0, len(s.open))
	for st := range s.open {
		out = append(out, st)
	}
	return out
}

// CheckOnce ends the streams whose key, session, device or membership is gone. It runs every second and whenever a
// revocation is announced.
func (l *Logs) CheckOnce(ctx context.Context) error {
	open := l.streams.list()
	if len(open) == 0 {
		return nil
	}
	var lost []*stream
	err := l.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		alive, err := aliveDevices(ctx, tx, open)
		if err != nil {
			return err
		}
		for _, st := range open {
			ok := alive[[2]int64{st.by.Key, st.device}]
			if st.by.Kind != access.Device {
				if ok, err = l.userMayStill(ctx, tx, st.by, st.device); err != nil {
					return err
				}
			}
			if !ok {
				lost = append(lost, st)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("device: check open streams: %w", err)
	}
	for _, st := range lost {
		st.end(ErrRevoked)
	}
	return nil
}

// aliveDevices gives the pairs of key and device that still belong together, in few queries for all open streams of devices.
func aliveDevices(ctx context.Context, tx *db.Tx, open []*stream) (map[[2]int64]bool, error) {
	var keys []int64
	for _, st := range open {
		if st.by.Kind == access.Device {
			keys = append(keys, st.by.Key)
		}
	}
	slices.Sort(keys)
	out := map[[2]int64]bool{}
	for chunk := range slices.Chunk(slices.Compact(keys), keysAtOnce) {
		if err := addAlive(ctx, tx, chunk, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func addAlive(ctx context.Context, tx *db.Tx, keys []int64, out map[[2]int64]bool) error {
	list, args := db.In(keys)
	rows, err := tx.QueryContext(ctx, `SELECT k.id, d.id FROM api_key k JOIN device d ON d.actor = k.is_of__actor
		WHERE k.id IN `+list+` AND d.is_frozen = 0 AND (k.expiry_date IS NULL OR k.expiry_date > ?)`, append(args, tx.NowText())...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var pair [2]int64
		if err := rows.Scan(&pair[0], &pair[1]); err != nil {
			return err
		}
		out[pair] = true
	}
	return rows.Err()
}

// userMayStill asks whether what a user showed at the beginning of a stream still holds.
func (l *Logs) userMayStill(ctx context.Context, tx *db.Tx, by access.Caller, device int64) (bool, error) {
	by, err := l.cfg.Again(ctx, tx, by)
	if errors.Is(err, api.ErrUnauthorized) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	may, err := rights.DeviceVerbs(ctx, tx, by, device)
	return may.Has(access.Read), err
}

// located is a device as the log routes find it.
type located struct {
	id      int64
	created time.Time // its log begins then: when it was made, or came to the organization that it is in
}

// locate finds a device for its log. What the caller may not see does not exist.
func locate(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (located, error) {
	var l located
	var created string
	err := tx.QueryRowContext(ctx, `SELECT id, coalesce(log_since, created_at) FROM device WHERE uuid = ?`, uuid).Scan(&l.id, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return l, api.ErrNotFound
	}
	if err != nil {
		return l, fmt.Errorf("find device: %w", err)
	}
	may, err := rights.DeviceVerbs(ctx, tx, by, l.id)
	if err != nil {
		return l, err
	}
	if !may.Has(access.Read) {
		return l, api.ErrNotFound
	}
	l.created, err = db.ParseTime(created)
	return l, err
}
