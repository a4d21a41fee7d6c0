package domaintest

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release"
)

// Site is the server that the tests' rows belong to.
var Site = api.Site{Domain: "roadstead.test", Port: 443}

// UUID is the one of a device, by its number.
func UUID(n int) api.DeviceUUID { return api.DeviceUUID(fmt.Sprintf("%032x", n)) }

// People is the tables up to devices', and accounts in them. Fleets and devices are rows that are just written; for what their packages do see [Platform].
type People struct {
	*Tables
	Accounts *account.Accounts
	Fleets   *fleet.Fleets
}

// NewPeople opens a database with nobody in it; more are the tables of packages above.
func NewPeople(t testing.TB, more ...fs.FS) *People {
	t.Helper()
	return newPeople(t, more, fleet.Config{}, nil)
}

func newPeople(t testing.TB, more []fs.FS, fleets fleet.Config, revoked func(what string, id int64)) *People {
	t.Helper()
	w := &People{Tables: Open(t, append([]fs.FS{
		audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations(),
	}, more...)...)}
	var err error
	w.Accounts, err = account.New(account.Config{
		DB: w.DB, Pepper: []byte(strings.Repeat("p", 32)), Log: slog.New(slog.DiscardHandler), Now: w.Now, Revoked: revoked,
		PasswordCost: password.Cost{Memory: 64, Passes: 1}, // hashes cost next to nothing here
	})
	w.Must(err)
	fleets.Accounts, fleets.Site = w.Accounts, Site
	w.Fleets = fleet.New(fleets)
	w.Write(func(tx *db.Tx) error { return w.Fleets.Prepare(t.Context(), tx) })
	return w
}

// run runs something until the test is over, and wants it to end well.
func (w *Tables) run(run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("Run: %v", err)
		}
	})
}

// Caller is who a token stands for.
func (w *People) Caller(token string) (c access.Caller) {
	w.Helper()
	c, err := w.Authenticate(token)
	w.Must(err)
	return c
}

// Authenticate looks a token up, as a request would.
func (w *People) Authenticate(token string) (c access.Caller, err error) {
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		c, err = w.Accounts.Authenticate(w.Context(), tx, token)
		return err
	})
	return c, err
}

func secretOf(name string) string { return "correct horse battery " + name }

func (w *People) user(name string) (id int64) {
	w.Helper()
	_, err := w.Accounts.CreateUser(w.Context(), api.NewUser{Email: name + "@example.com", Username: name, Password: secretOf(name)})
	w.Must(err)
	return w.Number(`SELECT id FROM "user" WHERE username = ?`, name)
}

// Person makes somebody, who acts by an API key.
func (w *People) Person(name string) access.Caller {
	w.Helper()
	return w.Caller(w.Key(account.OfUser, w.user(name)))
}

// Visitor makes somebody, who has just logged in.
func (w *People) Visitor(name string) access.Caller {
	w.Helper()
	w.user(name)
	from := account.From{Address: "192.0.2.1"}
	token, err := w.Accounts.Login(w.Context(), api.Login{Username: name, Password: secretOf(name)}, from)
	w.Must(err)
	c := w.Caller(token)
	c.Address = from.Address
	return c
}

// Key makes an API key without a question.
func (w *People) Key(of account.Whose, id int64) (token string) {
	w.Helper()
	w.Write(func(tx *db.Tx) (err error) {
		token, err = w.Accounts.CreateKey(w.Context(), tx, access.Itself(), account.KeySpec{Of: of, ID: id, Name: "tests"})
		return err
	})
	return token
}

// FleetRow writes a fleet of a user's own organization.
func (w *People) FleetRow(by access.Caller, name, uuid string) (id int64) {
	w.Helper()
	w.Write(func(tx *db.Tx) error {
		actor, err := account.NewActor(w.Context(), tx)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(w.Context(), `INSERT INTO application (created_at, actor, organization, app_name, slug, is_for__device_type, application_type, uuid)
			SELECT ?, ?, o.id, ?, ?, t.id, (SELECT min(id) FROM application_type), ? FROM organization o, device_type t
			WHERE o.handle = ? AND t.slug = 'generic-amd64' RETURNING id`, tx.NowText(), actor, name, by.Name+"/"+name, uuid, by.Name).Scan(&id)
	})
	return id
}

// DeviceRow writes a device and gives what its key would stand for.
func (w *People) DeviceRow(fleetID int64, uuid api.DeviceUUID, name string, connected bool) access.Caller {
	w.Helper()
	by := access.Caller{Kind: access.Device, Fleet: fleetID, Name: api.DeviceRegistryUser(uuid)}
	on := map[bool]int{true: 1}[connected]
	w.Write(func(tx *db.Tx) error {
		actor, err := account.NewActor(w.Context(), tx)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(w.Context(), `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type, belongs_to__application,
				is_connected_to_vpn) SELECT '', '', ?, ?, ?, is_for__device_type, id, ? FROM application WHERE id = ? RETURNING id`,
			actor, string(uuid), name, on, fleetID).Scan(&by.Device)
	})
	return by
}
