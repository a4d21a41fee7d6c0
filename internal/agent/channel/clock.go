package channel

import (
	"os"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// clock tells a time that never goes back, not even over a restart: what had an end stays ended whatever the device's clock is set to.
// It is behind the right time at most by how long the device was off without knowing the time.
type clock struct {
	path string
	wall func() time.Time

	mu    sync.Mutex // covers what follows
	floor time.Time  // the latest known
	since time.Time  // when it was known, with the monotonic reading
	kept  time.Time  // as the file has it
}

// keepEvery is how much later it must be than the file says before the file is written again.
const keepEvery = time.Minute

func openClock(path string, wall func() time.Time) *clock {
	k := &clock{path: path, wall: wall, since: time.Now()}
	if text, err := os.ReadFile(path); err == nil {
		k.kept, _ = time.Parse(time.RFC3339, strings.TrimSpace(string(text))) // one that cannot be read says nothing
	}
	k.floor = k.kept
	return k
}

// Now is the time.
func (k *clock) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now()
}

func (k *clock) now() time.Time {
	steady := k.floor.Add(time.Since(k.since))
	if wall := k.wall().Round(0); wall.After(steady) {
		k.floor, k.since = wall, time.Now()
		return wall
	}
	return steady
}

// Before reports whether the time is before the given one, and remembers the time durably: whoever asks lets something depend on it.
func (k *clock) Before(t time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	before := now.Before(t)
	if now.Sub(k.kept) >= keepEvery || !before && k.kept.Before(t) {
		keep := now.UTC()
		if err := os.MkdirAll(dirOf(k.path), 0o700); err == nil {
			if durable.WriteFile(k.path, []byte(keep.Add(time.Second).Truncate(time.Second).Format(time.RFC3339)+"\n"), 0o600) == nil {
				k.kept = keep
			}
		}
	}
	return before
}

func dirOf(path string) string { return path[:strings.LastIndexByte(path, '/')] }
