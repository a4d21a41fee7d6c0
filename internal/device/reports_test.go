package device_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/devicelog"
)

// Every report that some version of a supervisor or an agent sends is taken, and what it says is kept.
func TestRecordedReports(t *testing.T) {
	files, err := filepath.Glob("testdata/reports/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	w := newWorld(t)
	s := w.systems()
	f := w.Fleet(w.alice, "harbour")
	b := w.push(w.alice, "alice/harbour", "web")
	for n, file := range files {
		uuid := uuidOf(n + 1)
		dev, made := w.device(w.alice, f, uuid)
		text, err := os.ReadFile(file)
		w.Must(err)
		body := strings.NewReplacer("{{device}}", string(uuid), "{{fleet}}", w.fleetUUID(f), "{{commit}}", b.commit, "{{image}}", b.ref("web"),
			"{{fleet id}}", fmt.Sprint(f), "{{image id}}", fmt.Sprint(b.images["web"].ID), "{{release id}}", fmt.Sprint(b.id),
			"{{supervisor fleet}}", w.fleetUUID(s.supervisor), "{{supervisor commit}}", s.supervisor17.commit,
			"{{supervisor image}}", s.supervisor17.ref("supervisor"), "{{host fleet}}", w.fleetUUID(s.host), "{{host commit}}", s.next.commit,
			"{{host image}}", s.next.ref("hostapp")).Replace(string(text))
		if !json.Valid([]byte(body)) {
			t.Fatalf("%s is no JSON", file)
		}
		if strings.HasPrefix(filepath.Base(file), "v2") {
			err = w.Devices.ReportV2(t.Context(), dev, uuid, []byte(body), "198.51.100.7")
		} else {
			err = w.Devices.Report(t.Context(), dev, []byte(body), "198.51.100.7")
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		row := w.one(w.alice, fmt.Sprintf("device(%d)?$select=is_online,public_address,memory_usage,status&$expand=is_running__release($select=commit),"+
			"image_install($select=status;$orderby=id asc)", made.ID))
		running := strings.Contains(body, "release_uuid") || strings.Contains(body, "is_on__commit")
		if row["is_online"] != true || row["public_address"] != "198.51.100.7" || running != (len(row["is_running__release"].([]any)) == 1) ||
			strings.Contains(body, `"memory_usage"`) != (row["memory_usage"] != nil) ||
			strings.Count(body, `"status": "`)-strings.Count(body, `"status": "Idle"`) != len(row["image_install"].([]any)) {
			t.Errorf("%s leaves %v", file, row)
		}
	}
}

func TestReportV2(t *testing.T) {
	w := newWorld(t)
	f, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	one, foreign := w.push(w.alice, "alice/harbour", "web", "writer"), w.push(w.bob, "bob/elsewhere", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	sister, _ := w.device(w.alice, f, uuidOf(2))
	w.device(w.bob, far, uuidOf(3))
	send := func(by access.Caller, body string) error {
		return w.Devices.ReportV2(t.Context(), by, uuidOf(1), []byte(body), "192.0.2.1")
	}
	web, writer := one.images["web"].ID, one.images["writer"].ID
	w.Must(send(dev, fmt.Sprintf(`{"local":{"status":"Downloading","apps":[{"services":[{"imageId":%d,"status":"Downloading","download_progress":40.4},
		{"imageId":"%d","status":"made up"}]}]}}`, web, writer)))
	const query = "device(%d)?$select=status,update_status&$expand=is_running__release($select=commit),image_install($select=status,download_progress;$orderby=installs__image asc)"
	row := w.one(w.alice, fmt.Sprintf(query, made.ID))
	w.same("installs", row["image_install"], "[map[download_progress:40 status:Downloading] map[download_progress:<nil> status:Unknown]]")
	w.Must(send(dev, fmt.Sprintf(`{"local":{"status":"Idle","is_on__commit":%q,"apps":{"%d":{"services":{"%d":{"status":"Running","releaseId":%d}}}}}}`,
		one.commit, f, web, one.id)))
	row = w.one(w.alice, fmt.Sprintf(query, made.ID))
	w.same("after the update", row["image_install"], "[map[download_progress:<nil> status:Running] map[download_progress:<nil> status:deleted]]")
	w.same("running", row["is_running__release"], "[map[commit:"+one.commit+"]]")
	w.Must(send(dev, `{"dependent":{}}`))
	w.Must(send(dev, `{"local":{}}`))

	for what, test := range map[string]struct {
		by   access.Caller
		body string
		want error
	}{
		"another device":          {sister, `{"local":{"status":"stolen"}}`, api.ErrUnauthorized},
		"a user":                  {w.alice, `{"local":{"status":"stolen"}}`, api.ErrForbidden},
		"an image of another":     {dev, fmt.Sprintf(`{"local":{"status":"stolen","apps":{"1":{"services":{"%d":{"status":"Running"}}}}}}`, foreign.images["web"].ID), api.ErrUnauthorized},
		"a release of another":    {dev, fmt.Sprintf(`{"local":{"status":"stolen","is_on__commit":%q}}`, foreign.commit), api.ErrUnauthorized},
		"not the image's release": {dev, fmt.Sprintf(`{"local":{"status":"stolen","apps":{"1":{"services":{"%d":{"status":"Running","releaseId":%d}}}}}}`, web, foreign.id), api.ErrUnauthorized},
		"a number for a text":     {dev, `{"local":{"status":"stolen","os_version":7}}`, api.ErrInvalid},
		"no ids":                  {dev, `{"local":{"status":"stolen","apps":{"1":{"services":{"web":{"status":"Running"}}}}}}`, api.ErrInvalid},
		"apps of another shape":   {dev, `{"local":{"status":"stolen","apps":7}}`, api.ErrInvalid},
		"a list":                  {dev, `[]`, api.ErrInvalid},
		"nothing":                 {dev, ``, api.ErrInvalid},
		"too many":                {dev, `{"local":{"apps":[{"services":[` + strings.Repeat(`{"imageId":1},`, 1001) + `{"imageId":1}]}]}}`, api.ErrTooLarge},
	} {
		if err := send(test.by, test.body); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
	}
	if row := w.one(w.alice, fmt.Sprintf("device(%d)?$select=status", made.ID)); row["status"] != "Idle" {
		t.Errorf("a refused report left %v", row)
	}
}

func TestStateV2(t *testing.T) {
	w := newWorld(t)
	s := w.systems()
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	w.patchDevice(made.ID, "should_be_operated_by__release", s.next.id)
	get := func() string {
		got, err := w.target(dev, uuidOf(1), "")
		w.Must(err)
		older, err := got.V2()
		w.Must(err)
		text, err := json.Marshal(older)
		w.Must(err)
		return string(text)
	}
	name := w.one(w.alice, "device?$select=device_name")["device_name"]
	want := fmt.Sprintf(`{"local":{"name":%q,"config":{"RESIN_SUPERVISOR_POLL_INTERVAL":"60000"},"apps":{"%d":{"name":"harbour",`+
		`"services":{},"volumes":{},"networks":{}}}},"dependent":{"apps":{},"devices":{}}}`, name, f)
	if got := get(); got != want {
		t.Errorf("without a release:\n%s\n%s", got, want)
	}
	b := w.push(w.alice, "alice/harbour", "web")
	w.Create(w.alice, "device_environment_variable", map[string]any{"device": made.ID, "name": "A", "value": "1"})
	w.Exec(`UPDATE "release" SET composition = ? WHERE id = ?`,
		`{"services":{"web":{"build":".","restart":"always","environment":["A=0","B=2"],"labels":{"x":1}}},"volumes":{"data":null}}`, b.id)
	web := w.id("service", "service_name = 'web' AND application = ?", f)
	want = fmt.Sprintf(`"commit":%q,"releaseId":%d,"services":{"%d":{"environment":{"A":"1","B":"2"},"image":%q,"imageId":%d,`+
		`"labels":{"of-image":"web","x":"1"},"restart":"always","running":true,"serviceName":"web"}},"volumes":{"data":{}},"networks":{}`,
		b.commit, b.id, web, b.ref("web"), b.images["web"].ID)
	if got := get(); !strings.Contains(got, want) || strings.Contains(got, "hostapp") {
		t.Errorf("with a release:\n%s\nlacks\n%s", got, want)
	}
	for range 20 {
		if again := get(); again != get() {
			t.Fatal("two answers differ")
		}
	}
}

func TestTagsFromDevices(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	dev, made := w.device(w.alice, f, uuidOf(1))
	_, _ = w.device(w.alice, f, uuidOf(2))
	send := func(by access.Caller, uuid api.DeviceUUID, tags map[string]any) error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error {
			return w.Devices.ReportTags(t.Context(), tx, by, map[api.DeviceUUID]map[string]any{uuid: tags})
		})
	}
	w.Must(send(dev, uuidOf(1), map[string]any{"site": "north"}))
	w.same("without the fleet's word", w.count("device_tag"), 0)
	w.Want(w.alice, "PATCH", fmt.Sprintf("application(%d)", f), map[string]any{"allows_tags_from_devices": true}, 200, "")
	w.Create(w.alice, "device_tag", map[string]any{"device": made.ID, "tag_key": "site", "value": "south"})
	w.Must(send(dev, uuidOf(1), map[string]any{"site": "north", "rack": "7\x1b[2J"}))
	rows := w.rows(w.alice, "device_tag?$select=tag_key,value&$orderby=tag_key asc")
	w.same("with it", rows, "[map[tag_key:rack value:7[2J] map[tag_key:site value:north]]")
	many := map[string]any{}
	for n := range 101 {
		many[fmt.Sprint("t", n)] = ""
	}
	for what, test := range map[string]struct {
		by   access.Caller
		uuid api.DeviceUUID
		tags map[string]any
		want error
	}{
		"another device": {dev, uuidOf(2), map[string]any{"a": "b"}, api.ErrUnauthorized},
		"a user":         {w.alice, uuidOf(1), map[string]any{"a": "b"}, api.ErrForbidden},
		"whitespace":     {dev, uuidOf(1), map[string]any{"ok": "x", "a b": "b"}, api.ErrInvalid},
		"reserved":       {dev, uuidOf(1), map[string]any{"io.balena.x": "b"}, api.ErrInvalid},
		"a number":       {dev, uuidOf(1), map[string]any{"a": 7}, api.ErrInvalid},
		"none":           {dev, uuidOf(1), map[string]any{}, api.ErrInvalid},
		"too many":       {dev, uuidOf(1), many, api.ErrTooLarge},
		"too long":       {dev, uuidOf(1), map[string]any{"a": strings.Repeat("x", 70_000)}, api.ErrTooLarge},
	} {
		if err := send(test.by, test.uuid, test.tags); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
	}
	w.same("after what was refused", w.count("device_tag"), 2)
}

// Reports of one device that cross each other, and a move in between, leave what one after the other would.
func TestReportsAtOnce(t *testing.T) {
	w := newWorld(t)
	f, g := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven")
	b := w.push(w.alice, "alice/harbour", "web")
	const devices, reports = 8, 20
	var callers []access.Caller
	var last int64
	for n := range devices {
		dev, made := w.device(w.alice, f, uuidOf(n+1))
		callers, last = append(callers, dev), made.ID
	}
	var wait sync.WaitGroup
	for n, dev := range callers {
		for i := range reports {
			wait.Go(func() {
				err := w.report(dev, uuidOf(n+1), w.apps(f, b, b.commit, "done", map[string]any{"web": map[string]any{
					"image": b.ref("web"), "status": []string{"Running", "Stopped"}[i%2]}}))
				if err != nil && (n != devices-1 || !errors.Is(err, api.ErrUnauthorized)) { // the last one moves meanwhile
					t.Errorf("device %d: %v", n, err)
				}
			})
		}
	}
	w.patchDevice(last, "belongs_to__application", g)
	wait.Wait()
	w.same("installs", w.count("image_install WHERE device <> ? AND status IN ('Running', 'Stopped')", last), devices-1)
	w.same("of the moved one", w.count("image_install WHERE device = ? AND status <> 'deleted'", last), 0)
	w.same("open histories", w.count("device_history WHERE end_timestamp IS NULL"), devices)
}

// In one batch every report is taken whole or refused, whatever becomes of the others.
func TestReportsTogether(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	b := w.push(w.alice, "alice/harbour", "web", "worker")
	var by []access.Caller
	var ids []int64
	for n := range 4 {
		dev, made := w.device(w.alice, f, uuidOf(n))
		by, ids = append(by, dev), append(ids, made.ID)
	}
	say := func(n int, what string) string { return fmt.Sprintf(`{"%s": {%s}}`, uuidOf(n), what) }
	runs := func(image, status string) string {
		return fmt.Sprintf(`"status": "with apps", "apps": {"%s": {"release_uuid": "%s", "releases": {"%s": {"update_status": "done", "services": {
			"web": {"image": "%s", "status": "%s"}, "worker": {"image": "%s", "status": "Running"}}}}}}`, w.fleetUUID(f), b.commit, b.commit, image, status, b.ref("worker"))
	}
	refused, err := w.Devices.ReportTogether(t.Context(), []access.Caller{by[0], by[1], by[0], by[2], by[3], by[1], by[0]}, []string{
		say(0, `"status": "first", "memory_usage": 1, "is_undervolted": true`),
		say(1, `"status": "of another", "cpu_id": null`),
		say(0, `"status": "second", "ip_address": "192.0.2.1"`),
		say(2, runs(b.ref("web"), "Downloading")),
		say(3, runs("registry2.example.com/v2/strange", "Running")),
		say(2, `"status": "not its own"`),
		say(0, runs(b.ref("web"), "Running")),
	})
	w.Must(err)
	for i, want := range []error{nil, nil, nil, nil, api.ErrUnauthorized, api.ErrUnauthorized, nil} {
		if !errors.Is(refused[i], want) {
			t.Errorf("report %d: got %v, want %v", i, refused[i], want)
		}
	}
	for n, want := range []string{
		"with apps 1 true 192.0.2.1 done Running Running", "of another <nil> false <nil> <nil>", "with apps <nil> false <nil> done Downloading Running",
		"<nil> <nil> false <nil> <nil>",
	} {
		row := w.one(w.alice, fmt.Sprintf("device(%d)?$select=status,memory_usage,is_undervolted,ip_address,update_status&"+
			"$expand=image_install($select=status;$orderby=status asc)", ids[n]))
		got := fmt.Sprint(row["status"], " ", row["memory_usage"], " ", row["is_undervolted"], " ", row["ip_address"], " ", row["update_status"])
		for _, i := range row["image_install"].([]any) {
			got += fmt.Sprint(" ", i.(map[string]any)["status"])
		}
		if got != want {
			t.Errorf("device %d: got %s, want %s", n, got, want)
		}
	}
	// What a device no longer names is gone from it, and only from it.
	refused, err = w.Devices.ReportTogether(t.Context(), []access.Caller{by[0], by[2]}, []string{
		say(0, fmt.Sprintf(`"apps": {"%s": {"releases": {}}}`, w.fleetUUID(f))), say(2, `"status": "still"`)})
	w.Must(errors.Join(append(refused, err)...))
	for n, want := range map[int]string{0: "deleted", 2: "Running"} {
		if got := len(w.rows(w.alice, fmt.Sprintf("image_install?$select=id&$filter=device eq %d and status eq '%s'", ids[n], want))); got != 2-n/2 {
			t.Errorf("device %d has %d images that are %s", n, got, want)
		}
	}
}

// A report that is written tells in the same row that the device was heard; a device that was offline is told of at once, too.
func TestAWrittenReportIsASignOfLife(t *testing.T) {
	w := newWorld(t)
	dev, made := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	var began string
	for n := range 3 {
		w.Pass(10 * time.Second)
		w.Must(w.Devices.Report(t.Context(), dev, fmt.Appendf(nil, `{"%s": {"status": "step %d"}}`, uuidOf(1), n), ""))
		var seen, since, due, until string
		w.Must(w.DB.ReadOne(t.Context(), func(tx *db.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT last_seen, online_since, heartbeat_due, heartbeat_until FROM device WHERE id = ?`, made.ID).
				Scan(&seen, &since, &due, &until)
		}))
		if n == 0 {
			began = since
		}
		if now := db.FormatTime(w.Now().Add(-5 * time.Second)); seen < now || since != began || due <= seen || until <= due {
			t.Errorf("report %d: seen %s, since %s, due %s, until %s; want it seen after %s and online since %s", n, seen, since, due, until, now, began)
		}
	}
}

func TestFollowersAreBounded(t *testing.T) {
	w := newWorld(t, func(c *device.Config) { c.Logs.OfUser, c.Logs.OfDevice, c.Logs.Quiet = 2, 3, 10*time.Millisecond })
	f := w.Fleet(w.alice, "harbour")
	w.device(w.alice, f, uuidOf(1))
	carol := w.Person("carol")
	w.Exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES ('', ?, ?, 1)`, carol.User, f)
	var open []*devicelog.Follower
	start := func(by access.Caller) error {
		l, err := w.Devices.Logs.Follow(t.Context(), by, uuidOf(1), devicelog.Query{})
		if err == nil {
			open = append(open, l)
		}
		return err
	}
	w.Must(start(w.alice))
	w.Must(start(w.alice))
	if err := start(w.alice); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("a third of one person: %v", err)
	}
	w.Must(start(carol))
	if err := start(carol); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a fourth of one device: %v", err)
	}
	if line, err := open[0].Next(); line != nil || err != nil {
		t.Errorf("a quiet log: %v %v", line, err)
	}
	for _, l := range open {
		l.Close()
	}
	open = nil
	w.Must(start(w.alice))
	open[0].Close()
}
