package workers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/workers"
)

// world is a database with the rows, and a clock that the test moves.
type world struct {
	t    *testing.T
	db   *db.DB
	now  time.Time
	rows *workers.Rows
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), rows: workers.New(token.NewHasher([]byte("pepper")))}
	w.db = dbtest.Open(t, func() time.Time { return w.now }, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), workers.Migrations())
	return w
}

func (w *world) write(f func(ctx context.Context, tx *db.Tx) error) error {
	return w.db.Write(w.t.Context(), func(tx *db.Tx) error { return f(w.t.Context(), tx) })
}

func (w *world) add(name string, life time.Duration) (made api.WorkerInvitation, err error) {
	err = w.write(func(ctx context.Context, tx *db.Tx) (err error) {
		made, err = w.rows.Add(ctx, tx, operator, api.NewWorker{Name: name, Seconds: int64(life / time.Second)})
		return err
	})
	return made, err
}

func (w *world) join(secret, key string) (got api.WorkerAdmitted, err error) {
	err = w.write(func(ctx context.Context, tx *db.Tx) (err error) {
		got, err = w.rows.Join(ctx, tx, builder, api.WorkerJoin{Secret: secret, Key: key, Address: "192.0.2.7"})
		return err
	})
	return got, err
}

func (w *world) open(key string) (got api.WorkerAdmitted, err error) {
	err = w.write(func(ctx context.Context, tx *db.Tx) (err error) {
		got, err = w.rows.Open(ctx, tx, key)
		return err
	})
	return got, err
}

func (w *world) remove(name string) error {
	return w.write(func(ctx context.Context, tx *db.Tx) error { return w.rows.Remove(ctx, tx, operator, name) })
}

// live tells what is connected, as the route does, and reports whether anything was written.
func (w *world) live(list ...api.WorkerLive) (stay []int64, news bool) {
	w.t.Helper()
	err := w.write(func(ctx context.Context, tx *db.Tx) error {
		got, changed, err := w.rows.Stay(ctx, tx, api.WorkersLive{Workers: list})
		if err == nil && changed {
			got, err = w.rows.Live(ctx, tx, api.WorkersLive{Workers: list})
		}
		stay, news = got.IDs, changed
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return stay, news
}

func (w *world) list() map[string]api.Worker {
	w.t.Helper()
	all := map[string]api.Worker{}
	if err := w.write(func(ctx context.Context, tx *db.Tx) error {
		list, err := w.rows.List(ctx, tx)
		for _, k := range list {
			all[k.Name] = k
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// acts are the entries of the audit log about workers.
func (w *world) acts() (acts []string) {
	w.t.Helper()
	if err := w.db.Read(w.t.Context(), func(tx *db.Tx) (err error) {
		acts, err = db.Column[string](w.t.Context(), tx, `SELECT act FROM audit_entry WHERE act LIKE 'worker.%' ORDER BY id`)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return acts
}

var (
	operator = access.Caller{Kind: access.Service, Role: api.RoleAdmin, Name: api.RoleAdmin}
	builder  = access.Caller{Kind: access.Service, Role: api.RoleBuilder, Name: api.RoleBuilder}
)

func key(n int) string { return fmt.Sprintf("%064x", n) }

// A token lets one machine in, once; repeating it with the same key is harmless, because the first answer may have been lost.
func TestATokenLetsOneMachineIn(t *testing.T) {
	w := newWorld(t)
	made, err := w.add("arm-1", time.Hour)
	if err != nil || made.Name != "arm-1" || len(made.Secret) < 43 {
		t.Fatalf("%+v %v", made, err)
	}
	if k := w.list()["arm-1"]; k.State != api.WorkerInvited || k.ExpiresAt != made.ExpiresAt {
		t.Errorf("before: %+v", k)
	}
	first, err := w.join(made.Secret, key(1))
	if err != nil || first.Name != "arm-1" {
		t.Fatalf("%+v %v", first, err)
	}
	if again, err := w.join(made.Secret, key(1)); err != nil || again != first {
		t.Errorf("again: %+v %v", again, err)
	}
	if _, err := w.join(made.Secret, key(2)); !errors.Is(err, api.ErrConflict) || !strings.Contains(err.Error(), "was used already, for worker arm-1") {
		t.Errorf("a second machine: %v", err)
	}
	if got, err := w.open(key(1)); err != nil || got != first {
		t.Errorf("by its key: %+v %v", got, err)
	}
	if _, err := w.open(key(2)); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("by another key: %v", err)
	}
	if _, err := w.add("arm-1", time.Hour); !errors.Is(err, api.ErrConflict) || !strings.Contains(err.Error(), "arm-1 already") {
		t.Errorf("a second of its name: %v", err)
	}
	if err := w.remove("arm-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.remove("arm-1"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	for what, err := range map[string]error{"its key": second(w.open(key(1))), "its token": second(w.join(made.Secret, key(1)))} {
		if !errors.Is(err, api.ErrUnauthorized) || !strings.Contains(err.Error(), "roadsteadd admin worker add") {
			t.Errorf("%s after the removal: %v", what, err)
		}
	}
	if got := strings.Join(w.acts(), " "); got != "worker.add worker.join worker.remove" {
		t.Errorf("audit log: %s", got)
	}
}

func second[T any](_ T, err error) error { return err }

// Tokens lapse, and an invitation anew makes the one before void. A wrong one says nothing of others.
func TestTokensThatDoNotHold(t *testing.T) {
	w := newWorld(t)
	old, err := w.add("arm-1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	made, err := w.add("arm-1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{"void": old.Secret, "invented": "invented", "none": ""} {
		if _, err := w.join(secret, key(1)); !errors.Is(err, api.ErrUnauthorized) || !strings.Contains(err.Error(), "does not know this token") {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.now = w.now.Add(time.Minute)
	if _, err := w.join(made.Secret, key(1)); !errors.Is(err, api.ErrUnauthorized) || !strings.Contains(err.Error(), "lapsed at") {
		t.Errorf("lapsed: %v", err)
	}
	if k := w.list()["arm-1"]; k.State != api.WorkerExpired {
		t.Errorf("%+v", k)
	}
	if _, err := w.join(made.Secret, "no key"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("no key: %v", err)
	}
}

func TestWhatCannotBeAdded(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"", "local", "A", "-a", "a-", "a b", "a/../b", "a\n", strings.Repeat("a", 41)} {
		if _, err := w.add(name, time.Hour); !errors.Is(err, api.ErrInvalid) || !strings.HasPrefix(err.Error(), "name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, life := range []time.Duration{0, -time.Hour, time.Second, 31 * 24 * time.Hour} {
		if _, err := w.add("a", life); !errors.Is(err, api.ErrInvalid) || !strings.HasPrefix(err.Error(), "seconds") {
			t.Errorf("%s: %v", life, err)
		}
	}
	for n := range workers.Most {
		if _, err := w.add(fmt.Sprintf("w%d", n), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.add("more", time.Hour); !errors.Is(err, api.ErrConflict) {
		t.Errorf("one too many: %v", err)
	}
}

// What the builder tells is written only when it is news, and a worker that was removed may not stay, nor one that joined under its name.
func TestWhoMayStay(t *testing.T) {
	w := newWorld(t)
	join := func(name, k string) int64 {
		t.Helper()
		made, err := w.add(name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.join(made.Secret, k)
		if err != nil {
			t.Fatal(err)
		}
		return got.ID
	}
	one, two := join("one", key(1)), join("two", key(2))
	first := api.WorkerLive{ID: one, Key: key(1), Address: "192.0.2.7", Version: "1.2.3", BuildKit: "v0.33",
		Platforms: []api.WorkerPlatform{{Platform: "linux/arm64", Native: true}, {Platform: "not a platform"}, {Platform: "linux/arm/v7"}}}
	other := api.WorkerLive{ID: two, Key: key(2), Why: strings.Repeat("x", 5000) + "\x1b[2J"}
	if stay, news := w.live(first, other); !news || len(stay) != 2 {
		t.Fatalf("%v %v", stay, news)
	}
	if stay, news := w.live(first, other); news || len(stay) != 2 {
		t.Errorf("nothing new: %v %v", stay, news)
	}
	k := w.list()["one"]
	if k.State != api.WorkerConnected || k.Version != "1.2.3" || fmt.Sprint(k.Platforms) != "[{linux/arm64 true} {linux/arm/v7 false}]" {
		t.Errorf("%+v", k)
	}
	if k := w.list()["two"]; len(k.Why) > 200 {
		t.Errorf("what a worker says is not cut: %d bytes", len(k.Why))
	}
	w.now = w.now.Add(time.Minute)
	if _, news := w.live(first, other); !news {
		t.Error("that it is still there was not noted")
	}
	if err := w.remove("one"); err != nil {
		t.Fatal(err)
	}
	again := join("one", key(1))
	if stay, _ := w.live(first, other); fmt.Sprint(stay) != fmt.Sprint([]int64{two}) {
		t.Errorf("one was removed, and may stay: %v (it is %d again, it was %d)", stay, again, one)
	}
	if stay, news := w.live(); !news || len(stay) != 0 || w.list()["two"].State != api.WorkerAway {
		t.Errorf("nobody is there: %v %v %+v", stay, news, w.list()["two"])
	}
	if stay, news := w.live(api.WorkerLive{ID: two, Key: key(1)}); news || len(stay) != 0 {
		t.Errorf("with another's key: %v %v", stay, news)
	}
}
