package durable

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"sync"
	"syscall"
)

// Reserve is room on a disk that others fill: a file that is given up when something small must be written and there is no other room. What is written replaces what was
// there, so most of the room is free again afterwards, and the reserve takes it back.
type Reserve struct {
	path string
	size int
	mu   sync.Mutex // held during a write, so that nobody takes the room which another one was given
}

// NewReserve has so many bytes in a file. Nothing is written yet.
func NewReserve(path string, size int) *Reserve { return &Reserve{path: path, size: size} }

// WriteFile is [WriteFile] with the reserve.
func (r *Reserve) WriteFile(path string, data []byte, perm fs.FileMode) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := WriteFile(path, data, perm)
	if full(err) && os.Remove(r.path) == nil {
		err = WriteFile(path, data, perm)
	}
	if err == nil {
		r.keep()
	}
	return err
}

// Keep makes the file if there is room for it.
func (r *Reserve) Keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep()
}

func (r *Reserve) keep() {
	if info, err := os.Lstat(r.path); err == nil && info.Size() == int64(r.size) {
		return
	}
	text := make([]byte, r.size) // no zeros, of which some file systems store nothing
	_, _ = rand.Read(text)       // never fails, see crypto/rand
	if os.WriteFile(r.path, text, 0o600) != nil {
		_ = os.Remove(r.path) // part of it is needed by others now
	}
}

// full says that a disk has no room, or its user may have no more.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
