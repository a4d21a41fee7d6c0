// Package seen keeps what was seen of a transparency log: the checkpoint that was audited last, and the subtrees of which its tree consists, from
// which the root of a longer log is worked out by its new entries alone.
package seen

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"

	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

// Log is what was seen of one.
type Log struct {
	Key        api.TrustLogKey `json:"key"`
	Checkpoint string          `json:"checkpoint"` // the note
	Size       int64           `json:"size"`
	Subtrees   []string        `json:"subtrees"` // hashes, largest first; hex

	hashes []tlog.Hash
	path   string
}

// Load reads what is kept in a file. Without it, the log was never seen: that is the empty one.
func Load(key api.TrustLogKey, path string) (*Log, error) {
	s := &Log{Key: key, path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; put it back from a backup", path, err)
	}
	if s.Key != key {
		return nil, fmt.Errorf("the log's key is %s now, and was %s when it was audited (%s): two logs, or a server that was set up anew. Trust it only when you know why", key.Key, s.Key.Key, path)
	}
	if s.Size < 0 || len(s.Subtrees) != bits.OnesCount64(uint64(s.Size)) { //nolint:gosec // not negative
		return nil, fmt.Errorf("%s is damaged: %d entries are not %d subtrees; put it back from a backup", path, s.Size, len(s.Subtrees))
	}
	for _, text := range s.Subtrees {
		h, err := ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", path, err)
		}
		s.hashes = append(s.hashes, h)
	}
	if s.Size > 0 {
		c, _, err := tlog.Open(s.Checkpoint, key)
		if err != nil || c.Size != s.Size || c.Root != s.Root() {
			return nil, fmt.Errorf("%s is damaged: it does not fit its own checkpoint", path)
		}
	}
	return s, nil
}

// ParseHash reads a hash of a tree in hexadecimal.
func ParseHash(text string) (h tlog.Hash, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("%q is no hash", text)
	}
	return tlog.Hash(raw), nil
}

// Path is where it is kept.
func (s *Log) Path() string { return s.path }

// Add appends a leaf: two subtrees of a size become one.
func (s *Log) Add(leaf tlog.Hash) {
	for n := s.Size; n&1 == 1; n >>= 1 {
		leaf = xtlog.NodeHash(s.hashes[len(s.hashes)-1], leaf)
		s.hashes = s.hashes[:len(s.hashes)-1]
	}
	s.hashes = append(s.hashes, leaf)
	s.Size++
}

// Root is that of all leaves so far, of which there must be one.
func (s *Log) Root() (root tlog.Hash) {
	for i := len(s.hashes) - 1; i >= 0; i-- {
		if i == len(s.hashes)-1 {
			root = s.hashes[i]
		} else {
			root = xtlog.NodeHash(s.hashes[i], root)
		}
	}
	return root
}

// State is the checkpoint that was seen, or the empty one.
func (s *Log) State() tlog.Checkpoint {
	if s.Size == 0 {
		return tlog.Checkpoint{}
	}
	return tlog.Checkpoint{Origin: s.Key.Origin, Size: s.Size, Root: s.Root()}
}

// Save keeps it, with the checkpoint's note.
func (s *Log) Save(note string) error {
	s.Checkpoint, s.Subtrees = note, nil
	for _, h := range s.hashes {
		s.Subtrees = append(s.Subtrees, hex.EncodeToString(h[:]))
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return fmt.Errorf("keep what was seen: %w", err)
	}
	if err := durable.WriteFile(s.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep what was seen: %w", err)
	}
	return nil
}
