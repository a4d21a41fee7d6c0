// Package device owns devices: their rows, variables and tags, how they register, what each should run, what it says it runs,
// its heartbeats and its log. A device's key reads what concerns it and writes its own state, nothing else.
package device

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/device/devicelog"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0030 to 0039, 0070 to 0079, 0082, 0083, 0284, 0295 and 0381; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// keepInstalls is how long the row of an image that a device has removed is kept, from when the image came.
const keepInstalls = 30 * 24 * time.Hour

// Config says what the devices work with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Bus      *bus.Bus
	// Revoked, if set, hears at once of what [Devices.Revoked] tells the bus: of this process' own revocations.
	Revoked func()
	Log     *slog.Logger // nil: slog's default
	// PollInterval is how often a device asks for its target unless a variable of its own or of its fleet says otherwise;
	// 0 means 10 minutes.
	PollInterval time.Duration
	// ControlChannel says that this server offers devices a control channel (VPN). Without one, a device that lacks it is not
	// called "reduced-functionality" for that.
	ControlChannel bool
	// Moving hears of a device that goes to another fleet, and may refuse. Nil: nobody asks.
	Moving func(ctx context.Context, tx *db.Tx, device, from, to int64) error
	// Logs bounds the logs of devices; its database and bus are those above.
	Logs devicelog.Config
	// Only makes of a chore one that a single process of the server does; nil: there is one process.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
}

// Devices is the running part of the package: heartbeats not yet written and streams that are open.
type Devices struct {
	Logs *devicelog.Logs

	cfg           Config
	hearts        *hearts
	parts         *parts
	memory        *db.Answers[*facts] // by the device's id
	registrations *batch.Batch[*registration]
	reports       *batch.Batch[*told]
}

// New opens the ring of the devices' logs. It starts nothing; see [Devices.Run].
func New(ctx context.Context, cfg Config) (*Devices, error) {
	if cfg.DB == nil || cfg.Accounts == nil || cfg.Bus == nil {
		return nil, errors.New("device: needs a database, accounts and a bus")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Only == nil {
		cfg.Only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = 10 * time.Minute
	}
	cfg.Logs.DB, cfg.Logs.Bus, cfg.Logs.Again = cfg.DB, cfg.Bus, cfg.Accounts.Again
	logs, err := devicelog.New(ctx, cfg.Logs)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	d := &Devices{Logs: logs, cfg: cfg, hearts: newHearts(cfg.DB), parts: newParts(),
		memory: db.NewAnswers[*facts](cfg.DB, targetChannel, cfg.Log, rememberBytes)}
	d.registrations = batch.New(registerAtOnce, d.registerAll)
	d.reports = batch.New(reportsAtOnce, d.takeAll)
	return d, nil
}

// Run writes heartbeats, ends streams whose right to be open is gone and drops the logs of deleted devices, until the context
// ends.
func (d *Devices) Run(ctx context.Context) error {
	check, drop := make(chan struct{}, 1), make(chan struct{}, 1)
	stop, err := d.cfg.Bus.Subscribe("revoked.>", func(string, []byte) {
		for _, kick := range []chan struct{}{check, drop} {
			select {
			case kick <- struct{}{}:
			default: // one is due anyhow, and sees this too
			}
		}
	})
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.hearts.run(ctx, d.cfg.Log) })
	g.Go(func() error { return d.registrations.Run(ctx) })
	g.Go(func() error { return d.reports.Run(ctx) })
	g.Go(func() error { return d.memory.Run(ctx) })
	g.Go(func() error { return d.every(ctx, time.Second, check, d.Logs.CheckOnce) })
	g.Go(func() error {
		return d.every(ctx, time.Minute, drop, d.cfg.Only("logs of deleted devices", time.Minute, d.DropLogsOnce))
	})
	g.Go(func() error {
		return d.every(ctx, time.Hour, nil, d.cfg.Only("old installs", time.Hour, d.ForgetInstallsOnce))
	})
	g.Go(func() error {
		return d.every(ctx, time.Hour, nil, d.cfg.Only("old history", time.Hour, d.ForgetHistoryOnce))
	})
	return g.Wait()
}

// every runs f once a period, and when kicked. A failure is logged and tried again.
func (d *Devices) every(ctx context.Context, period time.Duration, kick <-chan struct{}, f func(context.Context) error) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Log.ErrorContext(ctx, "devices", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-kick:
		case <-tick.C:
		}
	}
}

// DropLogsOnce drops the logs of the devices that were deleted since the last time.
func (d *Devices) DropLogsOnce(ctx context.Context) error {
	var uuids []string
	err := d.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		uuids, err = db.Column[string](ctx, tx, `SELECT uuid FROM deleted_device ORDER BY deleted_at LIMIT 100`)
		return err
	})
	if err != nil || len(uuids) == 0 {
		return err
	}
	for _, uuid := range uuids {
		// A device that registered again meanwhile shares the ring with its forerunner; nobody reads lines older than the row.
		if err := d.Logs.Drop(ctx, api.DeviceUUID(uuid)); err != nil {
			return err
		}
	}
	return d.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, uuid := range uuids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM deleted_device WHERE uuid = ?`, uuid); err != nil {
				return fmt.Errorf("device: drop logs: %w", err)
			}
		}
		return nil
	})
}

// ForgetInstallsOnce removes installs that devices no longer have and that began long ago: every release would leave some on
// every device for ever.
func (d *Devices) ForgetInstallsOnce(ctx context.Context) error {
	return d.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM image_install WHERE id IN
			(SELECT id FROM image_install WHERE status = 'deleted' AND install_date < ? LIMIT 10000)`, db.FormatTime(tx.Now.Add(-keepInstalls)))
		if err != nil {
			return fmt.Errorf("device: forget installs: %w", err)
		}
		return nil
	})
}

// revoked tells open streams that rights have changed.
func (d *Devices) revoked(tx *db.Tx, what string, id int64) {
	tx.OnCommit(func() { d.Revoked(what, id) })
}

// Revoked tells whoever holds something open (a log being written or followed) that a key, a session, a member or a device is
// gone. What they may still do they ask the database.
func (d *Devices) Revoked(what string, id int64) {
	if d.cfg.Revoked != nil {
		d.cfg.Revoked()
	}
	if err := d.cfg.Bus.Publish("revoked."+what+"."+strconv.FormatInt(id, 10), nil); err != nil {
		d.cfg.Log.Error("tell open streams of a revocation", "error", err) // they look for themselves every second too
	}
}
