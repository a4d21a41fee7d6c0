package batch

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// number is a row to write: a second one of the same number fails the transaction, a negative one is refused.
type number struct {
	n    int
	hold func() // in the transaction, before it is written
}

var errNegative = errors.New("negative")

// openCounter gives a database with a table of numbers and a batch over it that runs until the test ends. commits counts its
// transactions.
func openCounter(t *testing.T) (d *db.DB, b *Batch[*number], commits *atomic.Int64) {
	t.Helper()
	file := &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE number (n BIGINT PRIMARY KEY);\n")}
	d = dbtest.Open(t, nil, fstest.MapFS{"sqlite/0001_n.sql": file, "postgres/0001_n.sql": file})
	commits = &atomic.Int64{}
	b = New(256, func(ctx context.Context, all []*Ask[*number]) error {
		commits.Add(1)
		return d.Write(ctx, func(tx *db.Tx) error {
			for _, a := range all {
				if a.Err = nil; a.Of.n < 0 {
					a.Err = errNegative
					continue
				}
				if a.Of.hold != nil {
					a.Of.hold()
				}
				if _, err := tx.ExecContext(ctx, `INSERT INTO number (n) VALUES (?)`, a.Of.n); err != nil {
					return err
				}
			}
			return nil
		})
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return d, b, commits
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
	d, b, commits := openCounter(t)
	const writers = 200
	held, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- b.Do(t.Context(), &number{n: writers, hold: func() {
			close(held)
			<-release
		}})
	}()
	<-held
	errs := make(chan error, writers)
	for n := range writers {
		go func() { errs <- b.Do(t.Context(), &number{n: n}) }()
	}
	deadline := time.After(3 * time.Minute)
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
	if n := commits.Load(); n != 2 {
		t.Errorf("%d writes in %d commits, want one after the first", writers, n-1)
	}
	if got := count(t, d); got != writers+1 {
		t.Errorf("%d rows, want %d", got, writers+1)
	}
}

// One that fails does so alone, and nothing of it stays; one that is refused costs the others nothing.
func TestAWriteFailsAlone(t *testing.T) {
	d, b, commits := openCounter(t)
	turn := func(numbers ...int) (errs []error) {
		var all []*Ask[*number]
		for _, n := range numbers {
			all = append(all, &Ask[*number]{ctx: t.Context(), Of: &number{n: n}, done: make(chan error, 1)})
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		left := &Ask[*number]{ctx: gone, Of: &number{n: 1000}, done: make(chan error, 1)}
		b.turn(t.Context(), append(all, left))
		for _, a := range all {
			errs = append(errs, <-a.done)
		}
		if err := <-left.done; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that nobody waits for: %v", err)
		}
		return errs
	}
	errs := turn(0, 1, -1, 2)
	if !errors.Is(errs[2], errNegative) || errors.Join(errs[0], errs[1], errs[3]) != nil || commits.Load() != 1 {
		t.Errorf("with one refused: %v in %d commits", errs, commits.Load())
	}
	errs = turn(3, 1, -1, 4, 3)
	if !db.IsUnique(errs[1]) || !errors.Is(errs[2], errNegative) || !db.IsUnique(errs[4]) || errors.Join(errs[0], errs[3]) != nil {
		t.Errorf("with two taken: %v", errs)
	}
	if got := count(t, d); got != 5 {
		t.Errorf("%d rows, want 5", got)
	}
}

// What has come before the end is done; what comes later, or finds no room, is told to come again.
func TestEndOfABatch(t *testing.T) {
	done := 0
	b := New(256, func(_ context.Context, all []*Ask[int]) error {
		done += len(all)
		return nil
	})
	full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for n := range room {
		b.queue <- &Ask[int]{ctx: t.Context(), Of: n, done: make(chan error, 1)}
	}
	if err := b.Do(full, 0); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without room: %v", err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := b.Run(ended); err != nil {
		t.Fatal(err)
	}
	if done != room {
		t.Errorf("%d of %d were done", done, room)
	}
	if err := b.Do(t.Context(), 0); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAPanicFailsAlone(t *testing.T) {
	b := New(256, func(_ context.Context, all []*Ask[int]) error {
		for _, a := range all {
			if a.Of == 2 {
				panic("two")
			}
		}
		return nil
	})
	var all []*Ask[int]
	for n := range 4 {
		all = append(all, &Ask[int]{ctx: t.Context(), Of: n, done: make(chan error, 1)})
	}
	b.turn(t.Context(), all)
	for n, a := range all {
		if err := <-a.done; (err != nil) != (n == 2) {
			t.Errorf("%d: %v", n, err)
		}
	}
}
