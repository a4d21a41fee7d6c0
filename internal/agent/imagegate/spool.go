package imagegate

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Bounds of what is kept on disk.
const (
	minKept   = 256 << 10 // a shorter layer is fetched again
	syncEvery = 8 << 20   // what a loss of power may take of a layer
	room      = 4         // times what is still to come of a layer must be free: the engine holds it packed and unpacked, too
	spare     = 64 << 20  // and this besides
)

// spool keeps layers on disk while they come, until their image is whole: what is cut off goes on from there, also after a loss of
// power. It lacks nothing that is not fetched again, so that nothing here fails a pull.
type spool struct {
	dir string // empty: nothing is kept
	log *slog.Logger

	mu    sync.Mutex               // covers what follows
	taken map[string]chan struct{} // by digest; closed when it is given back
}

// kept is a layer's file, which one request has.
type kept struct {
	spool  *spool
	digest string
	file   *os.File
	size   int64 // bytes of it that can be used; more are added behind
	fresh  int64 // bytes since the last sync
}

func (s *spool) path(digest string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:"))
}

// take opens what is kept of a layer. Who has it must give it back; others wait until then, or until done. It gives nil where nothing
// is to be kept, or can be.
func (s *spool) take(done <-chan struct{}, digest string, size int64) *kept {
	if s.dir == "" || size < minKept {
		return nil
	}
	s.mu.Lock()
	for s.taken[digest] != nil {
		other := s.taken[digest]
		s.mu.Unlock()
		select {
		case <-other:
		case <-done:
			return nil
		}
		s.mu.Lock()
	}
	if s.taken == nil {
		s.taken = map[string]chan struct{}{}
	}
	s.taken[digest] = make(chan struct{})
	s.mu.Unlock()
	k := &kept{spool: s, digest: digest}
	if err := k.open(size); err != nil {
		s.log.Warn("this layer is not kept while it comes", "layer", digest, "reason", err)
		k.drop()
		k.giveBack()
		return nil
	}
	return k
}

func (k *kept) open(size int64) error {
	err := os.MkdirAll(k.spool.dir, 0o700)
	if err == nil {
		k.file, err = os.OpenFile(k.spool.path(k.digest), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return err
	}
	info, err := k.file.Stat()
	if err != nil {
		return err
	}
	k.size = info.Size()
	if !info.Mode().IsRegular() || k.size > size {
		return errors.New("what was kept of it is no beginning of it")
	}
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(int(k.file.Fd()), &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < room*(size-k.size)+spare { //nolint:unconvert // int32 on arm
		return fmt.Errorf("%d MiB are free on the disk", free>>20)
	}
	return nil
}

// add keeps more bytes. When they cannot be kept nothing is kept any more.
func (k *kept) add(data []byte) {
	if k.file == nil {
		return
	}
	_, err := k.file.WriteAt(data, k.size)
	k.size += int64(len(data))
	if k.fresh += int64(len(data)); err == nil && k.fresh >= syncEvery {
		k.fresh = 0
		err = k.file.Sync()
	}
	if err != nil {
		k.spool.log.Warn("this layer is not kept any more while it comes", "layer", k.digest, "reason", err)
		k.drop()
	}
}

// drop removes what is kept.
func (k *kept) drop() {
	if k.file != nil {
		_ = k.file.Close()
		k.file = nil
	}
	_ = os.Remove(k.spool.path(k.digest))
}

func (k *kept) giveBack() {
	if k.file != nil {
		_ = k.file.Close()
	}
	k.spool.mu.Lock()
	defer k.spool.mu.Unlock()
	close(k.spool.taken[k.digest])
	delete(k.spool.taken, k.digest)
}

// forget removes what is kept of some layers, or of all. A request that has one of them goes on, and keeps nothing.
func (s *spool) forget(digests ...string) {
	if s.dir == "" {
		return
	}
	for _, digest := range digests {
		_ = os.Remove(s.path(digest))
	}
	if len(digests) == 0 {
		_ = os.RemoveAll(s.dir)
	}
}

// layer is a layer on its way: first what is kept of it, then what the registry sends, which is kept as it passes.
type layer struct {
	size int64 // of all of it
	at   int64 // how far it was read
	kept *kept // nil: nothing is kept
	had  int64 // bytes that were kept before
	ask  func(from int64) (io.ReadCloser, error)
	rest io.ReadCloser // nil before the registry was asked
}

// Read implements io.Reader.
func (l *layer) Read(p []byte) (n int, err error) {
	if l.at < l.had {
		n, err = l.kept.file.ReadAt(p[:min(int64(len(p)), l.had-l.at)], l.at)
		l.at += int64(n)
		if n > 0 {
			err = nil
		}
		return n, err
	}
	if l.rest == nil {
		if l.at == l.size {
			return 0, io.EOF
		}
		if l.rest, err = l.ask(l.at); err != nil {
			return 0, err
		}
	}
	n, err = l.rest.Read(p)
	if l.kept != nil {
		l.kept.add(p[:min(int64(n), l.size-l.at)])
	}
	l.at += int64(n)
	return n, err
}

// Close ends it; what was kept stays.
func (l *layer) Close() {
	if l.rest != nil {
		_ = l.rest.Close()
	}
	if l.kept != nil {
		l.kept.giveBack()
	}
}
