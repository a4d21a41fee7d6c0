package builder

import (
	"bytes"
	"strings"
	"sync"

	"github.com/roadstead-io/roadstead/internal/builder/logtext"
)

// logbook is a build's log as the release keeps it: bounded, with the beginning and the end of what was said.
type logbook struct {
	mu   sync.Mutex // covers what follows
	head []byte
	tail []byte
	lost bool // something between head and tail was dropped

	cleaner *logtext.Cleaner // nil: no secrets are known
}

// conceal keeps texts out of what is said from now on: the log is for all who observe the fleet, and its devices.
func (l *logbook) conceal(texts []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleaner = logtext.New(texts)
}

// clean is a text without the build's secrets and without what steers a terminal.
func (l *logbook) clean(text string) string {
	l.mu.Lock()
	c := l.cleaner
	l.mu.Unlock()
	return c.Clean(text)
}

// cleanError is what an error says, clean, for the server's own log.
func (l *logbook) cleanError(err error) any {
	if err == nil {
		return nil
	}
	return l.clean(err.Error())
}

const (
	maxHead = 1 << 20
	maxTail = 3<<20 - 1<<10
	cutMark = "\n[… the log is longer than is kept; lines are missing here …]\n"
)

func (l *logbook) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text = strings.ToValidUTF8(text, "\uFFFD") + "\n"
	if len(l.tail) == 0 && len(l.head)+len(text) <= maxHead {
		l.head = append(l.head, text...)
		return
	}
	l.tail = append(l.tail, text...)
	// Trimmed only when it is twice too long, so that a line costs no copy of all of it.
	if len(l.tail) > 2*maxTail {
		l.trim()
	}
}

func (l *logbook) trim() {
	if len(l.tail) <= maxTail {
		return
	}
	kept := l.tail[len(l.tail)-maxTail:]
	if i := bytes.IndexByte(kept, '\n'); i >= 0 {
		kept = kept[i+1:]
	}
	l.tail = append([]byte(nil), kept...)
	l.lost = true
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trim()
	if l.lost {
		return string(l.head) + cutMark + string(l.tail)
	}
	return string(l.head) + string(l.tail)
}
