package job_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/job"
)

// clock is set by hand.
type clock struct{ now atomic.Int64 }

func (c *clock) read() time.Time         { return time.Unix(0, c.now.Load()) }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

func open(t *testing.T) (*db.DB, *clock) {
	c := &clock{}
	c.now.Store(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).UnixNano())
	return dbtest.Open(t, c.read, job.Migrations()), c
}

func take(t *testing.T, l *job.Leases, name string) bool {
	t.Helper()
	held, err := l.Take(t.Context(), name, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func TestOneProcessHoldsALease(t *testing.T) {
	d, c := open(t)
	one, two := job.NewLeases(d), job.NewLeases(d)
	if d.Dialect() == db.SQLite {
		for range 2 {
			if !take(t, one, "sweep") {
				t.Error("a single process does not do its chores")
			}
		}
		return
	}
	for range 2 {
		if !take(t, one, "sweep") {
			t.Error("the first process does not get the lease, or loses it to itself")
		}
	}
	if take(t, two, "sweep") {
		t.Error("two processes hold one lease")
	}
	if !take(t, two, "other") {
		t.Error("another lease is not free")
	}
	c.advance(40 * time.Second)
	if !take(t, one, "sweep") { // renewed
		t.Error("the lease was lost in its time")
	}
	c.advance(40 * time.Second)
	if take(t, two, "sweep") {
		t.Error("a renewed lease was taken")
	}
	c.advance(40 * time.Second)
	if !take(t, two, "sweep") || take(t, one, "sweep") {
		t.Error("a lease that ended did not change hands")
	}
	if err := two.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !take(t, one, "sweep") || !take(t, one, "other") {
		t.Error("what was released is not free")
	}
}

// Many processes that come at the same moment: one of them gets the lease.
func TestOneOfManyGetsTheLease(t *testing.T) {
	d, _ := open(t)
	if d.Dialect() == db.SQLite {
		return // TestOneProcessHoldsALease says what holds there
	}
	var held atomic.Int64
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if take(t, job.NewLeases(d), "sweep") {
				held.Add(1)
			}
		})
	}
	all.Wait()
	if held.Load() != 1 {
		t.Errorf("%d processes hold the lease", held.Load())
	}
}

func TestOnlyRunsTheHoldersChore(t *testing.T) {
	d, c := open(t)
	var ran [2]int
	var chores [2]func(context.Context) error
	for i := range chores {
		chores[i] = job.NewLeases(d).Only("sweep", time.Hour, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the chore may go on after its lease")
			}
			ran[i]++
			return errors.New("of the chore")
		})
	}
	for range 3 {
		for _, chore := range chores {
			if err := chore(t.Context()); err != nil && err.Error() != "of the chore" {
				t.Fatal(err)
			}
		}
		c.advance(time.Hour)
	}
	want := [2]int{3, 0}
	if d.Dialect() == db.SQLite {
		want = [2]int{3, 3}
	}
	if ran != want {
		t.Errorf("ran %v times, want %v", ran, want)
	}
	c.advance(3 * time.Hour) // the first process is gone
	if err := chores[1](t.Context()); err == nil || ran[1] != want[1]+1 {
		t.Errorf("nobody does the chore after its holder is gone: %v", ran)
	}
}
