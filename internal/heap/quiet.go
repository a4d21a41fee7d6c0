package heap

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	lookEvery = 5 * time.Second
	quiet     = 1 << 20 // a process that allocates less than this from one look to the next is quiet
	worth     = 2 << 20 // so much must have been allocated since the last time for it to be worth another
)

// Quiet gives memory back to the machine when the process has become quiet. Go itself collects no garbage where none is made, for two minutes,
// and keeps what a ballast lets it: each of a server's processes would hold for ever what it needed to start, and the api role what its last
// burst took. A process under load is left alone. The zero value is ready.
type Quiet struct {
	Allocated func() uint64 // bytes allocated since the process began; nil means as the runtime counts them
	Free      func()        // nil means debug.FreeOSMemory

	last uint64 // allocated at the last look
	then uint64 // allocated when memory was last given back
}

// Run looks every few seconds until the context ends.
func (q *Quiet) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			q.RunOnce()
		}
	}
}

// Watch runs it for this process until stop, which waits.
func Watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		new(Quiet).Run(ctx)
	}()
	return func() { cancel(); <-done }
}

// RunOnce looks once, and says whether it gave memory back.
func (q *Quiet) RunOnce() bool {
	if q.Allocated == nil {
		q.Allocated = allocated
	}
	if q.Free == nil {
		q.Free = debug.FreeOSMemory
	}
	now := q.Allocated()
	since := now - q.last
	q.last = now
	if since > quiet || now-q.then < worth {
		return false
	}
	q.Free()
	q.last = q.Allocated()
	q.then = q.last
	return true
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
