// Package upload keeps the contents of pushed files by their SHA-256, so that the next push of a project sends only what has
// changed. Each fleet has a shelf of its own and is asked only about that one: neither another organization, nor a member who may
// push to another fleet only, learns what a project holds. What is kept is bounded for each organization and in all; what was used
// longest ago goes first.
package upload

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
)

// Limits bounds what is kept. What running builds need is kept beyond them.
type Limits struct {
	Organization int64 // bytes
	All          int64 // bytes
}

// Store is the directory of all shelves. It is safe for concurrent use.
type Store struct {
	dir string
	lim Limits
	log *slog.Logger

	mu   sync.Mutex       // covers what follows; held while things are evicted, never while contents arrive
	size map[string]int64 // by organization's directory
	pins map[string]int   // by file: how many builds need it
}

// Shelf is what is kept of one fleet.
type Shelf struct {
	store *Store
	owner string // directory of the organization
	dir   string
}

const (
	tempPrefix = "tmp-"
	cleanFile  = "clean"
	// usedEvery is how exactly it is kept when something was used last.
	usedEvery = 10 * time.Minute
	bootFile  = "/proc/sys/kernel/random/boot_id"
)

// Open takes a directory over that nobody else uses, or makes it. What an earlier process left half done is removed; and
// everything, if the machine went down under it: a file may then have a name that its content does not deserve.
func Open(dir string, lim Limits, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, lim: lim, log: log, size: map[string]int64{}, pins: map[string]int{}}
	mark := filepath.Join(dir, cleanFile)
	was, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the store of sources: %w", err)
	}
	if string(was) != "closed" && string(was) != boot() {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("clear the store of sources: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the store of sources: %w", err)
	}
	if err := os.WriteFile(mark, []byte(boot()), 0o600); err != nil {
		return nil, fmt.Errorf("open the store of sources: %w", err)
	}
	for _, b := range s.walk(dir) {
		if b.temp {
			_ = os.Remove(b.file)
			continue
		}
		s.size[b.owner(dir)] += b.size
	}
	return s, nil
}

// boot tells one run of the machine from another.
func boot() string {
	text, err := os.ReadFile(bootFile)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// Close notes that all is on the disk.
func (s *Store) Close() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("close the store of sources: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("close the store of sources: %w", err)
	}
	return os.WriteFile(filepath.Join(s.dir, cleanFile), []byte("closed"), 0o600)
}

// Shelf is that of one fleet in one organization.
func (s *Store) Shelf(organization, fleet int64) *Shelf {
	owner := filepath.Join(s.dir, strconv.FormatInt(organization, 10))
	return &Shelf{store: s, owner: owner, dir: filepath.Join(owner, strconv.FormatInt(fleet, 10))}
}

// file is where a content is, whose name source.Manifest has checked.
func (h *Shelf) file(sum string) string { return filepath.Join(h.dir, sum[:2], sum[2:]) }

// Hold keeps the contents of a manifest from being evicted until [Shelf.Release], and gives those that are missing, with their
// sizes. One that is kept with another size than the manifest says counts as missing: putting it will fail.
func (h *Shelf) Hold(m *source.Manifest) (missing map[string]int64) {
	missing = map[string]int64{}
	seen := map[string]bool{}
	now := time.Now()
	for _, e := range m.Entries() {
		if e.SHA256 == "" || seen[e.SHA256] {
			continue
		}
		seen[e.SHA256] = true
		file := h.file(e.SHA256)
		h.store.mu.Lock()
		h.store.pins[file]++
		h.store.mu.Unlock()
		st, err := os.Stat(file)
		if err != nil || st.Size() != e.Size {
			missing[e.SHA256] = e.Size
			continue
		}
		if now.Sub(usedAt(st)) > usedEvery {
			_ = os.Chtimes(file, now, time.Time{}) // only when it would be evicted
		}
	}
	return missing
}

// Release ends a Hold of the same manifest.
func (h *Shelf) Release(m *source.Manifest) {
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range m.Entries() {
		if e.SHA256 == "" || seen[e.SHA256] {
			continue
		}
		seen[e.SHA256] = true
		file := h.file(e.SHA256)
		if s.pins[file]--; s.pins[file] <= 0 {
			delete(s.pins, file)
		}
	}
	s.evict(h.owner)
}

// Put takes a content in, whose size and SHA-256 must be what they are said to be. Nothing of it is kept otherwise.
func (h *Shelf) Put(sum string, size int64, r io.Reader) error {
	file := h.file(sum)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep a file of the source: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix)
	if err != nil {
		return fmt.Errorf("keep a file of the source: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails once it has its name
	hash := sha256.New()
	n, err := io.CopyN(io.MultiWriter(f, hash), r, size)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(hash.Sum(nil)) != sum {
		return api.Errorf(api.Invalid, "what was sent for the SHA-256 %s is something else; was a file changed while it was sent?", sum)
	}
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = os.Lstat(file)
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("keep a file of the source: %w", err)
	}
	if err != nil {
		s.size[h.owner] += n
	}
	s.evict(h.owner)
	return nil
}

// Lay puts a kept content into a source tree. Where it is kept with the very attributes that are asked for, the tree gets another
// name of the same file, which costs nothing; else a copy, which is what is kept from then on.
func (h *Shelf) Lay(root *os.Root, dir string, e api.SourceEntry) error {
	if e.SHA256 == "" {
		return write(root, e)
	}
	kept, target := h.file(e.SHA256), filepath.Join(dir, filepath.FromSlash(e.Path))
	st, err := os.Stat(kept)
	if err != nil {
		return fmt.Errorf("a file of the source is gone: %w", err)
	}
	if st.Mode().Perm() == source.Mode(e) && st.ModTime().Equal(time.Unix(e.Time, 0)) && os.Link(kept, target) == nil {
		return nil // the parts of the path are directories that we made, and the last is new
	}
	if err := copyTo(root, e, kept); err != nil {
		return err
	}
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	again := kept + ".new"
	_ = os.Remove(again)
	if os.Link(target, again) == nil {
		_ = os.Rename(again, kept)
	}
	return nil
}

func copyTo(root *os.Root, e api.SourceEntry, kept string) error {
	in, err := os.Open(kept)
	if err != nil {
		return err
	}
	defer in.Close()
	return fill(root, e, in)
}

func write(root *os.Root, e api.SourceEntry) error {
	return fill(root, e, strings.NewReader(string(e.Data)))
}

func fill(root *os.Root, e api.SourceEntry, content io.Reader) error {
	f, err := root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(source.Mode(e)), f.Close()); err != nil {
		return err
	}
	return root.Chtimes(e.Path, time.Time{}, time.Unix(e.Time, 0))
}

// blob is one file of the store.
type blob struct {
	file string
	size int64
	used time.Time
	temp bool
}

func (b blob) owner(dir string) string {
	rel, _ := filepath.Rel(dir, b.file)
	first, _, _ := strings.Cut(rel, string(filepath.Separator))
	return filepath.Join(dir, first)
}

func (s *Store) walk(dir string) (list []blob) {
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == cleanFile {
			return nil
		}
		if st, err := d.Info(); err == nil {
			temp := strings.HasPrefix(d.Name(), tempPrefix) || strings.HasSuffix(d.Name(), ".new")
			list = append(list, blob{file: p, size: st.Size(), used: usedAt(st), temp: temp})
		}
		return nil
	})
	return list
}

// evict removes what was used longest ago of an organization that has more than its share, and of all if there is more than may be.
func (s *Store) evict(owner string) {
	if s.size[owner] > s.lim.Organization {
		s.shrink(owner, s.size[owner]-s.lim.Organization*9/10)
	}
	var all int64
	for _, n := range s.size {
		all += n
	}
	if all > s.lim.All {
		s.shrink(s.dir, all-s.lim.All*9/10)
	}
}

func (s *Store) shrink(dir string, by int64) {
	list := s.walk(dir)
	slices.SortFunc(list, func(a, b blob) int { return a.used.Compare(b.used) })
	for _, b := range list {
		if by <= 0 {
			return
		}
		if b.temp || s.pins[b.file] > 0 || os.Remove(b.file) != nil {
			continue
		}
		by -= b.size
		s.size[b.owner(s.dir)] -= b.size
	}
	s.log.Debug("running builds need more sources than may be kept", "dir", dir, "bytes", by)
}

// usedAt is the time of a file's last use, which we set ourselves.
func usedAt(st fs.FileInfo) time.Time {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return time.Unix(sys.Atim.Unix())
	}
	return st.ModTime()
}
