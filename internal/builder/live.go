package builder

import (
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/builder/journal"
)

// live is every build under way, and for a while what ended ones said: whoever lost the connection at the wrong moment still gets
// the end.
type live struct {
	mu     sync.Mutex // covers what follows
	builds map[int64]*build
	past   []pastBuild // the oldest first
}

type pastBuild struct {
	id      int64
	ended   time.Time
	journal *journal.Journal
}

// Bounds of what is kept of builds that have ended.
const (
	pastTime  = 15 * time.Minute
	pastCount = 64
	pastBytes = 64 << 20
)

func (l *live) add(b *build) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.builds == nil {
		l.builds = map[int64]*build{}
	}
	l.builds[b.info.ID] = b
}

// end keeps what a build said. A build that is gone on with later keeps nothing.
func (l *live) end(b *build) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.builds, b.info.ID)
	l.past = append(l.past, pastBuild{b.info.ID, time.Now(), b.journal})
	l.tidy()
}

func (l *live) tidy() {
	var bytes int64
	for i := len(l.past) - 1; i >= 0; i-- {
		bytes += l.past[i].journal.Bytes()
		if len(l.past)-i > pastCount || bytes > pastBytes || time.Since(l.past[i].ended) > pastTime {
			l.past = append([]pastBuild(nil), l.past[i+1:]...)
			return
		}
	}
}

// find gives the build if it is under way, and what it said if that is still known.
func (l *live) find(id int64) (*build, *journal.Journal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.builds[id]; b != nil {
		return b, b.journal
	}
	l.tidy()
	for _, p := range l.past {
		if p.id == id {
			return nil, p.journal
		}
	}
	return nil, nil
}
