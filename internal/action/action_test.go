package action_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

func TestActionsGoOverTheChannel(t *testing.T) {
	w := newWorld(t)
	dev := w.device(w.hers, 1, true)
	for _, tt := range []struct {
		want   api.NewAction
		status int
		answer string
		err    error
		call   string
		state  api.ActionState
		words  string
	}{
		{api.NewAction{Verb: api.ActPing}, 200, "OK", nil, "GET /ping", api.ActionDone, ""},
		{api.NewAction{Verb: api.ActIdentify}, 200, "OK", nil, "POST /v1/blink", api.ActionDone, ""},
		{api.NewAction{Verb: api.ActRestart, Force: true}, 200, "OK", nil, fmt.Sprintf(`POST /v1/restart {"appId":%d,"force":true}`, w.hers), api.ActionDone, ""},
		{api.NewAction{Verb: api.ActPurge}, 423, `{"status":"failed","message":"web \u001b]0;x\u0007holds one"}`, nil, "POST /v1/purge", api.ActionFailed, "update lock: web ]0;xholds one"},
		{
			api.NewAction{Verb: api.ActStopService, Service: "web"}, 404, "Service \x1b[2Jnot found", nil,
			fmt.Sprintf(`POST /v2/applications/%d/stop-service {"appId":%d,"force":false,"serviceName":"web"}`, w.hers, w.hers), api.ActionFailed, "answers 404: Service [2Jnot found",
		},
		{api.NewAction{Verb: api.ActUpdate}, 204, "", nil, "POST /v1/update", api.ActionDone, ""},
		{api.NewAction{Verb: api.ActUpdate}, 401, "Unauthorized", nil, "POST /v1/update", api.ActionFailed, "key"},
		{api.NewAction{Verb: api.ActShutdown}, 202, `{"Data":"OK"}`, nil, "POST /v1/shutdown", api.ActionDone, "switches off"},
		{api.NewAction{Verb: api.ActState}, 200, `{"status":`, nil, "GET /v2/state/status", api.ActionFailed, "cannot be read"},
		{api.NewAction{Verb: api.ActJournal}, 200, strings.Repeat("line\n", 100_000), nil, "POST /v2/journal-logs", api.ActionDone, ""},
		{
			api.NewAction{Verb: api.ActHostConfig, Network: []byte(`{"hostname":"porch","proxy":{"password":"s3cret"}}`), Force: true}, 200, "OK", nil,
			`PATCH /v1/device/host-config {"force":true,"network":{"hostname":"porch","proxy":{"password":"s3cret"}}}`, api.ActionDone, "",
		},
		{api.NewAction{Verb: api.ActHostConfig, Network: []byte(`{"hostname":"porch"}`)}, 400, "no host name", nil, "PATCH /v1/device/host-config", api.ActionFailed, "no host name"},
		{api.NewAction{Verb: api.ActRenewKey}, 200, "the-new-key", nil, "POST /v1/regenerate-api-key", api.ActionDone, ""},
		{api.NewAction{Verb: api.ActCleanVolumes}, 200, `{"status":"success"}`, nil, "GET /v2/cleanup-volumes", api.ActionDone, ""},
		{api.NewAction{Verb: api.ActPing}, 302, "elsewhere", nil, "GET /ping", api.ActionFailed, "answers 302"},
		{api.NewAction{Verb: api.ActPing}, 0, "", context.DeadlineExceeded, "GET /ping", api.ActionFailed, "may have done it"},
		{api.NewAction{Verb: api.ActPing}, 0, "", action.ErrNotSent, "GET /ping", api.ActionQueued, "waits for the device"},
		{api.NewAction{Verb: api.ActPing, NoQueue: true}, 0, "", fmt.Errorf("call: %w", action.ErrNotSent), "GET /ping", api.ActionFailed, "could not be reached"},
	} {
		w.answers(func(string) (*http.Response, error) {
			if tt.err != nil {
				return nil, tt.err
			}
			return says(tt.status, tt.answer), nil
		})
		tt.want.Devices = []api.DeviceUUID{uuidOf(1)}
		made, err := w.create(w.alice, tt.want)
		w.Must(err)
		id := made.Actions[0].ID
		w.Must(w.actions.SendOne(t.Context(), id))
		w.is(id, tt.state, tt.words)
		if got := w.called()[len(w.called())-1]; !strings.HasPrefix(got, "1 "+tt.call) {
			t.Errorf("%s: the device got %s, want %s", tt.want.Verb, got, tt.call)
		}
	}
	for what, query := range map[string]string{
		"the new key":           `SELECT CAST(count(*) AS TEXT) FROM device_action WHERE verb = 'renew-key' AND (result IS NOT NULL OR message <> '')`,
		"what was set":          `SELECT CAST(count(*) AS TEXT) FROM device_action WHERE network IS NOT NULL`,
		"a password in the log": `SELECT CAST(count(*) AS TEXT) FROM audit_entry WHERE detail LIKE '%s3cret%'`,
	} {
		if n := w.Text(query); n != "0" {
			t.Errorf("%s is kept", what)
		}
	}
	if n := w.Text(`SELECT CAST(max(length(result)) AS TEXT) FROM device_action`); n > "99999" || len(n) > 5 {
		t.Errorf("a journal of %s bytes is kept", n)
	}

	// A reboot is done when the device is back: with another start if its agent tells of starts, and with its channel if not.
	w.answers(func(string) (*http.Response, error) { return says(202, `{"Data":"OK"}`), nil })
	stranger := w.tell(1, api.ActReboot)
	w.Must(w.actions.SendOne(t.Context(), stranger))
	w.is(stranger, api.ActionSent, "restarts")
	w.Must(w.actions.TendOnce(t.Context()))
	w.is(stranger, api.ActionSent, "")
	w.Pass(time.Second)
	w.Exec(`UPDATE device SET last_vpn_event = ?`, db.FormatTime(w.Now()))
	w.Must(w.actions.TendOnce(t.Context()))
	w.is(stranger, api.ActionDone, "back")
	_, err := w.exchange(dev, "first")
	w.Must(err)
	ours := w.tell(1, api.ActReboot)
	w.Must(w.actions.SendOne(t.Context(), ours))
	w.Pass(time.Second)
	w.Exec(`UPDATE device SET last_vpn_event = ?`, db.FormatTime(w.Now()))
	_, err = w.exchange(dev, "first")
	w.Must(errors.Join(err, w.actions.TendOnce(t.Context())))
	w.is(ours, api.ActionSent, "")
	_, err = w.exchange(dev, "second")
	w.Must(err)
	w.is(ours, api.ActionDone, "back")
}

func TestActionsWaitForTheirDevice(t *testing.T) {
	w := newWorld(t)
	dev, other := w.device(w.hers, 1, false), w.device(w.hers, 2, false)
	version := `SELECT target_version FROM device WHERE uuid = '` + string(uuidOf(1)) + `'`
	before := w.Text(version)
	purge := w.tell(1, api.ActPurge)
	if w.Text(version) == before {
		t.Error("the device's next poll would be a 304, and it would not ask")
	}
	w.is(purge, api.ActionQueued, "")
	out, err := w.exchange(other, "x")
	w.Must(err)
	if len(out.Actions) != 0 {
		t.Errorf("another device takes %+v", out.Actions)
	}
	for range 2 { // the answer may be lost
		out, err = w.exchange(dev, "x")
		w.Must(err)
		if len(out.Actions) != 1 || out.Actions[0].ID != purge || out.Actions[0].Verb != api.ActPurge || out.Actions[0].Fleet != w.hers {
			t.Fatalf("the device takes %+v", out)
		}
		w.Pass(time.Second)
	}
	if !out.Actions[0].Again {
		t.Error("given again, it looks new")
	}
	w.is(purge, api.ActionSent, "")
	if err := w.cancel(w.alice, purge); !errors.Is(err, api.ErrConflict) {
		t.Errorf("cancel what the device has: %v", err)
	}

	// What means nothing: the result of another's action, a second result, a state that no device gives.
	done := api.ActionResult{ID: purge, State: api.ActionDone, Message: "by me\x1b[0m", Result: []byte(`"x"`)}
	_, err = w.exchange(other, "x", done)
	w.Must(err)
	w.is(purge, api.ActionSent, "")
	out, err = w.exchange(dev, "x", done)
	w.Must(err)
	if len(out.Actions) != 0 || len(out.Heard) != 1 || out.Heard[0] != purge {
		t.Errorf("after the result: %+v", out)
	}
	w.is(purge, api.ActionDone, "by me[0m")
	_, err = w.exchange(dev, "x", api.ActionResult{ID: purge, State: api.ActionFailed, Message: "replayed"})
	w.Must(err)
	w.is(purge, api.ActionDone, "by me")
	waiting := w.tell(1, api.ActPing)
	_, err = w.exchange(dev, "x", api.ActionResult{ID: waiting, State: api.ActionDone}) // which it was not given
	w.Must(err)
	w.is(waiting, api.ActionSent, "")
	for _, bad := range []api.ActionResult{
		{ID: waiting, State: api.ActionCancelled},
		{ID: waiting, State: api.ActionDone, Result: []byte(`"` + strings.Repeat("x", api.MaxActionResult) + `"`)},
	} {
		if _, err := w.exchange(dev, "x", bad); err == nil {
			t.Errorf("%s with %d bytes is taken", bad.State, len(bad.Result))
		}
	}
	if _, err := w.exchange(dev, "x", make([]api.ActionResult, 101)...); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("101 results: %v", err)
	}
	if _, err := w.actions.Exchange(t.Context(), w.alice, api.ActionExchange{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a person takes a device's actions: %v", err)
	}
	huge := api.ActionResult{ID: waiting, State: api.ActionFailed, Message: strings.Repeat("é", api.MaxActionMessage)}
	_, err = w.exchange(dev, "x", huge)
	w.Must(err)
	if n := len(w.Text(`SELECT message FROM device_action WHERE id = ?`, waiting)); n > api.MaxActionMessage {
		t.Errorf("words of %d bytes are kept", n)
	}

	// It ends by itself, or is taken back.
	late, back := w.tell(1, api.ActReboot), w.tell(1, api.ActReboot)
	w.Must(w.cancel(w.alice, back))
	w.is(back, api.ActionCancelled, "")
	w.Pass(61 * time.Minute)
	w.Must(w.actions.TendOnce(t.Context()))
	w.is(late, api.ActionExpired, "in time")
	if out, err = w.exchange(dev, "x"); err != nil || len(out.Actions) != 0 {
		t.Errorf("late: %+v %v", out, err)
	}

	// Of those that wait there is no end of a kind, and of the old ones neither.
	for range api.MaxActionsOpen {
		w.tell(1, api.ActPing)
	}
	if _, err := w.create(w.alice, api.NewAction{Devices: []api.DeviceUUID{uuidOf(1)}, Verb: api.ActPing}); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("one more than may wait: %v", err)
	}
	w.Pass(31 * 24 * time.Hour)
	w.Must(errors.Join(w.actions.TendOnce(t.Context()), w.actions.ForgetOnce(t.Context())))
	if n := w.Text(`SELECT CAST(count(*) AS TEXT) FROM device_action`); n != "0" {
		t.Errorf("%s actions are kept for ever", n)
	}
}

func (w *world) cancel(by access.Caller, id int64) error {
	return w.DB.Write(w.Context(), func(tx *db.Tx) error { return w.actions.Cancel(w.Context(), tx, by, id) })
}

func TestWhoHasDevicesDoSomething(t *testing.T) {
	w := newWorld(t)
	w.device(w.hers, 1, false)
	w.device(w.hers, 2, true)
	far := w.device(w.his, 3, true)
	three := []api.DeviceUUID{uuidOf(1), uuidOf(2), uuidOf(3), uuidOf(4), uuidOf(1)}
	made, err := w.create(w.alice, api.NewAction{Devices: three, Verb: api.ActReboot, NoQueue: true})
	w.Must(err)
	if len(made.Actions) != 1 || made.Actions[0].UUID != uuidOf(2) || len(made.Refused) != 3 {
		t.Errorf("of three devices: %+v", made)
	}
	for _, r := range made.Refused {
		switch {
		case r.UUID == uuidOf(1) && r.Code == api.Conflict && strings.Contains(r.Message, "not connected"):
		case r.UUID != uuidOf(1) && r.Code == api.NotFound && r.Name == "" && r.Message == "There is no such device.": // bob's is as absent as none
		default:
			t.Errorf("refused: %+v", r)
		}
	}
	made, err = w.create(w.alice, api.NewAction{Fleet: "alice/harbour", Verb: api.ActRestartService, Service: "web"})
	w.Must(err)
	if len(made.Actions) != 2 || len(made.Refused) != 0 {
		t.Errorf("of the fleet: %+v", made)
	}
	id := made.Actions[0].ID
	for name, try := range map[string]error{
		"bob's device": second(w.create(w.alice, api.NewAction{Devices: three[2:3], Verb: api.ActPing})),
		"bob's fleet":  second(w.create(w.alice, api.NewAction{Fleet: "bob/harbour", Verb: api.ActPing})),
		"her action":   w.cancel(w.bob, id), "none": w.cancel(w.bob, 99999),
	} {
		if !errors.Is(try, api.ErrNotFound) {
			t.Errorf("%s: %v", name, try)
		}
	}
	if _, err := w.create(far, api.NewAction{Devices: three[2:3], Verb: api.ActPing}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a device has something done: %v", err)
	}
	w.Exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES ('', ?, ?, ?)`,
		w.bob.User, w.hers, int(access.Observer))
	if _, err := w.create(w.bob, api.NewAction{Devices: three[:1], Verb: api.ActPing}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("an observer: %v", err)
	}
	if err := w.cancel(w.bob, id); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("an observer cancels: %v", err)
	}
	w.Must(w.cancel(w.alice, id))
	one := []api.DeviceUUID{uuidOf(1)}
	for _, bad := range []api.NewAction{
		{Devices: one, Verb: "brew"}, {Devices: one}, {Verb: api.ActPing}, {Devices: one, Fleet: "x", Verb: api.ActPing}, {Devices: one, Verb: api.ActStopService},
		{Devices: one, Verb: api.ActStopService, Service: "../x"}, {Devices: one, Verb: api.ActPing, Service: "web"}, {Devices: one, Verb: api.ActPing, Force: true},
		{Devices: one, Verb: api.ActPing, Expires: -1}, {Devices: one, Verb: api.ActPing, Expires: 1 << 40}, {Devices: one, Verb: api.ActJournal, Lines: 1 << 20},
		{Devices: []api.DeviceUUID{"../etc"}, Verb: api.ActPing},
	} {
		if _, err := w.create(w.alice, bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if got := w.Text(`SELECT CAST(count(*) AS TEXT) || min(detail) FROM audit_entry WHERE act = 'device.act'`); !strings.HasPrefix(got, "3") || !strings.Contains(got, "verb") {
		t.Errorf("the audit log has %s", got)
	}
	if got := w.Text(`SELECT CAST(count(*) AS TEXT) FROM audit_entry WHERE act = 'device.act.cancel'`); got != "1" {
		t.Errorf("the audit log has %s cancellations", got)
	}
}

func second(_ api.ActionsMade, err error) error { return err }

// Several processes, and the device itself, reach for the same actions.
func TestAnActionIsSentOnce(t *testing.T) {
	w := newWorld(t)
	const devices = 24
	many := make([]api.DeviceUUID, devices)
	keys := make([]access.Caller, devices)
	for i := range many {
		many[i], keys[i] = uuidOf(i+1), w.device(w.hers, i+1, true)
	}
	idle := action.New(action.Config{DB: w.DB, Caller: w}) // it finds what others left
	run, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for _, a := range []*action.Actions{w.actions, idle} {
		wait.Go(func() {
			if err := a.Run(run); err != nil {
				t.Error(err)
			}
		})
	}
	made, err := w.create(w.alice, api.NewAction{Devices: many, Verb: api.ActPing})
	w.Must(err)
	if len(made.Actions) != devices {
		t.Errorf("%d actions are made for %d devices", len(made.Actions), devices)
	}
	took := 0
	for _, a := range made.Actions {
		wait.Go(func() {
			if err := idle.SendOne(run, a.ID); err != nil {
				t.Error(err)
			}
		})
	}
	for _, by := range keys[:5] {
		out, err := w.exchange(by, "x")
		w.Must(err)
		took += len(out.Actions)
		for _, q := range out.Actions {
			_, err := w.exchange(by, "x", api.ActionResult{ID: q.ID, State: api.ActionDone})
			w.Must(err)
		}
	}
	// What this process was not told of, because another one took the request and died, is sent too.
	w.Exec(`INSERT INTO device_action (created_at, device, verb, state, expires_at, try_at) SELECT ?1, id, 'identify', 'queued', '9999', ?1 FROM device`,
		db.FormatTime(w.Now().Add(-time.Minute)))
	roletest.Eventually(t, "all is done", func() bool { return w.Number(`SELECT count(*) FROM device_action WHERE state <> 'done'`) == 0 })
	stop()
	wait.Wait()
	if got := len(w.called()) + took; got != 2*devices {
		t.Errorf("%d actions were done %d times", 2*devices, got)
	}
}

// What a host configuration is changed to goes to its device, and is forgotten when the action is over, however it ends.
func TestAHostConfigurationWaits(t *testing.T) {
	w := newWorld(t)
	dev := w.device(w.hers, 1, false)
	set := func(network string) (int64, error) {
		made, err := w.create(w.alice, api.NewAction{Devices: []api.DeviceUUID{uuidOf(1)}, Verb: api.ActHostConfig, Network: []byte(network), Expires: 60})
		if err != nil {
			return 0, err
		}
		return made.Actions[0].ID, nil
	}
	for network, field := range map[string]string{
		``: "network:", `7`: "network:", `{}`: "network:", `{"hostname":7}`: "network.hostname", `{"hostname":"a b"}`: "network.hostname", `{"proxy":7}`: "network.proxy",
		`{"proxy":null}`: "network.proxy", `{"dns":{}}`: "network.dns", `{"hostname":"` + strings.Repeat("a", api.MaxActionNetwork) + `"}`: "network:",
	} {
		if _, err := set(network); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%.60s: %v, want a refusal of %s", network, err, field)
		}
	}
	if _, err := w.create(w.alice, api.NewAction{Devices: []api.DeviceUUID{uuidOf(1)}, Verb: api.ActReboot, Network: []byte(`{"hostname":"x"}`)}); err == nil {
		t.Error("a reboot sets a host name")
	}
	kept := func(id int64) string {
		return w.Text(fmt.Sprintf(`SELECT coalesce(network, '') FROM device_action WHERE id = %d`, id))
	}
	const network = `{"hostname":"porch","proxy":{"ip":"192.0.2.1","password":"s3cret"}}`
	taken, err := set(network)
	w.Must(err)
	for range 2 {
		out, err := w.exchange(dev, "x")
		w.Must(err)
		if len(out.Actions) != 1 || string(out.Actions[0].Network) != network {
			t.Fatalf("the device takes %+v", out)
		}
	}
	_, err = w.exchange(dev, "x", api.ActionResult{ID: taken, State: api.ActionSent})
	w.Must(err)
	if kept(taken) == "" {
		t.Error("it is forgotten before it is over")
	}
	_, err = w.exchange(dev, "x", api.ActionResult{ID: taken, State: api.ActionDone})
	w.Must(err)
	cancelled, err := set(network)
	w.Must(err)
	w.Must(w.cancel(w.alice, cancelled))
	late, err := set(network)
	w.Must(err)
	w.Pass(time.Hour)
	w.Must(w.actions.TendOnce(t.Context()))
	w.is(late, api.ActionExpired, "")
	for _, id := range []int64{taken, cancelled, late} {
		if kept(id) != "" {
			t.Errorf("action %d still has what it set", id)
		}
	}
	if detail := w.Text(`SELECT detail FROM audit_entry WHERE act = 'device.act' ORDER BY id DESC LIMIT 1`); strings.Contains(detail, "s3cret") || !strings.Contains(detail, "porch") || !strings.Contains(detail, `"set"`) {
		t.Errorf("the audit log has %s", detail)
	}
}
