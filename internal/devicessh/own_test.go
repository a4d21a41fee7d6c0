package devicessh_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/sshtest"
)

// keysFor are the gateway's keys that a device is given for a name.
func (w *world) keysFor(device access.Caller, name string) string {
	w.Helper()
	var keys []string
	w.Read(func(tx *db.Tx) (err error) {
		keys, err = w.ssh.GatewayKeys(w.Context(), tx, device, name)
		return err
	})
	return strings.Join(keys, " ")
}

func (w *world) saw(key string) (known string, err error) {
	err = w.DB.Write(w.Context(), func(tx *db.Tx) (err error) {
		known, err = w.ssh.SawHostKey(w.Context(), tx, w.uuid, key)
		return err
	})
	return known, err
}

func (w *world) hostKey(by access.Caller) (out api.SSHHostKey, err error) {
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.HostKey(w.Context(), tx, by, w.uuid)
		return err
	})
	return out, err
}

func (w *world) forget(by access.Caller) error {
	return w.DB.Write(w.Context(), func(tx *db.Tx) error { return w.ssh.ForgetHostKey(w.Context(), tx, by, w.uuid) })
}

func newLine(t *testing.T) string {
	t.Helper()
	s, _ := sshtest.Signer(t)
	return sshtest.Line(s.PublicKey())
}

// A device with an SSH server of its own is given the gateway's key as one of the person's, for minutes and while their right lasts, and no other
// device and for no other name. The owner's login gets no certificate for it, which it would not know.
func TestADeviceWithItsOwnServerIsGivenTheGatewaysKey(t *testing.T) {
	w := newWorld(t)
	other := w.register(api.DeviceUUID(strings.Repeat("b", 32)))
	w.Exec(`DELETE FROM channel_identity`)
	if way, err := w.way(w.alice); err != nil || way.Way != api.SSHByGateway || !way.OwnServer || way.Support {
		t.Errorf("the way of the owner: %+v %v", way, err)
	}
	if _, err := w.open(w.alice, false); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a certificate for a login: %v", err)
	}
	id, fingerprint := w.sshKey(w.alice)
	byKey := w.bySSHKey(fingerprint)
	ask, err := w.open(byKey, false)
	if err != nil || ask.Own == nil || ask.Own.User != "alice" || ask.Own.HostKey != "" {
		t.Fatalf("%+v %v", ask, err)
	}
	for _, tt := range []struct {
		device access.Caller
		name   string
		keys   string
	}{{w.device, "alice", "k"}, {w.device, "sue", ""}, {w.device, "nobody", ""}, {other, "alice", ""}, {w.alice, "alice", ""}} {
		if got := w.keysFor(tt.device, tt.name); got != tt.keys {
			t.Errorf("%s asks for the keys of %s: %q", tt.device.Name, tt.name, got)
		}
	}
	w.Pass(api.SSHUserCertificateLife + time.Second)
	if got := w.keysFor(w.device, "alice"); got != "" {
		t.Errorf("after its minutes: %q", got)
	}
	_, err = w.open(byKey, false)
	w.Must(err)
	w.Want(w.alice, "DELETE", "user__has__public_key("+itoa(id)+")", nil, 200, "")
	if got := w.keysFor(w.device, "alice"); got != "" {
		t.Errorf("when the person's key was removed: %q", got)
	}

	// Support staff come the same way, with a grant and as long as it lasts.
	_, fingerprint = w.sshKey(w.sue)
	byKey = w.bySSHKey(fingerprint)
	if _, err := w.open(byKey, false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("support without a grant: %v", err)
	}
	w.grant(time.Hour)
	if ask, err = w.open(byKey, false); err != nil || ask.Own == nil || w.keysFor(w.device, "sue") != "k" {
		t.Errorf("support with a grant: %+v %v, %q", ask, err, w.keysFor(w.device, "sue"))
	}
	w.Want(w.alice, "PATCH", "device("+itoa(w.device.Device)+")", map[string]any{"is_accessible_by_support_until__date": nil}, 200, "")
	if got := w.keysFor(w.device, "sue"); got != "" {
		t.Errorf("support after its grant: %q", got)
	}
}

// The first host key of such a device is remembered, until somebody who may enter it by right of their own forgets it. One of ours has none to
// remember: it is certified.
func TestTheFirstHostKeyIsRemembered(t *testing.T) {
	w := newWorld(t)
	first, second := newLine(t), newLine(t)
	if _, err := w.saw(first); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a host key of a device of ours: %v", err)
	}
	if k, err := w.hostKey(w.alice); err != nil || k.Kind != api.HostKeyCertified {
		t.Errorf("a device of ours: %+v %v", k, err)
	}
	w.Exec(`DELETE FROM channel_identity`)
	if k, err := w.hostKey(w.alice); err != nil || k.Kind != api.HostKeyUnseen {
		t.Errorf("at first: %+v %v", k, err)
	}
	if _, err := w.saw("rubbish"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("rubbish: %v", err)
	}
	for _, key := range []string{first, second, first + " a comment"} {
		if known, err := w.saw(key); err != nil || known != first {
			t.Errorf("%s: remembered is %s, %v", key, known, err)
		}
	}
	if k, err := w.hostKey(w.alice); err != nil || k.Kind != api.HostKeyRemembered || k.PublicKey != first || !strings.HasPrefix(k.Fingerprint, "SHA256:") || k.Since == "" {
		t.Errorf("remembered: %+v %v", k, err)
	}
	if _, err := w.hostKey(w.bob); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a stranger sees it: %v", err)
	}
	w.grant(time.Hour)
	for _, tt := range []struct {
		by   access.Caller
		want error
	}{{w.bob, api.ErrNotFound}, {w.sue, api.ErrForbidden}, {w.alice, nil}} {
		if err := w.forget(tt.by); !errors.Is(err, tt.want) {
			t.Errorf("%s forgets it: %v", tt.by.Name, err)
		}
	}
	if err := w.forget(w.alice); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("what is not remembered is forgotten: %v", err)
	}
	if known, err := w.saw(second); err != nil || known != second {
		t.Errorf("afterwards: %s %v", known, err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act IN ('device.ssh_host_key', 'device.ssh_host_key_forget') AND detail LIKE '%SHA256:%'`); n != 3 {
		t.Errorf("the audit log has %d entries", n)
	}
}

// gateway is who tells of sessions on devices that tell of none.
var gateway = access.Caller{Kind: access.Service, Role: api.RoleVPN, Name: api.RoleVPN}

func (w *world) beginAtGateway(uuid api.DeviceUUID, grant string) (out api.SSHBegun, err error) {
	err = w.DB.Write(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.BeginAtGateway(w.Context(), tx, gateway, uuid, grant)
		return err
	})
	return out, err
}

// goesOn tells of a session as the gateway does, and says why it must end.
func (w *world) goesOn(one api.SSHProgress) string {
	w.Helper()
	var answer api.SSHStill
	var stale []api.SSHProgress
	w.Read(func(tx *db.Tx) (err error) {
		answer, stale, err = w.ssh.StillAtGateway(w.Context(), tx, w.uuid, one)
		return err
	})
	w.Write(func(tx *db.Tx) error { return w.ssh.Seen(w.Context(), tx, stale) })
	return answer.Why[one.Session]
}

// Sessions on a device with an SSH server of its own are listed as those of ours are: the gateway tells of them, by the permission that it was
// given for one person and device, and they end with it or when that is ordered.
func TestTheGatewayTellsOfSessionsOnADeviceWithItsOwnServer(t *testing.T) {
	w := newWorld(t)
	other := api.DeviceUUID(strings.Repeat("b", 32))
	w.register(other)
	_, fingerprint := w.sshKey(w.sue)
	bySue := w.bySSHKey(fingerprint)
	w.grant(time.Hour)
	ours, err := w.open(bySue, false)
	w.Must(err)
	if _, err := w.beginAtGateway(w.uuid, ours.Grant); !errors.Is(err, api.ErrConflict) {
		t.Errorf("of a device of ours: %v", err)
	}
	w.Exec(`DELETE FROM channel_identity`)
	ask, err := w.open(bySue, false)
	w.Must(err)
	for _, tt := range []struct {
		uuid  api.DeviceUUID
		grant string
		want  error
	}{{w.uuid, "", api.ErrInvalid}, {w.uuid, "another", api.ErrNotFound}, {other, ask.Own.Grant, api.ErrNotFound}, {"f", ask.Own.Grant, api.ErrNotFound}} {
		if _, err := w.beginAtGateway(tt.uuid, tt.grant); !errors.Is(err, tt.want) {
			t.Errorf("%s by %q: %v, want %v", tt.uuid, tt.grant, err, tt.want)
		}
	}
	enters := func() api.SSHProgress {
		t.Helper()
		begun, err := w.beginAtGateway(w.uuid, ask.Own.Grant)
		w.Must(err)
		if begun.User != "sue" || begun.Record {
			t.Errorf("begun: %+v", begun)
		}
		return api.SSHProgress{Session: begun.Session, Token: begun.Token, Kind: "exec", Target: "host", BytesIn: 3, BytesOut: 4, Commands: []string{"id\x1b"}, CommandCount: 1}
	}
	one := enters()
	if why := w.goesOn(one); why != "" {
		t.Errorf("it must end: %s", why)
	}
	list, err := w.sessions(w.alice)
	w.Must(err)
	if len(list) != 1 || list[0].User != "sue" || !list[0].Support || list[0].By != "key" || list[0].Kind != "exec" || list[0].EndedAt != "" || len(list[0].Commands) != 1 {
		t.Errorf("while it is open: %+v", list)
	}
	for _, by := range []access.Caller{w.bob, w.sue} {
		if list, err := w.sessions(by); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s sees %+v %v", by.Name, list, err)
		}
	}
	wrong := one
	wrong.Token = "t"
	if why := w.goesOn(wrong); !strings.Contains(why, "does not know") {
		t.Errorf("by a wrong token: %q", why)
	}
	code := 7
	one.Exit, one.Why = &code, "closed"
	w.Must(w.end(gateway, one))
	list, err = w.sessions(w.alice)
	w.Must(err)
	if len(list) != 1 || list[0].EndedAt == "" || *list[0].Exit != 7 || list[0].BytesIn != 3 || list[0].BytesOut != 4 || list[0].Why != "closed" || list[0].Commands[0] != `id\x1b` {
		t.Errorf("at its end: %+v", list)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act IN ('device.ssh_begin', 'device.ssh_end') AND by_kind = 'service' AND by_name = 'vpn'`); n != 2 {
		t.Errorf("the audit log has %d entries of the gateway's", n)
	}

	ordered := enters()
	w.Write(func(tx *db.Tx) error { return w.ssh.Order(w.Context(), tx, w.alice, ordered.Session) })
	if why := w.goesOn(ordered); !strings.Contains(why, "somebody ended it") {
		t.Errorf("when an end was ordered: %q", why)
	}
	revoked := enters()
	w.Want(w.alice, "PATCH", "device("+itoa(w.device.Device)+")", map[string]any{"is_accessible_by_support_until__date": nil}, 200, "")
	if why := w.goesOn(revoked); !strings.Contains(why, "the support grant ended") {
		t.Errorf("when the grant was taken back: %q", why)
	}
	if _, err := w.beginAtGateway(w.uuid, ask.Own.Grant); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("by the old permission: %v", err)
	}
	w.Want(w.alice, "DELETE", "device("+itoa(w.device.Device)+")", nil, 200, "")
	if why := w.goesOn(revoked); why == "" {
		t.Error("it goes on when the device is gone")
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
