package quarantine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Config says where the quarantine is, and how much may lie in it.
type Config struct {
	Dir string
	// MaxBytes is how much one repository may hold, uploads included; 0 means 8 GiB.
	MaxBytes int64
	// Room reports whether the disk has room for some bytes more; nil: it always has.
	Room func(n int64) bool
	Log  *slog.Logger
	Now  func() time.Time // nil: the clock
}

// Bounds of one repository.
const (
	maxUploads   = 64
	maxManifests = 64
	maxBlobs     = 2048
	maxManifest  = 4 << 20 // bytes
	// life is how long a repository stays into which nothing is written any more: longer than any release is being pushed.
	life       = 24 * time.Hour
	sweepEvery = time.Hour
)

// Store is the quarantine.
type Store struct {
	cfg Config

	mu    sync.Mutex             // covers what follows; no I/O of a client's under it
	repos map[string]*repository // those in use
}

// repository is one of them, as far as this process knows. Its lock covers its counts and the names of its files, not their bytes.
type repository struct {
	dir string

	mu      sync.Mutex
	known   bool  // what follows was counted
	bytes   int64 // of everything in it
	blobs   int
	uploads map[string]*upload
	closed  bool
}

// upload is one blob on its way in.
type upload struct {
	file string
	busy bool // a request writes to it; covered by the repository's lock

	size int64 // these two belong to the request that made it busy
	sum  hash.Hash
}

// Errors of a repository, each with an answer of the protocol in serve.go.
var (
	errClosed  = errors.New("this repository takes nothing any more: its release is being checked, or has ended")
	errFull    = errors.New("this is more than a release that is pushed may hold")
	errMany    = errors.New("there are too many of them here already")
	errBusy    = errors.New("another request writes to this upload")
	errUnknown = errors.New("unknown to this repository")
	errDigest  = errors.New("the bytes do not have this digest")
	errNoRoom  = errors.New("the registry's disk is full")
)

// Open makes the directory.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 8 << 30
	}
	if cfg.Room == nil {
		cfg.Room = func(int64) bool { return true }
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("quarantine: %w", err)
	}
	return &Store{cfg: cfg, repos: map[string]*repository{}}, nil
}

// Run sweeps until the context ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery/2 + mathrand.N(sweepEvery)):
		}
		if err := s.RunOnce(); err != nil {
			s.cfg.Log.ErrorContext(ctx, "the quarantine could not be swept", "error", err)
		}
	}
}

// RunOnce removes the repositories into which nothing was written for a day, whatever became of their releases.
func (s *Store) RunOnce() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	var failed []error
	for _, e := range entries {
		dir := filepath.Join(s.cfg.Dir, e.Name())
		if s.cfg.Now().Sub(newest(dir)) < life {
			continue
		}
		r := s.repository(e.Name())
		r.mu.Lock()
		busy := false
		for _, u := range r.uploads {
			busy = busy || u.busy
		}
		if !busy {
			failed = append(failed, os.RemoveAll(dir))
			r.known, r.closed = false, false
		}
		r.mu.Unlock()
		s.mu.Lock()
		if !busy {
			delete(s.repos, e.Name())
		}
		s.mu.Unlock()
	}
	return errors.Join(failed...)
}

// newest is when something was last written below a directory.
func newest(dir string) (at time.Time) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it is going away: the others count
		}
		if info, err := d.Info(); err == nil && info.ModTime().After(at) {
			at = info.ModTime()
		}
		return nil
	})
	return at
}

// Directories and files of a repository.
const (
	blobsDir     = "blobs"
	uploadsDir   = "uploads"
	manifestsDir = "manifests"
	tagsDir      = "tags"
	closedFile   = "closed"
)

func (s *Store) repository(name string) *repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = &repository{dir: filepath.Join(s.cfg.Dir, name)}
		s.repos[name] = r
	}
	return r
}

// count finds out what is there already; the lock is held. Uploads that an earlier process began are continued.
func (r *repository) count() error {
	if r.known {
		return nil
	}
	r.bytes, r.blobs, r.uploads = 0, 0, map[string]*upload{}
	_, err := os.Stat(filepath.Join(r.dir, closedFile))
	r.closed = err == nil
	for _, dir := range []string{blobsDir, uploadsDir, manifestsDir} {
		entries, err := os.ReadDir(filepath.Join(r.dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			r.bytes += info.Size()
			switch dir {
			case blobsDir:
				r.blobs++
			case uploadsDir:
				r.uploads[e.Name()] = &upload{file: filepath.Join(r.dir, uploadsDir, e.Name()), size: info.Size()}
			}
		}
	}
	r.known = true
	return nil
}

// open makes room for a blob.
func (s *Store) open(r *repository) (id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.count(); err != nil {
		return "", err
	}
	switch {
	case r.closed:
		return "", errClosed
	case len(r.uploads) >= maxUploads, r.blobs >= maxBlobs:
		return "", errMany
	case !s.cfg.Room(0):
		return "", errNoRoom
	}
	for _, dir := range []string{blobsDir, uploadsDir, manifestsDir, tagsDir} {
		if err := os.MkdirAll(filepath.Join(r.dir, dir), 0o700); err != nil {
			return "", err
		}
	}
	id = rand.Text()
	u := &upload{file: filepath.Join(r.dir, uploadsDir, id), sum: sha256.New()}
	if err := os.WriteFile(u.file, nil, 0o600); err != nil {
		return "", err
	}
	r.uploads[id] = u
	return id, nil
}

// take gives an upload to one request; release gives it back.
func (r *repository) take(id string) (*upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.count(); err != nil {
		return nil, err
	}
	u := r.uploads[id]
	switch {
	case r.closed:
		return nil, errClosed
	case u == nil:
		return nil, errUnknown
	case u.busy:
		return nil, errBusy
	}
	u.busy = true
	return u, nil
}

func (r *repository) release(u *upload) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.busy = false
}

// reserve counts bytes in before they are written.
func (s *Store) reserve(r *repository, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return errClosed
	case r.bytes+n > s.cfg.MaxBytes:
		return errFull
	case !s.cfg.Room(n):
		return errNoRoom
	}
	r.bytes += n
	return nil
}

const piece = 1 << 20 // bytes that are written at a time

// add appends to an upload that was taken. What is written stays when it breaks off: the client may go on.
func (s *Store) add(r *repository, u *upload, from io.Reader) error {
	if u.sum == nil { // another process began it
		f, err := os.Open(u.file)
		if err != nil {
			return err
		}
		u.sum = sha256.New()
		u.size, err = io.Copy(u.sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			u.sum = nil
			return err
		}
	}
	f, err := os.OpenFile(u.file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buffer := make([]byte, piece)
	for {
		n, readErr := io.ReadFull(from, buffer)
		if n > 0 {
			if err := s.reserve(r, int64(n)); err != nil {
				return err
			}
			written, err := f.Write(buffer[:n])
			u.sum.Write(buffer[:written]) // never fails, see hash.Hash
			u.size += int64(written)
			if err != nil {
				return err
			}
		}
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return nil
		case readErr != nil:
			return readErr
		}
	}
}

// finish makes an upload the blob that it claims to be.
func (r *repository) finish(id string, u *upload, digest string) error {
	if got := hex.EncodeToString(u.sum.Sum(nil)); got != digest {
		return errDigest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	name := filepath.Join(r.dir, blobsDir, digest)
	if _, err := os.Stat(name); err == nil {
		r.bytes -= u.size // it was there already
	} else {
		r.blobs++
	}
	if err := os.Rename(u.file, name); err != nil {
		return err
	}
	delete(r.uploads, id)
	return nil
}

// drop forgets an upload.
func (r *repository) drop(id string, u *upload) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes -= u.size
	delete(r.uploads, id)
	return os.Remove(u.file)
}

// putManifest keeps a manifest, and lets a tag mean it.
func (s *Store) putManifest(r *repository, digest, tag string, text []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.count(); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, manifestsDir))
	switch {
	case r.closed:
		return errClosed
	case errors.Is(err, fs.ErrNotExist):
		return errUnknown // nothing was uploaded, so it is of nothing
	case err != nil:
		return err
	case len(entries) >= maxManifests:
		return errMany
	case r.bytes+int64(len(text)) > s.cfg.MaxBytes:
		return errFull
	case !s.cfg.Room(int64(len(text))):
		return errNoRoom
	}
	r.bytes += int64(len(text))
	if err := os.WriteFile(filepath.Join(r.dir, manifestsDir, digest), text, 0o600); err != nil {
		return err
	}
	if tag == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(r.dir, tagsDir, tag), []byte(digest), 0o600)
}

// shut lets nothing more in. What a request is about to write it finds closed.
func (r *repository) shut() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shutLocked()
}

func (r *repository) shutLocked() error {
	if err := r.count(); err != nil {
		return err
	}
	r.closed = true
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, closedFile), nil, 0o600)
}

// empty removes everything, and leaves the repository closed until the sweep takes its name away: tokens for it may still live.
func (r *repository) empty() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.shutLocked(); err != nil {
		return err
	}
	var failed []error
	for _, dir := range []string{blobsDir, uploadsDir, manifestsDir, tagsDir} {
		failed = append(failed, os.RemoveAll(filepath.Join(r.dir, dir)))
	}
	r.bytes, r.blobs, r.uploads = 0, 0, map[string]*upload{}
	return errors.Join(failed...)
}
