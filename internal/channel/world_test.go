package channel_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/release"
)

// world is the channel with all that it stands on, for two people who know nothing of each other. Its clock is set by hand.
type world struct {
	testing.TB
	*channel.Channel
	other    *channel.Channel // of another process on the same database
	db       *db.DB
	accounts *account.Accounts
	devices  *device.Devices
	engine   *odata.Engine
	signer   *pki.Authority

	alice, bob access.Caller
	hers, his  int64 // their fleets
	n          int

	mu  sync.Mutex // covers off
	off time.Duration
}

// known is a device and what it has.
type known struct {
	api.Registered
	by   access.Caller
	pem  string // its public key
	cert string // the sum of its certificate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t}
	var err error
	quiet := slog.New(slog.DiscardHandler)
	w.db = dbtest.Open(t, w.now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations(), channel.Migrations())
	messages, err := bus.Open(bus.Config{Dir: t.TempDir()})
	w.must(err)
	t.Cleanup(func() { _ = messages.Close() })
	w.accounts, err = account.New(account.Config{
		DB: w.db, Pepper: []byte(strings.Repeat("p", 32)), Log: quiet, Now: w.now,
		Revoked: func(what string, id int64) { w.devices.Revoked(what, id) },
	})
	w.must(err)
	site := api.Site{Domain: "roadstead.test", Port: 443}
	fleets := fleet.New(fleet.Config{Accounts: w.accounts, Site: site, TargetChanged: device.FleetTargetChanged})
	releases, err := release.New(release.Config{DB: w.db, Accounts: w.accounts, Fleets: fleets, Site: site, Log: quiet, Now: w.now, Pinned: device.Pinned})
	w.must(err)
	w.devices, err = device.New(t.Context(), device.Config{DB: w.db, Accounts: w.accounts, Bus: messages, Log: quiet, ControlChannel: true})
	w.must(err)
	w.write(func(tx *db.Tx) error { return fleets.Prepare(t.Context(), tx) })
	var model odata.Model
	for _, part := range [][]*odata.Resource{w.accounts.Resources(), member.New(w.accounts, nil).Resources(), fleets.Resources(), releases.Resources(), w.devices.Resources()} {
		model.Resources = append(model.Resources, part...)
	}
	w.engine, err = odata.New(odata.Config{Model: model, DB: w.db, Prefixes: []string{"/v7/"}, Files: blob.Files{}})
	w.must(err)
	w.signer, err = pki.NewAuthority("devices")
	w.must(err)
	w.Channel, w.other = w.channel(), w.channel()
	w.alice, w.bob = w.person("alice"), w.person("bob")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.devices.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.hers, w.his = w.fleet(w.alice, "harbour"), w.fleet(w.bob, "quay")
	return w
}

func (w *world) channel() *channel.Channel {
	w.Helper()
	c, err := channel.New(channel.Config{
		DB: w.db, Accounts: w.accounts, Site: api.ChannelSite{Host: "cloudlink.roadstead.test", Port: 443},
		Log: slog.New(slog.NewTextHandler(w.Output(), nil)),
		Sign: func(_ context.Context, ask api.ChannelCertificateRequest) (made api.ChannelCertificate, err error) {
			return certify(w.signer, ask.UUID, ask.PublicKey, w.now().Add(90*24*time.Hour))
		},
	})
	w.must(err)
	c.Through(w.engine)
	return c
}

func certify(by *pki.Authority, name, public string, until time.Time) (made api.ChannelCertificate, err error) {
	block, _ := pem.Decode([]byte(public))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return made, err
	}
	cert, end, err := by.CertifyClient(name, key, time.Until(until))
	return api.ChannelCertificate{Certificate: string(cert), ExpiresAt: end.Format(time.RFC3339)}, err
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

func (w *world) exec(query string, args ...any) {
	w.Helper()
	w.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), query, args...)
		return err
	})
}

func (w *world) scan(query string, args []any, to ...any) {
	w.Helper()
	w.must(w.db.Read(w.Context(), func(tx *db.Tx) error { return tx.QueryRowContext(w.Context(), query, args...).Scan(to...) }))
}

func (w *world) authenticate(token string) (c access.Caller) {
	w.Helper()
	w.must(w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		c, err = w.accounts.Authenticate(w.Context(), tx, token)
		return err
	}))
	return c
}

func (w *world) key(of account.Whose, id int64) (token string) {
	w.Helper()
	w.write(func(tx *db.Tx) (err error) {
		token, err = w.accounts.CreateKey(w.Context(), tx, access.Itself(), account.KeySpec{Of: of, ID: id, Name: "tests"})
		return err
	})
	return token
}

func (w *world) person(name string) access.Caller {
	w.Helper()
	_, err := w.accounts.CreateUser(w.Context(), api.NewUser{Email: name + "@example.com", Username: name, Password: "correct horse battery " + name})
	w.must(err)
	var id int64
	w.scan(`SELECT id FROM "user" WHERE username = ?`, []any{name}, &id)
	return w.authenticate(w.key(account.OfUser, id))
}

func (w *world) fleet(by access.Caller, name string) (id int64) {
	w.Helper()
	var org, kind int64
	w.scan(`SELECT o.id, t.id FROM organization o, device_type t WHERE o.handle = ? AND t.slug = 'generic-amd64'`, []any{by.Name}, &org, &kind)
	w.write(func(tx *db.Tx) (err error) {
		id, err = w.engine.Insert(w.Context(), tx, by, "application", map[string]any{"app_name": name, "organization": org, "is_for__device_type": kind})
		return err
	})
	return id
}

// device registers one, which makes itself a key for the channel.
func (w *world) device(fleet int64) *known {
	w.Helper()
	w.n++
	uuid := api.DeviceUUID(fmt.Sprintf("%032x", w.n))
	made, err := w.devices.Register(w.Context(), w.authenticate(w.key(account.OfFleet, fleet)), api.Register{Application: fleet, UUID: uuid, DeviceType: "generic-amd64"})
	w.must(err)
	return &known{Registered: made, by: w.authenticate(made.APIKey), pem: newKey(w)}
}

// sumOf is the sum by which a certificate is known.
func sumOf(cert string) string {
	block, _ := pem.Decode([]byte(cert))
	return fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
}

func newKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// certified has the key of a device certified.
func (w *world) certified(d *known) *known {
	w.Helper()
	made, err := w.Certify(w.Context(), d.by, d.UUID, api.ChannelCertify{PublicKey: d.pem})
	w.must(err)
	d.cert = sumOf(made.Certificate)
	return d
}

const network = "10.240.0.0/16"

// knock is a login as a device makes it.
func (d *known) knock() api.ChannelLogin {
	return api.ChannelLogin{UUID: string(d.UUID), Key: d.APIKey, Certificate: d.cert, From: "192.0.2.7", Instance: "0", Network: network}
}

// in lets a device in, which has a session then.
func (w *world) in(d *known, instance, session string) api.ChannelDevice {
	w.Helper()
	ask := d.knock()
	ask.Instance = instance
	made, err := w.Login(w.Context(), ask, "")
	w.must(err)
	w.report(api.ChannelReport{Instance: instance, Up: []api.ChannelUp{up(made, session)}})
	return made
}

func up(made api.ChannelDevice, session string) api.ChannelUp {
	return api.ChannelUp{
		UUID: made.UUID, Session: session, Address: made.Address, From: "192.0.2.7", Since: time.Now().Format(time.RFC3339), Identity: made.Identity, Key: made.Key,
	}
}

func down(session string) []api.ChannelDown { return []api.ChannelDown{{Session: session}} }

// report tells what an instance has; the first time all of it.
func (w *world) report(r api.ChannelReport) api.ChannelAnswer {
	w.Helper()
	if r.Boot == "" {
		r.Boot = "first"
	}
	to := w.Channel
	if w.n++; w.n%2 == 0 { // whichever process of the api role it comes to
		to = w.other
	}
	answer, err := to.Report(w.Context(), r)
	w.must(err)
	if answer.Again && !r.Full {
		r.Full = true
		answer, err = to.Report(w.Context(), r)
		w.must(err)
	}
	return answer
}

// cut is what an instance is to cut.
func (w *world) cut(instance string) string {
	w.Helper()
	return strings.Join(w.report(api.ChannelReport{Instance: instance}).Cut, " ")
}

// row is a device as people see it.
type row struct {
	connected         bool
	address, identity string
	event             string
}

func (w *world) row(d *known) (r row) {
	w.Helper()
	w.scan(`SELECT is_connected_to_vpn = 1, coalesce(channel_address, ''), coalesce(channel_identity, ''), coalesce(last_vpn_event, '') FROM device WHERE id = ?`,
		[]any{d.ID}, &r.connected, &r.address, &r.identity, &r.event)
	return r
}

func (w *world) status(by access.Caller, d *known) (s api.ChannelStatus) {
	w.Helper()
	w.must(w.db.Read(w.Context(), func(tx *db.Tx) (err error) {
		s, err = w.Status(w.Context(), tx, by, string(d.UUID))
		return err
	}))
	return s
}

func (w *world) remove(by access.Caller, resource string, id int64) {
	w.Helper()
	w.write(func(tx *db.Tx) error { return w.engine.Remove(w.Context(), tx, by, resource, id) })
}

func (w *world) update(by access.Caller, resource string, id int64, values map[string]any) {
	w.Helper()
	w.write(func(tx *db.Tx) error { return w.engine.Update(w.Context(), tx, by, resource, id, values) })
}

func (w *world) acts(act string) (n int) {
	w.Helper()
	w.scan(`SELECT count(*) FROM audit_entry WHERE act = ?`, []any{act}, &n)
	return n
}
