// Package trust owns what devices check before they run anything: the metadata of fleets, the documents of releases, what owners upload, the
// transparency log, and what devices say of their checks. The keys are the signer's and the owners'; see DESIGN.md. Several processes
// work on one database: what is published is decided by a row, and whoever comes second begins again.
package trust

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/trust/logbook"
	"github.com/roadstead-io/roadstead/internal/trust/order"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbers 0350 to 0369 and 0390 to 0399.
func Migrations() fs.FS { return db.Folder(migrations) }

// Lives of what is signed here; it is renewed when half is over and somebody asks.
const (
	lifeOfOnline = 7 * 24 * time.Hour
	lifeOfBin    = 90 * 24 * time.Hour
	lifeOfRoot   = 2 * 365 * 24 * time.Hour
)

// Config is what the package works with.
type Config struct {
	DB  *db.DB
	Log *slog.Logger
	// On says that new devices get a root of trust with their config.json.
	On bool
	// Ask asks the signer: POST /v1/trust/<what>. Nil: there is no signer, and nothing is signed.
	Ask func(ctx context.Context, what string, in, out any) error
	// Switches says how the control channels of devices are switched. Nil: nothing is said of them.
	Switches func(ctx context.Context, tx *db.Tx, devices []int64) (map[int64]when.Switch, error)
	// Only makes of a chore one that a single process of the server does; nil: there is one process.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
}

// Trust is the running part of the package.
type Trust struct {
	cfg       Config
	directors *batch.Batch[*directing]
	views     views

	// Book is the transparency log.
	Book *logbook.Book
	// Orders signs what devices are told to do.
	Orders *order.Desk

	once job.Together // publications that this process has under way, by fleet and what is wanted
}

// New makes it; it starts nothing.
func New(cfg Config) (*Trust, error) {
	if cfg.DB == nil {
		return nil, errors.New("trust: needs a database")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Only == nil {
		cfg.Only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	t := &Trust{cfg: cfg, views: newViews()}
	t.Book = logbook.New(logbook.Config{DB: cfg.DB, Log: cfg.Log, Ask: t.ask})
	t.Orders = order.New(order.Config{DB: cfg.DB, Log: cfg.Log, On: cfg.On, Ask: cfg.Ask})
	t.directors = batch.New(api.MaxTrustBatch, t.direct)
	return t, nil
}

var errNoSigner = api.Errorf(api.Unavailable, "this server has no signer")

// ask asks the signer.
func (t *Trust) ask(ctx context.Context, what string, in, out any) error {
	if t.cfg.Ask == nil {
		return errNoSigner
	}
	return t.cfg.Ask(ctx, what, in, out)
}

// fleetRow is a fleet, and its trust if somebody asked for it before.
type fleetRow struct {
	id, organization int64
	uuid, slug       string

	known            bool
	changes          int64
	version, counter int64
	heldBy, shell    string
	approval         api.Approval
}

const selectFleet = `SELECT f.id, f.organization, f.uuid, f.slug, t.changes, coalesce(t.version, 0), coalesce(t.counter, 0), coalesce(t.held_by, ''),
		coalesce(t.shell, ''), coalesce(t.approval, '') FROM application f LEFT JOIN trust_fleet t ON t.application = f.id WHERE `

func readFleet(ctx context.Context, tx *db.Tx, where string, arg any) (f fleetRow, err error) {
	var changes sql.NullInt64
	err = tx.QueryRowContext(ctx, selectFleet+where, arg).
		Scan(&f.id, &f.organization, &f.uuid, &f.slug, &changes, &f.version, &f.counter, &f.heldBy, &f.shell, &f.approval)
	if errors.Is(err, sql.ErrNoRows) {
		return f, api.ErrNotFound
	}
	if err != nil {
		return f, fmt.Errorf("trust of a fleet: %w", err)
	}
	f.known, f.changes = changes.Valid, changes.Int64
	return f, nil
}

// storedFile is one published file.
type storedFile struct {
	role    string
	version int64
	expires time.Time
	data    []byte
}

// stale says that a file is to be made anew: more than half of its life is over.
func (f *storedFile) stale(now time.Time, life time.Duration) bool {
	return f == nil || now.Add(life/2).After(f.expires)
}

const newestFiles = `SELECT f.role, f.version, f.expires_at, f.data FROM trust_file f WHERE f.application = ? AND f.version =
		(SELECT max(version) FROM trust_file n WHERE n.application = f.application AND n.role = f.role)`

// readFiles gives the newest version of each file of a fleet.
func readFiles(ctx context.Context, tx *db.Tx, fleet int64, more string, args ...any) (map[string]*storedFile, error) {
	rows, err := tx.QueryContext(ctx, newestFiles+more, append([]any{fleet}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("metadata of fleet %d: %w", fleet, err)
	}
	defer func() { _ = rows.Close() }()
	files := map[string]*storedFile{}
	for rows.Next() {
		f, err := scanFile(rows)
		if err != nil {
			return nil, fmt.Errorf("metadata of fleet %d: %w", fleet, err)
		}
		files[f.role] = f
	}
	return files, rows.Err()
}

// readVersions gives the newest version of each file of a fleet, without the files.
func readVersions(ctx context.Context, tx *db.Tx, fleet int64) (map[string]int64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT role, max(version) FROM trust_file WHERE application = ? GROUP BY role`, fleet)
	if err != nil {
		return nil, fmt.Errorf("versions of fleet %d: %w", fleet, err)
	}
	defer func() { _ = rows.Close() }()
	versions := map[string]int64{}
	for rows.Next() {
		var role string
		var version int64
		if err := rows.Scan(&role, &version); err != nil {
			return nil, fmt.Errorf("versions of fleet %d: %w", fleet, err)
		}
		versions[role] = version
	}
	return versions, rows.Err()
}

func scanFile(row interface{ Scan(dest ...any) error }) (*storedFile, error) {
	var f storedFile
	var expires, data string
	if err := row.Scan(&f.role, &f.version, &expires, &data); err != nil {
		return nil, err
	}
	f.data = []byte(data)
	var err error
	f.expires, err = db.ParseTime(expires)
	return &f, err
}

// Run signs statements to devices that are asked for together, has the log signed where somebody was interrupted, and forgets fleets that are gone,
// until the context ends.
func (t *Trust) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.directors.Run(ctx) })
	g.Go(func() error {
		return job.Every(ctx, t.cfg.Log, "fleets that are gone", forgetEvery, t.cfg.Only("trust gone", forgetEvery, t.ForgetGone))
	})
	if t.cfg.Ask != nil {
		g.Go(func() error {
			return job.Every(ctx, t.cfg.Log, "the log of trust", extendEvery, t.cfg.Only("trust log", extendEvery, t.Book.Extend))
		})
		g.Go(func() error {
			return job.Every(ctx, t.cfg.Log, "releases to be signed", publishEvery, t.cfg.Only("trust releases", publishEvery, t.PublishOnce))
		})
	}
	return g.Wait()
}

// PublishOnce publishes the releases that fleets should run and that no device has asked about yet, so that the first one need not wait. What
// cannot be signed is left: a device that asks is told why.
func (t *Trust) PublishOnce(ctx context.Context) error {
	type due struct{ fleet, release int64 }
	var list []due
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, `SELECT f.id, r.id FROM trust_fleet t JOIN application f ON f.id = t.application
			JOIN "release" r ON r.id = f.should_be_running__release AND r.status = 'success'
			LEFT JOIN trust_document d ON d."release" = r.id WHERE d."release" IS NULL LIMIT 50`)
		if err != nil {
			return fmt.Errorf("releases to be signed: %w", err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var d due
			if err := rows.Scan(&d.fleet, &d.release); err != nil {
				return fmt.Errorf("releases to be signed: %w", err)
			}
			list = append(list, d)
		}
		return rows.Err()
	})
	for _, d := range list {
		if e := t.bringOnce(ctx, d.fleet, want{release: d.release}); e != nil && !errors.Is(e, api.ErrConflict) {
			err = errors.Join(err, e)
		}
	}
	return err
}

const (
	extendEvery  = time.Minute
	publishEvery = 10 * time.Second
)
