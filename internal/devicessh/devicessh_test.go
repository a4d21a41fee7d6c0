package devicessh_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// sshKey gives a person an SSH key, and says its fingerprint.
func (w *world) sshKey(by access.Caller) (id int64, fingerprint string) {
	w.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	w.Must(err)
	key, err := ssh.NewPublicKey(public)
	w.Must(err)
	id = w.Create(by, "user__has__public_key", map[string]any{"user": by.User, "title": "laptop", "public_key": string(ssh.MarshalAuthorizedKey(key))})
	return id, ssh.FingerprintSHA256(key)
}

// bySSHKey is who comes to the gateway with a key.
func (w *world) bySSHKey(fingerprint string) (c access.Caller) {
	w.Helper()
	w.Read(func(tx *db.Tx) (err error) {
		c, err = w.Accounts.BySSHKey(w.Context(), tx, fingerprint)
		return err
	})
	return c
}

// Who may enter a device gets a certificate for it, and is known there by their key; everybody else is told that there is no such thing.
func TestWhoMayEnter(t *testing.T) {
	w := newWorld(t)
	ask, err := w.open(w.alice, true)
	if err != nil || ask.Device != string(w.uuid) || ask.User != "alice" || !ask.Forward || ask.Until.Sub(w.Now()) > api.SSHUserCertificateLife {
		t.Fatalf("%+v %v", ask, err)
	}
	for _, by := range []access.Caller{w.bob, w.sue} {
		if _, err := w.open(by, false); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", by.Name, err)
		}
		_, fingerprint := w.sshKey(by)
		if _, err := w.key(w.device, fingerprint); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("the key of %s: %v", by.Name, err)
		}
		if _, err := w.begin(w.device, api.SSHBegin{Fingerprint: fingerprint}); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s is in: %v", by.Name, err)
		}
	}
	member := func(level access.Level) {
		w.Exec(`DELETE FROM user_application_membership`)
		w.Exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES (?, ?, ?, ?)`,
			db.FormatTime(w.Now()), w.bob.User, w.fleet, int(level))
	}
	member(access.Observer)
	if _, err := w.open(w.bob, false); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("an observer: %v", err)
	}
	member(access.Operator)
	if _, err := w.open(w.bob, false); err != nil {
		t.Errorf("an operator: %v", err)
	}
	// A permission is for one device, and for minutes.
	other := w.register(api.DeviceUUID(strings.Repeat("b", 32)))
	if _, err := w.begin(other, api.SSHBegin{Grant: ask.Grant}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("another device's permission: %v", err)
	}
	begun, err := w.begin(w.device, api.SSHBegin{Grant: ask.Grant})
	if err != nil || begun.User != "alice" || begun.Record {
		t.Errorf("%+v %v", begun, err)
	}
	w.Pass(10 * time.Minute)
	if _, err := w.begin(w.device, api.SSHBegin{Grant: ask.Grant}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a permission that is over: %v", err)
	}
	// A named key enters within what it is for; a frozen device is entered by nobody.
	var token string
	w.Write(func(tx *db.Tx) (err error) {
		token, err = w.Accounts.CreateKey(w.Context(), tx, access.Itself(), account.KeySpec{Of: account.OfUser, ID: w.alice.User, Name: "ci"})
		return err
	})
	var byKey access.Caller
	w.Read(func(tx *db.Tx) (err error) {
		byKey, err = w.Accounts.Authenticate(w.Context(), tx, token)
		return err
	})
	one := w.enters(byKey)
	if !w.stays(one) {
		t.Error("a session of a key ends")
	}
	w.Exec(`DELETE FROM api_key WHERE id = ?`, byKey.Key)
	if w.stays(one) {
		t.Error("a session outlives its key")
	}
	w.Exec(`UPDATE device SET is_frozen = 1`)
	if _, err := w.open(w.alice, false); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a frozen device: %v", err)
	}
}

// Whatever a session hangs on ends it: the key, the login, the role, the device.
func TestARightThatEndsEndsTheSession(t *testing.T) {
	w := newWorld(t)
	w.Exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES (?, ?, ?, ?)`,
		db.FormatTime(w.Now()), w.bob.User, w.fleet, int(access.Operator))
	id, fingerprint := w.sshKey(w.bob)
	answer, err := w.key(w.device, fingerprint)
	if err != nil || answer.User != "bob" || !answer.Forward || !answer.Until.IsZero() {
		t.Fatalf("%+v %v", answer, err)
	}
	begun, err := w.begin(w.device, api.SSHBegin{Fingerprint: fingerprint})
	w.Must(err)
	byKey := api.SSHProgress{Session: begun.Session, Token: begun.Token}
	byLogin, hers := w.enters(w.bob), w.enters(w.alice)
	for _, one := range []api.SSHProgress{byKey, byLogin, hers} {
		if !w.stays(one) {
			t.Fatalf("session %d ends", one.Session)
		}
	}
	if w.stays(api.SSHProgress{Session: hers.Session, Token: byKey.Token}) {
		t.Error("a session is known by the token of another")
	}
	w.Want(w.bob, "DELETE", fmt.Sprintf("user__has__public_key(%d)", id), nil, 200, "")
	if w.stays(byKey) || !w.stays(byLogin) {
		t.Error("a removed key ends its session and no other")
	}
	w.ended(byKey, "SSH key")
	w.Exec(`DELETE FROM user_application_membership`)
	if w.stays(byLogin) || !w.stays(hers) {
		t.Error("a lost role ends the session")
	}
	w.ended(byLogin, "the right to be here ended")
	// A device that is deleted tells of the end all the same, and its owner reads of it.
	w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", w.device.Device), nil, 200, "")
	code := 137
	hers.Exit, hers.Why, hers.BytesIn, hers.BytesOut = &code, "the server \x1b[31mdoes not know", 10, 20
	if err := w.end(access.Nobody(), api.SSHProgress{Session: hers.Session, Token: "wrong"}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an end without the token: %v", err)
	}
	w.Must(w.end(access.Nobody(), hers))
	hers.Why = "told again"
	w.Must(w.end(access.Nobody(), hers))
	list, err := w.sessions(w.alice)
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v %v", list, err)
	}
	if s := list[0]; s.User != "alice" || s.By != "certificate" || s.From != "192.0.2.1" || s.Exit == nil || *s.Exit != 137 || s.Why != "the server ??31mdoes not know" || s.EndedAt == "" || s.BytesOut != 20 {
		t.Errorf("%+v", s)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'device.ssh_end' AND detail LIKE '%"exit":137%' AND thing_name = ?
			AND by_kind = 'device' AND by_name = 'd_' || thing_name`, string(w.uuid)); n != 1 {
		t.Errorf("the audit log has %d ends", n)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act IN ('device.ssh_begin', 'device.ssh_certificate')`); n != 5 {
		t.Errorf("the audit log has %d beginnings", n)
	}
	// Of a device that says nothing more the session is lost.
	w.Pass(2 * time.Minute)
	w.Must(w.ssh.Sweep(t.Context()))
	list, err = w.sessions(w.alice)
	if err != nil || list[2].Why != "the device went silent" || list[2].EndedAt == "" || list[0].Why != "the server ??31mdoes not know" {
		t.Errorf("%+v %v", list, err)
	}
	w.Pass(100 * 24 * time.Hour)
	w.Must(w.ssh.Sweep(t.Context()))
	if n := w.Number(`SELECT count(*) FROM device_ssh_session`) + w.Number(`SELECT count(*) FROM device_ssh_grant`); n != 0 {
		t.Errorf("%d old rows stay", n)
	}
}

// What a session was asked to run is with the session and in the audit log, while it is open and when its device went silent: bounded, and
// nothing but text.
func TestCommandsAreNamed(t *testing.T) {
	w := newWorld(t)
	one, lost := w.enters(w.alice), w.enters(w.alice)
	one.Kind, one.Commands, one.CommandCount = "exec", []string{"reboot \x1b[2J\u202e\\", strings.Repeat("ж", api.MaxSSHCommand)}, 2
	lost.Commands, lost.CommandCount = []string{"id -u"}, 1
	if !w.stays(one) || !w.stays(lost) {
		t.Fatal("they end")
	}
	list, err := w.sessions(w.alice)
	w.Must(err)
	want := []string{`reboot \x1b[2J\u202e\\`, strings.Repeat("ж", api.MaxSSHCommand/2) + "…"}
	if got := list[1]; !slices.Equal(got.Commands, want) || got.CommandCount != 2 {
		t.Errorf("while it is open: %q of %d", got.Commands, got.CommandCount)
	}
	for len(one.Commands) < 50 {
		one.Commands = append(one.Commands, "true")
	}
	one.CommandCount = 1000
	w.Must(w.end(access.Nobody(), one))
	w.Pass(2 * time.Minute)
	w.Must(w.ssh.Sweep(t.Context()))
	if list, err = w.sessions(w.alice); err != nil || len(list[1].Commands) != api.MaxSSHCommands || list[1].CommandCount != 1000 || !slices.Equal(list[0].Commands, []string{"id -u"}) {
		t.Errorf("at the end: %+v %v", list, err)
	}
	for by, want := range map[string][]string{"device": list[1].Commands, "system": list[0].Commands} {
		var text string
		w.Read(func(tx *db.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT detail FROM audit_entry WHERE act = 'device.ssh_end' AND by_kind = ?`, by).Scan(&text)
		})
		var detail struct {
			Commands []string `json:"commands"`
		}
		if err := json.Unmarshal([]byte(text), &detail); err != nil || !slices.Equal(detail.Commands, want) {
			t.Errorf("the audit log by the %s: %s %v", by, text, err)
		}
	}
}

// Support staff enter with a live grant, until it ends and no longer; a fleet that shut them out stays shut.
func TestSupportEntersByAGrantAlone(t *testing.T) {
	w := newWorld(t)
	_, fingerprint := w.sshKey(w.sue)
	byKey := w.bySSHKey(fingerprint)
	if _, err := w.open(byKey, false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("without a grant: %v", err)
	}
	w.grant(2 * time.Minute)
	if _, err := w.open(w.sue, false); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("support without an SSH key: %v", err)
	}
	if way, err := w.way(w.sue); err != nil || way.Way != api.SSHByGateway || !way.Support || way.User != "sue" {
		t.Errorf("the way of support: %+v %v", way, err)
	}
	if way, err := w.way(w.alice); err != nil || way.Way != api.SSHByCertificate || way.Support {
		t.Errorf("the way of the owner: %+v %v", way, err)
	}
	if _, err := w.way(w.bob); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the way of a stranger: %v", err)
	}
	ask, err := w.open(byKey, false)
	if err != nil || ask.Until.After(w.Now().Add(2*time.Minute)) || ask.Forward {
		t.Fatalf("%+v %v", ask, err)
	}
	if _, err := w.open(byKey, true); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("forwarded ports for support: %v", err)
	}
	answer, err := w.key(w.device, fingerprint)
	if err != nil || answer.User != "sue" || answer.Until.IsZero() || answer.Forward {
		t.Errorf("%+v %v", answer, err)
	}
	one := w.enters(byKey)
	if !w.stays(one) {
		t.Error("it ends before the grant")
	}
	if _, err := w.sessions(w.sue); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("support sees who was in: %v", err)
	}
	list, err := w.sessions(w.alice)
	if err != nil || len(list) != 1 || !list[0].Support || list[0].User != "sue" {
		t.Errorf("%+v %v", list, err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE is_support = 1 AND act IN ('device.ssh_certificate', 'device.ssh_begin')`); n != 3 {
		t.Errorf("the audit log tells %d acts of support", n)
	}
	w.Pass(2*time.Minute + time.Second)
	if w.stays(one) {
		t.Error("it outlives the grant")
	}
	w.ended(one, "the support grant ended")
	if _, err := w.open(byKey, false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after the grant: %v", err)
	}

	w.grant(time.Hour)
	one = w.enters(byKey)
	fleet := fmt.Sprintf("application(%d)", w.fleet)
	w.Want(w.sue, "PATCH", fleet, map[string]any{rights.ClosedColumn: true}, 200, "") // which changes nothing, as of what one may not change
	if !w.stays(one) {
		t.Error("support shut itself out")
	}
	w.Want(w.alice, "PATCH", fleet, map[string]any{rights.ClosedColumn: true}, 200, "")
	if w.stays(one) {
		t.Error("it outlives that support is shut out")
	}
	if _, err := w.open(byKey, false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("support in a fleet that shut it out: %v", err)
	}
	until := w.Now().Add(time.Hour).UnixMilli()
	for path, body := range map[string]map[string]any{
		fleet: {rights.ClosedColumn: false}, fmt.Sprintf("application?$filter=id eq %d", w.fleet): {rights.SupportColumn: until}, fmt.Sprintf("device(%d)", w.device.Device): {rights.SupportColumn: until},
	} {
		w.Want(w.alice, "PATCH", path, body, 403, "for good")
	}
	w.Exec(`UPDATE device SET is_accessible_by_support_until__date = ?`, db.FormatTime(w.Now().Add(time.Hour))) // whoever has the database
	w.Exec(`UPDATE application SET is_accessible_by_support_until__date = ?`, db.FormatTime(w.Now().Add(time.Hour)))
	if _, err := w.open(byKey, false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a grant in a fleet that shut support out: %v", err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'application.update' AND detail LIKE '%is_closed_to_support%'`); n != 1 {
		t.Errorf("the audit log tells %d times that support was shut out", n)
	}
	if _, err := w.open(w.alice, false); err != nil {
		t.Errorf("its owner: %v", err)
	}
}

// Recordings are for who may enter by right of their own; sessions too.
func TestWhoSeesSessions(t *testing.T) {
	w := newWorld(t)
	w.Create(w.alice, "application_config_variable", map[string]any{"application": w.fleet, "name": "ROADSTEAD_SSH_RECORD", "value": "true"})
	ask, err := w.open(w.alice, false)
	w.Must(err)
	begun, err := w.begin(w.device, api.SSHBegin{Grant: ask.Grant})
	if err != nil || !begun.Record {
		t.Fatalf("%+v %v", begun, err)
	}
	record := func(token, data string) error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.ssh.Record(t.Context(), tx, begun.Session, token, []byte(data)) })
	}
	read := func(by access.Caller) (data string, err error) {
		err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
			data, err = w.ssh.Recording(t.Context(), tx, by, begun.Session)
			return err
		})
		return data, err
	}
	if err := record("wrong", "x"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("without the token: %v", err)
	}
	w.Must(w.end(w.device, api.SSHProgress{Session: begun.Session, Token: begun.Token}))
	w.Must(record(begun.Token, "{\"version\":2}\n[0.1,\"o\",\"h\xc3\xa9\x00\xff\"]\n"))
	w.Must(record(begun.Token, "another"))
	if data, err := read(w.alice); err != nil || !strings.HasPrefix(data, "{\"version\":2}\n[0.1,\"o\",\"hé") || json.Valid([]byte(data)) {
		t.Errorf("%q %v", data, err)
	}
	w.grant(time.Hour)
	for _, by := range []access.Caller{w.bob, w.sue} {
		if _, err := read(by); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s reads the recording: %v", by.Name, err)
		}
		if _, err := w.sessions(by); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s sees the sessions: %v", by.Name, err)
		}
	}
	if list, err := w.sessions(w.alice); err != nil || !list[0].Recording {
		t.Errorf("%+v %v", list, err)
	}
	w.Create(w.alice, "device_config_variable", map[string]any{"device": w.device.Device, "name": "ROADSTEAD_SSH_RECORD", "value": "false"})
	if ask, err = w.open(w.alice, false); err != nil {
		t.Fatal(err)
	}
	if begun, err = w.begin(w.device, api.SSHBegin{Grant: ask.Grant}); err != nil || begun.Record {
		t.Errorf("a device's own variable: %+v %v", begun, err)
	}
	if err := record(begun.Token, "x"); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a recording that nobody wants: %v", err)
	}
}

// Who may enter a device ends anybody's session in it; to others there is none. It is told to its device, once, and is in the audit log.
func TestAnOrderEndsASession(t *testing.T) {
	w := newWorld(t)
	one := w.enters(w.alice)
	order := func(by access.Caller, id int64) error {
		return w.DB.Write(t.Context(), func(tx *db.Tx) error { return w.ssh.Order(t.Context(), tx, by, id) })
	}
	w.grant(time.Hour)
	for _, by := range []access.Caller{w.bob, w.sue} {
		if err := order(by, one.Session); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s ends a session: %v", by.Name, err)
		}
	}
	w.Exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES (?, ?, ?, ?)`,
		db.FormatTime(w.Now()), w.bob.User, w.fleet, int(access.Observer))
	if err := order(w.bob, one.Session); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an observer ends a session: %v", err)
	}
	if err := order(w.alice, one.Session+1); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a session that is not there: %v", err)
	}
	if !w.stays(one) {
		t.Fatal("the session ends without an order")
	}
	for range 2 {
		w.Must(order(w.alice, one.Session))
	}
	if w.stays(one) {
		t.Error("the session outlives the order")
	}
	w.Must(w.end(w.device, one))
	if err := order(w.alice, one.Session); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a session that is over: %v", err)
	}
	if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = 'device.ssh_cut'`); n != 1 {
		t.Errorf("the audit log has %d orders", n)
	}
}
