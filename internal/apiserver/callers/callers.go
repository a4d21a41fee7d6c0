// Package callers remembers whom tokens stand for.
package callers

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// How long and how many callers are remembered. A revocation is heard of at once, in this process and over the bus in others;
// should the bus be away, trust ends by itself before the two seconds that a revocation may take.
const (
	rememberFor = 1500 * time.Millisecond
	rememberMax = 8192 // twice as many at most
)

// Devices ask every few minutes, so that a moment is of no use to them. On PostgreSQL they are remembered for as long as the database says of no
// change in the two rows that make them who they are, their key and themselves: see migrations 0380 and 0381.
const (
	callerChannel = "device_caller"
	deviceBytes   = 96 << 20 // for 80,000 devices, of which half may be forgotten at once
	deviceSize    = 400      // of one of them, roughly
	touchEvery    = time.Minute
)

// Memory remembers whom tokens stand for: a page is many requests, and so is a device's update. It holds no token, only sums of them, and
// nothing that is not in the database.
type Memory struct {
	// Touch, if set before the first use, counts a use of the key of a device that is remembered for long.
	Touch func(access.Caller)

	now     func() time.Time
	devices *db.Answers[*deviceCaller]

	mu          sync.Mutex // covers what follows
	round       uint64     // goes up with every revocation
	recent, old map[[sha256.Size]byte]remembered
}

type remembered struct {
	caller access.Caller
	until  time.Time
}

// deviceCaller is a device that is remembered until something of it changes.
type deviceCaller struct {
	sum     [sha256.Size]byte
	caller  access.Caller
	expires time.Time    // the key's; zero means never
	touched atomic.Int64 // Unix milliseconds
}

// Asked is what Keep is to be given of the Find before it.
type Asked struct{ round, devices uint64 }

// New makes an empty memory. On SQLite, and on PostgreSQL while Run does not run, nobody is remembered for longer than a moment.
func New(d *db.DB, log *slog.Logger) *Memory {
	return &Memory{now: time.Now, recent: map[[sha256.Size]byte]remembered{}, devices: db.NewAnswers[*deviceCaller](d, callerChannel, log, deviceBytes)}
}

// Find gives the caller of a token. If it is not known, the last value is to be given to Keep with what the database says.
func (c *Memory) Find(sum [sha256.Size]byte) (_ access.Caller, known bool, _ Asked) {
	device, found, devices := c.devices.Find(place(sum))
	if now := c.now(); found && device.sum == sum && (device.expires.IsZero() || now.Before(device.expires)) {
		if last := device.touched.Load(); c.Touch != nil && now.UnixMilli()-last >= touchEvery.Milliseconds() && device.touched.CompareAndSwap(last, now.UnixMilli()) {
			c.Touch(device.caller)
		}
		return device.caller, true, Asked{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.recent[sum]
	if !ok {
		r, ok = c.old[sum]
	}
	return r.caller, ok && c.now().Before(r.until), Asked{c.round, devices}
}

// place is where a device is kept by the sum of its token. Two may have the same, and then one is not remembered.
func place(sum [sha256.Size]byte) int64 { return int64(binary.BigEndian.Uint64(sum[:])) }

// Keep remembers a caller, unless something was revoked since the find. expires is when the token ends; zero means never.
func (c *Memory) Keep(sum [sha256.Size]byte, caller access.Caller, expires time.Time, since Asked) {
	now := c.now()
	if caller.Kind == access.Device && c.devices.Current() {
		device := &deviceCaller{sum: sum, caller: caller, expires: expires}
		device.touched.Store(now.UnixMilli())
		c.devices.Keep(place(sum), device, deviceSize, since.devices, fmt.Sprint("key ", caller.Key), fmt.Sprint("device ", caller.Device))
		return
	}
	until := now.Add(rememberFor)
	if !expires.IsZero() && expires.Before(until) {
		until = expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round != since.round {
		return // the database was asked before the revocation, perhaps
	}
	if len(c.recent) >= rememberMax {
		c.old, c.recent = c.recent, map[[sha256.Size]byte]remembered{}
	}
	c.recent[sum] = remembered{caller, until}
}

// Forget forgets everybody: somebody's right has ended, and who it was is asked anew of all.
func (c *Memory) Forget() {
	c.devices.Forget()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	clear(c.recent)
	c.old = nil
}

// Run hears of what changes of devices, until the context ends.
func (c *Memory) Run(ctx context.Context) error { return c.devices.Run(ctx) }
