package domaintest

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Platform is people, and what makes their fleets, releases and devices, also over OData as the API does it.
type Platform struct {
	*People
	Releases *release.Releases
	Devices  *device.Devices
	Engine   *odata.Engine
}

// Config says what a platform has beside what all have.
type Config struct {
	Migrations []fs.FS                                   // of packages above
	Device     func(*device.Config)                      // changes what devices' package is given; nil: nothing
	Resources  func(*account.Accounts) []*odata.Resource // more of them; nil: none
	Model      func(odata.Model)                         // changes the whole model; nil: nothing
}

// NewPlatform starts one.
func NewPlatform(t testing.TB, cfg Config) *Platform {
	t.Helper()
	w := &Platform{}
	w.People = newPeople(t, cfg.Migrations, fleet.Config{
		TargetChanged: device.FleetTargetChanged,
		Deleting: []func(ctx context.Context, tx *db.Tx, fleets []int64) error{
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return w.Devices.FleetsDeleting(ctx, tx, fleets)
			},
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return w.Releases.DeletingFleets(ctx, tx, fleets)
			},
		},
	}, func(what string, id int64) { w.Devices.Revoked(what, id) })
	quiet := slog.New(slog.DiscardHandler)
	messages, err := bus.Open(bus.Config{Dir: t.TempDir()})
	w.Must(err)
	t.Cleanup(func() { _ = messages.Close() })
	w.Releases, err = release.New(release.Config{DB: w.DB, Accounts: w.Accounts, Fleets: w.Fleets, Site: Site, Log: quiet, Now: w.Now, Pinned: device.Pinned})
	w.Must(err)
	devices := device.Config{DB: w.DB, Accounts: w.Accounts, Bus: messages, Log: quiet, PollInterval: time.Minute}
	if cfg.Device != nil {
		cfg.Device(&devices)
	}
	w.Devices, err = device.New(t.Context(), devices)
	w.Must(err)
	parts := [][]*odata.Resource{w.Accounts.Resources(), member.New(w.Accounts, nil).Resources(), w.Fleets.Resources(), w.Releases.Resources(), w.Devices.Resources()}
	if cfg.Resources != nil {
		parts = append(parts, cfg.Resources(w.Accounts))
	}
	var model odata.Model
	for _, part := range parts {
		model.Resources = append(model.Resources, part...)
	}
	if cfg.Model != nil {
		cfg.Model(model)
	}
	w.Engine, err = odata.New(odata.Config{Model: model, DB: w.DB, Prefixes: []string{"/v7/"}, Files: blob.Files{}})
	w.Must(err)
	w.run(w.Devices.Run)
	return w
}

// Do sends one OData request as a caller.
func (w *Platform) Do(by access.Caller, method, path string, body any) (int, string) {
	w.Helper()
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		w.Must(err)
		in = strings.NewReader(string(data))
	}
	r := httptest.NewRequestWithContext(access.With(w.Context(), by), method, "/v7/"+strings.ReplaceAll(path, " ", "%20"), in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	web.Handle(slog.New(slog.NewTextHandler(w.Output(), nil)), w.Engine.Handler()).ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

// Want sends a request and checks its status and that the answer holds a text.
func (w *Platform) Want(by access.Caller, method, path string, body any, status int, text string) string {
	w.Helper()
	got, answer := w.Do(by, method, path, body)
	if got != status || !strings.Contains(answer, text) {
		w.Errorf("%s %s %v as %s: got %d %s, want %d %s", method, path, body, by.Name, got, answer, status, text)
	}
	return answer
}

// Create makes a row and gives its id.
func (w *Platform) Create(by access.Caller, resource string, body map[string]any) int64 {
	w.Helper()
	var row struct{ ID int64 }
	w.Must(json.Unmarshal([]byte(w.Want(by, "POST", resource, body, 201, "")), &row))
	return row.ID
}

// Fleet makes one in a user's own organization.
func (w *Platform) Fleet(by access.Caller, name string) int64 {
	w.Helper()
	return w.Create(by, "application", map[string]any{
		"app_name": name, "organization": w.Number(`SELECT id FROM organization WHERE handle = ?`, by.Name),
		"is_for__device_type": w.Number(`SELECT id FROM device_type WHERE slug = 'generic-amd64'`),
	})
}

// Register registers a device as a caller, and gives what it is from then on.
func (w *Platform) Register(by access.Caller, fleetID int64, uuid api.DeviceUUID) (access.Caller, api.Registered) {
	w.Helper()
	made, err := w.Devices.Register(w.Context(), by, api.Register{Application: fleetID, UUID: uuid, DeviceType: "generic-amd64"})
	w.Must(err)
	return w.Caller(made.APIKey), made
}
