package builder

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// stream sends build events as one JSON array, each element as it happens. A client that stops reading is given up.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu   sync.Mutex // covers what follows, and writing
	n    int        // elements sent
	done bool       // closed or broken
}

// writeTime is how long a client may take to accept one event.
const writeTime = time.Minute

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return &stream{w: w, rc: http.NewResponseController(w)}
}

// event sends one element. It reports false when nobody listens any more.
func (s *stream) event(e api.BuildEvent) bool {
	text, err := json.Marshal(e)
	if err != nil {
		return true // a value that does not marshal is ours alone to make, and we make none
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	separator := ",\n"
	if s.n == 0 {
		separator = "[\n"
	}
	s.n++
	return s.write(append([]byte(separator), text...))
}

// beat sends white space, which an array may hold anywhere, so that nobody on the way takes a long step for a dead connection.
func (s *stream) beat() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return !s.done
	}
	return s.write([]byte("\n"))
}

// close ends the array.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := "\n]\n"
	if s.n == 0 {
		end = "[]\n"
	}
	s.write([]byte(end))
	s.done = true
}

func (s *stream) write(p []byte) bool {
	if s.done {
		return false
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer can; then there is no deadline
	if _, err := s.w.Write(p); err != nil || s.rc.Flush() != nil {
		s.done = true
		return false
	}
	return true
}
