//go:build unix

package registry

import (
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// believed is how long a file that was hashed is taken for what it was, as long as the system says that nothing was written to it.
	// A fleet asks for the same layers at the same time, and hashing costs as much as sending.
	believed = time.Minute
	// settled is how old a change must be for the next one to have another time.
	settled     = 2 * time.Second
	maxBelieved = 10_000
)

// stamp is what the system says of a file. Whatever is written to it changes the time of its last change, which nobody can set.
type stamp struct {
	dev, ino, size int64
	written, since unix.Timespec
}

// beliefs are the files that were found to be what their digest says.
type beliefs struct {
	mu    sync.Mutex // covers what follows
	files map[string]belief
}

type belief struct {
	stamp
	at time.Time
}

// look gives the stamp of a blob's file. There is none in a bucket, nor of a file that changed just now.
func (st *storage) look(digest string, now time.Time) (stamp, bool) {
	if st.dir == "" {
		return stamp{}, false
	}
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(st.dir, blobDir(digest), "data"), &s); err != nil || now.Sub(time.Unix(s.Ctim.Unix())).Abs() < settled {
		return stamp{}, false
	}
	return stamp{int64(s.Dev), int64(s.Ino), s.Size, s.Mtim, s.Ctim}, true
}

// holds reports whether a file was hashed lately, and is as it was.
func (b *beliefs) holds(digest string, now stamp, at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, ok := b.files[digest]
	return ok && was.stamp == now && at.Sub(was.at).Abs() < believed
}

// note remembers that a file was hashed.
func (b *beliefs) note(digest string, as stamp, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.files == nil || len(b.files) >= maxBelieved {
		b.files = map[string]belief{}
	}
	b.files[digest] = belief{as, at}
}
