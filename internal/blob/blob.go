// Package blob keeps the files that people upload, beside the database: each is written once, whole, under a random name, and is
// then only read and removed. Rows of the database say which blobs there are; a blob that no row names is swept. Bytes leave and
// large ones come in through signed addresses that need no token.
package blob

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// Config says where blobs are kept and how much of it.
type Config struct {
	Dir    string           // made when it is not there; every process that serves the blobs has the same one
	Secret []byte           // keys the signed addresses; the same in every process
	Base   string           // what signed addresses begin with, such as "https://api.example.com/blobs/"
	Max    int64            // bytes of one blob; 0 means 2 GiB
	Spare  int64            // bytes that stay free on the disk for everything else; 0 means 256 MiB
	Now    func() time.Time // nil: the clock
}

const (
	defaultMax   = 2 << 30
	defaultSpare = 256 << 20
	// uploads is the folder of what is not whole yet. Backups leave out folders of this name.
	uploads = "_uploads"
)

// Store is a directory of blobs. It is safe for concurrent use, also by several processes.
type Store struct {
	cfg  Config
	root *os.Root // nothing outside of the directory is reached, whatever a name says
}

// Info is what is known of a blob once it is whole.
type Info struct {
	ID       string
	Size     int64
	Checksum string // SHA-256, in hexadecimal
}

// Open opens a store and makes its directory.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" || len(cfg.Secret) < 16 {
		return nil, errors.New("blob: needs a directory and a secret of at least 16 bytes")
	}
	if cfg.Max == 0 {
		cfg.Max = defaultMax
	}
	if cfg.Spare == 0 {
		cfg.Spare = defaultSpare
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, uploads), 0o700); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	return &Store{cfg: cfg, root: root}, nil
}

// Close lets go of the directory.
func (s *Store) Close() error { return s.root.Close() }

// Max is how many bytes one blob may have.
func (s *Store) Max() int64 { return s.cfg.Max }

// newID makes a name that nobody guesses: 128 random bits in hexadecimal.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// valid tells names that this package made from everything else.
func valid(id string) bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// place is where a blob lies: in one of 256 folders.
func place(id string) string { return id[:2] + "/" + id }

// Put keeps what a reader gives, at most limit bytes of it. When it returns, the blob is on the disk under its name.
func (s *Store) Put(ctx context.Context, r io.Reader, limit int64) (Info, error) {
	limit = min(limit, s.cfg.Max)
	if err := s.room(0); err != nil {
		return Info{}, err
	}
	id := newID()
	tmp := uploads + "/put-" + id
	f, err := s.root.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, fmt.Errorf("blob: %w", err)
	}
	sum := sha256.New()
	n, err := copyBounded(ctx, io.MultiWriter(f, sum), r, limit)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.settle(tmp, id)
	}
	if err != nil {
		_ = s.root.Remove(tmp) // swept later if this fails too
		return Info{}, full(err)
	}
	return Info{ID: id, Size: n, Checksum: hex.EncodeToString(sum.Sum(nil))}, nil
}

// copyBounded copies until the reader ends, and refuses one that goes on beyond the limit.
func copyBounded(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}), limit+1))
	if err == nil && n > limit {
		err = api.Errorf(api.TooLarge, "the file is larger than %d bytes", limit)
	}
	return n, err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// settle gives a file that is whole and on the disk its name.
func (s *Store) settle(tmp, id string) error {
	if err := s.root.Mkdir(id[:2], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	now := s.cfg.Now() // its age counts from here: the row that names it is only now to be written
	if err := s.root.Chtimes(tmp, now, now); err != nil {
		return err
	}
	if err := s.root.Rename(tmp, place(id)); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Join(s.cfg.Dir, id[:2])), durable.SyncDir(s.cfg.Dir))
}

// Open gives a blob's bytes. The caller closes it.
func (s *Store) Open(id string) (*os.File, error) {
	if !valid(id) {
		return nil, api.ErrNotFound
	}
	f, err := s.root.Open(place(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.ErrNotFound
	}
	return f, err
}

// Remove deletes a blob. One that is not there is no error.
func (s *Store) Remove(id string) error {
	if !valid(id) {
		return nil
	}
	if err := s.root.Remove(place(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob: %w", err)
	}
	return nil
}

// room refuses what would fill the disk that the database is on.
func (s *Store) room(size int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.cfg.Dir, &st); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:gosec,unconvert // blocks of a disk; their types differ between systems
	if free-size < s.cfg.Spare {
		return api.Errorf(api.Unavailable, "the server's disk has no room for the file")
	}
	return nil
}

// full says in our words that the disk is.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errors.Join(api.Errorf(api.Unavailable, "the server's disk is full"), err)
	}
	return err
}

// Sweep removes what is older than age and not wanted: uploads that nobody finished, and blobs that keep does not know. Age must be
// longer than the time between a blob's end and the commit of the row that names it. It reports how many blobs it removed.
func (s *Store) Sweep(ctx context.Context, age time.Duration, keep func(id string) bool) (removed int, err error) {
	before := s.cfg.Now().Add(-age)
	old := func(e fs.DirEntry) bool {
		info, err := e.Info()
		return err == nil && info.ModTime().Before(before)
	}
	entries, err := fs.ReadDir(s.root.FS(), uploads)
	if err != nil {
		return 0, fmt.Errorf("blob: sweep: %w", err)
	}
	for _, e := range entries {
		if old(e) && s.idle(e, before) {
			err = errors.Join(err, s.root.RemoveAll(uploads+"/"+e.Name()))
		}
	}
	shards, readErr := fs.ReadDir(s.root.FS(), ".")
	err = errors.Join(err, readErr)
	for _, shard := range shards {
		if len(shard.Name()) != 2 || !shard.IsDir() {
			continue
		}
		blobs, readErr := fs.ReadDir(s.root.FS(), shard.Name())
		err = errors.Join(err, readErr)
		for _, e := range blobs {
			if ctx.Err() != nil {
				return removed, errors.Join(err, ctx.Err())
			}
			if valid(e.Name()) && old(e) && !keep(e.Name()) {
				err = errors.Join(err, s.Remove(e.Name()))
				removed++
			}
		}
	}
	if err != nil {
		return removed, fmt.Errorf("blob: sweep: %w", err)
	}
	return removed, nil
}

// mac signs the parts of an address; the first says what it is for.
func (s *Store) mac(parts ...string) string {
	h := hmac.New(func() hash.Hash { return sha256.New() }, s.cfg.Secret)
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p) // with its length: no two lists of parts sign alike
	}
	return hex.EncodeToString(h.Sum(nil))
}
