package device_test

import (
	"fmt"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

func TestDevicesAsTheCLIReadsThem(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	one := w.push(w.alice, "alice/harbour", "web")
	w.Must(w.report(dev, uuidOf(1), w.apps(f, one, one.commit, "done", map[string]any{"web": map[string]any{"image": one.ref("web"), "status": "Running"}})))
	w.Create(w.alice, "device_tag", map[string]any{"device": made.ID, "tag_key": "site", "value": "north"})
	uuid := string(uuidOf(1))
	for _, query := range []string{
		"device?$select=id,uuid,device_name,status,is_online,supervisor_version,os_version&$expand=belongs_to__application($select=app_name,slug)," +
			"is_of__device_type($select=slug),is_running__release($select=commit)&$orderby=device_name asc",
		"application?$filter=slug eq 'alice/harbour'&$select=slug&$expand=owns__device($select=id,uuid;$orderby=device_name asc)",
		"device(uuid='" + uuid + "')?$select=device_name,id,overall_status,is_online,ip_address,mac_address,last_connectivity_event,uuid," +
			"supervisor_version,is_web_accessible,note,os_version,memory_usage,memory_total,public_address,storage_block_device,storage_usage," +
			"storage_total,cpu_usage,cpu_temp,cpu_id,is_undervolted",
		"device(uuid='" + uuid + "')?$expand=device_tag($select=tag_key,value),belongs_to__application($select=slug)",
		"device(uuid='" + uuid + "')?$select=overall_status,overall_progress,should_be_running__release",
		"device?$filter=startswith(uuid,'0000') and belongs_to__application/any(a:a/slug eq 'alice/harbour')&$select=id",
		fmt.Sprintf("service_install?$select=id&$filter=device eq %d and installs__service eq %d", made.ID, w.id("service", "1 = 1")),
		"device(uuid='" + uuid + "')?$expand=image_install($select=id,download_progress,status,install_date;$filter=status ne 'deleted';" +
			"$expand=installs__image($select=id;$expand=is_a_build_of__service($select=id,service_name)),is_provided_by__release($select=id,commit," +
			"raw_version;$expand=belongs_to__application($select=slug))),belongs_to__application($select=slug),is_running__release($select=commit)",
		"release?$filter=is_running_on__device/any(d:d/uuid eq '" + uuid + "') and should_be_running_on__device/any(d:d/uuid eq '" + uuid + "')&$select=id",
	} {
		if rows := w.rows(w.alice, query); len(rows) != 1 {
			t.Errorf("GET %s: %d rows, want 1", query, len(rows))
		}
		if rows := w.rows(w.bob, query); len(rows) != 0 {
			t.Errorf("GET %s as another tenant: %v", query, rows)
		}
	}
	w.Want(w.alice, "GET", fmt.Sprintf("device_service_environment_variable?$filter=service_install/any(si:si/device eq %d) and "+
		"service_install/any(si:si/installs__service/any(s:s/service_name eq 'web'))&$expand=service_install($expand=installs__service)", made.ID),
		nil, 200, `{"d":[]}`)
}

func TestDeviceWritesByPeople(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	_, made := w.device(w.alice, f, uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	for _, test := range []struct {
		body   map[string]any
		status int
		text   string
	}{
		{map[string]any{"device_name": "pier", "note": "by the harbour"}, 200, ""},
		{map[string]any{"is_accessible_by_support_until__date": 1800000000000}, 200, ""},
		{map[string]any{"custom_latitude": "41.383333", "custom_longitude": "2.183333"}, 200, ""},
		{map[string]any{"custom_latitude": "north"}, 400, "custom_latitude"},
		{map[string]any{"custom_longitude": "NaN"}, 400, "custom_longitude"},
		{map[string]any{"device_name": ""}, 400, "needs a name"},
		{map[string]any{"device_name": "two\nlines"}, 400, "Device name cannot contain any newline characters."},
		{map[string]any{"uuid": string(uuidOf(2))}, 403, ""},
		{map[string]any{"is_frozen": true}, 403, "is_frozen"},
		{map[string]any{"status": "mine"}, 403, "status"},
		{map[string]any{"actor": 1}, 403, "actor"},
		{map[string]any{"target_version": "x"}, 400, ""},
		{map[string]any{}, 400, "No fields to update"},
	} {
		w.Want(w.alice, "PATCH", path, test.body, test.status, test.text)
	}
	row := w.one(w.alice, "device?$select=device_name,note")
	if row["device_name"] != "pier" || row["note"] != "by the harbour" {
		t.Errorf("after the writes: %v", row)
	}
	w.same("location", w.one(w.alice, "device?$select=latitude,longitude"), map[string]any{"latitude": "41.383333", "longitude": "2.183333"})
	w.patchDevice(made.ID, "custom_latitude", "")
	w.same("location, cleared", w.one(w.alice, "device?$select=latitude,custom_latitude"), map[string]any{"latitude": nil, "custom_latitude": ""})
	w.Want(w.bob, "PATCH", path, map[string]any{"device_name": "stolen"}, 200, "") // as with a filter that finds nothing
	w.Want(w.bob, "DELETE", path, nil, 200, "")
	if row = w.one(w.alice, "device?$select=device_name"); row["device_name"] != "pier" {
		t.Errorf("another tenant wrote: %v", row)
	}
	typ := w.id("device_type", "slug = 'generic-amd64'")
	made2 := w.Create(w.alice, "device", map[string]any{"belongs_to__application": f, "is_of__device_type": typ})
	if got := w.one(w.alice, fmt.Sprintf("device(%d)?$select=uuid,device_name,is_active", made2)); len(got["uuid"].(string)) != 32 ||
		got["device_name"] == "" || got["is_active"] != false {
		t.Errorf("a device made by hand: %v", got)
	}
	w.Want(w.bob, "POST", "device", map[string]any{"belongs_to__application": f, "is_of__device_type": typ}, 401, "")
	w.Want(w.alice, "POST", "device", map[string]any{"belongs_to__application": f, "is_of__device_type": typ, "uuid": "XYZ"}, 400,
		"Device UUID must be a 32 or 62 character long lower case hex string.")
	w.Want(w.alice, "POST", "device", map[string]any{"belongs_to__application": f, "is_of__device_type": typ, "uuid": string(uuidOf(1))}, 409, "unique")
}

func TestPinAndMove(t *testing.T) {
	w := newWorld(t)
	f, g, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven"), w.Fleet(w.bob, "elsewhere")
	one, two := w.push(w.alice, "alice/harbour", "web", "old"), w.push(w.alice, "alice/harbour", "web")
	other := w.push(w.alice, "alice/haven", "site")
	dev, made := w.device(w.alice, f, uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	installs := func() string {
		return fmt.Sprint(w.one(w.alice, path+"?$select=id&$expand=service_install($select=id;$orderby=id asc;$expand=installs__service($select=service_name))")["service_install"])
	}
	before := installs()
	w.Want(w.alice, "PATCH", path, map[string]any{"is_pinned_on__release": other.id}, 400, "It is necessary that")
	w.Want(w.alice, "PATCH", path, map[string]any{"is_pinned_on__release": one.id}, 200, "")
	if w.state(dev, uuidOf(1)).Apps[w.fleetUUID(f)].Releases[one.commit] == nil {
		t.Error("the pin is not the target")
	}
	if after := installs(); len(after) <= len(before) {
		t.Errorf("installs of the pinned release: %s", after)
	}
	w.Want(w.alice, "DELETE", fmt.Sprintf("release(%d)", one.id), nil, 400, "pinned")
	w.Must(w.report(dev, uuidOf(1), w.apps(f, one, one.commit, "done", map[string]any{"web": map[string]any{"image": one.ref("web"), "status": "Running"}})))

	if status, body := w.Do(w.alice, "PATCH", path, map[string]any{"belongs_to__application": far}); status != 401 && status != 404 {
		t.Errorf("a move to another tenant: %d %s", status, body)
	}
	w.Want(w.alice, "PATCH", path, map[string]any{"belongs_to__application": nil}, 400, "")
	w.Want(w.alice, "PATCH", path, map[string]any{"belongs_to__application": g}, 200, "")
	row := w.one(w.alice, path+"?$select=is_pinned_on__release,is_running__release&$expand=image_install($select=status),"+
		"service_install($expand=installs__service($select=service_name))")
	if row["is_pinned_on__release"] != nil || row["is_running__release"] != nil || fmt.Sprint(row["image_install"]) != "[map[status:deleted]]" ||
		len(row["service_install"].([]any)) != 1 {
		t.Errorf("after the move: %v", row)
	}
	moved := w.Caller(made.APIKey)
	if moved.Fleet != g {
		t.Errorf("the device is in fleet %d, want %d", moved.Fleet, g)
	}
	if rows := w.rows(moved, fmt.Sprintf("application(%d)", f)); len(rows) != 0 {
		t.Errorf("the moved device reads its old fleet: %v", rows)
	}
	if w.state(moved, uuidOf(1)).Apps[w.fleetUUID(g)].Releases[other.commit] == nil {
		t.Error("the new fleet's release is not the target")
	}
	_ = two
	arm := w.Create(w.alice, "application", map[string]any{"app_name": "small", "organization": w.id("organization", "handle = 'alice'"),
		"is_for__device_type": w.id("device_type", "slug = 'raspberrypi4-64'")})
	w.Want(w.alice, "PATCH", path, map[string]any{"belongs_to__application": arm}, 400, "architecture")
}

func TestVariablesAndTags(t *testing.T) {
	w := newWorld(t)
	f, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	w.push(w.alice, "alice/harbour", "web")
	_, made := w.device(w.alice, f, uuidOf(1))
	w.device(w.bob, far, uuidOf(2))
	install := w.id("service_install", "device = ?", made.ID)
	for _, test := range []struct {
		resource, parent, name, good, bad, text string
		id                                      int64
	}{
		{"device_environment_variable", "device", "name", "PORT", "RESIN_X", "reserved", made.ID},
		{"device_config_variable", "device", "name", "RESIN_HOST_X", "PORT", "namespaces", made.ID},
		{"device_service_environment_variable", "service_install", "name", "PORT", "1X", "alphanumeric", install},
		{"device_tag", "device", "tag_key", "site", "a b", "Tag keys cannot contain whitespace.", made.ID},
	} {
		body := map[string]any{test.parent: test.id, test.name: test.good, "value": "1"}
		id := w.Create(w.alice, test.resource, body)
		w.Want(w.alice, "POST", test.resource, body, 409, "unique")
		w.Want(w.bob, "POST", test.resource, body, 401, "")
		row := fmt.Sprintf("%s(%d)", test.resource, id)
		if rows := w.rows(w.bob, row); len(rows) != 0 {
			t.Errorf("another tenant reads %s: %v", row, rows)
		}
		w.Want(w.alice, "PATCH", row, map[string]any{"value": "2"}, 200, "")
		if got := w.one(w.alice, row); got["value"] != "2" {
			t.Errorf("%s: %v", row, got)
		}
		w.Want(w.alice, "POST", test.resource, map[string]any{test.parent: test.id, test.name: test.bad, "value": "1"}, 400, test.text)
		w.Want(w.alice, "DELETE", row, nil, 200, "")
	}
}

// What a device's key may do: read itself, write its state, and nothing else.
func TestDeviceKey(t *testing.T) {
	w := newWorld(t)
	f, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	w.push(w.alice, "alice/harbour", "web")
	w.push(w.bob, "bob/elsewhere", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	_, sister := w.device(w.alice, f, uuidOf(2))
	w.device(w.bob, far, uuidOf(3))
	for _, d := range []int64{made.ID, sister.ID} {
		w.Create(w.alice, "device_environment_variable", map[string]any{"device": d, "name": "SECRET", "value": "1"})
		w.Create(w.alice, "device_config_variable", map[string]any{"device": d, "name": "RESIN_HOST_X", "value": "1"})
		w.Create(w.alice, "device_tag", map[string]any{"device": d, "tag_key": "site", "value": "1"})
		w.Create(w.alice, "device_service_environment_variable", map[string]any{"service_install": w.id("service_install", "device = ?", d), "name": "A", "value": "1"})
	}
	for _, list := range []string{"device", "device_environment_variable", "device_config_variable", "device_tag",
		"service_install", "device_service_environment_variable", "application", "release", "image", "service"} {
		if rows := w.rows(dev, list+"?$select=id"); len(rows) != 1 {
			t.Errorf("a device lists %d of %s, want its own one", len(rows), list)
		}
	}
	for _, list := range []string{"user", "organization", "api_key", "organization_membership"} {
		if status, body := w.Do(dev, "GET", list+"?$select=id", nil); status != 401 && body != `{"d":[]}` {
			t.Errorf("a device lists %s: %d %s", list, status, body)
		}
	}
	own, other := fmt.Sprintf("device(%d)", made.ID), fmt.Sprintf("device(%d)", sister.ID)
	w.Want(dev, "PATCH", own, map[string]any{"status": "Idle", "os_version": "Debian 12"}, 200, "")
	w.Want(dev, "PATCH", own, map[string]any{"device_name": "mine", "status": "Busy"}, 200, "") // a supervisor's first boot
	if row := w.one(w.alice, own+"?$select=device_name,status"); row["device_name"] == "mine" || row["status"] != "Busy" {
		t.Errorf("after the device's writes: %v", row)
	}
	for _, column := range []string{"belongs_to__application", "is_frozen", "note", "uuid", "is_of__device_type", "is_active", "actor",
		"is_running__release"} {
		w.Want(dev, "PATCH", own, map[string]any{column: 1}, 403, "")
	}
	for _, column := range []string{"should_be_operated_by__release", "should_be_managed_by__release", "is_pinned_on__release"} {
		w.Want(dev, "PATCH", own, map[string]any{column: 1}, 200, "") // people choose it; scripts of the system try
		if row := w.one(w.alice, own+"?$select="+column); row[column] != nil {
			t.Errorf("a device chose its own %s: %v", column, row)
		}
	}
	w.Want(dev, "PATCH", other, map[string]any{"status": "stolen"}, 200, "") // finds nothing
	if row := w.one(w.alice, other+"?$select=status"); row["status"] != nil {
		t.Errorf("a device wrote to its sister: %v", row)
	}
	w.Want(dev, "DELETE", own, nil, 403, "")
	w.Want(dev, "POST", "device", map[string]any{"belongs_to__application": f}, 403, "")
	for _, r := range []string{"device_environment_variable", "device_config_variable", "device_tag", "application_environment_variable", "release", "service_install", "image_install"} {
		if status, body := w.Do(dev, "POST", r, map[string]any{"device": made.ID, "name": "X", "value": "1"}); status != 403 && status != 401 {
			t.Errorf("a device POSTs %s: %d %s", r, status, body)
		}
		if status, body := w.Do(dev, "DELETE", r+"?$filter=id gt 0", nil); status != 403 && status != 401 {
			t.Errorf("a device DELETEs %s: %d %s", r, status, body)
		}
	}
}

func TestDeletedDeviceLeavesNothing(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	for what, remove := range map[string]func(int64){
		"the device": func(id int64) { w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", id), nil, 200, "") },
		"its fleet":  func(int64) { w.Want(w.alice, "DELETE", fmt.Sprintf("application(%d)", f), nil, 200, "") },
	} {
		if what == "its fleet" {
			f = w.Fleet(w.alice, "gone-soon")
		} else {
			f = w.Fleet(w.alice, "harbour-two")
		}
		dev, made := w.device(w.alice, f, uuidOf(9))
		w.Create(w.alice, "device_tag", map[string]any{"device": made.ID, "tag_key": "site", "value": "1"})
		remove(made.ID)
		for q, id := range map[string]int64{
			`api_key WHERE id = ?`: dev.Key, `actor WHERE id = ?`: dev.Actor, `device WHERE id = ?`: made.ID, `device_tag WHERE device = ?`: made.ID,
		} {
			if n := w.count(q, id); n != 0 {
				t.Errorf("%s was deleted: %d rows of %s stay", what, n, q)
			}
		}
		if _, err := w.register(w.provisioning(w.alice, w.Fleet(w.alice, "again-"+what[4:7]), 1), again(w)); err != nil {
			t.Errorf("%s was deleted: the uuid cannot register again: %v", what, err)
		}
		w.Want(w.alice, "DELETE", "device?$filter=uuid eq '"+string(uuidOf(9))+"'", nil, 200, "")
	}
}

func again(w *world) api.Register {
	return api.Register{Application: w.id("application", "app_name LIKE 'again-%' ORDER BY id DESC LIMIT 1"), UUID: uuidOf(9)}
}
