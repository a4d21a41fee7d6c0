package nudge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/domaintest"
)

// world is a fleet with devices on a real database, and a control channel that writes down who was told.
type world struct {
	*domaintest.People
	fleet    int64
	releases []int64

	mu    sync.Mutex // covers what follows
	told  map[api.DeviceUUID]int
	hangs map[api.DeviceUUID]bool // do not answer
	slow  time.Duration           // an answer takes
}

func newWorld(t testing.TB, devices int) *world {
	w := &world{People: domaintest.NewPeople(t, nudge.Migrations()), told: map[api.DeviceUUID]int{}, hangs: map[api.DeviceUUID]bool{}}
	w.fleet = w.FleetRow(w.Person("alice"), "harbour", "f")
	w.Write(func(tx *db.Tx) error {
		ctx := t.Context()
		for i := range 2 {
			var id int64
			if err := tx.QueryRowContext(ctx, `INSERT INTO "release" (created_at, belongs_to__application, "commit", status, source, start_timestamp,
				update_timestamp, raw_version, version, is_final) VALUES ('', ?, ?, 'success', 'cloud', '', '', ?, '{}', 0) RETURNING id`,
				w.fleet, fmt.Sprint("commit", i), fmt.Sprint("0.0.", i)).Scan(&id); err != nil {
				return err
			}
			w.releases = append(w.releases, id)
		}
		for i := range devices {
			actor, err := account.NewActor(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type, belongs_to__application,
				is_connected_to_vpn) SELECT '', '', ?, ?, 'device', is_for__device_type, id, 1 FROM application WHERE id = ?`, actor, string(uuidOf(i)), w.fleet); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM target_change`)
		return err
	})
	return w
}

func uuidOf(n int) api.DeviceUUID { return domaintest.UUID(n) }

func (w *world) CallDevice(ctx context.Context, dev device.Reachable, method, path string, _ []byte) (*http.Response, error) {
	w.mu.Lock()
	w.told[dev.UUID]++
	hangs := w.hangs[dev.UUID]
	w.mu.Unlock()
	if method != http.MethodPost || path != "/v1/update" {
		w.Errorf("it is told %s %s", method, path)
	}
	if hangs {
		<-ctx.Done()
		return nil, errors.New("no answer")
	}
	if w.slow > 0 {
		<-time.After(w.slow)
	}
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
}

// run runs n processes of the role.
func (w *world) run(n int, cfg nudge.Config) {
	ctx, stop := context.WithCancel(context.WithoutCancel(w.Context()))
	var wait sync.WaitGroup
	for range n {
		c := cfg
		c.DB, c.Caller, c.Log = w.DB, w, slog.New(slog.NewTextHandler(w.Output(), nil))
		wait.Go(func() {
			if err := nudge.New(c).Run(ctx); err != nil {
				w.Error(err)
			}
		})
	}
	w.Cleanup(func() {
		stop()
		wait.Wait()
	})
}

// await waits until devices were told so often, and gives how long that took.
func (w *world) await(what string, ok func(told map[api.DeviceUUID]int) bool) time.Duration {
	w.Helper()
	began := time.Now()
	limit := time.After(3 * time.Minute)
	for {
		w.mu.Lock()
		done := ok(w.told)
		w.mu.Unlock()
		if done {
			return time.Since(began)
		}
		select {
		case <-limit:
			w.mu.Lock()
			n := len(w.told)
			w.mu.Unlock()
			w.Fatalf("%s: %d devices were told", what, n)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestWhatChangesATargetTellsItsDevices(t *testing.T) {
	w := newWorld(t, 4)
	w.Exec(`UPDATE device SET is_connected_to_vpn = 0 WHERE uuid = ?`, string(uuidOf(3)))
	w.run(3, nudge.Config{Every: 50 * time.Millisecond})
	one, all := []int{0}, []int{0, 1, 2}
	for _, c := range []struct {
		name, query string
		args        []any
		who         []int
	}{
		{"a release for the fleet", `UPDATE application SET should_be_running__release = ?`, []any{w.releases[0]}, all},
		{"a variable of the fleet", `INSERT INTO application_environment_variable (created_at, application, name, value) VALUES ('', ?, 'A', 'b')`, []any{w.fleet}, all},
		{"a pin", `UPDATE device SET is_pinned_on__release = ? WHERE uuid = ?`, []any{w.releases[1], string(uuidOf(0))}, one},
		{"a variable of a device", `INSERT INTO device_environment_variable (created_at, device, name, value) SELECT '', id, 'A', 'b' FROM device WHERE uuid = ?`,
			[]any{string(uuidOf(0))}, one},
		{"a report", `UPDATE device SET cpu_usage = 7, last_seen = 'x', is_connected_to_vpn = is_connected_to_vpn`, nil, nil},
		{"a channel that comes up", `UPDATE device SET is_connected_to_vpn = 1`, nil, []int{3}},
		{"a move, or all that changes its row", `UPDATE device SET belongs_to__application = belongs_to__application WHERE uuid = ?`, []any{string(uuidOf(0))}, one},
	} {
		w.mu.Lock()
		clear(w.told)
		w.mu.Unlock()
		w.Exec(c.query, c.args...)
		took := w.await(c.name, func(told map[api.DeviceUUID]int) bool { return len(told) >= len(c.who) })
		w.await("all is taken", func(map[api.DeviceUUID]int) bool { return w.left() == 0 })
		w.mu.Lock()
		if len(w.told) != len(c.who) {
			t.Errorf("%s: %v were told, want %v", c.name, w.told, c.who)
		}
		for _, i := range c.who {
			if w.told[uuidOf(i)] != 1 {
				t.Errorf("%s: device %d was told %d times", c.name, i, w.told[uuidOf(i)])
			}
		}
		w.mu.Unlock()
		t.Logf("%s: the devices were told after %s", c.name, took)
	}
}

func (w *world) left() int64 { return w.Number(`SELECT count(*) FROM target_change`) }

// A fleet of thousands, some of whose devices hang: the others are told all the same, soon and not all at the same moment, and each once
// however much changed.
func TestManyDevicesAreTold(t *testing.T) {
	const devices = 600
	w := newWorld(t, devices)
	for i := range 20 {
		w.hangs[uuidOf(i*30)] = true
	}
	for i := range 10 {
		w.Exec(`UPDATE application SET should_be_running__release = ?`, w.releases[i%2])
		w.Exec(`UPDATE device SET is_pinned_on__release = NULL`)
	}
	w.run(1, nudge.Config{Every: 20 * time.Millisecond, Wait: time.Second})
	took := w.await("a large fleet", func(told map[api.DeviceUUID]int) bool { return len(told) == devices })
	if took < devices*time.Millisecond/2 {
		t.Errorf("%d devices were told within %s: they come all at once", devices, took)
	}
	w.await("those that hang are told again", func(told map[api.DeviceUUID]int) bool { return told[uuidOf(0)] >= 2 && told[uuidOf(570)] >= 2 })
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid, n := range w.told {
		if n != 1 && !w.hangs[uuid] {
			t.Fatalf("%s was told %d times", uuid, n)
		}
	}
}

// BenchmarkTenThousandAreTold is how long it takes until all devices of a fleet of 10,000 have been told of a new release, each of which answers
// after 50 ms, and how long the write of the release takes that they all feel.
func BenchmarkTenThousandAreTold(b *testing.B) {
	const devices = 10_000
	w := newWorld(b, devices)
	w.slow = 50 * time.Millisecond
	w.run(1, nudge.Config{})
	for n := range b.N {
		began := time.Now()
		w.Exec(`UPDATE application SET should_be_running__release = ?`, w.releases[n%2])
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms-to-write")
		half := w.await("half", func(told map[api.DeviceUUID]int) bool { return len(told) >= devices/2 })
		all := half + w.await("all", func(told map[api.DeviceUUID]int) bool { return len(told) == devices })
		b.ReportMetric(half.Seconds(), "s-until-half")
		b.ReportMetric(all.Seconds(), "s-until-all")
		w.mu.Lock()
		clear(w.told)
		w.mu.Unlock()
	}
	b.ReportMetric(0, "ns/op")
}
