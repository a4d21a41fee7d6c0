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
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/domaintest"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// world is the channel with all that it stands on, for two people who know nothing of each other. Its clock is set by hand.
type world struct {
	*domaintest.Platform
	*channel.Channel
	other  *channel.Channel // of another process on the same database
	signer *pki.Authority

	alice, bob access.Caller
	hers, his  int64 // their fleets
	n          int
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
	w := &world{Platform: domaintest.NewPlatform(t, domaintest.Config{
		Migrations: []fs.FS{channel.Migrations()}, Device: func(c *device.Config) { c.PollInterval, c.ControlChannel = 0, true },
	})}
	var err error
	w.signer, err = pki.NewAuthority("devices")
	w.Must(err)
	w.Channel, w.other = w.channel(), w.channel()
	w.alice, w.bob = w.Person("alice"), w.Person("bob")
	w.hers, w.his = w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "quay")
	return w
}

func (w *world) channel() *channel.Channel {
	w.Helper()
	c, err := channel.New(channel.Config{
		DB: w.DB, Accounts: w.Accounts, Site: api.ChannelSite{Host: "cloudlink.roadstead.test", Port: 443},
		Log: slog.New(slog.NewTextHandler(w.Output(), nil)),
		Sign: func(_ context.Context, ask api.ChannelCertificateRequest) (made api.ChannelCertificate, err error) {
			return certify(w.signer, ask.UUID, ask.PublicKey, w.Now().Add(90*24*time.Hour))
		},
	})
	w.Must(err)
	c.Through(w.Engine)
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

// device registers one, which makes itself a key for the channel.
func (w *world) device(fleet int64) *known {
	w.Helper()
	w.n++
	by, made := w.Register(w.Caller(w.Key(account.OfFleet, fleet)), fleet, domaintest.UUID(w.n))
	return &known{Registered: made, by: by, pem: newKey(w)}
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
	w.Must(err)
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
	w.Must(err)
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
	w.Must(err)
	if answer.Again && !r.Full {
		r.Full = true
		answer, err = to.Report(w.Context(), r)
		w.Must(err)
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
	w.Scan(`SELECT is_connected_to_vpn = 1, coalesce(channel_address, ''), coalesce(channel_identity, ''), coalesce(last_vpn_event, '') FROM device WHERE id = ?`,
		[]any{d.ID}, &r.connected, &r.address, &r.identity, &r.event)
	return r
}

func (w *world) status(by access.Caller, d *known) (s api.ChannelStatus) {
	w.Helper()
	w.Must(w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		s, err = w.Status(w.Context(), tx, by, string(d.UUID))
		return err
	}))
	return s
}

func (w *world) remove(by access.Caller, resource string, id int64) {
	w.Helper()
	w.Write(func(tx *db.Tx) error { return w.Engine.Remove(w.Context(), tx, by, resource, id) })
}

func (w *world) update(by access.Caller, resource string, id int64, values map[string]any) {
	w.Helper()
	w.Write(func(tx *db.Tx) error { return w.Engine.Update(w.Context(), tx, by, resource, id, values) })
}

func (w *world) acts(act string) (n int) {
	w.Helper()
	w.Scan(`SELECT count(*) FROM audit_entry WHERE act = ?`, []any{act}, &n)
	return n
}
