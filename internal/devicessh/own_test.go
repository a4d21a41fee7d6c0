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

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
