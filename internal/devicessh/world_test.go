package devicessh_test

import (
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/domaintest"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// world is the packages below, a fleet of alice's with one device, and people: sue gives support, bob is a stranger.
type world struct {
	*domaintest.Platform
	ssh *devicessh.SSH

	alice, bob, sue access.Caller // by a session
	fleet           int64
	device          access.Caller
	uuid            api.DeviceUUID
	why             string // what stays was told
}

func newWorld(t *testing.T) *world {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	w := &world{uuid: api.DeviceUUID(strings.Repeat("a", 32)), Platform: domaintest.NewPlatform(t, domaintest.Config{
		Migrations: []fs.FS{channel.Migrations(), devicessh.Migrations()},
		Resources:  func(a *account.Accounts) []*odata.Resource { return []*odata.Resource{sshkey.New(a, quiet).Resource()} },
		Model:      func(m odata.Model) { watch.Resources(m) },
	})}
	w.ssh = devicessh.New(devicessh.Config{DB: w.DB, Accounts: w.Accounts, Log: quiet})
	w.alice, w.bob, w.sue = w.Visitor("alice"), w.Visitor("bob"), w.Visitor("sue")
	w.Exec(`UPDATE "user" SET is_support_staff = 1 WHERE username = 'sue'`)
	w.sue.Staff = true
	w.fleet = w.Fleet(w.alice, "harbour")
	w.device = w.register(w.uuid)
	w.ours(w.device)
	return w
}

// ours makes a device one of ours, whose channel and SSH host key were certified.
func (w *world) ours(d access.Caller) {
	w.Helper()
	w.Exec(`INSERT INTO channel_identity (device, key_sha256, certified_at, expires_at) VALUES (?, ?, '', '')`, d.Device, fmt.Sprint("of ", d.Device))
}

func (w *world) register(uuid api.DeviceUUID) access.Caller {
	w.Helper()
	c, _ := w.Register(w.alice, w.fleet, uuid)
	return c
}

// grant opens the device to support for so long.
func (w *world) grant(long time.Duration) {
	w.Helper()
	w.Want(w.alice, "PATCH", fmt.Sprintf("device(%d)", w.device.Device), map[string]any{rights.SupportColumn: w.Now().Add(long).UnixMilli()}, 200, "")
}

func (w *world) open(by access.Caller, forward bool) (out api.SSHUserAsk, err error) {
	err = w.DB.Write(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Open(w.Context(), tx, by, api.SSHCertificateAsk{Device: w.uuid, PublicKey: "k", Forward: forward})
		return err
	})
	return out, err
}

func (w *world) key(by access.Caller, fingerprint string) (out api.SSHKeyAnswer, err error) {
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Key(w.Context(), tx, by, fingerprint)
		return err
	})
	return out, err
}

func (w *world) begin(by access.Caller, ask api.SSHBegin) (out api.SSHBegun, err error) {
	err = w.DB.Write(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Begin(w.Context(), tx, by, ask)
		return err
	})
	return out, err
}

// enters opens and begins a session.
func (w *world) enters(by access.Caller) api.SSHProgress {
	w.Helper()
	ask, err := w.open(by, false)
	w.Must(err)
	begun, err := w.begin(w.device, api.SSHBegin{Grant: ask.Grant})
	w.Must(err)
	return api.SSHProgress{Session: begun.Session, Token: begun.Token, Kind: "shell", Target: "host"}
}

// stays reports whether a session may go on.
func (w *world) stays(one api.SSHProgress) bool {
	w.Helper()
	var answer api.SSHStill
	var stale []api.SSHProgress
	w.Read(func(tx *db.Tx) (err error) {
		answer, stale, err = w.ssh.Still(w.Context(), tx, w.device, []api.SSHProgress{one})
		return err
	})
	w.Write(func(tx *db.Tx) error { return w.ssh.Seen(w.Context(), tx, stale) })
	w.why = answer.Why[one.Session]
	return len(answer.End) == 0
}

// ended wants a session to end for a reason.
func (w *world) ended(one api.SSHProgress, why string) {
	w.Helper()
	if w.stays(one) || !strings.Contains(w.why, why) {
		w.Errorf("it was told %q", w.why)
	}
}

func (w *world) way(by access.Caller) (way api.SSHWay, err error) {
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		way, err = w.ssh.Way(w.Context(), tx, by, w.uuid)
		return err
	})
	return way, err
}

func (w *world) end(by access.Caller, told api.SSHProgress) error {
	return w.DB.Write(w.Context(), func(tx *db.Tx) error { return w.ssh.End(w.Context(), tx, by, told) })
}

func (w *world) sessions(by access.Caller) (list []api.SSHSession, err error) {
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		list, err = w.ssh.Sessions(w.Context(), tx, by, w.uuid)
		return err
	})
	return list, err
}
