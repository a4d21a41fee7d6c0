package device_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
)

// versioned makes a release the one of a version.
func (w *world) versioned(b built, version string) built {
	w.Helper()
	var major, minor, patch int
	_, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	w.Must(err)
	revision := 0
	if _, rev, ok := strings.Cut(version, "+rev"); ok {
		_, err := fmt.Sscan(rev, &revision)
		w.Must(err)
	}
	w.Exec(`UPDATE "release" SET semver_major = ?, semver_minor = ?, semver_patch = ?, revision = ?, raw_version = ? WHERE id = ?`,
		major, minor, patch, revision, version, b.id)
	return b
}

// systems are fleets of operating systems and supervisors with a few releases each.
type systems struct {
	host, supervisor                   int64 // fleets
	old, os, next                      built // 2.98.33, 2.98.33+rev1 and 6.0.0
	supervisor16, supervisor17, armOne built
}

func (w *world) systems() (s systems) {
	w.Helper()
	s.host, s.supervisor = w.Fleet(w.bob, "generic-amd64"), w.Fleet(w.bob, "amd64-supervisor")
	s.old = w.versioned(w.push(w.bob, "bob/generic-amd64", "hostapp"), "2.98.33")
	s.os = w.versioned(w.push(w.bob, "bob/generic-amd64", "hostapp"), "2.98.33+rev1")
	s.next = w.versioned(w.push(w.bob, "bob/generic-amd64", "hostapp"), "6.0.0")
	s.supervisor16 = w.versioned(w.push(w.bob, "bob/amd64-supervisor", "supervisor"), "16.1.2")
	s.supervisor17 = w.versioned(w.push(w.bob, "bob/amd64-supervisor", "supervisor"), "17.0.1")
	arm := w.Fleet(w.bob, "aarch64-supervisor")
	s.armOne = w.versioned(w.push(w.bob, "bob/aarch64-supervisor", "supervisor"), "18.0.0")
	w.Exec(`UPDATE application SET is_host = 1, is_public = 1, slug = 'balena_os/generic-amd64' WHERE id = ?`, s.host)
	w.Exec(`UPDATE application SET is_public = 1, is_of__class = 'app', slug = 'balena_os/amd64-supervisor' WHERE id = ?`, s.supervisor)
	w.Exec(`UPDATE application SET is_public = 1, slug = 'balena_os/aarch64-supervisor' WHERE id = ?`, arm)
	return s
}

func TestReleasesOfHostAndSupervisor(t *testing.T) {
	w := newWorld(t)
	s := w.systems()
	f := w.Fleet(w.alice, "harbour")
	own := w.push(w.alice, "alice/harbour", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	set := func(column string, release int64) (int, string) {
		return w.Do(w.alice, "PATCH", path, map[string]any{column: release})
	}
	const operated, managed = "should_be_operated_by__release", "should_be_managed_by__release"
	for what, test := range map[string]struct {
		column  string
		release int64
		text    string
	}{
		"a release of the own fleet as the OS": {operated, own.id, "It is necessary that each release that should operate a device"},
		"a supervisor as the OS":               {operated, s.supervisor16.id, "It is necessary that each release that should operate a device"},
		"an OS as the supervisor":              {managed, s.os.id, "It is necessary that each release that should manage a device"},
		"another architecture's supervisor":    {managed, s.armOne.id, "It is necessary that each release that should manage a device"},
	} {
		if status, body := set(test.column, test.release); status != 400 || !strings.Contains(body, test.text) {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	w.Exec(`UPDATE "release" SET is_invalidated = 1 WHERE id = ?`, s.next.id)
	if status, body := set(operated, s.next.id); status != 400 {
		t.Errorf("an invalidated OS: %d %s", status, body)
	}
	w.Exec(`UPDATE "release" SET is_invalidated = 0 WHERE id = ?`, s.next.id)

	// What the device says decides first, and no older version is taken after that.
	w.Must(w.report(dev, uuidOf(1), map[string]any{"os_version": "balenaOS 2.98.33+rev1", "os_variant": "prod", "supervisor_version": "16.1.2"}))
	row := w.one(w.alice, path+"?$select="+operated+","+managed)
	w.same("followed", fmt.Sprint(row[operated], row[managed]), fmt.Sprint(map[string]any{"__id": s.os.id}, map[string]any{"__id": s.supervisor16.id}))
	if status, body := set(operated, s.old.id); status != 400 || !strings.Contains(body, "Attempt to downgrade hostapp, which is not allowed") {
		t.Errorf("an older OS: %d %s", status, body)
	}
	w.Want(w.alice, "PATCH", path, map[string]any{managed: s.supervisor17.id}, 200, "")
	if status, body := set(managed, s.supervisor16.id); status != 400 || !strings.Contains(body, "downgrade") {
		t.Errorf("an older supervisor: %d %s", status, body)
	}
	before, err := w.target(dev, uuidOf(1), "")
	w.Must(err)
	w.Want(w.alice, "PATCH", path, map[string]any{operated: s.next.id}, 200, "")
	after, err := w.target(dev, uuidOf(1), before.ETag)
	w.Must(err)
	if after.Unchanged() {
		t.Fatal("a new OS does not change the ETag")
	}
	state := after.State()[uuidOf(1)]
	host, supervisor := state.Apps[w.fleetUUID(s.host)], state.Apps[w.fleetUUID(s.supervisor)]
	if len(state.Apps) != 3 || host == nil || !host.IsHost || host.Releases[s.next.commit] == nil || supervisor == nil || supervisor.Class != "app" ||
		supervisor.Releases[s.supervisor17.commit] == nil || supervisor.IsHost {
		t.Fatalf("apps of the target: %+v", state.Apps)
	}
	if got := host.Releases[s.next.commit].Services["hostapp"]; got.Labels["io.balena.image.store"] != "root" || got.Image != s.next.ref("hostapp") {
		t.Errorf("the host's service: %+v", got)
	}
	w.Create(w.bob, "application_environment_variable", map[string]any{"application": s.host, "name": "SECRET", "value": "bob's"})
	if got := w.state(dev, uuidOf(1)).Apps[w.fleetUUID(s.host)].Releases[s.next.commit].Services["hostapp"]; got.Environment["SECRET"] != "" {
		t.Error("what the owner of an OS tells their devices reaches those of others")
	}
	w.same("installs", w.count("service_install WHERE device = ?", made.ID), 3)
	grants := 0
	w.Read(func(tx *db.Tx) error {
		for _, b := range []built{s.next, s.supervisor17, own, s.old, s.supervisor16} {
			for _, image := range b.images {
				got, err := w.Devices.PullGrants(t.Context(), tx, dev, registry, []string{"repository:" + image.Repository + ":pull"})
				if err != nil {
					return err
				}
				grants += len(got)
			}
		}
		return nil
	})
	w.same("images to pull", grants, 3)

	// A change inside the host's release reaches the device.
	w.Exec(`UPDATE "release" SET composition = '{"services":{"hostapp":{"restart":"no"}}}' WHERE id = ?`, s.next.id)
	again, err := w.target(dev, uuidOf(1), after.ETag)
	w.Must(err)
	if again.Unchanged() {
		t.Error("a change of the host's release does not change the ETag")
	}
	w.Want(w.alice, "PATCH", path, map[string]any{operated: nil}, 200, "")
	if n := len(w.state(dev, uuidOf(1)).Apps); n != 2 {
		t.Errorf("%d apps without an OS, want 2", n)
	}
	// A newer version than what was asked for: the device was updated by other means.
	w.Must(w.report(dev, uuidOf(1), map[string]any{"os_version": "balenaOS 6.0.0"}))
	w.same("followed upwards", fmt.Sprint(w.one(w.alice, path+"?$select="+operated)[operated]), fmt.Sprint(map[string]any{"__id": s.next.id}))
}

func TestVersionsAtRegistration(t *testing.T) {
	w := newWorld(t)
	s := w.systems()
	f := w.Fleet(w.alice, "harbour")
	made, err := w.register(w.provisioning(w.alice, f, 1), api.Register{Application: f, UUID: uuidOf(1), OSVersion: "balenaOS 6.0.0",
		OSVariant: "prod", SupervisorVersion: "17.0.1"})
	w.Must(err)
	row := w.one(w.alice, fmt.Sprintf("device(%d)?$select=should_be_operated_by__release,should_be_managed_by__release", made.ID))
	w.same("releases", row, map[string]any{"should_be_operated_by__release": map[string]any{"__id": s.next.id},
		"should_be_managed_by__release": map[string]any{"__id": s.supervisor17.id}})
	w.same("installs", w.count("service_install WHERE device = ?", made.ID), 2)
}

// A supervisor reports its own app and the host's beside its fleet's. Refused as a whole, it would never report again.
func TestReportOfHostAndSupervisor(t *testing.T) {
	w := newWorld(t)
	s := w.systems()
	f, foreign := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "private")
	own, secret := w.push(w.alice, "alice/harbour", "web"), w.push(w.bob, "bob/private", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	service := func(b built, name string) map[string]any {
		return map[string]any{name: map[string]any{"image": b.ref(name), "status": "Running"}}
	}
	all := w.apps(f, own, own.commit, "done", service(own, "web"))
	apps := all["apps"].(map[string]any)
	for fleetID, release := range map[int64]map[string]any{
		s.host:       w.apps(s.host, s.os, s.os.commit, "downloading", service(s.os, "hostapp")),
		s.supervisor: w.apps(s.supervisor, s.supervisor16, "", "done", service(s.supervisor16, "supervisor")),
	} {
		apps[w.fleetUUID(fleetID)] = release["apps"].(map[string]any)[w.fleetUUID(fleetID)]
	}
	w.Must(w.report(dev, uuidOf(1), all))
	row := w.one(w.alice, fmt.Sprintf("device(%d)?$select=update_status,is_running__release", made.ID))
	w.same("of its fleet alone", row, map[string]any{"update_status": "done", "is_running__release": map[string]any{"__id": own.id}})
	w.same("installs", w.count("image_install WHERE device = ? AND status = 'Running'", made.ID), 3)
	apps[w.fleetUUID(foreign)] = w.apps(foreign, secret, "", "done", service(secret, "web"))["apps"].(map[string]any)[w.fleetUUID(foreign)]
	if err := w.report(dev, uuidOf(1), all); api.AsError(err).Code != api.Unauthorized {
		t.Errorf("a private fleet of somebody else: %v", err)
	}
}

func TestFleetState(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	one, two := w.push(w.alice, "alice/harbour", "web"), w.push(w.alice, "alice/harbour", "web", "writer")
	dev, made := w.device(w.alice, f, uuidOf(1))
	w.Create(w.alice, "application_config_variable", map[string]any{"application": f, "name": "RESIN_HOST_X", "value": "1"})
	w.Create(w.alice, "device_config_variable", map[string]any{"device": made.ID, "name": "RESIN_HOST_Y", "value": "1"})
	uuid := w.fleetUUID(f)
	ask := func(by access.Caller, commit, known string) (t device.Target, state api.FleetState, err error) {
		w.Helper()
		err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
			t, state, err = w.Devices.FleetTarget(w.Context(), tx, by, uuid, commit, known)
			return err
		})
		return t, state, err
	}
	got, state, err := ask(w.alice, "", "")
	w.Must(err)
	fl := state[uuid]
	if fl == nil || fl.Name != "harbour" || fl.Config["RESIN_HOST_X"] != "1" || fl.Config["RESIN_HOST_Y"] != "" ||
		len(fl.Apps[uuid].Releases[two.commit].Services) != 2 {
		t.Errorf("state: %+v", fl)
	}
	if _, again, err := ask(w.alice, "", got.ETag); err != nil || again != nil {
		t.Errorf("asked again: %v %v", again, err)
	}
	_, state, err = ask(dev, one.commit, "")
	w.Must(err)
	if len(state[uuid].Apps[uuid].Releases[one.commit].Services) != 1 {
		t.Errorf("of another release: %+v", state[uuid])
	}
	for what, by := range map[string]access.Caller{"another tenant": w.bob, "nobody": access.Nobody()} {
		if _, _, err := ask(by, "", ""); api.AsError(err).Code != api.Unauthorized {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := ask(w.alice, strings.Repeat("0", 32), ""); api.AsError(err).Code != api.Unauthorized {
		t.Errorf("a commit that is not there: %v", err)
	}
	// The attack: the variables of a public fleet, which only its people may read, asked for by way of its state.
	w.Create(w.alice, "application_environment_variable", map[string]any{"application": f, "name": "SECRET", "value": "alice's"})
	w.Create(w.alice, "service_environment_variable", map[string]any{"service": w.id("service", "service_name = 'web'"), "name": "SECRET2", "value": "alice's"})
	w.Exec(`UPDATE application SET is_public = 1 WHERE id = ?`, f)
	tags := map[string]bool{}
	for _, by := range []access.Caller{w.alice, w.bob, access.Nobody()} {
		got, state, err := ask(by, "", "")
		if err != nil || state[uuid] == nil {
			t.Fatalf("a public fleet as %s: %v %v", by.Name, state, err)
		}
		own := by.User == w.alice.User
		tags[got.ETag] = true
		service := state[uuid].Apps[uuid].Releases[two.commit].Services["web"]
		if (service.Environment["SECRET"] != "") != own || (service.Environment["SECRET2"] != "") != own ||
			(state[uuid].Config["RESIN_HOST_X"] != "") != own || service.Labels["of-image"] != "web" {
			t.Errorf("a public fleet as %s: %+v %v", by.Name, service, state[uuid].Config)
		}
	}
	w.same("tags of the two answers", len(tags), 2)
}

// One change reaches exactly those whose target it is part of: everybody else goes on hearing that nothing changed.
func TestAChangeReachesItsOwn(t *testing.T) {
	w := newWorld(t)
	f, g := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven")
	b := w.push(w.alice, "alice/harbour", "web")
	w.push(w.alice, "alice/haven", "web")
	service := w.id("service", "application = ?", f)
	var devices []access.Caller
	var ids []int64
	for n := range 6 { // four in the first fleet, two in the second
		fleetID := f
		if n >= 4 {
			fleetID = g
		}
		dev, made := w.device(w.alice, fleetID, uuidOf(n+1))
		devices, ids = append(devices, dev), append(ids, made.ID)
	}
	tags := make([]string, len(devices))
	reached := func() (n int) {
		for i, dev := range devices {
			got, err := w.target(dev, uuidOf(i+1), tags[i])
			w.Must(err)
			if !got.Unchanged() {
				n++
			}
			tags[i] = got.ETag
		}
		return n
	}
	w.same("at first", reached(), 6)
	install := w.id("service_install", "device = ?", ids[0])
	for _, test := range []struct {
		what   string
		reach  int
		change func()
	}{
		{"nothing", 0, func() {}},
		{"a variable of a fleet", 4, func() {
			w.Create(w.alice, "application_environment_variable", map[string]any{"application": f, "name": "A", "value": "1"})
		}},
		{"configuration of a fleet", 2, func() {
			w.Create(w.alice, "application_config_variable", map[string]any{"application": g, "name": "RESIN_HOST_A", "value": ""})
		}},
		{"a variable of a service", 4, func() {
			w.Create(w.alice, "service_environment_variable", map[string]any{"service": service, "name": "A", "value": "2"})
		}},
		{"a variable of a device", 1, func() {
			w.Create(w.alice, "device_environment_variable", map[string]any{"device": ids[1], "name": "A", "value": "3"})
		}},
		{"configuration of a device", 1, func() {
			w.Create(w.alice, "device_config_variable", map[string]any{"device": ids[4], "name": "RESIN_HOST_A", "value": "4"})
		}},
		{"a variable of a service on a device", 1, func() {
			w.Create(w.alice, "device_service_environment_variable", map[string]any{"service_install": install, "name": "A", "value": "5"})
		}},
		{"a name", 1, func() { w.patchDevice(ids[2], "device_name", "pier") }},
		{"a pin", 1, func() { w.patchDevice(ids[3], "is_pinned_on__release", b.id) }},
		{"a release", 4, func() { w.push(w.alice, "alice/harbour", "web") }}, // the pinned one too: its fleet's version is part of its tag
		{"a tag", 0, func() {
			w.Create(w.alice, "device_tag", map[string]any{"device": ids[1], "tag_key": "a", "value": "1"})
		}},
		{"a note", 0, func() { w.patchDevice(ids[2], "note", "by the pier") }},
		{"a release's note", 0, func() {
			w.Want(w.alice, "PATCH", fmt.Sprintf("release(%d)", b.id), map[string]any{"note": "good"}, 200, "")
		}},
		{"a repository", 0, func() {
			w.Want(w.alice, "PATCH", fmt.Sprintf("application(%d)", f), map[string]any{"is_stored_at__repository_url": "https://example.com/x"}, 200, "")
		}},
		{"a report", 0, func() { w.Must(w.report(devices[0], uuidOf(1), map[string]any{"status": "Idle", "os_version": "x"})) }},
		{"a heartbeat", 0, func() {
			got, err := w.target(devices[0], uuidOf(1), "")
			w.Must(err)
			w.Devices.Heard(t.Context(), got)
		}},
		{"a move", 1, func() { w.patchDevice(ids[0], "belongs_to__application", g) }},
	} {
		test.change()
		if got := reached(); got != test.reach {
			t.Errorf("%s reaches %d devices, want %d", test.what, got, test.reach)
		}
	}
}
