package trust_test

import (
	"encoding/base64"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// What a device that checks is told to do carries a command that it verifies; one that checks nothing gets none.
func TestOrdersAreSigned(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	w.must(err)
	header := func(path, body string) string {
		t.Helper()
		text, err := w.trust.Header(t.Context(), d.by.Device, "POST", path, []byte(body))
		w.must(err)
		return text
	}
	if header("/v1/reboot", `{}`) != "" {
		t.Error("a device that checks nothing gets a command")
	}
	w.must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
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
		w.must(err)
		c, err := d.trusted.Command(data, d.uuid)
		if err != nil || c.Verb != tt.verb || c.Service != tt.service || c.Force != tt.force || nonces[c.Nonce] {
			t.Errorf("%s %s: %+v, %v", tt.path, tt.body, c, err)
		}
		nonces[c.Nonce] = true
		if _, err := d.trusted.Command(data, uuidOf(9)); err == nil {
			t.Errorf("%s: another device takes it", tt.path)
		}
	}
	if header("/v1/blink", `{}`) != "" || header("/v2/local/target-state", `{}`) != "" {
		t.Error("what needs no command has one")
	}
}
