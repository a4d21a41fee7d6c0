// Package fleet owns fleets (on the wire: applications) and what belongs to them alone: their services, variables and tags,
// and the catalogue of device types that they can be made of. It decides which release a fleet should run, see target.go.
package fleet

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations are the files 0010–0019 and 0050–0059 that make this package's tables; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Config is what fleets need from the rest of the server.
type Config struct {
	Accounts     *account.Accounts // makes the provisioning keys in config.json files
	Site         api.Site          // for the addresses in a device's config.json
	Channel      api.ChannelSite   // and for that of the control channel, if there is one
	PollInterval time.Duration     // how often a device asks for its target unless told otherwise; 0 means 10 minutes
	Contracts    fs.FS             // the operator's own device types, one <slug>.json each; nil: none
	RootCA       []byte            // PEM of the public root certificate for devices to trust; nil when it is a well-known one

	// TargetChanged is called, inside the transaction, after a fleet's target release has changed.
	TargetChanged func(ctx context.Context, tx *db.Tx, fleet int64) error
	// HandedOver is called, inside the transaction, for a fleet that goes to another organization.
	HandedOver func(ctx context.Context, tx *db.Tx, fleet int64) error
	// Deleting is called, inside the transaction, before fleets are deleted, in this order: what packages above this one hold
	// of a fleet goes first.
	Deleting []func(ctx context.Context, tx *db.Tx, fleets []int64) error
}

// Fleets is the domain's functions with what they need.
type Fleets struct{ cfg Config }

// New makes it. It starts nothing.
func New(cfg Config) *Fleets {
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 10 * time.Minute
	}
	return &Fleets{cfg: cfg}
}

// Prepare brings the catalogue of device types in the database up to date with the contracts in the program and the operator's.
// The api role calls it once after the migrations.
func (f *Fleets) Prepare(ctx context.Context, tx *db.Tx) error {
	types, err := catalogue(f.cfg.Contracts)
	if err != nil {
		return err
	}
	return errors.Join(syncApplicationTypes(ctx, tx), syncDeviceTypes(ctx, tx, types))
}

// syncApplicationTypes makes the one type of fleet that there is.
func syncApplicationTypes(ctx context.Context, tx *db.Tx) error {
	_, err := tx.ExecContext(ctx, `
INSERT INTO application_type (name, slug, description, supports_web_url, supports_multicontainer)
VALUES ('Default', 'default', 'Fleets of one or more containers', 1, 1)
ON CONFLICT (slug) DO NOTHING`)
	if err != nil {
		return fmt.Errorf("fleet: application types: %w", err)
	}
	return nil
}
