package callers_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/apiserver/callers"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/domaintest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// world is a process of the api role that remembers who asks it, with a person and devices of two fleets.
type world struct {
	*domaintest.People
	memory *callers.Memory
	ada    access.Caller
	fleets [2]int64
	uses   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{People: domaintest.NewPeople(t)}
	w.ada = w.Person("ada")
	for i := range w.fleets {
		w.fleets[i] = w.FleetRow(w.ada, string(rune('a'+i)), string(domaintest.UUID(100+i)))
	}
	w.memory = callers.New(w.DB, slog.New(slog.DiscardHandler))
	w.memory.SetNow(w.Now)
	w.memory.Touch = func(access.Caller) { w.uses.Add(1) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.memory.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

// device makes one with a key.
func (w *world) device(n int) (by access.Caller, token string) {
	w.Helper()
	row := w.DeviceRow(w.fleets[0], domaintest.UUID(n), "device", false)
	token = w.Key(account.OfDevice, row.Device)
	return w.Caller(token), token
}

// asks finds out who a token stands for, as a request does, and says whether the database had to be asked.
func (w *world) asks(token string) (_ access.Caller, known bool, err error) {
	w.Helper()
	sum := sha256.Sum256([]byte(token))
	by, known, asked := w.memory.Find(sum)
	if known {
		return by, true, nil
	}
	var expires time.Time
	err = w.DB.Read(w.Context(), func(tx *db.Tx) (err error) {
		by, expires, err = w.Accounts.AuthenticateUntil(w.Context(), tx, token)
		return err
	})
	if err == nil {
		w.memory.Keep(sum, by, expires, asked)
	}
	return by, false, err
}

// settle waits until a device is remembered for long, which begins with the first connection to the database.
func (w *world) settle(token string) {
	w.Helper()
	roletest.Eventually(w, "the device is remembered", func() bool {
		_, _, err := w.asks(token)
		w.Must(err)
		w.Pass(2 * time.Second)
		_, known, err := w.asks(token)
		w.Must(err)
		return known
	})
}

// A person is remembered for a moment, and so is a device on SQLite.
func TestAMoment(t *testing.T) {
	w := newWorld(t)
	tokens := map[string]string{"a person": w.Key(account.OfUser, w.ada.User)}
	if w.DB.Dialect() == db.SQLite {
		_, tokens["a device"] = w.device(1)
	}
	for who, token := range tokens {
		for i, want := range []bool{false, true} {
			if _, known, err := w.asks(token); err != nil || known != want {
				t.Errorf("%s, request %d: known %v, want %v; %v", who, i, known, want, err)
			}
		}
		w.Pass(1600 * time.Millisecond)
		if _, known, err := w.asks(token); err != nil || known {
			t.Errorf("%s is known still, %v", who, err)
		}
		w.memory.Forget()
		if _, known, err := w.asks(token); err != nil || known {
			t.Errorf("%s is known though everybody was forgotten, %v", who, err)
		}
	}
}

// On PostgreSQL a device is remembered until the database says of a change in what makes it who it is, whoever makes it, and not by a change of anything else.
func TestADeviceUntilItChanges(t *testing.T) {
	w := newWorld(t)
	if w.DB.Dialect() == db.SQLite {
		return
	}
	for n, tt := range []struct {
		what, change string
		gone         bool // the key is worth nothing any more
	}{
		{"the key is deleted", `DELETE FROM api_key WHERE id = %[1]d`, true},
		{"it expires", `UPDATE api_key SET expiry_date = '2001-01-01T00:00:00.000Z' WHERE id = %[1]d`, true},
		{"another network", `UPDATE api_key SET networks = '192.0.2.0/24' WHERE id = %[1]d`, false},
		{"other channels", `UPDATE api_key SET channels = 1 WHERE id = %[1]d`, false},
		{"the device is deleted", `DELETE FROM device WHERE id = %[2]d`, true},
		{"it moves", `UPDATE device SET belongs_to__application = %[3]d WHERE id = %[2]d`, false},
		{"it is frozen", `UPDATE device SET is_frozen = 1 WHERE id = %[2]d`, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			before, token := w.device(n + 1)
			w.settle(token)
			w.Exec(`UPDATE api_key SET last_used_at = '2026-01-01T00:00:00.000Z' WHERE id = ?`, before.Key)
			w.Exec(`UPDATE device SET device_name = 'another', cpu_usage = 7 WHERE id = ?`, before.Device)
			other, others := w.device(n + 100)
			w.settle(others)
			w.Exec(`UPDATE device SET is_frozen = 1 WHERE id = ?`, other.Device) // heard after the two, which nobody tells of
			roletest.Eventually(t, "the other one's change is heard of", func() bool { by, _, err := w.asks(others); return err == nil && by != other })
			if by, known, err := w.asks(token); err != nil || !known || by != before {
				t.Fatalf("what changes nothing made it forgotten: %v %+v %v", known, by, err)
			}
			w.Exec(fmt.Sprintf(tt.change+" -- of %[1]d, %[2]d, %[3]d", before.Key, before.Device, w.fleets[1]))
			roletest.Eventually(t, "it counts", func() bool {
				by, _, err := w.asks(token)
				return (err != nil) == tt.gone && (err != nil || by != before)
			})
		})
	}
}

// What every column of the two rows means for the memory was decided when it was made: who adds one decides it again.
func TestEveryColumnIsDecided(t *testing.T) {
	w := newWorld(t)
	if w.DB.Dialect() == db.SQLite {
		return
	}
	column := func(query string, args ...any) (names []string) {
		w.Read(func(tx *db.Tx) error {
			rows, err := tx.QueryContext(t.Context(), query, args...)
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var name string
				if err := rows.Scan(&name); err != nil {
					return err
				}
				names = append(names, name)
			}
			return rows.Err()
		})
		return names
	}
	// what authentication reads of a device's key or writes into it is heard of, but for its last use
	deaf := []string{"created_at", "name", "description", "max_uses", "uses", "last_used_at", "last_used_from"}
	all := column(`SELECT column_name::text FROM information_schema.columns WHERE table_name = 'api_key'`)
	heard := column(`SELECT event_object_column::text FROM information_schema.triggered_update_columns WHERE trigger_name = 'notice_key'`)
	if both := slices.Concat(heard, deaf); !maps.Equal(set(all), set(both)) {
		t.Errorf("columns of api_key: %v; heard of or not: %v", all, both)
	}
	heard = column(`SELECT event_object_column::text FROM information_schema.triggered_update_columns WHERE trigger_name = 'notice_caller'`)
	if want := []string{"id", "actor", "uuid", "belongs_to__application", "is_frozen"}; !maps.Equal(set(heard), set(want)) {
		t.Errorf("of a device %v are heard of, want %v", heard, want)
	}
}

func set(names []string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// A device that is remembered is seen to use its key once a minute; one whose key ends by itself is not remembered beyond that.
func TestUseAndEnd(t *testing.T) {
	w := newWorld(t)
	if w.DB.Dialect() == db.SQLite {
		return
	}
	_, token := w.device(1)
	w.settle(token)
	w.Pass(time.Hour)
	before := w.uses.Load()
	for range 5 {
		if _, known, err := w.asks(token); err != nil || !known {
			t.Fatalf("it was forgotten: %v", err)
		}
	}
	if n := w.uses.Load() - before; n != 1 {
		t.Errorf("five requests in a minute count as %d uses", n)
	}
	by, ending := w.device(2)
	w.Exec(`UPDATE api_key SET expiry_date = ? WHERE id = ?`, db.FormatTime(w.Now().Add(24*time.Hour)), by.Key)
	w.settle(ending)
	w.Pass(25 * time.Hour)
	if _, known, err := w.asks(ending); known || err == nil {
		t.Errorf("the key has ended: known %v, %v", known, err)
	}
}

// A revocation that is heard of while the database is being asked counts.
func TestARevocationMeanwhile(t *testing.T) {
	w := newWorld(t)
	device, token := w.device(1)
	if w.DB.Dialect() == db.Postgres {
		w.settle(token)
		w.memory.Forget()
	}
	sum := sha256.Sum256([]byte(token))
	_, _, asked := w.memory.Find(sum)
	w.memory.Forget()
	w.memory.Keep(sum, device, time.Time{}, asked)
	if _, known, _ := w.memory.Find(sum); known {
		t.Error("what was read before the revocation is remembered after it")
	}
}
