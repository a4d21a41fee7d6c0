// Package journal keeps what a build says, numbered and bounded, for those who follow it: whoever lost the connection comes back
// with the number of the last line and gets what came after it, no line twice and none left out that is still kept.
package journal

import (
	"sync"

	"github.com/roadstead-io/roadstead/api"
)

// Journal is what one build says. It is safe for concurrent use.
type Journal struct {
	limit int64 // bytes that are kept
	base  int64 // the number before the first line's

	mu    sync.Mutex // covers what follows
	head  []api.BuildLine
	tail  []api.BuildLine // what came after head, without what was dropped
	size  [2]int64        // of the two
	next  int64           // number of the next line
	ended bool
	more  chan struct{} // closed when there is more to read
}

// New makes an empty journal that keeps so many bytes: the beginning and the end of what is said. Its first line has the number
// after the one given.
func New(limit, after int64) *Journal {
	return &Journal{limit: limit, base: after, next: after + 1, more: make(chan struct{})}
}

// sizeOf is about what a line takes.
func sizeOf(l api.BuildLine) int64 { return int64(len(l.Message)) + 160 }

// Add adds a line. After the end it does nothing.
func (j *Journal) Add(e api.BuildEvent) {
	j.add(api.BuildLine{BuildEvent: e}, false)
}

// End adds the last line, which says how the build ended; with "" the journal ends without a word about it, as when the role
// stops and goes on with the build later.
func (j *Journal) End(status string) {
	if status == "" {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.end()
		return
	}
	j.add(api.BuildLine{Status: status}, true)
}

func (j *Journal) end() {
	if !j.ended {
		j.ended = true
		close(j.more)
	}
}

func (j *Journal) add(l api.BuildLine, last bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return
	}
	l.Seq = j.next
	j.next++
	n := sizeOf(l)
	if len(j.tail) == 0 && j.size[0]+n <= j.limit/4 {
		j.head = append(j.head, l)
		j.size[0] += n
	} else {
		j.tail = append(j.tail, l)
		for j.size[1] += n; j.size[1] > j.limit-j.limit/4 && len(j.tail) > 1; j.tail = j.tail[1:] {
			j.size[1] -= sizeOf(j.tail[0])
			j.tail[0] = api.BuildLine{} // its text is not held by the array below
		}
	}
	if last {
		j.end()
		return
	}
	close(j.more)
	j.more = make(chan struct{})
}

// Read gives at most so many lines after a number. Where lines in between are not kept any more, one stands for them that says how
// many. With no lines and no end, more is closed when there is something new.
func (j *Journal) Read(after int64, most int) (lines []api.BuildLine, ended bool, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, part := range [][]api.BuildLine{j.head, j.tail} {
		if len(part) == 0 || len(lines) >= most {
			continue
		}
		first := part[0].Seq
		if lost := first - max(after, j.base) - 1; lost > 0 {
			lines = append(lines, api.BuildLine{Seq: first - 1, Lost: lost})
			after = first - 1
		}
		from := min(max(after+1-first, 0), int64(len(part)))
		to := min(from+int64(most-len(lines)), int64(len(part)))
		if to > from {
			lines = append(lines, part[from:to]...)
			after = lines[len(lines)-1].Seq
		}
	}
	return lines, j.ended && after >= j.next-1, j.more
}

// Bytes is about what the journal holds.
func (j *Journal) Bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size[0] + j.size[1]
}
