// Package nudge tells devices with a control channel at once that they have something new to run, so that they need not find out by
// polling. What changed is written down by the database in the transaction of the change; whichever process takes it, tells.
// It tells a device no more than to look: one that was not told finds out with its next poll.
package nudge

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/job"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the table of this package, number 0297.
func Migrations() fs.FS { return db.Folder(migrations) }

// Caller carries a request to a device's agent over the control channel.
type Caller interface {
	CallDevice(ctx context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error)
}

// Config is what the package works with. A zero time has the default that its comment gives.
type Config struct {
	DB     *db.DB
	Caller Caller
	Log    *slog.Logger
	Every  time.Duration // how often it looks for changes: 1 s
	Pace   time.Duration // least time between two devices, so that not all come at the same moment: 1 ms
	AtOnce int           // devices that are being told at the same time: 64
	Wait   time.Duration // for the answer of one: 5 s
}

// attempts is how often a device is told that does not answer.
const attempts = 2

// Nudge is what is to be told just now.
type Nudge struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex // covers the next two
	line    []device.Reachable
	waiting map[int64]int // devices in the line, and how often they have been told in vain
}

// New starts nothing; see [Nudge.Run].
func New(cfg Config) *Nudge {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.Pace == 0 {
		cfg.Pace = time.Millisecond
	}
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 64
	}
	if cfg.Wait == 0 {
		cfg.Wait = 5 * time.Second
	}
	return &Nudge{cfg: cfg, wake: make(chan struct{}, 1), waiting: map[int64]int{}}
}

// Run tells devices until the context ends.
func (n *Nudge) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.tell(ctx) })
	g.Go(func() error { return job.Every(ctx, n.cfg.Log, "changes of targets", n.cfg.Every, n.LookOnce) })
	return g.Wait()
}

// Touch gives devices a new target version without a new target: the next poll of each is answered in full, which has it ask what else there
// is for it.
func Touch(ctx context.Context, tx *db.Tx, devices []int64) error {
	version := `lower(hex(randomblob(8)))`
	if tx.Dialect() == db.Postgres {
		version = `new_version()`
	}
	for part := range slices.Chunk(devices, 200) {
		list, args := db.In(part)
		if _, err := tx.ExecContext(ctx, `UPDATE device SET target_version = `+version+` WHERE id IN `+list, args...); err != nil {
			return fmt.Errorf("touch devices: %w", err)
		}
	}
	return nil
}

// LookOnce takes the changes that were written down and puts the devices in line that they are about and that have a channel. Of several
// processes that look, one gets each change.
func (n *Nudge) LookOnce(ctx context.Context) error {
	var some int
	err := n.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT 1 FROM target_change LIMIT 1`).Scan(&some)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("changes of targets: %w", err)
	}
	var found []device.Reachable
	err = n.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		found = nil
		devices, fleets, err := taken(ctx, tx)
		if err != nil {
			return err
		}
		for _, by := range []struct {
			column string
			ids    []int64
		}{{"belongs_to__application", fleets}, {"id", devices}} {
			for part := range slices.Chunk(by.ids, 500) {
				if found, err = connected(ctx, tx, found, by.column, part); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("changes of targets: %w", err)
	}
	n.Add(found...)
	return nil
}

// taken removes the changes and gives them.
func taken(ctx context.Context, tx *db.Tx) (devices, fleets []int64, err error) {
	rows, err := tx.QueryContext(ctx, `DELETE FROM target_change RETURNING kind, thing`)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var kind string
		var id int64
		if err := rows.Scan(&kind, &id); err != nil {
			return nil, nil, err
		}
		if kind == "fleet" {
			fleets = append(fleets, id)
		} else {
			devices = append(devices, id)
		}
	}
	return devices, fleets, rows.Err()
}

// connected adds the devices with a channel among some.
func connected(ctx context.Context, tx *db.Tx, to []device.Reachable, column string, ids []int64) ([]device.Reachable, error) {
	list, args := db.In(ids)
	rows, err := tx.QueryContext(ctx, `SELECT id, uuid, belongs_to__application FROM device WHERE is_connected_to_vpn = 1 AND is_frozen = 0
		AND `+column+` IN `+list+` ORDER BY id`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r device.Reachable
		if err := rows.Scan(&r.ID, &r.UUID, &r.Fleet); err != nil {
			return nil, err
		}
		to = append(to, r)
	}
	return to, rows.Err()
}

// Add puts devices in line. One that stands there already does so once.
func (n *Nudge) Add(devices ...device.Reachable) {
	n.mu.Lock()
	for _, d := range devices {
		if _, there := n.waiting[d.ID]; !there {
			n.line = append(n.line, d)
		}
		n.waiting[d.ID] = 0
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// next takes the first in line, and says how often it has been told in vain.
func (n *Nudge) next() (d device.Reachable, told int, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.line) == 0 {
		return d, 0, false
	}
	d, n.line = n.line[0], n.line[1:]
	told = n.waiting[d.ID]
	delete(n.waiting, d.ID)
	return d, told, true
}

// again puts a device in line that did not answer, unless it stands there for another reason.
func (n *Nudge) again(d device.Reachable, told int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, there := n.waiting[d.ID]; there || told >= attempts {
		return
	}
	n.waiting[d.ID] = told
	n.line = append(n.line, d)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// tell tells the devices in line, some at a time and none too soon after the one before.
func (n *Nudge) tell(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	slots := make(chan struct{}, n.cfg.AtOnce)
	for {
		d, told, ok := n.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-n.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		wait.Go(func() {
			defer func() { <-slots }()
			if err := n.one(ctx, d); err != nil && ctx.Err() == nil {
				n.cfg.Log.DebugContext(ctx, "a device could not be told to look for an update", "device", d.UUID, "error", err)
				n.again(d, told+1)
			}
		})
		pause := time.NewTimer(n.cfg.Pace)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// one tells one device. Whatever it answers, it has heard.
func (n *Nudge) one(ctx context.Context, d device.Reachable) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Wait)
	defer cancel()
	res, err := n.cfg.Caller.CallDevice(ctx, d, http.MethodPost, "/v1/update", []byte(`{"force":false}`))
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, res.Body) // it is bounded, and says nothing that matters
	return res.Body.Close()
}
