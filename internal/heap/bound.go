package heap

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Ceiling is what the runtime of the api role may hold, its ballast among it, before it collects garbage more often than by percentage: with ten
// thousand connections the role has its budget of 300 MiB with what SQLite and the program itself take.
const Ceiling = 208 << 20

// Bound holds the memory of a process under a ceiling. Where what is in use takes most of that, the ceiling gives way: to collect garbage again and
// again would help nobody.
type Bound struct {
	Ceiling int64
	Used    func() uint64 // bytes that no collection gives back; nil means as the runtime counts them
}

// Bounded does so for this process until stop, which waits, unless whoever runs it has a say in it (GOGC, GOMEMLIMIT).
func Bounded(ctx context.Context, ceiling int64) (stop func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&Bound{Ceiling: ceiling}).Run(ctx)
	}()
	return func() { cancel(); <-done }
}

// Run sets the limit every few seconds until the context ends, and then takes it away.
func (b *Bound) Run(ctx context.Context) {
	defer debug.SetMemoryLimit(math.MaxInt64)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		b.RunOnce()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// RunOnce sets the limit once, and says what it is.
func (b *Bound) RunOnce() int64 {
	used := b.Used
	if used == nil {
		used = inUse
	}
	const room = 4 // parts of what is in use, one of which is left for garbage
	limit := max(b.Ceiling, int64(used()/room)*(room+1))
	debug.SetMemoryLimit(limit)
	return limit
}

// inUse is what the last collection found in use, and what the runtime needs beside the heap.
func inUse() (sum uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"}, {Name: "/memory/classes/other:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		sum += s.Value.Uint64()
	}
	return sum
}
