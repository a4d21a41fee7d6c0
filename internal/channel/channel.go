// Package channel owns the control channel as far as rows go: the address of each device in it, who may come in, the certificates that
// devices have, who is connected, who is to be cut, and whether the channel of a device is wanted at all. The vpn role, which has the
// connections, asks and tells it through the api role. Several processes of that role work on one database: nothing that counts is kept
// in memory.
package channel

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/odata"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, number 0280.
func Migrations() fs.FS { return db.Folder(migrations) }

// How long an instance with sessions may be silent. It reports every second; when that was is written down less often.
const (
	silence   = 10 * time.Second
	seenEvery = 3 * time.Second
	expire    = 2 * time.Second
)

// Config says what the channel works with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	// Site is how devices reach the channel; without a host there is none.
	Site api.ChannelSite
	// Sign has the signer certify the key of a device. Nil: there is no signer.
	Sign func(ctx context.Context, ask api.ChannelCertificateRequest) (api.ChannelCertificate, error)
	Log  *slog.Logger // nil: slog's default
}

// Channel is the running part of the package.
type Channel struct {
	cfg    Config
	engine *odata.Engine
}

// New makes the channel; it starts nothing.
func New(cfg Config) (*Channel, error) {
	if cfg.DB == nil || cfg.Accounts == nil {
		return nil, errors.New("channel: needs a database and accounts")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Channel{cfg: cfg}, nil
}

// Through says by what people's switches are written: as they would write the variables themselves.
func (c *Channel) Through(e *odata.Engine) { c.engine = e }

// Site is how devices reach the channel.
func (c *Channel) Site() api.ChannelSite { return c.cfg.Site }

// Run ends the sessions of instances that are silent, switches whose time has come, and forgets old refusals, until the context ends. An
// instance has time to report first: while the api role was away it could not.
func (c *Channel) Run(ctx context.Context) error {
	begin := time.NewTimer(silence + seenEvery)
	defer begin.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-begin.C:
	}
	return job.Every(ctx, c.cfg.Log, "control channel", expire, func(ctx context.Context) error {
		return errors.Join(c.ExpireOnce(ctx), c.EndSwitchesOnce(ctx), c.forgetRefusals(ctx))
	})
}
