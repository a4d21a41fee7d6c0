package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

const (
	linesAtOnce = 100              // are read from the journal for one who follows
	quietTime   = 15 * time.Second // after which an empty line is sent
	writeTime   = time.Minute      // that a reader may take to accept some lines
)

// Stream hands on what is in a journal from a number on, and what comes, one JSON object a line, until the journal or the context
// ends. For a reader that is slow, nothing is kept but its place.
func Stream(ctx context.Context, w http.ResponseWriter, j *Journal, after int64, stay bool) {
	out := &lines{w: w, rc: http.NewResponseController(w)}
	defer context.AfterFunc(ctx, out.cut)() // a write that waits for its reader
	out.follow(ctx, j, after, stay)
}

// lines writes lines to one who follows.
type lines struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// cut ends a write that waits.
func (l *lines) cut() { _ = l.rc.SetWriteDeadline(time.Unix(1, 0)) }

func (l *lines) follow(ctx context.Context, j *Journal, after int64, stay bool) {
	quiet := time.NewTicker(quietTime)
	defer quiet.Stop()
	if !l.write(ctx, []byte("\n")) { // the head goes out before there is anything to say
		return
	}
	for {
		batch, ended, more := j.Read(after, linesAtOnce)
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		for _, line := range batch {
			_ = enc.Encode(line) // into memory, of values that are ours
			after = line.Seq
		}
		if text.Len() > 0 && !l.write(ctx, text.Bytes()) {
			return
		}
		if ended || len(batch) == 0 && !stay {
			return
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-more:
		case <-quiet.C:
			if !l.write(ctx, []byte("\n")) {
				return
			}
		}
	}
}

func (l *lines) write(ctx context.Context, p []byte) bool {
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer can; then there is no deadline
	if ctx.Err() != nil {                                // and not after cut, which would be undone
		return false
	}
	if _, err := l.w.Write(p); err != nil {
		return false
	}
	return l.rc.Flush() == nil
}

// Followers are those who follow one build.
type Followers struct {
	mu   sync.Mutex // covers what follows
	last int64
	all  map[int64]follower
}

type follower struct {
	who api.BuildFollower
	end context.CancelCauseFunc
}

var errRevoked = errors.New("whoever follows may not any more")

// Add counts somebody in, if there are not too many; remove must be called once.
func (f *Followers) Add(who api.BuildFollower, most int, end context.CancelCauseFunc) (remove func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) >= most {
		return nil, false
	}
	if f.all == nil {
		f.all = map[int64]follower{}
	}
	f.last++
	id := f.last
	who.ID = id
	f.all[id] = follower{who, end}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.all, id)
	}, true
}

// List is who follows, for the api role to say who may not any more.
func (f *Followers) List() []api.BuildFollower {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]api.BuildFollower, 0, len(f.all))
	for _, one := range f.all {
		list = append(list, one.who)
	}
	return list
}

// Revoke ends the following of some.
func (f *Followers) Revoke(ids []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if one, ok := f.all[id]; ok {
			one.end(errRevoked)
		}
	}
}
