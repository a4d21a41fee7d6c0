//go:build linux

package vpn_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// Every six hours, here every few seconds, the two ends make new keys, and the api role is asked anew: a device that may be here stays in
// the session that it has, one that may not is put out.
func TestNewKeysAreAskedAboutAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, 0)
	w.start("openvpn")
	w.start(api.RoleVPN)
	d := w.device(uuid(41))
	d.certify(w.people, d.uuid)
	logins := func() (n int) {
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		for _, l := range w.api.logins {
			if l.UUID == d.uuid {
				n++
			}
		}
		return n
	}
	c := d.connect("--reneg-sec", "4", "0")
	up := c.online()
	before := logins()
	_, out := d.inside("serve", "0.0.0.0:48484")
	line := make([]byte, len("serving\n"))
	if _, err := out.Read(line); err != nil {
		t.Fatal(err)
	}
	roletest.Eventually(t, "the api role is not asked anew", func() bool { return logins() >= before+3 })
	if now, ok := w.api.of(d.uuid); !ok || now != up {
		t.Errorf("after new keys the session is %+v, %v; it was %+v", now, ok, up)
	}
	if code, got, text := w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 48484, Method: "GET", Path: "/ok"}); code != 200 || got.Status == 0 {
		t.Errorf("after new keys the device is not reached: %d %s", code, text)
	}
	w.api.mu.Lock()
	downs := slices.Clone(w.api.downs)
	w.api.mu.Unlock()
	if slices.ContainsFunc(downs, func(d api.ChannelDown) bool { return d.Session == up.Session }) {
		t.Errorf("the session %+v ended; the client says\n%s", up, c.log.String())
	}
	w.api.add(d.uuid, "") // and nobody says that it is to be cut
	roletest.Eventually(t, "the device stays", func() bool { _, ok := w.api.of(d.uuid); return !ok })
	if log := c.ended(); !strings.Contains(log, "AUTH_FAILED") {
		t.Errorf("the device ended otherwise:\n%s", log)
	}
}
