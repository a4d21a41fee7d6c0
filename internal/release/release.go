// Package release owns releases: what was built of a fleet's source, the images it is made of, and the builds that make it.
// A release is immutable once it succeeded, except for what people say about it.
package release

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

//go:embed migrations
var migrations embed.FS

// Migrations are the files 0020–0029, 0060–0069, 0124 and 0190–0199 that make this package's tables; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Silence is how long a builder may be silent about a running build before the build counts as interrupted.
const Silence = time.Minute

// Config is what releases need from the rest of the server.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Fleets   *fleet.Fleets
	Site     api.Site // its registry is where images are stored
	Log      *slog.Logger
	Now      func() time.Time // nil: the clock

	// Pinned reports whether a device is pinned to one of some releases; those cannot be deleted. nil: none is.
	Pinned func(ctx context.Context, tx *db.Tx, releases []int64) (bool, error)
	// Only makes of a chore one that a single process of the server does; nil: there is one process.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
	// Room refuses a build for a fleet whose images have no room in the registry; nil: there always is.
	Room func(ctx context.Context, tx *db.Tx, fleet int64) error
	// KeepBuilds is how long logs of builds, and images of builds that made no release, are kept after their end; 0: for ever.
	KeepBuilds time.Duration
	// MaxFiles bounds the bytes of all assets of an organization; 0 means 20 GiB.
	MaxFiles int64
	// StatementKeys are the public keys of the signer's that statements of where a release comes from may be signed with.
	StatementKeys []api.StatementKey
	// DropFile forgets the bytes of an asset that is gone. nil: they stay until the store is swept.
	DropFile func(ref string)
}

// Releases is the domain's functions with what they need.
type Releases struct {
	cfg   Config
	since time.Time // builders could not report before: this process was not there, or the database; used by RunOnce alone
}

// New makes it. It starts nothing; see [Releases.Run].
func New(cfg Config) (*Releases, error) {
	if cfg.DB == nil || cfg.Accounts == nil || cfg.Fleets == nil {
		return nil, errors.New("release: needs a database, accounts and fleets")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxFiles == 0 {
		cfg.MaxFiles = 20 << 30
	}
	if cfg.Only == nil {
		cfg.Only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	return &Releases{cfg: cfg, since: cfg.Now()}, nil
}

// DeletingFleets removes the images of fleets that are about to be deleted, and the bytes of assets; everything else of a release
// goes with the fleet's row. It is one of [fleet.Config.Deleting].
func (r *Releases) DeletingFleets(ctx context.Context, tx *db.Tx, fleets []int64) error {
	for _, id := range fleets {
		if err := r.dropFiles(ctx, tx, "", `
SELECT a.id, a.asset FROM release_asset a JOIN "release" r ON r.id = a."release" WHERE r.belongs_to__application = ?`, id); err != nil {
			return fmt.Errorf("delete the assets of fleet %d: %w", id, err)
		}
		if _, err := tx.ExecContext(ctx, `
DELETE FROM image WHERE is_a_build_of__service IN (SELECT id FROM service WHERE application = $1)`, id); err != nil {
			return fmt.Errorf("delete the images of fleet %d: %w", id, err)
		}
	}
	return nil
}

// randomHex makes a commit of a build from a tarball, or the name of an image's repository.
func randomHex() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
