package device

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// openCounter gives a database with a table of numbers and a batch over it that runs until the test ends.
func openCounter(t *testing.T) (*db.DB, *batch) {
	t.Helper()
	file := &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE number (n BIGINT PRIMARY KEY, attempt BIGINT);\n")}
	d := dbtest.Open(t, nil, fstest.MapFS{"sqlite/0001_n.sql": file, "postgres/0001_n.sql": file})
	b := newBatch(d)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return d, b
}

func insert(n int) func(context.Context, *db.Tx) error {
	return func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO number (n) VALUES (?)`, n)
		return err
	}
}

func count(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	err := d.Read(t.Context(), func(tx *db.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM number`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Writes that come while one commit is under way share the next one.
func TestWritesShareACommit(t *testing.T) {
	d, b := openCounter(t)
	const writers = 200
	held, release := make(chan struct{}), make(chan struct{})
	var commits sync.Map // by transaction
	first := make(chan error, 1)
	go func() {
		first <- b.write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			close(held)
			<-release
			return insert(-1)(ctx, tx)
		})
	}()
	<-held
	errs := make(chan error, writers)
	for n := range writers {
		go func() {
			errs <- b.write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				commits.Store(tx, true)
				return insert(n)(ctx, tx)
			})
		}()
	}
	deadline := time.After(10 * time.Second)
	for len(b.queue) < writers {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("the writes do not wait")
		}
	}
	close(release)
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	n := 0
	commits.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d writes in %d commits, want one", writers, n)
	}
	if got := count(t, d); got != writers+1 {
		t.Errorf("%d rows, want %d", got, writers+1)
	}
}

// One that fails does so alone, and nothing of it stays.
func TestAWriteFailsAlone(t *testing.T) {
	d, b := openCounter(t)
	broken := errors.New("broken")
	var all []*write
	for n := range 10 {
		do := insert(n)
		switch n {
		case 3:
			do = func(ctx context.Context, tx *db.Tx) error {
				if err := insert(1000)(ctx, tx); err != nil {
					return err
				}
				return broken
			}
		case 7:
			do = insert(0) // taken
		}
		all = append(all, &write{ctx: t.Context(), do: do, done: make(chan error, 1)})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	all = append(all, &write{ctx: gone, do: insert(2000), done: make(chan error, 1)})
	b.commit(t.Context(), all)
	for n, w := range all {
		err := <-w.done
		switch n {
		case 3:
			if !errors.Is(err, broken) {
				t.Errorf("the broken one: %v", err)
			}
		case 7:
			if !db.IsUnique(err) {
				t.Errorf("the taken one: %v", err)
			}
		case 10:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the one that nobody waits for: %v", err)
			}
		default:
			if err != nil {
				t.Errorf("write %d: %v", n, err)
			}
		}
	}
	if got := count(t, d); got != 8 {
		t.Errorf("%d rows, want 8", got)
	}
}

// What has come before the end is written; what comes later, or finds no room, is told to come again.
func TestEndOfABatch(t *testing.T) {
	d, err := db.Open(db.Config{Path: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := newBatch(d)
	nothing := func(context.Context, *db.Tx) error { return nil }
	full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for range batchQueue {
		b.queue <- &write{ctx: t.Context(), do: nothing, done: make(chan error, 1)}
	}
	if err := b.write(full, nothing); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without room: %v", err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := b.run(ended); err != nil {
		t.Fatal(err)
	}
	if n := len(b.queue); n != 0 {
		t.Errorf("%d writes were forgotten", n)
	}
	if err := b.write(t.Context(), nothing); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}

func FuzzReportV2(f *testing.F) {
	f.Add(`{"local":{"status":"Idle","is_on__commit":"abc","apps":{"1":{"services":{"7":{"status":"Running","releaseId":3,"download_progress":null}}}}},"dependent":{}}`)
	f.Add(`{"local":{"apps":[{"services":[{"imageId":7,"status":"x","download_progress":1e999}]}]}}`)
	f.Add(`{"local":{"apps":{"1":null},"cpu_usage":"7","ip_address":null}}`)
	f.Add(`{"local":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := readReportV2([]byte(body))
		if err != nil {
			if api.AsError(err).Code == api.Internal {
				t.Errorf("readReportV2(%q): %v", body, err)
			}
			return
		}
		for name, v := range r.columns {
			switch v.(type) {
			case nil, bool, int64, string:
			default:
				t.Errorf("column %s is a %T", name, v)
			}
		}
		if r.older != nil && len(r.older.services) > maxInstalls {
			t.Errorf("%d services", len(r.older.services))
		}
	})
}

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"balenaOS 2.98.33+rev1.prod", "6.0.0", "1.2.3-rc.1+rev2", "Debian 12", "99999999.1.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseVersion(text)
		if ok && v.compare(v) != 0 {
			t.Errorf("%q is not itself: %+v", text, v)
		}
	})
}

func TestVersionsInOrder(t *testing.T) {
	list := []string{"2.9.0", "2.98.33-rc.1", "balenaOS 2.98.33", "2.98.33+rev1", "2.98.33+rev2.prod", "balenaOS 2.98.33+rev10", "6.0.0"}
	for i := range list {
		for j := range list {
			a, ok1 := parseVersion(list[i])
			b, ok2 := parseVersion(list[j])
			if want := min(1, max(-1, i-j)); !ok1 || !ok2 || a.compare(b) != want {
				t.Errorf("%s to %s: got %d, want %d", list[i], list[j], a.compare(b), want)
			}
		}
	}
	if _, ok := parseVersion("Debian 12"); ok {
		t.Error("Debian 12 is no such version")
	}
}
