package account_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// above stands for the tables of the packages above account, which it only reads.
const above = `-- +goose Up
CREATE TABLE application (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id),
	organization INTEGER NOT NULL REFERENCES organization (id), slug TEXT, is_accessible_by_support_until__date TEXT,
	is_closed_to_support INTEGER NOT NULL DEFAULT 0);
CREATE TABLE device (id INTEGER PRIMARY KEY, actor INTEGER NOT NULL UNIQUE REFERENCES actor (id), uuid TEXT NOT NULL UNIQUE,
	belongs_to__application INTEGER REFERENCES application (id), is_frozen INTEGER NOT NULL DEFAULT 0,
	is_accessible_by_support_until__date TEXT);
CREATE TABLE device_tag (device INTEGER NOT NULL REFERENCES device (id), tag_key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE application_tag (application INTEGER NOT NULL REFERENCES application (id), tag_key TEXT NOT NULL, value TEXT NOT NULL);
`

// fixture is a database with accounts on it and a clock that only the test moves.
type fixture struct {
	testing.TB
	ctx      context.Context
	db       *db.DB
	accounts *account.Accounts

	mu  sync.Mutex // covers now and revoked
	now time.Time

	revoked []string
}

const pepper = "0123456789abcdef0123456789abcdef"

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{TB: t, ctx: t.Context(), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	var err error
	f.db = dbtest.Open(t, f.clock, audit.Migrations(), account.Migrations(), dbtest.Schema("0010_above.sql", above))
	// Hashes cost next to nothing here; the tests that are about their cost say so.
	f.accounts, err = account.New(account.Config{DB: f.db, Pepper: []byte(pepper), Now: f.clock, PasswordCost: password.Cost{Memory: 64, Passes: 1}, Revoked: func(what string, _ int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.revoked = append(f.revoked, what)
	}})
	f.must(err)
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) write(do func(tx *db.Tx) error) {
	f.Helper()
	f.must(f.db.Write(f.ctx, do))
}

// authenticate says who a token is.
func (f *fixture) authenticate(token string) (c access.Caller, err error) {
	err = f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
		c, err = f.accounts.Authenticate(f.ctx, tx, token)
		return err
	})
	return c, err
}

func (f *fixture) caller(token string) access.Caller {
	f.Helper()
	c, err := f.authenticate(token)
	f.must(err)
	return c
}

const alicesPassword = "ships in the harbour"

// user makes a user and logs in.
func (f *fixture) user(name string) (session string) {
	f.Helper()
	_, err := f.accounts.CreateUser(f.ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: alicesPassword})
	f.must(err)
	return f.login(name)
}

func (f *fixture) login(name string) string {
	f.Helper()
	token, err := f.accounts.Login(f.ctx, api.Login{Username: name, Password: alicesPassword}, account.From{Address: "192.0.2.1", UserAgent: "test"})
	f.must(err)
	return token
}

// fleet makes a fleet of a user's first organization, and a device in it.
func (f *fixture) fleet(id int64, owner access.Caller) (fleet, device int64) {
	f.Helper()
	f.write(func(tx *db.Tx) error {
		fa, err := account.NewActor(f.ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(f.ctx, `INSERT INTO application (id, actor, organization)
			SELECT ?, ?, is_member_of__organization FROM organization_membership WHERE "user" = ?`, id, fa, owner.User); err != nil {
			return err
		}
		da, err := account.NewActor(f.ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(f.ctx, `INSERT INTO device (id, actor, uuid, belongs_to__application) VALUES (?, ?, ?, ?)`, id, da,
			time.Unix(id, 0).String(), id)
		return err
	})
	return id, id
}

func (f *fixture) key(by access.Caller, spec account.KeySpec) (token string, err error) {
	err = f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
		token, err = f.accounts.CreateKey(f.ctx, tx, by, spec)
		return err
	})
	return token, err
}

func (f *fixture) mustKey(by access.Caller, spec account.KeySpec) string {
	f.Helper()
	token, err := f.key(by, spec)
	f.must(err)
	return token
}
