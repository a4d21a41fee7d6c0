package device_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/web"
)

const registry = "registry2.roadstead.test"

// world is all domain packages on a real database, with two people who know nothing of each other.
type world struct {
	testing.TB
	db       *db.DB
	accounts *account.Accounts
	releases *release.Releases
	devices  *device.Devices
	engine   *odata.Engine

	alice, bob access.Caller

	mu  sync.Mutex // covers off
	off time.Duration

	last string // what a test did last
	far  int64  // a fleet of bob
}

func newWorld(t testing.TB, change ...func(*device.Config)) *world {
	t.Helper()
	w := &world{TB: t}
	var err error
	quiet := slog.New(slog.DiscardHandler)
	w.db = dbtest.Open(t, w.now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations())
	messages, err := bus.Open(bus.Config{Dir: t.TempDir()})
	w.must(err)
	t.Cleanup(func() { _ = messages.Close() })
	w.accounts, err = account.New(account.Config{
		DB: w.db, Pepper: []byte(strings.Repeat("p", 32)), Log: quiet, Now: w.now,
		Revoked: func(what string, id int64) { w.devices.Revoked(what, id) },
	})
	w.must(err)
	site := api.Site{Domain: "roadstead.test", Port: 443}
	fleets := fleet.New(fleet.Config{
		Accounts: w.accounts, Site: site, TargetChanged: device.FleetTargetChanged,
		Deleting: []func(ctx context.Context, tx *db.Tx, fleets []int64) error{
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return w.devices.FleetsDeleting(ctx, tx, fleets)
			},
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return w.releases.DeletingFleets(ctx, tx, fleets)
			},
		},
	})
	w.releases, err = release.New(release.Config{DB: w.db, Accounts: w.accounts, Fleets: fleets, Site: site, Log: quiet, Now: w.now, Pinned: device.Pinned})
	w.must(err)
	cfg := device.Config{DB: w.db, Accounts: w.accounts, Bus: messages, Log: quiet, PollInterval: time.Minute}
	for _, f := range change {
		f(&cfg)
	}
	w.devices, err = device.New(t.Context(), cfg)
	w.must(err)
	w.write(func(tx *db.Tx) error { return fleets.Prepare(t.Context(), tx) })
	var model odata.Model
	for _, part := range [][]*odata.Resource{w.accounts.Resources(), member.New(w.accounts, nil).Resources(), fleets.Resources(), w.releases.Resources(), w.devices.Resources()} {
		model.Resources = append(model.Resources, part...)
	}
	w.engine, err = odata.New(odata.Config{
		Model: model, DB: w.db, Prefixes: []string{"/v7/"}, Files: blob.Files{},
	})
	w.must(err)
	w.alice, w.bob = w.person("alice"), w.person("bob")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.devices.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.off)
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += d
}

func (w *world) write(f func(tx *db.Tx) error) { w.Helper(); w.must(w.db.Write(w.Context(), f)) }
func (w *world) read(f func(tx *db.Tx) error)  { w.Helper(); w.must(w.db.Read(w.Context(), f)) }

func (w *world) person(name string) access.Caller {
	w.Helper()
	_, err := w.accounts.CreateUser(w.Context(), api.NewUser{Email: name + "@example.com", Username: name, Password: "correct horse battery " + name})
	w.must(err)
	id := w.id("user", "username = ?", name)
	var token string
	w.write(func(tx *db.Tx) (err error) {
		token, err = w.accounts.CreateKey(w.Context(), tx, access.Itself(), account.KeySpec{Of: account.OfUser, ID: id, Name: "tests"})
		return err
	})
	return w.caller(token)
}

// caller is who a token stands for.
func (w *world) caller(token string) (c access.Caller) {
	w.Helper()
	w.read(func(tx *db.Tx) (err error) {
		c, err = w.accounts.Authenticate(w.Context(), tx, token)
		return err
	})
	return c
}

// do sends one OData request as a caller.
func (w *world) do(by access.Caller, method, path string, body any) (int, string) {
	w.Helper()
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		w.must(err)
		in = strings.NewReader(string(data))
	}
	r := httptest.NewRequestWithContext(access.With(w.Context(), by), method, "/v7/"+strings.ReplaceAll(path, " ", "%20"), in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	web.Handle(slog.New(slog.NewTextHandler(w.Output(), nil)), w.engine.Handler()).ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

// want sends a request and checks its status and that the answer holds a text.
func (w *world) want(by access.Caller, method, path string, body any, status int, text string) string {
	w.Helper()
	got, answer := w.do(by, method, path, body)
	if got != status || !strings.Contains(answer, text) {
		w.Errorf("%s %s %v as %s: got %d %s, want %d %s", method, path, body, by.Name, got, answer, status, text)
	}
	return answer
}

func (w *world) rows(by access.Caller, path string) []map[string]any {
	w.Helper()
	var answer struct{ D []map[string]any }
	w.must(json.Unmarshal([]byte(w.want(by, "GET", path, nil, 200, "")), &answer))
	return answer.D
}

// one gives the only row of a list.
func (w *world) one(by access.Caller, path string) map[string]any {
	w.Helper()
	rows := w.rows(by, path)
	if len(rows) != 1 {
		w.Fatalf("GET %s as %s: %d rows, want 1", path, by.Name, len(rows))
	}
	return rows[0]
}

// create makes a row and gives its id.
func (w *world) create(by access.Caller, resource string, body map[string]any) int64 {
	w.Helper()
	var row struct{ ID int64 }
	w.must(json.Unmarshal([]byte(w.want(by, "POST", resource, body, 201, "")), &row))
	return row.ID
}

func (w *world) id(table, where string, args ...any) (id int64) {
	w.Helper()
	w.read(func(tx *db.Tx) error {
		return tx.QueryRowContext(w.Context(), `SELECT id FROM "`+table+`" WHERE `+where, args...).Scan(&id)
	})
	return id
}

// count counts rows; the query begins with a table.
func (w *world) count(query string, args ...any) (n int) {
	w.Helper()
	w.read(func(tx *db.Tx) error {
		return tx.QueryRowContext(w.Context(), `SELECT count(*) FROM `+query, args...).Scan(&n)
	})
	return n
}

func (w *world) fleet(by access.Caller, name string) int64 {
	w.Helper()
	return w.create(by, "application", map[string]any{
		"app_name": name, "organization": w.id("organization", "handle = ?", by.Name),
		"is_for__device_type": w.id("device_type", "slug = 'generic-amd64'"),
	})
}

// provisioning makes a provisioning key; max 0 means no bound.
func (w *world) provisioning(by access.Caller, fleetID int64, maxUses int) (key string) {
	w.Helper()
	w.write(func(tx *db.Tx) (err error) {
		key, err = w.accounts.CreateKey(w.Context(), tx, by, account.KeySpec{Of: account.OfFleet, ID: fleetID, MaxUses: maxUses})
		return err
	})
	return key
}

func uuidOf(n int) api.DeviceUUID { return api.DeviceUUID(fmt.Sprintf("%032x", n)) }

// register registers with a token, looked up anew as a request would.
func (w *world) register(token string, req api.Register) (made api.Registered, err error) {
	w.Helper()
	if req.DeviceType == "" {
		req.DeviceType = "generic-amd64"
	}
	var by access.Caller
	err = w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		by, err = w.accounts.Authenticate(w.Context(), tx, token)
		return err
	})
	if err != nil {
		return made, err
	}
	return w.devices.Register(w.Context(), by, req)
}

// device registers a device and gives what it is from then on.
func (w *world) device(by access.Caller, fleetID int64, uuid api.DeviceUUID) (access.Caller, api.Registered) {
	w.Helper()
	made, err := w.register(w.provisioning(by, fleetID, 1), api.Register{Application: fleetID, UUID: uuid})
	w.must(err)
	return w.caller(made.APIKey), made
}

// built is a finished release.
type built struct {
	id     int64
	commit string
	images map[string]api.BuildImage
}

func digest(n int64) string { return fmt.Sprintf("sha256:%064x", n) }

// ref is the image reference that a device gets for a service.
func (b built) ref(service string) string {
	return b.images[service].Location + "@" + digest(b.images[service].ID)
}

// push builds a release as the builder does.
func (w *world) push(by access.Caller, slug string, services ...string) built {
	w.Helper()
	b := built{images: map[string]api.BuildImage{}}
	w.write(func(tx *db.Tx) error {
		build, err := w.releases.Open(w.Context(), tx, by, api.BuildRequest{Slug: slug})
		if err != nil {
			return err
		}
		blocks := map[string]any{}
		for _, s := range services {
			blocks[s] = map[string]any{"build": map[string]any{"context": "./" + s}, "restart": "always",
				"labels": map[string]string{"composed": "yes"}}
		}
		composition, err := json.Marshal(map[string]any{"services": blocks, "volumes": map[string]any{"data": nil}})
		if err != nil {
			return err
		}
		images, err := w.releases.AddImages(w.Context(), tx, build.ID, api.BuildImagesRequest{Composition: composition, Services: services})
		if err != nil {
			return err
		}
		result := api.BuildResult{Status: api.StatusSuccess}
		for _, i := range images {
			b.images[i.Service] = i
			result.Images = append(result.Images, api.BuildImageResult{ID: i.ID, Status: api.StatusSuccess, Digest: digest(i.ID), Size: 1000,
				Labels: map[string]string{"of-image": i.Service}})
		}
		b.id, b.commit = build.ID, build.Commit
		_, err = w.releases.Finish(w.Context(), tx, build.ID, result)
		return err
	})
	w.pass(time.Millisecond) // releases are ordered by their time
	return b
}

// eventually polls a condition.
func (w *world) eventually(what string, f func() bool) {
	w.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			w.Fatalf("%s: not within 10 s", what)
		}
	}
}
