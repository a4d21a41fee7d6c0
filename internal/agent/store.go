package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// memory is what survives a restart, in the file state.json. It is replaced as a whole: after a loss of power it is the old
// one or the new one.
type memory struct {
	ETag       string            `json:"etag"`
	Target     json.RawMessage   `json:"target"`         // the last one that could be used, as the server sent it
	NameAtInit string            `json:"name_at_init"`   // of the device when it was first seen
	Pulled     []string          `json:"pulled"`         // references by digest: the images that are ours to remove
	Applied    map[string]string `json:"applied"`        // fleet → commit of the release last applied in full
	Tags       map[string]string `json:"tags,omitempty"` // of this device, that the server is to get
}

type store struct {
	path string
	room *durable.Reserve
	mu   sync.Mutex // covers mem and the order of writes
	mem  memory
}

// openStore reads the file. One that cannot be read is as good as none: the server will say again what to run.
func openStore(dir string, room *durable.Reserve, log *slog.Logger) *store {
	s := &store{path: filepath.Join(dir, "state.json"), room: room}
	left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")) // of writes that a loss of power ended; the pattern is right
	for _, path := range left {
		_ = os.Remove(path) // it is only litter
	}
	text, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(text, &s.mem)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("the state file cannot be read; starting without it", "error", err)
		s.mem = memory{}
	}
	return s
}

func (s *store) get() memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mem
	m.Pulled, m.Tags = slices.Clone(m.Pulled), maps.Clone(m.Tags)
	return m
}

// change replaces the file when f changed something, before it returns. When that fails, nothing has changed.
func (s *store) change(f func(*memory)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := json.Marshal(s.mem)
	if err != nil {
		return err
	}
	f(&s.mem)
	after, err := json.Marshal(s.mem)
	if err != nil || string(before) == string(after) {
		return err
	}
	if err = s.room.WriteFile(s.path, after, 0o600); err != nil { // so the next change is one again
		s.mem = memory{}
		err = errors.Join(err, json.Unmarshal(before, &s.mem))
	}
	return err
}
