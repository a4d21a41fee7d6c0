// Package action owns what devices are told to do: reboots, restarts, purges and the like. A device with a control channel is told at once;
// for one without it an action waits, for a while, until the device asks. Each is done once, and what became of it is kept for some time.
package action

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/odata"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbers 0296 and 0370.
func Migrations() fs.FS { return db.Folder(migrations) }

// ErrNotSent is in the error of a [Caller] when the device got nothing of the request.
var ErrNotSent = errors.New("the device was not reached")

// Caller carries a request to a device's agent over the control channel.
type Caller interface {
	// CallDevice sends it; path begins with a slash. Whoever calls closes the answer's body.
	CallDevice(ctx context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error)
}

// How long things take at most.
const (
	defaultLife = time.Hour
	maxLife     = 30 * 24 * time.Hour
	callTime    = 50 * time.Second
	lostAfter   = 2 * time.Minute  // a call whose outcome nobody wrote down: the process that made it is gone
	backWithin  = time.Hour        // a device that restarts is back by then
	silentAfter = 24 * time.Hour   // a device that took an action said by then what became of it
	tryAgain    = 30 * time.Second // after a channel that was up did not carry the action
	keep        = 30 * 24 * time.Hour
	keepOf      = 500 // newest actions of one device
	pushEvery   = 2 * time.Second
	callsAtOnce = 32
)

// Config is what the package works with.
type Config struct {
	DB     *db.DB
	Caller Caller // nil: this server has no control channel
	Log    *slog.Logger
	// Sign adds to what is given to a device the commands by which it believes it. Nil: no device asks for any.
	Sign func(ctx context.Context, device int64, actions []api.QueuedAction) error
	// Only makes of a chore one that a single process of the server does; nil: there is one process.
	Only func(name string, period time.Duration, chore func(ctx context.Context) error) func(ctx context.Context) error
}

// Actions are those of all devices.
type Actions struct {
	cfg  Config
	wake chan struct{}

	mu     sync.Mutex     // covers the next two
	todo   []int64        // actions to be sent over channels
	listed map[int64]bool // those in todo, and those that are being sent
}

// New starts nothing; see [Actions.Run].
func New(cfg Config) *Actions {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Only == nil {
		cfg.Only = func(_ string, _ time.Duration, chore func(context.Context) error) func(context.Context) error {
			return chore
		}
	}
	return &Actions{cfg: cfg, wake: make(chan struct{}, 1), listed: map[int64]bool{}}
}

// Run sends actions over channels, and ends those that take too long, until the context ends.
func (a *Actions) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.send(ctx) })
	tend := a.cfg.Only("actions", pushEvery, a.TendOnce)
	g.Go(func() error {
		return job.Every(ctx, a.cfg.Log, "actions of devices", pushEvery, func(ctx context.Context) error {
			if open, err := a.open(ctx); err != nil || !open {
				return err // to hold a lease costs a write
			}
			return tend(ctx)
		})
	})
	g.Go(func() error {
		return job.Every(ctx, a.cfg.Log, "old actions of devices", time.Hour, a.cfg.Only("old actions", time.Hour, a.ForgetOnce))
	})
	return g.Wait()
}

// Resource declares the actions, which are made and cancelled by routes of their own. What a device answered (a piece of its journal) is not
// part of it: see [Actions.Result].
func (a *Actions) Resource() *odata.Resource {
	person := odata.Rule{Read: access.On(access.Read, "device")}
	const refused = "Actions are made and cancelled at /device-actions/v1."
	return &odata.Resource{
		Name: "device_action",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer}, {Name: "created_at", Type: odata.Date},
			{Name: "device", Type: odata.ForeignKey, To: "device", Reverse: []string{"device_action"}},
			{Name: "is_made_by__user", Type: odata.ForeignKey, To: "user", Null: true, Reverse: []string{"made__device_action"}},
			{Name: "verb", Type: odata.String}, {Name: "service_name", Type: odata.String, Null: true}, {Name: "is_forced", Type: odata.Boolean},
			{Name: "state", Type: odata.String}, {Name: "message", Type: odata.String, Null: true},
			{Name: "expires_at", Type: odata.Date}, {Name: "sent_at", Type: odata.Date, Null: true}, {Name: "ended_at", Type: odata.Date, Null: true},
			{Name: "has_result", Type: odata.Boolean, SQL: `({t}.result IS NOT NULL)`},
			{Name: "result", Type: odata.String, Null: true, Hidden: true},
		},
		Rules: map[access.Kind]odata.Rule{
			access.User: person, access.ScopedKey: person, access.Device: {Read: "device eq @device"},
			access.FleetKey: {Read: access.Along("{}belongs_to__application eq @fleet", "device")},
		},
		Refused: map[odata.Op]string{odata.Create: refused, odata.Update: refused, odata.Delete: refused},
	}
}

// openList is the states of an action of which more is to come.
const openList = `('queued', 'sent')`
