package trust_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// BenchmarkBundle is a device of many that is told of one release: the database, the signer and the TLS between them are real. 10,000 devices
// take ten thousand times as long.
func BenchmarkBundle(b *testing.B) {
	w := newWorld(b)
	w.target(w.hers, w.release(w.hers, 1))
	const devices, atOnce = 100, 64
	boards, haves := make([]*board, devices), make([]api.TrustHave, devices)
	for i := range boards {
		boards[i] = w.device(w.hers, i)
		boards[i].equip()
		if i == 0 {
			_, err := boards[0].check(w.trust, commitOf(1))
			w.Must(err)
			w.target(w.hers, w.release(w.hers, 2))
		}
		haves[i] = boards[i].have(commitOf(2))
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next, failed atomic.Int64
	var wait sync.WaitGroup
	for range atOnce {
		wait.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				d := int(n) % devices
				out, err := w.trust.Bundle(b.Context(), boards[d].by, boards[d].uuid, haves[d])
				if err != nil || len(out.Document) == 0 || len(out.Director) == 0 || out.Proof == nil {
					failed.Add(1)
				}
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	if n := failed.Load(); n != 0 {
		b.Errorf("%d of %d were not answered", n, b.N)
	}
	b.ReportMetric(float64(b.Elapsed().Seconds())/float64(b.N)*10_000, "s/10000")
}
