package device_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// past gives a device's history, oldest first, as the columns that a test is about.
func (w *world) past(by access.Caller, id int64, columns ...string) (rows []string) {
	w.Helper()
	for _, row := range w.rows(by, fmt.Sprintf("device_history?$filter=tracks__device eq %d&$orderby=id asc", id)) {
		var values []string
		for _, c := range columns {
			v := row[c]
			if fk, ok := v.(map[string]any); ok {
				v = fk["__id"]
			}
			values = append(values, fmt.Sprint(v))
		}
		if row["end_timestamp"] == nil {
			values = append(values, "now")
		}
		rows = append(rows, strings.Join(values, " "))
	}
	return rows
}

func (w *world) same(what string, got, want any) {
	w.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestHistoryOfADevice(t *testing.T) {
	w := newWorld(t)
	f, g := w.Fleet(w.alice, "harbour"), w.Fleet(w.alice, "haven")
	one := w.push(w.alice, "alice/harbour", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	w.same("registered", w.past(w.alice, made.ID, "is_active", "belongs_to__application"), []string{fmt.Sprintf("false %d now", f)})

	poll, err := w.target(dev, uuidOf(1), "")
	w.Must(err)
	w.Devices.Heard(t.Context(), poll)
	w.same("after the first poll", w.past(w.alice, made.ID, "is_active"), []string{"false", "true now"})
	w.Must(w.report(dev, uuidOf(1), map[string]any{"os_version": "Debian 12", "cpu_usage": 5}))
	w.Must(w.report(dev, uuidOf(1), map[string]any{"status": "Idle", "os_version": "Debian 12"})) // no change of what is recorded
	w.patchDevice(made.ID, "device_name", "pier")
	w.patchDevice(made.ID, "is_pinned_on__release", one.id)
	w.patchDevice(made.ID, "belongs_to__application", g)
	w.same("the whole", w.past(w.alice, made.ID, "belongs_to__application", "os_version", "is_pinned_on__release"), []string{
		fmt.Sprintf("%d <nil> <nil>", f), fmt.Sprintf("%d <nil> <nil>", f), fmt.Sprintf("%d Debian 12 <nil>", f),
		fmt.Sprintf("%d Debian 12 %d", f, one.id), fmt.Sprintf("%d Debian 12 <nil> now", g),
	})
	actors := w.past(w.alice, made.ID, "is_created_by__actor", "is_ended_by__actor")
	for i, want := range []string{fmt.Sprintf(" %d", dev.Actor), fmt.Sprintf("%d %d", dev.Actor, dev.Actor), fmt.Sprintf("%d %d", dev.Actor, w.alice.Actor)} {
		if !strings.HasSuffix(actors[i], want) {
			t.Errorf("who did it, row %d: %q, want %q", i, actors[i], want)
		}
	}
	for _, filter := range []string{"uuid eq '" + string(uuidOf(1)) + "'", fmt.Sprintf("belongs_to__application eq %d", g),
		"tracks__device/any(d:d/device_name eq 'pier')", "created_at gt datetime'2000-01-01T00:00:00.000Z'"} {
		if n := len(w.rows(w.alice, "device_history?$filter="+filter)); n == 0 {
			t.Errorf("%s finds nothing", filter)
		}
		if n := len(w.rows(w.bob, "device_history?$filter="+filter)); n != 0 {
			t.Errorf("%s as another tenant: %d rows", filter, n)
		}
	}
	w.Want(w.alice, "PATCH", fmt.Sprintf("device_history(%d)", 1), map[string]any{"os_version": "x"}, 403, "")
	w.Want(dev, "GET", "device_history", nil, 401, "")

	w.Want(w.alice, "DELETE", path, nil, 200, "")
	rows := w.rows(w.alice, "device_history?$filter=uuid eq '"+string(uuidOf(1))+"'&$orderby=id desc&$top=1")
	if len(rows) != 1 || rows[0]["end_timestamp"] == nil || fmt.Sprint(rows[0]["is_ended_by__actor"]) != fmt.Sprintf("map[__id:%d]", w.alice.Actor) {
		t.Errorf("after the deletion: %v", rows)
	}
	w.Pass(364 * 24 * time.Hour)
	w.Must(w.Devices.ForgetHistoryOnce(t.Context()))
	if n := w.count("device_history"); n != 5 {
		t.Errorf("%d rows after less than a year, want 5", n)
	}
	w.Pass(48 * time.Hour)
	w.Must(w.Devices.ForgetHistoryOnce(t.Context()))
	if n := w.count("device_history"); n != 0 {
		t.Errorf("%d rows after a year", n)
	}
}

// A device that says something new of itself all the time does not fill the disk.
func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t)
	dev, made := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	_, quiet := w.device(w.alice, w.Fleet(w.alice, "haven"), uuidOf(2))
	w.Write(func(tx *db.Tx) error { // a long past, in one go
		for range 1005 {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO device_history (created_at, end_timestamp, tracks__device, tracks__actor, uuid,
				belongs_to__application, is_active, is_of__device_type) SELECT CAST(? AS TEXT), CAST(? AS TEXT), id, actor, uuid,
				belongs_to__application, 1, is_of__device_type FROM device WHERE id = ?`, tx.NowText(), tx.NowText(), made.ID)
			if err != nil {
				return err
			}
		}
		return nil
	})
	for n := range 5 {
		w.Must(w.report(dev, uuidOf(1), map[string]any{"os_version": fmt.Sprint(n)}))
	}
	w.Must(w.Devices.ForgetHistoryOnce(t.Context()))
	if n := w.count("device_history WHERE tracks__device = ?", made.ID); n != 1000 {
		t.Errorf("%d rows, want 1,000", n)
	}
	if last := w.past(w.alice, made.ID, "os_version"); last[len(last)-1] != "4 now" {
		t.Errorf("the last row: %s", last[len(last)-1])
	}
	if n := w.count("device_history WHERE tracks__device = ?", quiet.ID); n != 1 {
		t.Errorf("%d rows of the other device, want 1", n)
	}
}

func TestWhatAPersonSaysOfIsOnline(t *testing.T) {
	w := newWorld(t)
	dev, made := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	path := fmt.Sprintf("device(%d)", made.ID)
	check := func(when, want string) {
		t.Helper()
		row := w.one(w.alice, path+"?$select=is_online,is_active,api_heartbeat_state,overall_status,last_connectivity_event")
		got := fmt.Sprintf("%v %v %v %v %v", row["is_online"], row["is_active"], row["api_heartbeat_state"], row["overall_status"],
			row["last_connectivity_event"] != nil)
		if got != want {
			t.Errorf("%s: got %s, want %s", when, got, want)
		}
	}
	check("new", "false false unknown inactive false")
	w.patchDevice(made.ID, "is_online", true)
	check("said to be online", "true true unknown disconnected true")
	w.Want(w.alice, "PATCH", path, map[string]any{"is_active": false}, 400, "Devices must be offline in order to be deactivated.")
	w.patchDevice(made.ID, "is_online", 0)
	check("said to be offline", "false true unknown disconnected true")
	w.patchDevice(made.ID, "is_active", false)
	check("deactivated", "false false unknown inactive true")
	w.Want(w.alice, "PATCH", path, map[string]any{"is_online": "perhaps"}, 400, `\"is_online\"`)
	w.Want(w.bob, "PATCH", path, map[string]any{"is_online": true}, 200, "")
	check("another tenant said so", "false false unknown inactive true")
	poll, err := w.target(dev, uuidOf(1), "")
	w.Must(err)
	w.Devices.Heard(t.Context(), poll)
	check("heard", "true true online operational true")
	w.patchDevice(made.ID, "is_online", false)
	check("heard, and said to be offline", "true true online operational true") // nobody fakes a heartbeat, nor its end
	for _, column := range []string{"api_heartbeat_state", "overall_status", "overall_progress", "should_be_running__release", "latitude",
		"is_connected_to_vpn", "last_vpn_event", "changed_api_heartbeat_state_on__date", "modified_at", "said_online"} {
		if status, body := w.Do(w.alice, "PATCH", path, map[string]any{column: 1}); status < 400 || status > 403 ||
			!strings.Contains(body, column) {
			t.Errorf("a PATCH of %s: %d %s", column, status, body)
		}
	}
}

func TestReadLogByService(t *testing.T) {
	w := newWorld(t)
	f := w.Fleet(w.alice, "harbour")
	w.push(w.alice, "alice/harbour", "web", "writer")
	dev, _ := w.device(w.alice, f, uuidOf(1))
	web, writer := w.id("service", "service_name = 'web'"), w.id("service", "service_name = 'writer'")
	var body strings.Builder
	for n := range 5 {
		fmt.Fprintf(&body, `{"message":"web %d","serviceId":%d}`+"\n"+`{"message":"writer %d","serviceId":%d}`+"\n"+`{"message":"system %d","isSystem":true}`+"\n",
			n, web, n, writer, n)
	}
	w.Must(w.send(dev, uuidOf(1), body.String()))
	yes, no := true, false
	for what, test := range map[string]struct {
		services []string
		system   *bool
		count    int
		want     string
	}{
		"one service":             {[]string{"web"}, nil, 2, "web 3,web 4"},
		"one by id":               {[]string{fmt.Sprint(writer)}, nil, 1, "writer 4"},
		"a service, and system":   {[]string{"web"}, &yes, 2, "web 4,system 4"},
		"system":                  {nil, &yes, 2, "system 3,system 4"},
		"all but system":          {nil, &no, 3, "writer 3,web 4,writer 4"},
		"services without system": {[]string{"web", "writer"}, &no, 2, "web 4,writer 4"},
		"nothing":                 {[]string{"web"}, nil, 0, ""},
	} {
		q := everything
		q.Services, q.System, q.Count = test.services, test.system, test.count
		if got := strings.Join(w.log(w.alice, uuidOf(1), q), ","); got != test.want {
			t.Errorf("%s: got %s, want %s", what, got, test.want)
		}
		follower, err := w.Devices.Logs.Follow(t.Context(), w.alice, uuidOf(1), q)
		w.Must(err)
		lines := follow(follower)
		w.Must(w.send(dev, uuidOf(1), fmt.Sprintf(`{"message":"noise","serviceId":999}`+"\n"+`{"message":"web x","serviceId":%d}`+"\n"+
			`{"message":"writer x","serviceId":%d}`+"\n"+`{"message":"system x","isSystem":true}`, web, writer)))
		wants := strings.Split(test.want, ",")
		if test.want == "" {
			wants = nil
		}
		for _, kind := range []string{"web", "writer", "system"} {
			if what == "nothing" && kind == "web" || what != "nothing" && strings.Contains(test.want, kind) {
				wants = append(wants, kind+" x")
			}
		}
		for _, want := range wants {
			if what == "all but system" && want == "web x" {
				if got := next(t, lines); got != "noise" {
					t.Errorf("%s, live: got %q", what, got)
				}
			}
			if got := next(t, lines); got != want {
				t.Errorf("%s, live: got %q, want %q", what, got, want)
			}
		}
		follower.Close()
		w.Must(w.send(dev, uuidOf(1), body.String())) // the past again
	}
	q := everything
	q.Services = []string{"nothing"}
	if _, err := w.Devices.Logs.Read(t.Context(), w.alice, uuidOf(1), q); api.AsError(err).Code != api.Invalid {
		t.Errorf("a service that is not there: %v", err)
	}
}
