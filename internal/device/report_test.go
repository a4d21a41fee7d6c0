package device_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// report sends what a device says of itself.
func (w *world) report(by access.Caller, uuid api.DeviceUUID, fields map[string]any) error {
	w.Helper()
	body, err := json.Marshal(map[string]any{string(uuid): fields})
	w.Must(err)
	return w.Devices.Report(w.Context(), by, body, "192.0.2.7")
}

// apps is the part of a report about one release.
func (w *world) apps(fleetID int64, b built, running, update string, services map[string]any) map[string]any {
	app := map[string]any{"releases": map[string]any{b.commit: map[string]any{"update_status": update, "services": services}}}
	if running != "" {
		app["release_uuid"] = running
	}
	return map[string]any{"apps": map[string]any{w.fleetUUID(fleetID): app}}
}

func TestReport(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, _ := w.device(w.alice, f, uuidOf(1))
	w.Must(w.report(dev, uuidOf(1), map[string]any{
		"status": "Idle", "os_version": "Debian 12", "os_variant": nil, "supervisor_version": strings.Repeat("9", 30),
		"ip_address": strings.Repeat("1", 3000), "mac_address": "AA:BB", "memory_usage": 12.6, "memory_total": 4e18, "cpu_id": "\u0001noise",
		"is_undervolted": true, "provisioning_state": "", "provisioning_progress": nil, "unsupported_features": []string{"web.pid", "b", "b"}, "key_protection": "tpm",
		"api_secret": "not kept", "logs_channel": nil, "something_new": map[string]any{"x": 1},
	}))
	row := w.one(w.alice, "device")
	for column, want := range map[string]any{
		"status": "Idle", "os_version": "Debian 12", "os_variant": nil, "supervisor_version": strings.Repeat("9", 20),
		"ip_address": strings.Repeat("1", 2000), "mac_address": "AA:BB", "memory_usage": 13.0, "memory_total": 2147483647.0, "cpu_id": nil,
		"is_undervolted": true, "key_protection": "tpm", "provisioning_state": nil, "public_address": "192.0.2.7",
	} {
		if row[column] != want {
			t.Errorf("%s: got %v, want %v", column, row[column], want)
		}
	}
	if got := fmt.Sprint(row["unsupported_features"]); got != "[b web.pid]" {
		t.Errorf("unsupported_features: %s", got)
	}
	if row["is_online"] != true {
		t.Error("who reports is not online")
	}
	w.Must(w.report(dev, uuidOf(1), map[string]any{"unsupported_features": []string{}, "key_protection": "chip"}))
	if row = w.one(w.alice, "device"); row["unsupported_features"] != nil || row["status"] != "Idle" || row["key_protection"] != "tpm" {
		t.Errorf("after a report of one field: %v", row)
	}
}

func TestReportOfServices(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	one := w.push(w.alice, "alice/harbour", "web", "writer")
	dev, _ := w.device(w.alice, f, uuidOf(1))
	service := func(b built, name, status string, progress any) map[string]any {
		return map[string]any{"image": b.ref(name), "status": status, "download_progress": progress}
	}
	const query = "device?$select=update_status,overall_status,overall_progress&$expand=is_running__release($select=commit)," +
		"image_install($select=status,download_progress;$filter=status ne 'deleted';$orderby=id asc)"
	w.Must(w.report(dev, uuidOf(1), w.apps(f, one, "", "downloading", map[string]any{
		"web": service(one, "web", "Downloading", 40.7), "writer": service(one, "writer", "Downloading", 20),
	})))
	row := w.one(w.alice, query)
	if row["update_status"] != "downloading" || row["overall_status"] != "updating" || row["overall_progress"] != 30.0 ||
		len(row["image_install"].([]any)) != 2 || len(row["is_running__release"].([]any)) != 0 {
		t.Errorf("while downloading: %v", row)
	}
	w.Must(w.report(dev, uuidOf(1), w.apps(f, one, one.commit, "done", map[string]any{
		"web": service(one, "web", "Running", nil), "writer": service(one, "writer", "made up", nil),
	})))
	row = w.one(w.alice, query)
	if got := fmt.Sprint(row["image_install"]); row["update_status"] != "done" || row["overall_status"] != "operational" ||
		!strings.Contains(got, "Running") || !strings.Contains(got, "Unknown") ||
		fmt.Sprint(row["is_running__release"]) != "[map[commit:"+one.commit+"]]" {
		t.Errorf("when done: %v", row)
	}
	two := w.push(w.alice, "alice/harbour", "web")
	both := w.apps(f, two, one.commit, "downloading", map[string]any{"web": service(two, "web", "Downloading", 1)})
	both["apps"].(map[string]any)[w.fleetUUID(f)].(map[string]any)["releases"].(map[string]any)[one.commit] = map[string]any{
		"update_status": "done", "services": map[string]any{"web": service(one, "web", "Running", nil)},
	}
	w.Must(w.report(dev, uuidOf(1), both))
	if row = w.one(w.alice, query); row["update_status"] != "downloading" || len(row["image_install"].([]any)) != 2 {
		t.Errorf("during the update: %v", row)
	}
	w.Must(w.report(dev, uuidOf(1), w.apps(f, two, two.commit, "done", map[string]any{"web": service(two, "web", "Running", nil)})))
	if row = w.one(w.alice, query); len(row["image_install"].([]any)) != 1 || fmt.Sprint(row["is_running__release"]) != "[map[commit:"+two.commit+"]]" {
		t.Errorf("after the update: %v", row)
	}
	w.Must(w.Devices.ForgetInstallsOnce(t.Context()))
	if n := w.count("image_install"); n != 3 {
		t.Errorf("%d installs right after the update, want 3", n)
	}
	w.Pass(31 * 24 * time.Hour)
	w.Must(w.Devices.ForgetInstallsOnce(t.Context()))
	if n := w.count("image_install"); n != 1 {
		t.Errorf("%d installs a month later, want the one that runs", n)
	}
}

func TestReportsThatAreRefusedChangeNothing(t *testing.T) {
	w := newWorld(t)
	f, other := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	own, foreign := w.push(w.alice, "alice/harbour", "web"), w.push(w.bob, "bob/elsewhere", "web")
	dev, _ := w.device(w.alice, f, uuidOf(1))
	w.device(w.bob, other, uuidOf(2))
	service := func(b built) map[string]any {
		return map[string]any{"web": map[string]any{"image": b.ref("web"), "status": "Running"}}
	}
	with := func(m map[string]any) map[string]any {
		m["status"] = "changed"
		return m
	}
	wrongDigest := service(own)
	wrongDigest["web"].(map[string]any)["image"] = own.images["web"].Location + "@" + digest(99)
	for what, test := range map[string]struct {
		uuid   api.DeviceUUID
		fields map[string]any
		want   error
	}{
		"another device":        {uuidOf(2), with(map[string]any{}), api.ErrUnauthorized},
		"no device":             {uuidOf(3), with(map[string]any{}), api.ErrUnauthorized},
		"another fleet":         {uuidOf(1), with(w.apps(other, foreign, foreign.commit, "done", service(foreign))), api.ErrUnauthorized},
		"a release of another":  {uuidOf(1), with(w.apps(f, foreign, "", "done", nil)), api.ErrUnauthorized},
		"an image of another":   {uuidOf(1), with(w.apps(f, own, "", "done", service(foreign))), api.ErrUnauthorized},
		"another digest":        {uuidOf(1), with(w.apps(f, own, "", "done", wrongDigest)), api.ErrUnauthorized},
		"running of another":    {uuidOf(1), with(w.apps(f, own, foreign.commit, "done", service(own))), api.ErrUnauthorized},
		"a number for a text":   {uuidOf(1), map[string]any{"status": "changed", "os_version": 7}, api.ErrInvalid},
		"a text for a number":   {uuidOf(1), map[string]any{"status": "changed", "cpu_usage": "7"}, api.ErrInvalid},
		"apps of another shape": {uuidOf(1), map[string]any{"status": "changed", "apps": []int{1}}, api.ErrInvalid},
	} {
		if err := w.report(dev, test.uuid, test.fields); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
	}
	for _, body := range []string{"", "{}", "[]", "null", `{"` + string(uuidOf(1)) + `":null}`, "{\"x\":{}}{"} {
		if err := w.Devices.Report(t.Context(), dev, []byte(body), ""); err == nil {
			t.Errorf("%q was accepted", body)
		}
	}
	two := fmt.Sprintf(`{"%s":{"status":"changed"},"%s":{"status":"changed"}}`, uuidOf(1), uuidOf(2))
	if err := w.Devices.Report(t.Context(), dev, []byte(two), ""); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("two devices at once: %v", err)
	}
	if err := w.report(w.alice, uuidOf(1), map[string]any{"status": "changed"}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a user: %v", err)
	}
	for _, by := range []access.Caller{w.alice, w.bob} {
		if row := w.one(by, "device?$select=status,is_running__release&$expand=image_install"); row["status"] != nil ||
			row["is_running__release"] != nil || len(row["image_install"].([]any)) != 0 {
			t.Errorf("%s's device changed: %v", by.Name, row)
		}
	}
}

func TestMetricsAloneAreRareWrites(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	usage := func() any { return w.one(w.alice, "device?$select=cpu_usage")["cpu_usage"] }
	w.Must(w.report(dev, uuidOf(1), map[string]any{"cpu_usage": 10}))
	w.Must(w.report(dev, uuidOf(1), map[string]any{"cpu_usage": 20}))
	if got := usage(); got != 10.0 {
		t.Errorf("at once: %v, want the first", got)
	}
	w.Must(w.report(dev, uuidOf(1), map[string]any{"cpu_usage": 30, "status": "Busy"}))
	if got := usage(); got != 30.0 {
		t.Errorf("with something else: %v, want 30", got)
	}
	w.Pass(61 * time.Second)
	w.Must(w.report(dev, uuidOf(1), map[string]any{"cpu_usage": nil}))
	if got := usage(); got != nil {
		t.Errorf("a minute later: %v, want null", got)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(`{"00000000000000000000000000000001":{"status":"x","apps":{"a":{"releases":{"c":{"services":{"s":{"image":"i","status":"Running","download_progress":5}}}}}}}}`)
	f.Add(`{"00000000000000000000000000000001":{"apps":{"a":null},"cpu_usage":1e999}}`)
	f.Add(`{"00000000000000000000000000000001":{"apps":{"a":{"releases":{"c":null}}},"unsupported_features":[null]}}`)
	w := newWorld(f)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	f.Fuzz(func(t *testing.T, body string) {
		err := w.Devices.Report(t.Context(), dev, []byte(body), "")
		if err != nil && api.AsError(err).Code == api.Internal {
			t.Errorf("Report(%q): %v", body, err)
		}
	})
}

// The attack: a device reports what steers the terminal of whoever lists it, with a client that prints texts as they come.
func TestWhatADeviceSaysSteersNoTerminal(t *testing.T) {
	w := newWorld(t)
	dev, made := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	w.Must(w.report(dev, uuidOf(1), map[string]any{
		"status": "\x1b[31mIdle\x07", "os_version": "os\u202e 1\r\n", "unsupported_features": []string{"x\x1b]52;c;aGk=\x07"},
	}))
	w.Want(dev, "PATCH", path, map[string]any{"ip_address": "192.0.2.1\x1b[2J"}, 200, "")
	row := w.one(w.alice, path+"?$select=status,os_version,unsupported_features,ip_address")
	if got := fmt.Sprintf("%q %q %q %q", row["status"], row["os_version"], row["unsupported_features"], row["ip_address"]); got !=
		`"[31mIdle" "os 1" ["x]52;c;aGk="] "192.0.2.1[2J"` {
		t.Errorf("what is kept: %s", got)
	}
}
