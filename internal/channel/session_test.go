package channel_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// Every other report comes to another process of the api role: see [world.report].
func TestADeviceIsConnectedByItsNewestSession(t *testing.T) {
	w := newWorld(t)
	d, weak := w.certified(w.device(w.hers)), w.device(w.hers)
	made := w.in(d, "0", "one")
	if got := w.row(d); !got.connected || got.address != made.Address || got.identity != api.IdentityCertificate || got.event == "" {
		t.Errorf("after its session began: %+v", got)
	}
	if w.in(weak, "1", "weak"); w.row(weak).identity != api.IdentityKey {
		t.Errorf("the weaker kind is not marked: %+v", w.row(weak))
	}
	if got := w.status(w.alice, weak); got.Certified || got.Identity != api.IdentityKey || !got.Connected || got.From != "192.0.2.7" {
		t.Errorf("status of the weaker kind: %+v", got)
	}
	var beat any
	if w.Scan(`SELECT heartbeat_until FROM device WHERE id = ?`, []any{d.ID}, &beat); beat != nil {
		t.Errorf("the channel counts as a heartbeat: %v", beat)
	}

	// What the device says is kept beside that.
	w.Must(w.Devices.Report(t.Context(), d.by, []byte(`{"`+string(d.UUID)+`": {"channel": {"state": "locked", "reason": "the owner"}}}`), "192.0.2.7"))
	w.Must(w.Devices.Report(t.Context(), d.by, []byte(`{"`+string(d.UUID)+`": {"channel": {"state": "rubbish"}}}`), "192.0.2.7"))
	if got := w.status(w.alice, d); got.Said != api.ChannelStateLocked || got.Reason != "the owner" {
		t.Errorf("what the device says of its channel: %+v", got)
	}

	// It comes anew on another instance: the newest session is the device's, the old one is cut, and its end changes nothing.
	w.in(d, "1", "two")
	if got := w.cut("0"); got != "one" {
		t.Errorf("to be cut on the first instance: %q", got)
	}
	if got := w.cut("1"); got != "" {
		t.Errorf("to be cut on the second: %q", got)
	}
	w.report(api.ChannelReport{Instance: "0", Down: down("one")})
	if !w.row(d).connected || w.cut("0") != "" {
		t.Error("the end of the old session took the new one along")
	}
	// Both changes in one report, and an end that comes before its beginning is told of.
	w.report(api.ChannelReport{Instance: "1", Up: []api.ChannelUp{up(made, "three")}, Down: down("two")})
	if !w.row(d).connected {
		t.Error("a reconnection ended in no connection")
	}
	w.report(api.ChannelReport{Instance: "1", Up: []api.ChannelUp{up(made, "four")}, Down: append(down("three"), down("four")...)})
	if got := w.row(d); got.connected || got.address != "" || got.identity != "" {
		t.Errorf("after the last session: %+v", got)
	}
	if got := w.status(w.alice, d); got.Connected || got.Since == "" || !got.Certified {
		t.Errorf("status after it: %+v", got)
	}
	// An end is told of twice, or is one that nobody knows.
	w.report(api.ChannelReport{Instance: "1", Down: append(down("three"), down("never")...)})
	for what, r := range map[string]api.ChannelReport{
		"no instance": {Boot: "b"}, "a strange one": {Instance: "a b", Boot: "b"}, "no boot": {Instance: "0"},
		"too many":     {Instance: "0", Boot: "b", Down: make([]api.ChannelDown, api.MaxChannelReport+1)},
		"no address":   {Instance: "0", Boot: "b", Up: []api.ChannelUp{{UUID: made.UUID, Session: "x", Identity: api.IdentityKey}}},
		"no identity":  {Instance: "0", Boot: "b", Up: []api.ChannelUp{{UUID: made.UUID, Session: "x", Address: made.Address}}},
		"not a device": {Instance: "0", Boot: "b", Up: []api.ChannelUp{{UUID: "x", Session: "x", Address: made.Address, Identity: api.IdentityKey}}},
	} {
		if _, err := w.Report(t.Context(), r); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("a report with %s: got %v", what, err)
		}
	}
}

// A full report that comes in parts takes nobody off the air who is of a part that has not come yet, and everybody who is missing in one that has.
func TestAFullReportInParts(t *testing.T) {
	w := newWorld(t)
	a, b, c, gone := w.device(w.hers), w.device(w.hers), w.device(w.hers), w.device(w.hers)
	first, second, third := w.in(a, "0", "a"), w.in(b, "0", "m"), w.in(c, "0", "x")
	w.in(gone, "0", "b")
	on := func(what string, want ...bool) {
		t.Helper()
		for i, d := range []*known{a, b, c, gone} {
			if got := w.row(d).connected; got != want[i] {
				t.Errorf("%s: device %d is connected: %v", what, i, got)
			}
		}
	}
	part := func(after, to string, up ...api.ChannelUp) api.ChannelReport {
		return api.ChannelReport{Instance: "0", Boot: "second", Full: true, After: after, To: to, Up: up}
	}
	if answer, err := w.Report(t.Context(), part("g", "", up(third, "x"))); err != nil || !answer.Again {
		t.Errorf("a later part of a process that is not known: %+v, %v", answer, err)
	}
	on("before the first part", true, true, true, true)
	w.report(part("", "g", up(first, "a")))
	on("after the first part", true, true, true, false)
	w.report(part("g", "n", up(second, "m")))
	on("after the second part", true, true, true, false)
	w.report(part("n", ""))
	on("after the last part", true, true, false, false)
	w.report(part("", "g", up(first, "a"))) // told twice
	w.report(part("", "", up(first, "a"), up(second, "m")))
	on("after it all, at once", true, true, false, false)
	for what, r := range map[string]api.ChannelReport{
		"a session of another part":   part("g", "n", up(first, "a")),
		"a session of a later part":   part("", "g", up(second, "m")),
		"bounds the wrong way round":  part("n", "g"),
		"bounds where it is not full": {Instance: "0", Boot: "second", After: "g"},
	} {
		if _, err := w.Report(t.Context(), r); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// The vpn role is killed, comes back, or does not: what the rows say becomes right by itself.
func TestWhatASilentInstanceHadIsNotConnected(t *testing.T) {
	w := newWorld(t)
	stays, goes, elsewhere := w.device(w.hers), w.device(w.hers), w.device(w.hers)
	s, g := w.in(stays, "0", "s1"), w.in(goes, "0", "g1")
	w.in(elsewhere, "1", "e1")
	// A new process: it has one device so far.
	answer, err := w.Report(t.Context(), api.ChannelReport{Instance: "0", Boot: "second", Up: []api.ChannelUp{up(s, "s2")}})
	if w.Must(err); !answer.Again || !w.row(goes).connected {
		t.Errorf("a process that is not known: %+v", answer)
	}
	w.report(api.ChannelReport{Instance: "0", Boot: "second", Full: true, Up: []api.ChannelUp{up(s, "s2")}})
	if !w.row(stays).connected || w.row(goes).connected || !w.row(elsewhere).connected {
		t.Errorf("after a full report: %+v %+v %+v", w.row(stays), w.row(goes), w.row(elsewhere))
	}
	// It has told of everything before: nothing changes.
	before := w.row(stays)
	w.report(api.ChannelReport{Instance: "0", Boot: "second", Full: true, Up: []api.ChannelUp{up(s, "s2")}})
	if got := w.status(w.alice, stays); w.row(stays) != before || got.Address != s.Address {
		t.Errorf("after the same full report: %+v, %+v, before %+v", w.row(stays), got, before)
	}
	// A report of the dead one is late.
	if answer, err = w.other.Report(t.Context(), api.ChannelReport{Instance: "0", Boot: "first", Up: []api.ChannelUp{up(g, "g1")}}); err != nil || !answer.Again || w.row(goes).connected {
		t.Errorf("a late report: %+v, %v, %+v", answer, err, w.row(goes))
	}
	// One instance is silent, the other is not.
	for range 6 {
		w.Pass(2 * time.Second)
		w.report(api.ChannelReport{Instance: "1"})
		w.Must(w.ExpireOnce(t.Context()))
		w.Must(w.other.ExpireOnce(t.Context()))
	}
	if w.row(stays).connected || !w.row(elsewhere).connected {
		t.Errorf("after ten seconds: %+v, %+v", w.row(stays), w.row(elsewhere))
	}
	if answer, err := w.Report(t.Context(), api.ChannelReport{Instance: "0", Boot: "second"}); err != nil || !answer.Again {
		t.Errorf("it speaks again: %+v, %v; want to be told everything", answer, err)
	}
	w.report(api.ChannelReport{Instance: "0", Boot: "second", Full: true, Up: []api.ChannelUp{up(s, "s2")}})
	if !w.row(stays).connected {
		t.Error("a device that was there all the time is not connected")
	}
	// Without sessions there is nothing to say.
	w.report(api.ChannelReport{Instance: "0", Boot: "second", Down: down("s2")})
	w.Pass(time.Minute)
	w.Must(w.ExpireOnce(t.Context()))
	if answer, err := w.other.Report(t.Context(), api.ChannelReport{Instance: "0", Boot: "second", Up: []api.ChannelUp{up(s, "s3")}}); err != nil || answer.Again || !w.row(stays).connected {
		t.Errorf("after a silence without sessions: %+v, %v", answer, err)
	}
}

// Attack: who was let in stays when the right to be there has ended.
func TestWhoHasNoRightAnyMoreIsCut(t *testing.T) {
	w := newWorld(t)
	second := w.Fleet(w.alice, "second")
	for what, take := range map[string]func(d *known){
		"the device is deleted":       func(d *known) { w.remove(w.alice, "device", d.ID) },
		"its key is revoked":          func(d *known) { w.remove(w.alice, "api_key", d.by.Key) },
		"it is in another fleet":      func(d *known) { w.update(w.alice, "device", d.ID, map[string]any{"belongs_to__application": second}) },
		"it is frozen":                func(d *known) { w.Exec(`UPDATE device SET is_frozen = 1 WHERE id = ?`, d.ID) },
		"it came by its key alone":    func(d *known) { w.certified(d) },
		"its channel is switched off": func(d *known) { w.flip(d, api.ChannelSwitch{Mode: api.ChannelOff}) },
	} {
		d := w.device(w.hers)
		w.in(d, "0", "s")
		if got := w.cut("0"); got != "" {
			t.Errorf("before %s: %q is to be cut", what, got)
		}
		if take(d); w.cut("0") != "s" {
			t.Errorf("%s: its session is not cut", what)
		}
		if w.cut("0") != "s" {
			t.Errorf("%s: it was said once only", what)
		}
		w.report(api.ChannelReport{Instance: "0", Down: down("s")})
		if got := w.cut("0"); got != "" {
			t.Errorf("%s: after its end %q is to be cut", what, got)
		}
	}
}

func (w *world) flip(d *known, s api.ChannelSwitch) {
	w.Helper()
	w.Write(func(tx *db.Tx) error { return w.SwitchDevice(w.Context(), tx, w.alice, string(d.UUID), s) })
}

func TestSwitches(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers)
	fleet := func(s api.ChannelSwitch) {
		t.Helper()
		w.Write(func(tx *db.Tx) error { return w.SwitchFleet(t.Context(), tx, w.alice, w.hers, s) })
	}
	want := func(what string, wanted bool, mode string) {
		t.Helper()
		if got := w.status(w.alice, d); got.Wanted != wanted || got.Mode != mode {
			t.Errorf("%s: got %+v", what, got)
		}
	}
	config := func() map[string]string {
		t.Helper()
		var target map[string]string
		w.Must(w.DB.Read(t.Context(), func(tx *db.Tx) error {
			made, err := w.Devices.Target(t.Context(), tx, d.by, d.UUID, "")
			for _, state := range made.State() {
				target = state.Config
			}
			return err
		}))
		return target
	}
	want("at first", true, api.ChannelAuto)
	fleet(api.ChannelSwitch{Mode: api.ChannelOff})
	want("the fleet is off", false, api.ChannelAuto)
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelOn, Seconds: 60})
	want("on for a minute", true, api.ChannelAuto)
	if got := config(); got[when.SupervisorControl] != "true" || got[when.Control] != "false" || got[when.Until] == "" {
		t.Errorf("what a device is told that is on for a minute: %v", got)
	}
	w.Must(w.EndSwitchesOnce(t.Context()))
	want("before the minute is over", true, api.ChannelAuto)
	w.in(d, "0", "s")
	w.Pass(time.Minute)
	want("after it", false, api.ChannelAuto)
	if got := w.cut("0"); got != "s" {
		t.Errorf("after the minute %q is to be cut", got)
	}
	w.Must(w.EndSwitchesOnce(t.Context()))
	if got := config(); got[when.SupervisorControl] != "false" || got[when.Control] != "" || got[when.Until] != "" {
		t.Errorf("what a device is told after the minute: %v", got)
	}
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelOn})
	want("the device alone is on", true, api.ChannelOn)
	fleet(api.ChannelSwitch{Mode: api.ChannelOn, Schedule: "daily 00:00-24:00"})
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelOff})
	want("the device alone is off", false, api.ChannelOff)
	fleet(api.ChannelSwitch{Mode: api.ChannelOn, Seconds: 60})
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelOff})
	want("off is off, though the fleet is on for a minute", false, api.ChannelOff)
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelAuto})
	want("as the fleet again", true, api.ChannelAuto)
	fleet(api.ChannelSwitch{Mode: api.ChannelAuto})
	w.Exec(`UPDATE application SET is_of__class = 'block' WHERE id = ?`, w.hers)
	want("a block", false, api.ChannelAuto)
	if got := config()[when.SupervisorControl]; got != "false" {
		t.Errorf("a block's device is told %q", got)
	}
	w.flip(d, api.ChannelSwitch{Mode: api.ChannelOn})
	want("a block that is switched on", true, api.ChannelOn)

	for what, s := range map[string]api.ChannelSwitch{
		"no mode": {}, "a strange mode": {Mode: "maybe"}, "off for a time": {Mode: api.ChannelOff, Seconds: 5}, "a long time": {Mode: api.ChannelOn, Seconds: 1 << 40},
		"a negative time": {Mode: api.ChannelOn, Seconds: -1}, "two ends": {Mode: api.ChannelOn, Seconds: 5, Schedule: "daily 00:00-01:00"}, "no schedule": {Mode: api.ChannelOn, Schedule: "always"},
	} {
		err := w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.SwitchDevice(t.Context(), tx, w.alice, string(d.UUID), s) })
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for what, by := range map[string]access.Caller{"a stranger": w.bob, "the device itself": d.by} {
		no := api.ErrNotFound
		if by.Kind == access.Device {
			no = api.ErrForbidden
		}
		on := api.ChannelSwitch{Mode: api.ChannelOn}
		if err := w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.SwitchDevice(t.Context(), tx, by, string(d.UUID), on) }); !errors.Is(err, no) {
			t.Errorf("%s switches: got %v", what, err)
		}
		if err := w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.SwitchFleet(t.Context(), tx, by, w.hers, on) }); !errors.Is(err, no) {
			t.Errorf("%s switches the fleet: got %v", what, err)
		}
	}
	if n := w.acts("channel.switch"); n != 10 {
		t.Errorf("the audit log has %d switches, want 10", n)
	}
	// What a device would not understand is not written.
	for name, value := range map[string]string{when.Schedule: "now and then", when.Until: "soon", when.SupervisorControl: "yes", "ROADSTEAD_OTHER": "1"} {
		err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
			_, err := w.Engine.Insert(t.Context(), tx, w.alice, "application_config_variable", map[string]any{"application": w.hers, "name": name, "value": value})
			return err
		})
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s = %q: got %v", name, value, err)
		}
	}
}

// Which ports are open to tunnels is checked when it is written, for fleets and for devices, also by a change.
func TestTheListOfPortsIsChecked(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers)
	for _, of := range []struct {
		resource, column string
		id               int64
	}{{"application_config_variable", "application", w.hers}, {"device_config_variable", "device", d.ID}} {
		var row int64
		for value, good := range map[string]bool{
			"all": true, "none": true, "22222": true, "22222, 8000-8099": true, "80 443": true, "65535": true,
			"": false, "0": false, "65536": false, "80-": false, "-80": false, "90-80": false, "http": false, "80;443": false, "all, 80": false, "none,80": false,
		} {
			err := w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
				if row == 0 {
					row, err = w.Engine.Insert(t.Context(), tx, w.alice, of.resource, map[string]any{of.column: of.id, "name": fleet.TunnelPorts, "value": "all"})
					if err != nil {
						return err
					}
				}
				return w.Engine.Update(t.Context(), tx, w.alice, of.resource, row, map[string]any{"value": value})
			})
			if good && err != nil || !good && (!errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), fleet.TunnelPorts)) {
				t.Errorf("%s: %q: got %v", of.resource, value, err)
			}
			if err != nil {
				row = 0 // it was taken back
				w.Exec(`DELETE FROM `+of.resource+` WHERE `+of.column+` = ?`, of.id)
			}
		}
	}
	for port, open := range map[int]bool{22222: true, 8000: true, 8099: true, 8100: false, 1: false} {
		if fleet.InPorts("22222, 8000-8099", port) != open || !fleet.InPorts("all", port) || fleet.InPorts("none", port) || fleet.InPorts("rubbish", port) {
			t.Errorf("port %d", port)
		}
	}
}
