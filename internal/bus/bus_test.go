package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/bus"
)

func open(t *testing.T, dir string) (*bus.Bus, *bus.Ring) {
	t.Helper()
	b, err := bus.Open(bus.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	r, err := b.Ring(t.Context(), bus.RingConfig{Name: "logs", PerKey: 1000, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

func lines(from, to int) [][]byte {
	var out [][]byte
	for i := from; i < to; i++ {
		out = append(out, fmt.Appendf(nil, "line %d", i))
	}
	return out
}

func texts(es []bus.Entry) string {
	var s []string
	for _, e := range es {
		s = append(s, string(e.Data))
	}
	return strings.Join(s, ",")
}

func TestRingKeepsTheLast(t *testing.T) {
	dir := t.TempDir()
	b, r := open(t, dir)
	ctx := t.Context()
	if got, err := r.Last(ctx, "a", 10, time.Time{}); err != nil || len(got) != 0 {
		t.Fatalf("empty ring: %v, %v", got, err)
	}
	if err := r.Append(ctx, "b", []byte("of b")); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(ctx, "a", lines(0, 1500)...); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Count(ctx, "a"); err != nil || n != 1000 {
		t.Fatalf("Count: %d, %v; want 1000", n, err)
	}
	all, err := r.Last(ctx, "a", 1000, time.Time{})
	if err != nil || len(all) != 1000 || string(all[0].Data) != "line 500" || string(all[999].Data) != "line 1499" {
		t.Fatalf("Last: %d entries, %v", len(all), err)
	}
	two, err := r.Last(ctx, "a", 2, time.Time{})
	if err != nil || texts(two) != "line 1498,line 1499" {
		t.Fatalf("Last 2: %q, %v", texts(two), err)
	}
	since, err := r.Last(ctx, "a", 1000, all[997].Time())
	if err != nil || len(since) < 3 {
		t.Fatalf("since: %d, %v", len(since), err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, r = open(t, dir)
	if two, err = r.Last(ctx, "a", 2, time.Time{}); err != nil || texts(two) != "line 1498,line 1499" {
		t.Fatalf("after a restart: %q, %v", texts(two), err)
	}
	if err := r.Drop(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Last(ctx, "a", 10, time.Time{}); err != nil || len(got) != 0 {
		t.Fatalf("after Drop: %q, %v", texts(got), err)
	}
	if got, err := r.Last(ctx, "b", 10, time.Time{}); err != nil || texts(got) != "of b" {
		t.Fatalf("the other key after Drop: %q, %v", texts(got), err)
	}
}

func TestKeysAreWords(t *testing.T) {
	_, r := open(t, t.TempDir())
	for _, key := range []string{"", ">", "*", "a.b", "a b", "a\r\nPUB x"} {
		if err := r.Append(t.Context(), key, []byte("x")); err == nil {
			t.Errorf("Append to %q: no error", key)
		}
	}
}

func TestFollow(t *testing.T) {
	_, r := open(t, t.TempDir())
	ctx := t.Context()
	if err := r.Append(ctx, "a", lines(0, 5)...); err != nil {
		t.Fatal(err)
	}
	f, err := r.Follow(ctx, "a", 3, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.Append(ctx, "a", lines(5, 100)...); err != nil {
		t.Fatal(err)
	}
	for i := 2; i < 100; i++ {
		e, skipped, err := f.Next(ctx)
		if want := fmt.Sprintf("line %d", i); err != nil || skipped != 0 || string(e.Data) != want {
			t.Fatalf("Next: %q, %d, %v; want %q", e.Data, skipped, err, want)
		}
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, _, err := f.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next with nothing new: %v", err)
	}
}

func TestSlowFollowerIsToldWhatItMissed(t *testing.T) {
	_, r := open(t, t.TempDir())
	ctx := t.Context()
	f, err := r.Follow(ctx, "a", 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const n = 2000
	if err := r.Append(ctx, "a", lines(0, n)...); err != nil {
		t.Fatal(err)
	}
	got, missed := 0, int64(0)
	deadline, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for int64(got)+missed < n {
		_, skipped, err := f.Next(deadline)
		if err != nil {
			t.Fatalf("after %d entries and %d missed: %v", got, missed, err)
		}
		got++
		missed += skipped
	}
	if missed == 0 {
		t.Error("a follower that did not read missed nothing")
	}
}

func TestPublish(t *testing.T) {
	b, _ := open(t, t.TempDir())
	got := make(chan string, 1)
	stop, err := b.Subscribe("revoked.>", func(subject string, _ []byte) { got <- subject })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := b.Publish("revoked.device.7", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-got:
		if s != "revoked.device.7" {
			t.Errorf("got %q", s)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
}
