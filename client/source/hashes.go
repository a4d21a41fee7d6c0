package source

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Hashes remembers the SHA-256 of files from one push to the next. A file is taken for unchanged when its size, both of its times
// and its place on the disk are: an edit that puts the time of the last change back still moves the other one, which nobody can
// set. What was changed within moments of being read is not remembered at all: another change in the same tick of the file
// system's clock would not show. A nil *Hashes remembers nothing.
type Hashes struct {
	file string

	mu    sync.Mutex // covers what follows
	old   map[string]hash
	now   map[string]hash // of this push; only these are kept
	fresh bool            // something was learnt
}

type hash struct {
	stamp stamp
	sum   string
}

// stamp is what tells that a file is unchanged.
type stamp struct {
	size, modified, changed int64 // bytes, nanoseconds
	device, inode           uint64
}

const (
	// settled is how old a file's last change must be when it is read.
	settled    = 2 * time.Second
	hashesHead = "roadstead hashes 1"
)

// LoadHashes reads what an earlier push of the project in a directory remembered; nothing when there is none, or it cannot be read.
func LoadHashes(cache, dir string) *Hashes {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil
	}
	name := sha256.Sum256([]byte(abs))
	h := &Hashes{file: filepath.Join(cache, "hashes", hex.EncodeToString(name[:16])), old: map[string]hash{}, now: map[string]hash{}}
	f, err := os.Open(h.file)
	if err != nil {
		return h
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	if !scan.Scan() || scan.Text() != hashesHead {
		return h
	}
	for scan.Scan() {
		var one hash
		var path string
		s := &one.stamp
		if n, err := fmt.Sscanf(scan.Text(), "%d %d %d %d %d %s %q", &s.size, &s.modified, &s.changed, &s.device, &s.inode, &one.sum, &path); n == 7 && err == nil {
			h.old[path] = one
		}
	}
	return h
}

// Save writes down what this push has learnt.
func (h *Hashes) Save() error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.fresh && len(h.now) == len(h.old) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(h.file), 0o700); err != nil {
		return fmt.Errorf("remember the project's files: %w", err)
	}
	var text strings.Builder
	text.WriteString(hashesHead + "\n")
	for path, one := range h.now {
		s := one.stamp
		fmt.Fprintf(&text, "%d %d %d %d %d %s %q\n", s.size, s.modified, s.changed, s.device, s.inode, one.sum, path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(h.file), "new-")
	if err != nil {
		return fmt.Errorf("remember the project's files: %w", err)
	}
	_, err = tmp.WriteString(text.String())
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), h.file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remember the project's files: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

func (h *Hashes) known(path string, info fs.FileInfo) (string, bool) {
	s, ok := stampOf(info)
	if h == nil || !ok {
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	one, ok := h.old[path]
	if !ok || one.stamp != s || len(one.sum) != 2*sha256.Size {
		return "", false
	}
	h.now[path] = one
	return one.sum, true
}

func (h *Hashes) learn(path string, info fs.FileInfo, sum string) {
	s, ok := stampOf(info)
	if h == nil || !ok || time.Since(time.Unix(0, max(s.modified, s.changed))) < settled {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now[path] = hash{s, sum}
	h.fresh = true
}
