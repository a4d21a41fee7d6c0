package shell

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
)

// recorder writes down what a session shows, as asciicast version 2, into a file of its own. What is typed is not written down: it may be
// a password. A nil recorder does nothing.
type recorder struct {
	log   *slog.Logger
	path  string
	begun time.Time

	mu    sync.Mutex // covers what follows; the file is written under it
	file  *os.File
	size  int
	full  bool
	rest  []byte // the beginning of a character whose end has not come yet
	shown bool   // the head is written
}

func newRecorder(stateDir string, session int64, log *slog.Logger) *recorder {
	dir := filepath.Join(stateDir, recordings)
	r := &recorder{log: log, begun: time.Now(), path: filepath.Join(dir, fmt.Sprintf("%d.cast", session))}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		r.file, err = os.OpenFile(r.path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	}
	if err != nil {
		log.Error("an SSH session cannot be recorded", "error", err)
		r.full = true
	}
	return r
}

// head begins the recording with the size of the first terminal.
func (r *recorder) head(cols, rows uint32) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(cols, rows)
}

func (r *recorder) begin(cols, rows uint32) {
	if r.shown {
		return
	}
	r.shown = true
	r.line(map[string]any{"version": 2, "width": max(1, cols), "height": max(1, rows), "timestamp": r.begun.Unix()})
}

// Write takes what was shown.
func (r *recorder) Write(p []byte) (int, error) {
	if r == nil {
		return len(p), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(80, 24)
	text := append(r.rest, p...)
	cut := len(text)
	for back := 1; back <= min(utf8.UTFMax-1, len(text)); back++ {
		if c := text[len(text)-back]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(text[len(text)-back:]) {
				cut = len(text) - back
			}
			break
		}
	}
	r.rest = append([]byte(nil), text[cut:]...)
	if cut > 0 {
		r.line([]any{time.Since(r.begun).Seconds(), "o", string(text[:cut])})
	}
	return len(p), nil
}

// line writes one line while there is room, and says where there is no more.
func (r *recorder) line(v any) {
	if r.full {
		return
	}
	data, err := json.Marshal(v)
	if err != nil {
		return // texts and numbers do not fail
	}
	if r.size+len(data) > api.MaxSSHRecording-200 {
		r.full = true
		data, _ = json.Marshal([]any{time.Since(r.begun).Seconds(), "m", "the recording ends here: it is full"})
	}
	n, err := r.file.Write(append(data, '\n'))
	r.size += n
	if err != nil {
		r.full = true
		r.log.Error("an SSH session cannot be recorded any further", "error", err)
	}
}

// finish gives the whole and removes it from the device; nil when there is none.
func (r *recorder) finish() []byte {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = true
	if r.file == nil {
		return nil
	}
	_ = r.file.Close()
	data, err := os.ReadFile(r.path)
	if err != nil {
		r.log.Error("read the recording of an SSH session", "error", err)
	}
	_ = os.Remove(r.path)
	return data
}
