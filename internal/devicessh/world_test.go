package devicessh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/web"
)

// world is the packages below, a fleet of alice's with one device, and people: sue gives support, bob is a stranger.
type world struct {
	*testing.T
	db       *db.DB
	accounts *account.Accounts
	devices  *device.Devices
	engine   *odata.Engine
	ssh      *devicessh.SSH

	alice, bob, sue access.Caller // by a session
	fleet           int64
	device          access.Caller
	uuid            api.DeviceUUID
	why             string // what stays was told

	mu  sync.Mutex // covers off
	off time.Duration
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, uuid: api.DeviceUUID(strings.Repeat("a", 32))}
	quiet := slog.New(slog.DiscardHandler)
	w.db = dbtest.Open(t, w.now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations(), channel.Migrations(), devicessh.Migrations())
	messages, err := bus.Open(bus.Config{Dir: t.TempDir()})
	w.must(err)
	t.Cleanup(func() { _ = messages.Close() })
	w.accounts, err = account.New(account.Config{
		DB: w.db, Pepper: []byte(strings.Repeat("p", 32)), Log: quiet, Now: w.now, PasswordCost: password.Cost{Memory: 64, Passes: 1}, Revoked: func(what string, id int64) { w.devices.Revoked(what, id) },
	})
	w.must(err)
	site := api.Site{Domain: "roadstead.test", Port: 443}
	fleets := fleet.New(fleet.Config{Accounts: w.accounts, Site: site, TargetChanged: device.FleetTargetChanged})
	releases, err := release.New(release.Config{DB: w.db, Accounts: w.accounts, Fleets: fleets, Site: site, Log: quiet, Now: w.now, Pinned: device.Pinned})
	w.must(err)
	w.devices, err = device.New(t.Context(), device.Config{DB: w.db, Accounts: w.accounts, Bus: messages, Log: quiet, PollInterval: time.Minute})
	w.must(err)
	w.ssh = devicessh.New(devicessh.Config{DB: w.db, Accounts: w.accounts, Log: quiet})
	w.write(func(tx *db.Tx) error { return fleets.Prepare(t.Context(), tx) })
	var model odata.Model
	for _, part := range [][]*odata.Resource{
		w.accounts.Resources(), member.New(w.accounts, nil).Resources(), {sshkey.New(w.accounts, quiet).Resource()}, fleets.Resources(), releases.Resources(), w.devices.Resources(),
	} {
		model.Resources = append(model.Resources, part...)
	}
	watch.Resources(model)
	w.engine, err = odata.New(odata.Config{Model: model, DB: w.db, Prefixes: []string{"/v7/"}, Files: blob.Files{}})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.devices.Run(ctx) }() // it registers several at once
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	w.alice, w.bob, w.sue = w.person("alice"), w.person("bob"), w.person("sue")
	w.exec(`UPDATE "user" SET is_support_staff = 1 WHERE username = 'sue'`)
	w.sue.Staff = true
	w.fleet = w.create(w.alice, "application", map[string]any{
		"app_name": "harbour", "organization": w.number(`SELECT id FROM organization WHERE handle = 'alice'`),
		"is_for__device_type": w.number(`SELECT id FROM device_type WHERE slug = 'generic-amd64'`),
	})
	w.device = w.register(w.uuid)
	w.ours(w.device)
	return w
}

// ours makes a device one of ours, whose channel and SSH host key were certified.
func (w *world) ours(d access.Caller) {
	w.Helper()
	w.exec(`INSERT INTO channel_identity (device, key_sha256, certified_at, expires_at) VALUES (?, ?, '', '')`, d.Device, fmt.Sprint("of ", d.Device))
}

func (w *world) register(uuid api.DeviceUUID) access.Caller {
	w.Helper()
	made, err := w.devices.Register(w.Context(), w.alice, api.Register{UUID: uuid, Application: w.fleet, DeviceType: "generic-amd64"})
	w.must(err)
	var c access.Caller
	w.read(func(tx *db.Tx) (err error) {
		c, err = w.accounts.Authenticate(w.Context(), tx, made.APIKey)
		return err
	})
	return c
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.off)
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += d
}

func (w *world) write(f func(tx *db.Tx) error) { w.Helper(); w.must(w.db.Write(w.Context(), f)) }
func (w *world) read(f func(tx *db.Tx) error)  { w.Helper(); w.must(w.db.Read(w.Context(), f)) }

func (w *world) exec(query string, args ...any) {
	w.Helper()
	w.write(func(tx *db.Tx) error { _, err := tx.ExecContext(w.Context(), query, args...); return err })
}

func (w *world) number(query string, args ...any) (n int64) {
	w.Helper()
	w.read(func(tx *db.Tx) error { return tx.QueryRowContext(w.Context(), query, args...).Scan(&n) })
	return n
}

// person is somebody who has just logged in.
func (w *world) person(name string) access.Caller {
	w.Helper()
	secret := "correct horse battery " + name
	_, err := w.accounts.CreateUser(w.Context(), api.NewUser{Email: name + "@example.com", Username: name, Password: secret})
	w.must(err)
	token, err := w.accounts.Login(w.Context(), api.Login{Username: name, Password: secret}, account.From{Address: "192.0.2.1"})
	w.must(err)
	var c access.Caller
	w.read(func(tx *db.Tx) (err error) {
		c, err = w.accounts.Authenticate(w.Context(), tx, token)
		return err
	})
	c.Address = "192.0.2.1"
	return c
}

func (w *world) want(by access.Caller, method, path string, body any, status int, text string) string {
	w.Helper()
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		w.must(err)
		in = strings.NewReader(string(data))
	}
	r := httptest.NewRequestWithContext(access.With(w.Context(), by), method, "/v7/"+strings.ReplaceAll(path, " ", "%20"), in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	web.Handle(slog.New(slog.NewTextHandler(w.Output(), nil)), w.engine.Handler()).ServeHTTP(rec, r)
	if rec.Code != status || !strings.Contains(rec.Body.String(), text) {
		w.Errorf("%s %s %v as %s: got %d %s, want %d %s", method, path, body, by.Name, rec.Code, rec.Body, status, text)
	}
	return rec.Body.String()
}

func (w *world) create(by access.Caller, resource string, body map[string]any) int64 {
	w.Helper()
	var row struct{ ID int64 }
	w.must(json.Unmarshal([]byte(w.want(by, "POST", resource, body, 201, "")), &row))
	return row.ID
}

// grant opens the device to support for so long.
func (w *world) grant(long time.Duration) {
	w.Helper()
	w.want(w.alice, "PATCH", fmt.Sprintf("device(%d)", w.device.Device), map[string]any{rights.SupportColumn: w.now().Add(long).UnixMilli()}, 200, "")
}

func (w *world) open(by access.Caller, forward bool) (out api.SSHUserAsk, err error) {
	err = w.db.Write(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Open(w.Context(), tx, by, api.SSHCertificateAsk{Device: w.uuid, PublicKey: "k", Forward: forward})
		return err
	})
	return out, err
}

func (w *world) key(by access.Caller, fingerprint string) (out api.SSHKeyAnswer, err error) {
	err = w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Key(w.Context(), tx, by, fingerprint)
		return err
	})
	return out, err
}

func (w *world) begin(by access.Caller, ask api.SSHBegin) (out api.SSHBegun, err error) {
	err = w.db.Write(w.Context(), func(tx *db.Tx) (err error) {
		out, err = w.ssh.Begin(w.Context(), tx, by, ask)
		return err
	})
	return out, err
}

// enters opens and begins a session.
func (w *world) enters(by access.Caller) api.SSHProgress {
	w.Helper()
	ask, err := w.open(by, false)
	w.must(err)
	begun, err := w.begin(w.device, api.SSHBegin{Grant: ask.Grant})
	w.must(err)
	return api.SSHProgress{Session: begun.Session, Token: begun.Token, Kind: "shell", Target: "host"}
}

// stays reports whether a session may go on.
func (w *world) stays(one api.SSHProgress) bool {
	w.Helper()
	var answer api.SSHStill
	var stale []api.SSHProgress
	w.read(func(tx *db.Tx) (err error) {
		answer, stale, err = w.ssh.Still(w.Context(), tx, w.device, []api.SSHProgress{one})
		return err
	})
	w.write(func(tx *db.Tx) error { return w.ssh.Seen(w.Context(), tx, stale) })
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
	err = w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		way, err = w.ssh.Way(w.Context(), tx, by, w.uuid)
		return err
	})
	return way, err
}

func (w *world) end(by access.Caller, told api.SSHProgress) error {
	return w.db.Write(w.Context(), func(tx *db.Tx) error { return w.ssh.End(w.Context(), tx, by, told) })
}

func (w *world) sessions(by access.Caller) (list []api.SSHSession, err error) {
	err = w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		list, err = w.ssh.Sessions(w.Context(), tx, by, w.uuid)
		return err
	})
	return list, err
}
