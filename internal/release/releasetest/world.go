// Package releasetest gives the tests of fleets and releases a small world: a real database with the real tables, rules and
// hooks behind the real engine, two people of two organizations, and a clock that only the test moves. Devices belong to a
// package above; here they are a bare table, enough to hang on a fleet and to be pinned.
package releasetest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/web"
)

// opened is a build under way.
type opened struct {
	build  api.Build
	images []api.BuildImage
}

// StatementKey is what a world's signer signs statements with.
var StatementKey = ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", ed25519.SeedSize)))

const deviceTable = `-- +goose Up
CREATE TABLE device (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	actor INTEGER NOT NULL UNIQUE REFERENCES actor (id),
	uuid TEXT NOT NULL,
	is_frozen INTEGER NOT NULL DEFAULT 0,
	belongs_to__application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
	is_pinned_on__release INTEGER REFERENCES "release" (id),
	is_of__device_type INTEGER
);
`

// World is the whole of it.
type World struct {
	t        *testing.T
	DB       *db.DB
	Accounts *account.Accounts
	Fleets   *fleet.Fleets
	Releases *release.Releases
	Engine   *odata.Engine
	Blobs    *blob.Store
	handler  http.Handler

	Alice, Bob access.Caller // each a member of an organization of their own name, and of no other

	mu      sync.Mutex // covers what follows
	now     time.Time
	changed []int64
	opened  map[int64]opened
}

// New makes a world.
func New(t *testing.T) *World {
	t.Helper()
	w := &World{t: t, opened: map[int64]opened{}, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	var err error
	w.DB = dbtest.Open(t, w.Now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), stored.Migrations(), dbtest.Schema("0030_device.sql", deviceTable))
	w.Accounts, err = account.New(account.Config{
		DB: w.DB, Pepper: []byte(strings.Repeat("p", 32)), Log: slog.New(slog.DiscardHandler), Now: w.Now,
		HandleChanged: fleet.HandleChanged,
	})
	w.must(err)
	w.Fleets = fleet.New(fleet.Config{
		Accounts: w.Accounts, Site: Site, RootCA: []byte("a root certificate"), PollInterval: 10 * time.Second,
		TargetChanged: func(_ context.Context, _ *db.Tx, id int64) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.changed = append(w.changed, id)
			return nil
		},
		Deleting: []func(ctx context.Context, tx *db.Tx, fleets []int64) error{
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return w.Releases.DeletingFleets(ctx, tx, fleets)
			},
		},
	})
	w.Releases, err = release.New(release.Config{
		DB: w.DB, Accounts: w.Accounts, Fleets: w.Fleets, Site: Site, Log: slog.New(slog.DiscardHandler), Now: w.Now,
		Pinned: func(ctx context.Context, tx *db.Tx, releases []int64) (pinned bool, err error) {
			list, args := db.In(releases)
			err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM device WHERE is_pinned_on__release IN `+list+`)`, args...).
				Scan(&pinned)
			return pinned, err
		},
		KeepBuilds: 30 * 24 * time.Hour, MaxFiles: 1 << 20, StatementKeys: []api.StatementKey{provenance.Key(StatementKey.Public().(ed25519.PublicKey))},
		DropFile: func(ref string) { w.must(w.Blobs.Remove(ref)) },
	})
	w.must(err)
	w.Write(func(tx *db.Tx) error { return w.Fleets.Prepare(t.Context(), tx) })
	model := odata.Model{Resources: []*odata.Resource{deviceResource()}}
	for _, part := range [][]*odata.Resource{w.Accounts.Resources(), member.New(w.Accounts, nil).Resources(), w.Fleets.Resources(), w.Releases.Resources()} {
		model.Resources = append(model.Resources, part...)
	}
	w.Blobs, err = blob.Open(blob.Config{
		Dir: t.TempDir(), Secret: []byte(strings.Repeat("b", 32)), Base: Site.URL("api") + "/blobs/", Now: w.Now,
	})
	w.must(err)
	t.Cleanup(func() { _ = w.Blobs.Close() })
	rules := release.FileRules()
	maps.Copy(rules, account.FileRules())
	w.Engine, err = odata.New(odata.Config{
		Model: model, DB: w.DB, Prefixes: []string{"/v7/"}, Files: blob.Files{Store: w.Blobs, Rules: rules},
	})
	w.must(err)
	w.handler = web.Handle(slog.New(slog.NewTextHandler(t.Output(), nil)), w.Engine.Handler())
	w.Alice, w.Bob = w.person("alice"), w.person("bob")
	return w
}

// Site is where the world's server would be reached.
var Site = api.Site{Domain: "roadstead.test", Port: 443}

func deviceResource() *odata.Resource {
	return &odata.Resource{
		Name: "device",
		Columns: append([]odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "actor", Type: odata.ForeignKey, To: "actor", Reverse: []string{"is_of__device"}},
			{Name: "belongs_to__application", Type: odata.ForeignKey, To: "application", Reverse: []string{"owns__device"}},
			{
				Name: "is_pinned_on__release", Type: odata.ForeignKey, To: "release", Null: true,
				Reverse: []string{"is_pinned_to__device"},
			},
		}, rights.ParentColumns()...),
		Rules: map[access.Kind]odata.Rule{access.User: {Read: access.On(access.Read)}, access.Device: {Read: "id eq @device"}},
	}
}

func (w *World) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// Now is the world's time.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Pass lets time go by.
func (w *World) Pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Changed lists the fleets whose target changed since it was last asked.
func (w *World) Changed() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.changed
	w.changed = nil
	return changed
}

// Person makes somebody who belongs to an organization of their own name, and to no other.
func (w *World) Person(name string) access.Caller { w.t.Helper(); return w.person(name) }

func (w *World) person(name string) access.Caller {
	w.t.Helper()
	_, err := w.Accounts.CreateUser(w.t.Context(), api.NewUser{Email: name + "@example.com", Username: name, Password: passwordOf(name)})
	w.must(err)
	c := access.Caller{Kind: access.User, Name: name}
	w.Read(func(tx *db.Tx) error {
		return tx.QueryRowContext(w.t.Context(), `SELECT id, actor FROM "user" WHERE username = $1`, name).Scan(&c.User, &c.Actor)
	})
	return c
}

func passwordOf(name string) string { return "correct horse battery " + name }

// LoggedIn gives the same person in a session with a fresh login.
func (w *World) LoggedIn(c access.Caller) access.Caller {
	w.t.Helper()
	token, err := w.Accounts.Login(w.t.Context(), api.Login{Username: c.Name, Password: passwordOf(c.Name)}, account.From{Address: "192.0.2.1"})
	w.must(err)
	w.Read(func(tx *db.Tx) (err error) {
		c, err = w.Accounts.Authenticate(w.t.Context(), tx, token)
		return err
	})
	return c
}

// Write runs a transaction that must succeed.
func (w *World) Write(f func(tx *db.Tx) error) {
	w.t.Helper()
	w.must(w.DB.Write(w.t.Context(), f))
}

// Read does the same without writing.
func (w *World) Read(f func(tx *db.Tx) error) {
	w.t.Helper()
	w.must(w.DB.Read(w.t.Context(), f))
}

// Do sends one request as a caller and gives status and body.
func (w *World) Do(by access.Caller, method, path string, body any) (int, string) {
	w.t.Helper()
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		w.must(err)
		in = strings.NewReader(string(data))
	}
	r := httptest.NewRequestWithContext(access.With(w.t.Context(), by), method, "/v7/"+strings.ReplaceAll(path, " ", "%20"), in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

// Want sends one request and checks its status and that the body holds a text.
func (w *World) Want(by access.Caller, method, path string, body any, status int, text string) string {
	w.t.Helper()
	got, answer := w.Do(by, method, path, body)
	if got != status || !strings.Contains(answer, text) {
		w.t.Errorf("%s %s %v as %s: got %d %s, want %d %s", method, path, body, by.Name, got, answer, status, text)
	}
	return answer
}

// Rows sends a GET that must succeed.
func (w *World) Rows(by access.Caller, path string) []map[string]any {
	w.t.Helper()
	status, body := w.Do(by, "GET", path, nil)
	var answer struct{ D []map[string]any }
	if err := json.Unmarshal([]byte(body), &answer); status != http.StatusOK || err != nil {
		w.t.Fatalf("GET %s as %s: %d %s %v", path, by.Name, status, body, err)
	}
	return answer.D
}

// Create sends a POST that must succeed and gives the id of the new row.
func (w *World) Create(by access.Caller, resource string, body map[string]any) int64 {
	w.t.Helper()
	status, answer := w.Do(by, "POST", resource, body)
	var row struct{ ID int64 }
	if err := json.Unmarshal([]byte(answer), &row); status != http.StatusCreated || err != nil || row.ID == 0 {
		w.t.Fatalf("POST %s %v as %s: %d %s %v", resource, body, by.Name, status, answer, err)
	}
	return row.ID
}

// ID finds the one row that a query gives.
func (w *World) ID(by access.Caller, path string) int64 {
	w.t.Helper()
	rows := w.Rows(by, path)
	if len(rows) != 1 {
		w.t.Fatalf("GET %s as %s: %d rows", path, by.Name, len(rows))
	}
	return int64(rows[0]["id"].(float64))
}

// Fleet makes a fleet of a device type in the caller's own organization.
func (w *World) Fleet(by access.Caller, name, deviceType string) int64 {
	w.t.Helper()
	return w.Create(by, "application", map[string]any{
		"app_name":            name,
		"organization":        w.ID(by, "organization(handle='"+by.Name+"')?$select=id"),
		"is_for__device_type": w.ID(by, "device_type(slug='"+deviceType+"')?$select=id"),
	})
}

// Join makes a person a member of a fleet.
func (w *World) Join(who access.Caller, fleetID int64, level access.Level) {
	w.t.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.t.Context(), `INSERT INTO user_application_membership (created_at, "user", is_member_of__application,
			application_membership_role) VALUES (?, ?, ?, ?)
			ON CONFLICT ("user", is_member_of__application) DO UPDATE SET application_membership_role = excluded.application_membership_role`,
			tx.NowText(), who.User, fleetID, int(level))
		return err
	})
}

// Leave takes from somebody what [World.Join] gave.
func (w *World) Leave(who access.Caller, fleetID int64) {
	w.t.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.t.Context(), `DELETE FROM user_application_membership WHERE "user" = ? AND is_member_of__application = ?`, who.User, fleetID)
		return err
	})
}

// Device makes a device in a fleet and gives it as a caller.
func (w *World) Device(fleetID int64) access.Caller {
	w.t.Helper()
	c := access.Caller{Kind: access.Device, Fleet: fleetID}
	w.Write(func(tx *db.Tx) (err error) {
		if c.Actor, err = account.NewActor(w.t.Context(), tx); err != nil {
			return err
		}
		err = tx.QueryRowContext(w.t.Context(), `INSERT INTO device (actor, uuid, belongs_to__application) VALUES ($1, $2, $3) RETURNING id`,
			c.Actor, fmt.Sprintf("%032x", c.Actor), fleetID).Scan(&c.Device)
		c.Name = fmt.Sprintf("device %d", c.Device)
		return err
	})
	return c
}

// Open begins a build with one image a service.
func (w *World) Open(by access.Caller, slug string, draft bool, services ...string) (api.Build, []api.BuildImage) {
	w.t.Helper()
	var b api.Build
	var images []api.BuildImage
	w.Write(func(tx *db.Tx) (err error) {
		if b, err = w.Releases.Open(w.t.Context(), tx, by, api.BuildRequest{Slug: slug, Draft: draft}); err != nil {
			return err
		}
		images, err = w.Releases.AddImages(w.t.Context(), tx, b.ID, api.BuildImagesRequest{
			Composition: json.RawMessage(`{"services":{}}`), Services: services,
		})
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened[b.ID] = opened{b, images}
	return b, images
}

// Result is a build's success with a digest for each image.
func Result(images []api.BuildImage) api.BuildResult {
	r := api.BuildResult{Status: api.StatusSuccess, Log: "built\n"}
	for _, image := range images {
		r.Images = append(r.Images, api.BuildImageResult{
			ID: image.ID, Status: api.StatusSuccess, Digest: fmt.Sprintf("sha256:%064x", image.ID), Size: 1 << 33,
			Dockerfile: "FROM base/busybox\n",
			Labels:     map[string]string{"io.example.x": "1", "not a label": "2"},
		})
	}
	return r
}

// Statement is what the signer signs of a build that ends so. It may be changed before.
func Statement(b api.Build, images []api.BuildImage, result api.BuildResult, change func(*api.StatementRequest)) (json.RawMessage, error) {
	ask := api.StatementRequest{Build: b.ID}
	b.Repositories = nil
	for i, image := range images {
		b.Repositories = append(b.Repositories, image.Repository)
		ask.Images = append(ask.Images, api.StatementImage{
			Service: image.Service, Repository: image.Repository, Digest: result.Images[i].Digest,
			Bases: []api.ImageBase{{Name: "base/busybox", Digest: "sha256:" + strings.Repeat("b", 64)}},
			SBOM:  &api.ImageSBOM{Digest: "sha256:" + strings.Repeat("5", 64), Packages: 4},
		})
	}
	if change != nil {
		change(&ask)
	}
	s, err := provenance.New(Site, b, ask)
	if err != nil {
		return nil, err
	}
	e, err := provenance.Sign(s, StatementKey)
	if err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

// Finish ends a build that [World.Open] has opened. A success that comes without a statement gets one.
func (w *World) Finish(id int64, result api.BuildResult) (b api.Build, err error) {
	w.t.Helper()
	w.mu.Lock()
	o := w.opened[id]
	w.mu.Unlock()
	if result.Status == api.StatusSuccess && result.Statement == nil && len(result.Images) == len(o.images) {
		if result.Statement, err = Statement(o.build, o.images, result, nil); err != nil {
			return b, err
		}
	}
	err = w.DB.Write(w.t.Context(), func(tx *db.Tx) (err error) {
		b, err = w.Releases.Finish(w.t.Context(), tx, id, result)
		return err
	})
	return b, err
}

// Release makes a successful release and gives its id.
func (w *World) Release(by access.Caller, slug string, draft bool, services ...string) int64 {
	w.t.Helper()
	b, images := w.Open(by, slug, draft, services...)
	w.Pass(time.Second)
	_, err := w.Finish(b.ID, Result(images))
	w.must(err)
	return b.ID
}

// Target is the release that a fleet should run; 0 for none.
func (w *World) Target(id int64) int64 {
	w.t.Helper()
	var target int64
	w.Read(func(tx *db.Tx) error {
		return tx.QueryRowContext(w.t.Context(), `SELECT COALESCE(should_be_running__release, 0) FROM application WHERE id = $1`, id).Scan(&target)
	})
	return target
}
