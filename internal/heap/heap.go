// Package heap says how the heap of a server's process grows under load, and gives what a burst took back to the machine once it is over.
package heap

import (
	"os"
	"runtime/debug"
)

// Go collects garbage when the heap has grown by some percentage of what is in use; with the few MiB that the api role of most servers uses,
// that is many times a second under load. A ballast counts as in use but is never touched, so that it takes no memory. The percentage is lower
// than Go's own, so that the heap of a role with ten thousand connections grows no further than it would without the ballast.
const (
	Ballast       = 32 << 20 // of the api role
	SignerBallast = 8 << 20  // of the signer, which has nothing to hold

	growth = 75
)

// Steady settles how the heap of this process grows, unless whoever runs it has (GOGC). What it gives is to be kept for as
// long as the process serves.
func Steady(size int) (ballast []byte) {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	debug.SetGCPercent(growth)
	return make([]byte, size)
}
