package apiserver

import (
	"os"
	"runtime/debug"
)

// How the heap of a process grows. Go collects garbage when the heap has grown by some percentage of
// what is in use; with the few MiB that the api role of most servers uses, that is many times a second under load. The ballast counts
// as in use but is never touched, so that it takes no memory. The percentage is lower than Go's own, so that the heap of a role
// with ten thousand connections grows no further than it would without the ballast.
const (
	Ballast       = 32 << 20 // of the api role
	SignerBallast = 8 << 20  // of the signer, which has nothing to hold

	heapGrowth = 75
)

// SteadyHeap settles how the heap of this process grows, unless whoever runs it has (GOGC). What it gives is to be kept for as
// long as the process serves.
func SteadyHeap(size int) (ballast []byte) {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	debug.SetGCPercent(heapGrowth)
	return make([]byte, size)
}
