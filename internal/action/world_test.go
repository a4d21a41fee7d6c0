package action_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release"
)

// world is a database with two people who know nothing of each other, each with a fleet.
type world struct {
	*testing.T
	db         *db.DB
	accounts   *account.Accounts
	actions    *action.Actions
	alice, bob access.Caller
	hers, his  int64 // fleets

	mu     sync.Mutex // covers what follows
	off    time.Duration
	calls  []string
	answer func(path string) (*http.Response, error)
}

func newWorld(t *testing.T) *world {
	w := &world{T: t}
	w.db = dbtest.Open(t, w.now, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations(),
		nudge.Migrations(), action.Migrations())
	var err error
	w.accounts, err = account.New(account.Config{DB: w.db, Pepper: []byte(strings.Repeat("p", 32)), Log: slog.New(slog.DiscardHandler), Now: w.now,
		PasswordCost: password.Cost{Memory: 64, Passes: 1}})
	w.must(err)
	fleets := fleet.New(fleet.Config{Accounts: w.accounts, Site: api.Site{Domain: "roadstead.test", Port: 443}})
	w.write(func(tx *db.Tx) error { return fleets.Prepare(t.Context(), tx) })
	w.alice, w.hers = w.person("alice")
	w.bob, w.his = w.person("bob")
	w.actions = action.New(action.Config{DB: w.db, Caller: w, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return w
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

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += d
}

// answers is how devices answer from now on.
func (w *world) answers(f func(path string) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// called is what devices were asked.
func (w *world) called() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func (w *world) write(f func(tx *db.Tx) error) { w.Helper(); w.must(w.db.Write(w.Context(), f)) }

func (w *world) exec(query string, args ...any) {
	w.Helper()
	w.write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), query, args...)
		return err
	})
}

func (w *world) text(query string, args ...any) (s string) {
	w.Helper()
	w.must(w.db.Read(w.Context(), func(tx *db.Tx) error { return tx.QueryRowContext(w.Context(), query, args...).Scan(&s) }))
	return s
}

// person makes somebody with a fleet.
func (w *world) person(name string) (by access.Caller, fleetID int64) {
	w.Helper()
	ctx := w.Context()
	_, err := w.accounts.CreateUser(ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: "correct horse battery " + name})
	w.must(err)
	w.write(func(tx *db.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT id FROM "user" WHERE username = ?`, name).Scan(&by.User); err != nil {
			return err
		}
		actor, err := account.NewActor(ctx, tx)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `INSERT INTO application (created_at, actor, organization, app_name, slug, is_for__device_type, application_type, uuid)
			SELECT ?, ?, o.id, 'harbour', ?, t.id, (SELECT min(id) FROM application_type), ? FROM organization o, device_type t
			WHERE o.handle = ? AND t.slug = 'generic-amd64' RETURNING id`, tx.NowText(), actor, name+"/harbour", fmt.Sprintf("%032x", by.User), name).Scan(&fleetID)
	})
	by.Kind, by.Name = access.User, name
	return by, fleetID
}

func uuidOf(n int) api.DeviceUUID { return api.DeviceUUID(fmt.Sprintf("%032x", n)) }

// device makes a device and gives what its key stands for.
func (w *world) device(fleetID int64, n int, connected bool) access.Caller {
	w.Helper()
	by := access.Caller{Kind: access.Device, Fleet: fleetID}
	w.write(func(tx *db.Tx) error {
		actor, err := account.NewActor(w.Context(), tx)
		if err != nil {
			return err
		}
		on := 0
		if connected {
			on = 1
		}
		return tx.QueryRowContext(w.Context(), `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type, belongs_to__application,
				is_connected_to_vpn) SELECT '', '', ?, ?, ?, is_for__device_type, id, ? FROM application WHERE id = ? RETURNING id`,
			actor, string(uuidOf(n)), fmt.Sprintf("device %d", n), on, fleetID).Scan(&by.Device)
	})
	return by
}

func (w *world) create(by access.Caller, want api.NewAction) (made api.ActionsMade, err error) {
	err = w.db.Write(w.Context(), func(tx *db.Tx) (err error) {
		made, err = w.actions.Create(w.Context(), tx, by, want)
		return err
	})
	return made, err
}

// tell has one thing done on one device.
func (w *world) tell(n int, verb api.ActionVerb) int64 {
	w.Helper()
	made, err := w.create(w.alice, api.NewAction{Devices: []api.DeviceUUID{uuidOf(n)}, Verb: verb})
	w.must(err)
	return made.Actions[0].ID
}

// is checks how far an action is.
func (w *world) is(id int64, state api.ActionState, words string) {
	w.Helper()
	got := w.text(`SELECT state || ': ' || coalesce(message, '') FROM device_action WHERE id = ?`, id)
	if !strings.HasPrefix(got, string(state)+": ") || !strings.Contains(got, words) {
		w.Errorf("action %d is %q, want %s with %q", id, got, state, words)
	}
}

func (w *world) exchange(by access.Caller, boot string, results ...api.ActionResult) (api.ActionsWaiting, error) {
	return w.actions.Exchange(w.Context(), by, api.ActionExchange{Boot: boot, Results: results})
}

// CallDevice plays the control channel.
func (w *world) CallDevice(_ context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error) {
	w.mu.Lock()
	w.calls = append(w.calls, fmt.Sprintf("%s %s %s %s", dev.UUID[len(dev.UUID)-1:], method, path, body))
	answer := w.answer
	w.mu.Unlock()
	if answer == nil {
		return says(200, `OK`), nil
	}
	return answer(path)
}

func says(status int, text string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader([]byte(text)))}
}
