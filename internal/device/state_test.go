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

// target asks for a state; known is an ETag.
func (w *world) target(by access.Caller, uuid api.DeviceUUID, known string) (t device.Target, err error) {
	w.Helper()
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		t, err = w.Devices.Target(w.Context(), tx, by, uuid, known)
		return err
	})
	return t, err
}

func (w *world) state(by access.Caller, uuid api.DeviceUUID) *api.DeviceTarget {
	w.Helper()
	t, err := w.target(by, uuid, "")
	w.Must(err)
	return t.State()[uuid]
}

func TestTargetOfANewDevice(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, _ := w.device(w.alice, f, uuidOf(1))
	name := w.one(w.alice, "device?$select=device_name")["device_name"].(string)
	fl := w.one(w.alice, "application?$select=uuid")["uuid"].(string)
	want := &api.DeviceTarget{
		Name:   name,
		Config: map[string]string{"RESIN_SUPERVISOR_POLL_INTERVAL": "60000"},
		Apps:   map[string]*api.AppTarget{fl: {ID: f, Name: "harbour", Class: "fleet"}},
	}
	if diff := cmp.Diff(want, w.state(dev, uuidOf(1))); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
}

func TestTargetOfARelease(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	b := w.push(w.alice, "alice/harbour", "web", "writer")
	web := w.id("service", "service_name = 'web'")
	install := w.id("service_install", "device = ? AND installs__service = ?", made.ID, web)
	image := w.id("release_image", "image = ?", b.images["web"].ID)
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO image_environment_variable (created_at, release_image, name, value) VALUES ('', ?, 'V', 'image'), ('', ?, 'IMAGE', '1')`,
			image, image)
		return err
	})
	variable := func(resource, parent string, id int64, name, value string) {
		w.Create(w.alice, resource, map[string]any{parent: id, "name": name, "value": value})
	}
	for _, v := range []struct {
		resource, parent string
		id               int64
		rank             string
	}{
		{"application_environment_variable", "application", f, "fleet"},
		{"service_environment_variable", "service", web, "service"},
		{"device_environment_variable", "device", made.ID, "device"},
		{"device_service_environment_variable", "service_install", install, "both"},
	} {
		if got, want := w.state(dev, uuidOf(1)).Apps[w.fleetUUID(f)].Releases[b.commit].Services["web"].Environment["V"], w.last; got != want && want != "" {
			t.Errorf("before %s: V=%q, want %q", v.resource, got, want)
		}
		variable(v.resource, v.parent, v.id, "V", v.rank)
		variable(v.resource, v.parent, v.id, "ONLY_"+v.rank, "1")
		w.last = v.rank
	}
	variable("application_config_variable", "application", f, "BALENA_HOST_X", "fleet")
	variable("application_config_variable", "application", f, "RESIN_SUPERVISOR_UPDATE_STRATEGY", "hand-over")
	variable("application_config_variable", "application", f, "RESIN_UI_ENABLE_PUBLIC_URLS", "1")
	variable("device_config_variable", "device", made.ID, "BALENA_HOST_X", "device")
	w.Create(w.alice, "service_label", map[string]any{"service": web, "label_name": "of-service", "value": "1"})

	got := w.state(dev, uuidOf(1))
	if diff := cmp.Diff(map[string]string{
		"BALENA_HOST_X": "device", "RESIN_SUPERVISOR_UPDATE_STRATEGY": "hand-over", "RESIN_SUPERVISOR_POLL_INTERVAL": "60000",
	}, got.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	rel := got.Apps[w.fleetUUID(f)].Releases[b.commit]
	want := &api.ReleaseTarget{
		ID: b.id, Volumes: map[string]json.RawMessage{"data": json.RawMessage("{}")},
		Services: map[string]*api.ServiceTarget{
			"web": {
				ID: web, ImageID: b.images["web"].ID, Image: b.ref("web"),
				Environment: map[string]string{"V": "both", "IMAGE": "1", "ONLY_fleet": "1", "ONLY_service": "1", "ONLY_device": "1", "ONLY_both": "1"},
				Labels:      map[string]string{"of-image": "web", "of-service": "1", "io.resin.update.strategy": "hand-over"},
				Composition: json.RawMessage(`{"labels":{"composed":"yes"},"restart":"always"}`),
			},
			"writer": {
				ID: w.id("service", "service_name = 'writer'"), ImageID: b.images["writer"].ID, Image: b.ref("writer"),
				Environment: map[string]string{"V": "device", "ONLY_fleet": "1", "ONLY_device": "1"},
				Labels:      map[string]string{"of-image": "writer", "io.resin.update.strategy": "hand-over"},
				Composition: json.RawMessage(`{"labels":{"composed":"yes"},"restart":"always"}`),
			},
		},
	}
	if diff := cmp.Diff(want, rel); diff != "" {
		t.Errorf("release (-want +got):\n%s", diff)
	}
}

func (w *world) fleetUUID(id int64) (uuid string) {
	w.Helper()
	w.Read(func(tx *db.Tx) error {
		return tx.QueryRowContext(w.Context(), `SELECT uuid FROM application WHERE id = ?`, id).Scan(&uuid)
	})
	return uuid
}

// Every write that changes what a device gets must change the ETag; else it would never hear of it.
func TestETagFollowsEveryChange(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	b := w.push(w.alice, "alice/harbour", "web")
	web := w.id("service", "service_name = 'web'")
	install := w.id("service_install", "device = ?", made.ID)
	image := w.id("release_image", "image = ?", b.images["web"].ID)
	row := func(resource, parent string, id int64) func() {
		name := "name"
		if resource == "service_label" {
			name = "label_name"
		}
		var made int64
		step := 0
		return func() {
			switch step++; step {
			case 1:
				value := "X"
				if resource == "application_config_variable" || resource == "device_config_variable" {
					value = "RESIN_HOST_X"
				}
				made = w.Create(w.alice, resource, map[string]any{parent: id, name: value, "value": "1"})
			case 2:
				w.Want(w.alice, "PATCH", fmt.Sprintf("%s(%d)", resource, made), map[string]any{"value": "2"}, 200, "")
			default:
				w.Want(w.alice, "DELETE", fmt.Sprintf("%s(%d)", resource, made), nil, 200, "")
			}
		}
	}
	sql := func(query string, args ...any) func() {
		return func() {
			w.Write(func(tx *db.Tx) error {
				_, err := tx.ExecContext(t.Context(), query, args...)
				return err
			})
		}
	}
	changes := map[string]func(){
		"rename": func() {
			w.Want(w.alice, "PATCH", "device", nil, 400, "")
			w.patchDevice(made.ID, "device_name", "new-name")
		},
		"pin":   func() { w.patchDevice(made.ID, "is_pinned_on__release", b.id) },
		"unpin": func() { w.patchDevice(made.ID, "is_pinned_on__release", nil) },
		"rename fleet": func() {
			w.Want(w.alice, "PATCH", fmt.Sprintf("application(%d)", f), map[string]any{"app_name": "haven"}, 200, "")
		},
		"composition":   sql(`UPDATE "release" SET composition = '{"services":{}}' WHERE id = ?`, b.id),
		"digest":        sql(`UPDATE image SET content_hash = ? WHERE id = ?`, digest(99), b.images["web"].ID),
		"image env":     sql(`INSERT INTO image_environment_variable (created_at, release_image, name, value) VALUES ('', ?, 'A', 'b')`, image),
		"image label":   sql(`UPDATE image_label SET value = 'other'`),
		"release_image": sql(`UPDATE release_image SET created_at = 'x' WHERE id = ?`, image),
		"service":       sql(`UPDATE service SET service_name = 'site'`),
	}
	for _, r := range []struct {
		resource, parent string
		id               int64
	}{
		{"application_environment_variable", "application", f}, {"application_config_variable", "application", f},
		{"service_environment_variable", "service", web}, {"service_label", "service", web},
		{"device_environment_variable", "device", made.ID}, {"device_config_variable", "device", made.ID},
		{"device_service_environment_variable", "service_install", install},
	} {
		step := row(r.resource, r.parent, r.id)
		changes["0 new "+r.resource], changes["1 changed "+r.resource], changes["2 deleted "+r.resource] = step, step, step
	}
	for _, order := range []string{"0", "1", "2", ""} {
		for what, change := range changes {
			if (what[0] >= '0' && what[0] <= '2') != (order != "") || (order != "" && what[:1] != order) {
				continue
			}
			before, err := w.target(dev, uuidOf(1), "")
			w.Must(err)
			same, err := w.target(dev, uuidOf(1), before.ETag)
			w.Must(err)
			if !same.Unchanged() || same.ETag != before.ETag {
				t.Errorf("before %s: nothing changed, and yet a new state", what)
			}
			change()
			after, err := w.target(dev, uuidOf(1), before.ETag)
			w.Must(err)
			if after.Unchanged() || after.ETag == before.ETag {
				t.Errorf("%s: the ETag did not change", what)
			}
		}
	}
	before, err := w.target(dev, uuidOf(1), "")
	w.Must(err)
	w.patchDevice(made.ID, "is_pinned_on__release", nil)
	next := w.push(w.alice, "alice/haven", "web")
	after, err := w.target(dev, uuidOf(1), before.ETag)
	w.Must(err)
	if after.Unchanged() || after.State()[uuidOf(1)].Apps[w.fleetUUID(f)].Releases[next.commit] == nil {
		t.Error("the new release is not the target")
	}
}

func (w *world) patchDevice(id int64, column string, value any) {
	w.Helper()
	w.Want(w.alice, "PATCH", fmt.Sprintf("device(%d)", id), map[string]any{column: value}, 200, "")
}

func TestTargetIsForItsOwn(t *testing.T) {
	w := newWorld(t)
	f, other := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	dev, made := w.device(w.alice, f, uuidOf(1))
	foreign, _ := w.device(w.bob, other, uuidOf(2))
	for _, test := range []struct {
		by   access.Caller
		uuid api.DeviceUUID
		want error
	}{
		{dev, uuidOf(1), nil}, {w.alice, uuidOf(1), nil},
		{dev, uuidOf(2), api.ErrUnauthorized}, {foreign, uuidOf(1), api.ErrUnauthorized}, {dev, uuidOf(3), api.ErrUnauthorized},
		{w.bob, uuidOf(1), api.ErrNotFound}, {w.alice, uuidOf(3), api.ErrNotFound},
		{access.Nobody(), uuidOf(1), api.ErrNotFound},
		{access.Caller{Kind: access.Provisioning, Fleet: f}, uuidOf(1), api.ErrNotFound},
	} {
		if _, err := w.target(test.by, test.uuid, ""); !errors.Is(err, test.want) {
			t.Errorf("%s asks for %s: got %v, want %v", test.by.Name, test.uuid, err, test.want)
		}
	}
	w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "")
	if _, err := w.target(dev, uuidOf(1), ""); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a deleted device asks: %v", err)
	}
}

func TestHeartbeat(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	poll := func(known string) string {
		got, err := w.target(dev, uuidOf(1), known)
		w.Must(err)
		w.Devices.Heard(w.Context(), got)
		return got.ETag
	}
	const query = "device?$select=is_online,api_heartbeat_state,overall_status,is_active"
	check := func(when string, online bool, state, overall string) {
		t.Helper()
		row := w.one(w.alice, query)
		if row["is_online"] != online || row["api_heartbeat_state"] != state || row["overall_status"] != overall {
			t.Errorf("%s: %v; want %v %s %s", when, row, online, state, overall)
		}
	}
	check("new", false, "unknown", "inactive")
	if _, err := w.target(w.alice, uuidOf(1), ""); err != nil {
		t.Error(err)
	}
	check("seen by a user", false, "unknown", "inactive")
	tag := poll("")
	check("after its first poll", true, "online", "operational")
	w.Pass(119 * time.Second)
	check("almost two polls later", true, "online", "operational")
	w.Pass(2 * time.Second)
	check("two polls later", true, "timeout", "reduced-functionality")
	w.Pass(20 * time.Second)
	check("long ago", false, "offline", "disconnected")
	if n := len(w.rows(w.alice, "device?$select=id&$filter=is_online eq true")); n != 0 {
		t.Errorf("%d devices online by the filter, want 0", n)
	}
	poll(tag) // 304 counts too, and the interval is that of before
	check("back", true, "online", "operational")
	w.Create(w.alice, "device_config_variable", map[string]any{"device": made.ID, "name": "RESIN_SUPERVISOR_POLL_INTERVAL", "value": "3600000"})
	poll(tag)
	w.Pass(100 * time.Minute)
	roletest.Eventually(w, "the longer interval is written", func() bool {
		return w.one(w.alice, query)["is_online"] == true
	})
}
