package device_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/domaintest"
)

const registry = "registry2.roadstead.test"

// world is all domain packages on a real database, with two people who know nothing of each other.
type world struct {
	*domaintest.Platform

	alice, bob access.Caller

	last string // what a test did last
	far  int64  // a fleet of bob
}

func newWorld(t testing.TB, change ...func(*device.Config)) *world {
	t.Helper()
	w := &world{Platform: domaintest.NewPlatform(t, domaintest.Config{Device: func(c *device.Config) {
		for _, f := range change {
			f(c)
		}
	}})}
	w.alice, w.bob = w.Person("alice"), w.Person("bob")
	return w
}

func (w *world) rows(by access.Caller, path string) []map[string]any {
	w.Helper()
	var answer struct{ D []map[string]any }
	w.Must(json.Unmarshal([]byte(w.Want(by, "GET", path, nil, 200, "")), &answer))
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

func (w *world) id(table, where string, args ...any) int64 {
	w.Helper()
	return w.Number(`SELECT id FROM "`+table+`" WHERE `+where, args...)
}

// count counts rows; the query begins with a table.
func (w *world) count(query string, args ...any) int {
	w.Helper()
	return int(w.Number(`SELECT count(*) FROM `+query, args...))
}

// provisioning makes a provisioning key; max 0 means no bound.
func (w *world) provisioning(by access.Caller, fleetID int64, maxUses int) (key string) {
	w.Helper()
	w.Write(func(tx *db.Tx) (err error) {
		key, err = w.Accounts.CreateKey(w.Context(), tx, by, account.KeySpec{Of: account.OfFleet, ID: fleetID, MaxUses: maxUses})
		return err
	})
	return key
}

func uuidOf(n int) api.DeviceUUID { return domaintest.UUID(n) }

// register registers with a token, looked up anew as a request would.
func (w *world) register(token string, req api.Register) (made api.Registered, err error) {
	w.Helper()
	if req.DeviceType == "" {
		req.DeviceType = "generic-amd64"
	}
	by, err := w.Authenticate(token)
	if err != nil {
		return made, err
	}
	return w.Devices.Register(w.Context(), by, req)
}

// device registers a device and gives what it is from then on.
func (w *world) device(by access.Caller, fleetID int64, uuid api.DeviceUUID) (access.Caller, api.Registered) {
	w.Helper()
	made, err := w.register(w.provisioning(by, fleetID, 1), api.Register{Application: fleetID, UUID: uuid})
	w.Must(err)
	return w.Caller(made.APIKey), made
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
	w.Write(func(tx *db.Tx) error {
		build, err := w.Releases.Open(w.Context(), tx, by, api.BuildRequest{Slug: slug})
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
		images, err := w.Releases.AddImages(w.Context(), tx, build.ID, api.BuildImagesRequest{Composition: composition, Services: services})
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
		_, err = w.Releases.Finish(w.Context(), tx, build.ID, result)
		return err
	})
	w.Pass(time.Millisecond) // releases are ordered by their time
	return b
}
