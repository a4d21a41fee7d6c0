package device_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// ask asks as the api role does for a device.
func (w *world) ask(by access.Caller, uuid api.DeviceUUID, known string) (t device.Target, err error) {
	w.Helper()
	done := false
	err = w.DB.ReadOne(w.Context(), func(tx *db.Tx) (err error) {
		t, done, err = w.Devices.Ask(w.Context(), tx, by, uuid, known)
		return err
	})
	if err == nil && !done {
		return w.target(by, uuid, known)
	}
	return t, err
}

// fromMemory asks where there is no database: it panics unless the answer is known.
func (w *world) fromMemory(by access.Caller, uuid api.DeviceUUID, known string) (t device.Target, ok bool) {
	w.Helper()
	defer func() { _ = recover() }()
	t, ok, err := w.Devices.Ask(w.Context(), &db.Tx{Now: w.Now()}, by, uuid, known)
	w.Must(err)
	return t, ok
}

// warm polls until a device's answer is remembered, where anything is, and gives it.
func (w *world) warm(by access.Caller, uuid api.DeviceUUID) (t device.Target) {
	w.Helper()
	roletest.Eventually(w, "the answer is remembered", func() bool {
		var err error
		t, err = w.ask(by, uuid, "")
		w.Must(err)
		w.Devices.Heard(w.Context(), t)
		if w.DB.Dialect() == db.SQLite {
			return true
		}
		got, ok := w.fromMemory(by, uuid, t.ETag)
		return ok && got.Unchanged() && got.ETag == t.ETag
	})
	return t
}

// Whatever changes what a device gets, whoever changes it, the next poll but a moment later sees it.
func TestWhatIsRememberedFollowsEveryChange(t *testing.T) {
	w := newWorld(t)
	s := w.systems()
	f, other := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven")
	dev, made := w.device(w.alice, f, uuidOf(1))
	sister, _ := w.device(w.alice, other, uuidOf(2))
	b := w.push(w.alice, "alice/harbour", "web")
	patch := func(column string, value any) func() {
		return func() { w.patchDevice(made.ID, column, value) }
	}
	sql := func(query string, args ...any) func() { return func() { w.Exec(query, args...) } }
	uuid := uuidOf(1)
	for _, change := range []struct {
		what string
		do   func()
	}{
		{"a variable of the device", func() {
			w.Create(w.alice, "device_environment_variable", map[string]any{"device": made.ID, "name": "A", "value": "1"})
		}},
		{"a variable of the fleet", func() {
			w.Create(w.alice, "application_environment_variable", map[string]any{"application": f, "name": "B", "value": "1"})
		}},
		{"a configuration of the fleet", func() {
			w.Create(w.alice, "application_config_variable", map[string]any{"application": f, "name": "RESIN_HOST_X", "value": "1"})
		}},
		{"a new release", func() { w.push(w.alice, "alice/harbour", "web") }},
		{"a pin", patch("is_pinned_on__release", b.id)},
		{"a digest", sql(`UPDATE image SET content_hash = ? WHERE id = ?`, digest(77), b.images["web"].ID)},
		{"an operating system", patch("should_be_operated_by__release", s.next.id)},
		{"a supervisor", patch("should_be_managed_by__release", s.supervisor17.id)},
		{"a release of the system", sql(`UPDATE "release" SET composition = '{"services":{}}' WHERE id = ?`, s.next.id)},
		{"a release of the supervisor", sql(`UPDATE "release" SET composition = '{"services":{}}' WHERE id = ?`, s.supervisor17.id)},
		{"a supervisor that is deleted", sql(`UPDATE device SET should_be_managed_by__release = NULL WHERE id = ?`, made.ID)},
		{"a name", patch("device_name", "other-name")},
		{"a move", patch("belongs_to__application", other)},
		{"a variable of the other fleet", func() {
			w.Create(w.alice, "application_environment_variable", map[string]any{"application": other, "name": "C", "value": "1"})
		}},
	} {
		before, unmoved := w.warm(dev, uuid), w.warm(sister, uuidOf(2))
		change.do()
		began := time.Now()
		var after polled
		roletest.Eventually(w, change.what+" is seen", func() bool {
			var err error
			after.Target, err = w.ask(dev, uuid, before.ETag)
			w.Must(err)
			return !after.Unchanged()
		})
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("%s was seen after %s, want 2 s at most", change.what, took)
		}
		want, err := w.target(dev, uuid, "")
		w.Must(err)
		if after.ETag != want.ETag || !cmp.Equal(after.State(), want.State()) {
			t.Errorf("%s: not what the database says: %s", change.what, cmp.Diff(want.State(), after.State()))
		}
		if got, ok := w.fromMemory(sister, uuidOf(2), unmoved.ETag); w.DB.Dialect() == db.Postgres && change.what != "a variable of the other fleet" &&
			(!ok || !got.Unchanged()) {
			t.Errorf("%s of one device made another's answer be forgotten", change.what)
		}
	}
	for _, end := range []struct {
		what string
		do   func()
	}{
		{"frozen", sql(`UPDATE device SET is_frozen = 1 WHERE id = ?`, made.ID)},
		{"thawed", sql(`UPDATE device SET is_frozen = 0 WHERE id = ?`, made.ID)},
		{"known by another uuid", sql(`UPDATE device SET uuid = 'other' WHERE id = ?`, made.ID)},
		{"known by its uuid", sql(`UPDATE device SET uuid = ? WHERE id = ?`, uuid, made.ID)},
		{"deleted", func() { w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "") }},
	} {
		gone := end.what != "thawed" && end.what != "known by its uuid"
		if gone {
			w.warm(dev, uuid)
		}
		end.do()
		roletest.Eventually(w, "a device that is "+end.what, func() bool {
			_, err := w.ask(dev, uuid, "")
			return errors.Is(err, api.ErrUnauthorized) == gone
		})
	}
}

// polled is the answer to a poll.
type polled struct{ device.Target }

// A remembered answer says of a device that it is online for no longer than the database would: its next sign of life is then
// written at once.
func TestWhatIsRememberedOfAHeartbeat(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	online := func() any { return w.one(w.alice, "device?$select=is_online")["is_online"] }
	tag := w.warm(dev, uuidOf(1)).ETag
	for range 4 { // polls in time keep it remembered, each beyond what the database said when it was asked
		w.Pass(50 * time.Second)
		got, ok := w.fromMemory(dev, uuidOf(1), tag)
		if w.DB.Dialect() == db.Postgres && !ok {
			t.Fatal("a device that polls in time is forgotten")
		}
		if !ok {
			got = w.warm(dev, uuidOf(1))
		}
		w.Devices.Heard(w.Context(), got)
	}
	w.Pass(3 * time.Minute)
	roletest.Eventually(w, "it is late", func() bool { return online() == false })
	if _, ok := w.fromMemory(dev, uuidOf(1), tag); ok {
		t.Error("a device that was silent is answered as one that is online")
	}
	got, err := w.ask(dev, uuidOf(1), tag)
	w.Must(err)
	w.Devices.Heard(w.Context(), got)
	if online() != true { // not only with the next ones
		t.Error("its first sign of life was not written at once")
	}
}

// What is written out once for a fleet is what each device would get alone.
func TestStateWrittenOut(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	other, _ := w.device(w.alice, f, uuidOf(2))
	check := func(when string) {
		t.Helper()
		for _, d := range []struct {
			by   access.Caller
			uuid api.DeviceUUID
		}{{dev, uuidOf(1)}, {other, uuidOf(2)}} {
			got, err := w.ask(d.by, d.uuid, "none")
			w.Must(err)
			text, err := got.JSON()
			w.Must(err)
			var read api.TargetState
			w.Must(json.Unmarshal(text, &read))
			want, err := json.Marshal(got.State())
			w.Must(err)
			if string(text) != string(want) {
				t.Errorf("%s, %s: written out is\n%s\nwant\n%s", when, d.uuid, text, want)
			}
			fresh, err := w.target(d.by, d.uuid, "")
			w.Must(err)
			if diff := cmp.Diff(fresh.State(), read); diff != "" || fresh.ETag != got.ETag {
				t.Errorf("%s, %s (-want +got):\n%s", when, d.uuid, diff)
			}
		}
	}
	check("without a release")
	w.push(w.alice, "alice/harbour", "web", "writer")
	check("with a release")
	check("once more")
	w.patchDevice(made.ID, "device_name", `a "name" <with> \ marks`)
	check("with a name")
	for _, v := range []map[string]any{{"name": "A", "value": "é\" \u2028"}, {"name": "B", "value": ""}} {
		v["device"] = made.ID
		w.Create(w.alice, "device_environment_variable", v)
		check("with a variable")
	}
	w.Create(w.alice, "device_config_variable", map[string]any{"device": made.ID, "name": "RESIN_SUPERVISOR_POLL_INTERVAL", "value": "120000"})
	check("with a configuration")
	install := w.id("service_install", "device = ? AND installs__service = ?", made.ID, w.id("service", "service_name = 'web'"))
	w.Create(w.alice, "device_service_environment_variable", map[string]any{"service_install": install, "name": "A", "value": "of the service"})
	check("with a variable of a service")
}

// A device that was just told what to run may pull that without the database being asked again, and what it should no longer run
// not for long.
func TestPullsOfWhatIsRemembered(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	first := w.push(w.alice, "alice/harbour", "web")
	second := w.push(w.alice, "alice/harbour", "web")
	grants := func(tx *db.Tx, b built) int {
		got, err := w.Devices.PullGrants(t.Context(), tx, dev, registry, []string{"repository:" + b.images["web"].Repository + ":pull"})
		w.Must(err)
		return len(got)
	}
	asked := func(b built) (n int) {
		w.Must(w.DB.ReadOne(t.Context(), func(tx *db.Tx) error {
			n = grants(tx, b)
			return nil
		}))
		return n
	}
	w.warm(dev, uuidOf(1))
	w.same("the image of its release", asked(second), 1)
	w.same("the image of another release", asked(first), 0)
	if w.DB.Dialect() == db.Postgres {
		w.same("the image of its release, from memory", grants(&db.Tx{Now: w.Now()}, second), 1)
	}
	w.patchDevice(made.ID, "is_pinned_on__release", first.id)
	roletest.Eventually(w, "the pin counts", func() bool { return asked(first) == 1 && asked(second) == 0 })
	w.warm(dev, uuidOf(1))
	w.Exec(`UPDATE "release" SET status = 'failed' WHERE id = ?`, first.id)
	roletest.Eventually(w, "a release that failed is not pulled", func() bool { return asked(first) == 0 })
	w.Exec(`UPDATE "release" SET status = 'success' WHERE id = ?`, first.id)
	w.warm(dev, uuidOf(1))
	w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "")
	roletest.Eventually(w, "a device that is gone pulls nothing", func() bool { return asked(first) == 0 })
}
