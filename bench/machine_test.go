package bench_test

import (
	"compress/flate"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// machine names what the figures were made on, and what else it does.
func machine() string {
	load := "not known"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil { // it fails while all descriptors are connections
		load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	return fmt.Sprintf("%s, load %s", time.Now().UTC().Format("2006-01-02 15:04"), load)
}

// pieces of the reference a thread does each time it is asked for: some 20 ms of work.
const pieces = 12

// reference is the CPU time in milliseconds that one fixed piece of work takes at this moment, with all of the machine busy: packing the same
// 64 KiB. A virtual machine's CPU millisecond is no fixed amount of work, for its neighbours share the core, its caches and its clock:
// a figure beside a reference of 1.5 times another's says the same as that other one when it is 1.5 times as large.
func reference(b *testing.B) float64 {
	b.Helper()
	text := make([]byte, 64<<10)
	for i, seed := 0, uint32(1); i < len(text); i++ { // letters of no pattern: half of the work is the search for one
		seed = seed*1664525 + 1013904223
		text[i] = 'a' + byte(seed>>28)
	}
	spent := make([]time.Duration, runtime.NumCPU())
	var all sync.WaitGroup
	for i := range spent {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			w, err := flate.NewWriter(io.Discard, 6)
			if err != nil {
				b.Error(err)
				return
			}
			before := threadTime()
			for range pieces {
				w.Reset(io.Discard)
				_, _ = w.Write(text)
				_ = w.Close()
			}
			spent[i] = (threadTime() - before) / pieces
		})
	}
	all.Wait()
	var sum time.Duration
	for _, d := range spent {
		sum += d
	}
	return sum.Seconds() * 1000 / float64(len(spent))
}

func threadTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(1, &u) // RUSAGE_THREAD
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
