package trust_test

import (
	"context"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// What a device that checks is told to do carries a command that it verifies; one that checks nothing gets none.
func TestOrdersAreSigned(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	header := func(path, body string) string {
		t.Helper()
		text, err := w.trust.Orders.Header(t.Context(), d.by.Device, "POST", path, []byte(body))
		w.Must(err)
		return text
	}
	if header("/v1/reboot", `{}`) == "" { // its first report may be lost
		t.Error("a device that has not said yet that it checks gets no command")
	}
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
	nonces := map[string]bool{}
	for _, tt := range []struct {
		path, body string
		verb       api.ActionVerb
		service    string
		force      bool
	}{
		{"/v1/reboot", `{"force":true}`, api.ActReboot, "", true},
		{"/v1/restart", `{"appId":1}`, api.ActRestart, "", false},
		{"/v2/applications/1/restart-service", `{"serviceName":"web"}`, api.ActRestartService, "web", false},
		{"/v1/apps/1/stop", `{"force":"1"}`, api.ActStopService, "web", true},
		{"/v2/applications/1/purge", `{}`, api.ActPurge, "", false},
	} {
		data, err := base64.StdEncoding.DecodeString(header(tt.path, tt.body))
		w.Must(err)
		c, err := d.trusted.Command(data, d.uuid)
		if err != nil || c.Verb != tt.verb || c.Service != tt.service || c.Force != tt.force || nonces[c.Nonce] {
			t.Errorf("%s %s: %+v, %v", tt.path, tt.body, c, err)
		}
		nonces[c.Nonce] = true
		if _, err := d.trusted.Command(data, uuidOf(9)); err == nil {
			t.Errorf("%s: another device takes it", tt.path)
		}
	}
	for _, tt := range []struct {
		method, path, body string
		verb               api.ActionVerb
		force              bool
		sets               string // the canonical form
	}{
		{"PATCH", "/v1/device/host-config", `{"force": true, "network": {"proxy":{"port":3128,"ip":"192.0.2.1"}, "hostname":"po\u0072ch"}}`, api.ActHostConfig, true,
			`{"hostname":"porch","proxy":{"ip":"192.0.2.1","port":3128}}`},
		{"POST", "/v1/regenerate-api-key", ``, api.ActRenewKey, false, ""},
		{"GET", "/v2/cleanup-volumes", ``, api.ActCleanVolumes, false, ""},
		{"HEAD", "/v2/cleanup-volumes", ``, api.ActCleanVolumes, false, ""},
	} {
		text, err := w.trust.Orders.Header(t.Context(), d.by.Device, tt.method, tt.path, []byte(tt.body))
		w.Must(err)
		data, err := base64.StdEncoding.DecodeString(text)
		w.Must(err)
		want := ""
		if tt.sets != "" {
			want = tuf.Digest([]byte(tt.sets))
		}
		if c, err := d.trusted.Command(data, d.uuid); err != nil || c.Verb != tt.verb || c.Force != tt.force || c.Digest != want {
			t.Errorf("%s %s: %+v, %v; want the digest %q", tt.method, tt.path, c, err, want)
		}
	}
	for _, bad := range []string{``, `{}`, `{"network":null}`, `{"network":[1]}`, `{"network":{"proxy":{"port":1.5}}}`} { // the device names what is wrong
		if text, err := w.trust.Orders.Header(t.Context(), d.by.Device, "PATCH", "/v1/device/host-config", []byte(bad)); text != "" || err != nil {
			t.Errorf("%s: %q, %v", bad, text, err)
		}
	}
	if header("/v1/blink", `{}`) != "" || header("/v2/local/target-state", `{}`) != "" {
		t.Error("what needs no command has one")
	}
}

// Commands are signed when a device is told or asks, for minutes or an hour, however long an action may wait.
func TestCommandsHoldForMinutes(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, "")
	w.Must(err)
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
	life := func(data []byte) time.Duration {
		t.Helper()
		c, err := d.trusted.Command(data, d.uuid)
		w.Must(err)
		return c.Expires.Sub(w.Now())
	}
	text, err := w.trust.Orders.Header(t.Context(), d.by.Device, "POST", "/v1/reboot", []byte(`{}`))
	w.Must(err)
	data, err := base64.StdEncoding.DecodeString(text)
	w.Must(err)
	if l := life(data); l < 10*time.Minute || l > 15*time.Minute {
		t.Errorf("a command that a device is told at once holds for %s", l)
	}
	var id int64
	w.Write(func(tx *db.Tx) error {
		return tx.QueryRowContext(t.Context(), `INSERT INTO device_action (created_at, device, verb, is_forced, lines, expires_at, try_at, state)
			VALUES (?, ?, 'purge', 0, 0, ?, ?, 'queued') RETURNING id`, tx.NowText(), d.by.Device, db.FormatTime(tx.Now.Add(30*24*time.Hour)), tx.NowText()).Scan(&id)
	})
	for seconds, most := range map[int64]time.Duration{30 * 24 * 3600: time.Hour, 60: 16 * time.Minute} {
		list := []api.QueuedAction{{ID: id, Verb: api.ActPurge, Expires: seconds}}
		w.Must(w.trust.Orders.SignActions(t.Context(), d.by.Device, list))
		if l := life(list[0].Command); l > most || l < most-time.Minute {
			t.Errorf("the command of an action with %d s left holds for %s", seconds, l)
		}
	}
	over := []api.QueuedAction{{ID: id, Verb: api.ActPurge}}
	w.Must(w.trust.Orders.SignActions(t.Context(), d.by.Device, over))
	if len(over[0].Command) > 0 {
		t.Error("an action that is over is signed")
	}
}

// While the signer is away, a device that is known to check is not told anything; one that may be a balena supervisor is told as ever.
func TestOrdersWithoutASigner(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	away := w.processWith(func(context.Context, string, any, any) error { return errors.New("the signer is away") })
	if text, err := away.Orders.Header(t.Context(), d.by.Device, "POST", "/v1/reboot", []byte(`{}`)); text != "" || err != nil {
		t.Errorf("never reported: %q, %v", text, err)
	}
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
	if _, err := away.Orders.Header(t.Context(), d.by.Device, "POST", "/v1/reboot", []byte(`{}`)); err == nil {
		t.Error("a device that checks is told without a command")
	}
}
