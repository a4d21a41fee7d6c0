package heap_test

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"

	"github.com/roadstead-io/roadstead/internal/heap"
)

// TestTheCeilingGivesWay: it holds while there is room for garbage under it, and then stays a quarter above what is in use.
func TestTheCeilingGivesWay(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, tt := range []struct{ used, want int64 }{{0, 100 << 20}, {80 << 20, 100 << 20}, {120 << 20, 150 << 20}, {4 << 30, 5 << 30}} {
		b := heap.Bound{Ceiling: 100 << 20, Used: func() uint64 { return uint64(tt.used) }}
		if got := b.RunOnce(); got != tt.want || debug.SetMemoryLimit(-1) != tt.want {
			t.Errorf("with %d MiB in use the limit is %d MiB (the runtime's %d), want %d", tt.used>>20, got>>20, debug.SetMemoryLimit(-1)>>20, tt.want>>20)
		}
	}
}

// TestGarbageIsCollectedUnderTheCeiling: by the ballast's percentage alone it would be later.
func TestGarbageIsCollectedUnderTheCeiling(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	ballast := heap.Steady(128 << 20)
	defer runtime.KeepAlive(ballast)
	next := func() int64 { // how large the heap may become before garbage is collected
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.NextGC)
	}
	without := next()
	b := heap.Bound{Ceiling: 176 << 20}
	b.RunOnce()
	if with := next(); with > b.Ceiling || without < b.Ceiling+20<<20 {
		t.Errorf("garbage is collected at %d MiB, and at %d without the ceiling of %d", with>>20, without>>20, b.Ceiling>>20)
	}
}

// TestTheCeilingEnds: what is set stays no longer than whoever asked for it, and a user's own word comes first.
func TestTheCeilingEnds(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	synctest.Test(t, func(t *testing.T) {
		stop := heap.Bounded(t.Context(), 1<<40)
		synctest.Wait()
		if got := debug.SetMemoryLimit(-1); got != 1<<40 {
			t.Errorf("the limit is %d", got)
		}
		stop()
		if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
			t.Errorf("afterwards the limit is %d", got)
		}
	})
	t.Setenv("GOMEMLIMIT", "1TiB")
	heap.Bounded(context.Background(), 1<<40)()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("where the user has said another one, the limit is %d", got)
	}
}
