package heap_test

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadstead-io/roadstead/internal/heap"
)

// TestMemoryIsGivenBackWhenAProcessBecomesQuiet: not while it works, once when it has stopped, and again only after more work.
func TestMemoryIsGivenBackWhenAProcessBecomesQuiet(t *testing.T) {
	var allocated uint64
	freed := 0
	q := heap.Quiet{Allocated: func() uint64 { return allocated }, Free: func() { freed++ }}
	for i, look := range []struct {
		more uint64 // allocated since the last look
		want bool
	}{
		{9 << 20, false}, // it starts
		{100 << 10, true},
		{100 << 10, false}, // nothing that would be worth it
		{500 << 20, false}, // it works
		{500 << 20, false},
		{0, true},
		{0, false},
		{900 << 10, false}, {900 << 10, false}, {900 << 10, true}, // little by little
	} {
		allocated += look.more
		before := freed
		if got := q.RunOnce(); got != look.want || (freed > before) != look.want {
			t.Errorf("look %d: it gave memory back: %v (%d times), want %v", i, got, freed-before, look.want)
		}
	}
}

// TestABurstIsGivenBack is the same with the real thing: what a burst took is back with the machine, though a ballast would let Go keep it.
func TestABurstIsGivenBack(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	ballast := heap.Steady(256 << 20)
	defer runtime.KeepAlive(ballast)
	held := func() uint64 { // by the process, and touched
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapSys - m.HeapReleased
	}
	const burst = 64 << 20
	var q heap.Quiet
	var kept [][]byte
	for range burst >> 20 {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	if q.RunOnce() {
		t.Error("memory was given back in the middle of the work")
	}
	full := held()
	runtime.KeepAlive(kept)
	kept = nil //nolint:wastedassign,ineffassign // the garbage
	if !q.RunOnce() {
		t.Fatal("the process is quiet, and nothing was given back")
	}
	if after := held(); after+burst/2 > full {
		t.Errorf("of %d MiB it still holds %d, after a burst of %d", full>>20, after>>20, burst>>20)
	}
}

// TestQuietEnds: it looks by itself, and stops with its context.
func TestQuietEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		freed := 0
		q := heap.Quiet{Allocated: func() uint64 { return 3 << 20 }, Free: func() { freed++ }}
		done := make(chan struct{})
		go func() { q.Run(ctx); close(done) }()
		<-time.After(time.Minute)
		synctest.Wait()
		cancel()
		<-done
		if freed != 1 {
			t.Errorf("memory was given back %d times", freed)
		}
	})
}
