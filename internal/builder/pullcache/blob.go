package pullcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// flight is a blob that is being fetched, once for all who want it. They read what has come of it meanwhile.
type flight struct {
	from   *source
	cancel context.CancelFunc
	path   string
	file   *os.File

	mu      sync.Mutex // covers what follows
	more    *sync.Cond
	written int64
	done    bool
	err     error
}

// handle is a blob that somebody reads.
type handle struct {
	c      *Cache
	e      *entry
	to     course // of the flight
	file   *os.File
	flight *flight // nil when the blob was there
	size   int64
	ctx    context.Context // of the reader
	once   sync.Once
}

// open gives a blob of a repository: from the disk, or as it comes. It must be closed.
func (c *Cache) open(ctx context.Context, from *source, d digest.Digest, size int64) (*handle, error) {
	for _, scope := range []string{from.scope, public} {
		for again := true; again; { // what was damaged is gone then
			h, retry, err := c.take(ctx, key{scope, d.String()}, size)
			if h != nil || err != nil {
				return h, err
			}
			again = retry
		}
	}
	for {
		h, err := c.join(ctx, from, course{key{from.scope, d.String()}, from.name(), size})
		if !errors.Is(err, os.ErrNotExist) {
			return h, err
		}
		// It has arrived, or failed, at this moment.
		if h, _, err := c.take(ctx, key{from.scope, d.String()}, size); h != nil || err != nil {
			return h, err
		}
	}
}

// take opens a blob that is there.
func (c *Cache) take(ctx context.Context, k key, size int64) (h *handle, again bool, err error) {
	c.mu.Lock()
	e := c.entries[k]
	if e == nil {
		c.mu.Unlock()
		return nil, false, nil
	}
	if e.size != size {
		c.mu.Unlock()
		return nil, false, api.Errorf(api.Invalid, "%s has %d bytes, and not %d as the image says", k.name, e.size, size)
	}
	e.open++
	e.used = c.cfg.Now()
	used := e.used
	c.counts.Hits++
	c.mu.Unlock()
	if bad := e.checked(); bad != nil {
		c.damaged(k, e, bad)
		return nil, true, nil
	}
	_ = os.Chtimes(c.file(k), time.Time{}, used) // the order of use outlives this process
	h = &handle{c: c, e: e, size: size, ctx: ctx}
	if h.file, err = os.Open(c.file(k)); err != nil {
		h.Close()
		return nil, false, fmt.Errorf("pull cache: %w", err)
	}
	return h, false, nil
}

// damaged lets go of a blob that is not what it was.
func (c *Cache) damaged(k key, e *entry, why error) {
	c.log.Error("a blob of the pull cache was damaged; it is fetched again", "digest", k.name, "error", why)
	c.mu.Lock()
	defer c.mu.Unlock()
	e.open--
	if c.entries[k] == e {
		c.counts.Damaged++
	}
	if e.reserved {
		c.drop(k, e)
	}
}

// join reads a blob as it comes: it begins to fetch it, unless somebody has begun.
func (c *Cache) join(ctx context.Context, from *source, to course) (*handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.flights[to]
	if e == nil {
		file, err := os.CreateTemp(c.partial(), "")
		if err != nil {
			return nil, fmt.Errorf("pull cache: %w", err)
		}
		life, cancel := context.WithCancel(c.life)
		f := &flight{from: from, cancel: cancel, path: file.Name(), file: file}
		f.more = sync.NewCond(&f.mu)
		e = &entry{size: to.size, used: c.cfg.Now(), flight: f}
		c.flights[to] = e
		c.counts.Misses++
		c.all.Go(func() { c.fly(life, to, e, f) })
	}
	file, err := os.Open(e.flight.path)
	if err != nil {
		return nil, err
	}
	e.open++
	return &handle{c: c, e: e, to: to, file: file, flight: e.flight, size: to.size, ctx: ctx}, nil
}

// fly fetches a blob and keeps it, when it is what it should be.
func (c *Cache) fly(ctx context.Context, to course, e *entry, f *flight) {
	defer f.cancel()
	err := c.room(ctx, e)
	if err == nil {
		err = f.fill(ctx, to.digest(), e.size)
	}
	if err == nil {
		err = f.file.Sync()
	}
	err = errors.Join(err, f.file.Close())
	c.mu.Lock()
	if c.flights[to] == e {
		delete(c.flights, to)
	}
	if err == nil && c.entries[to.key] == nil {
		if err = errors.Join(os.MkdirAll(filepath.Dir(c.file(to.key)), 0o700), os.Rename(f.path, c.file(to.key))); err == nil {
			e.checked = func() error { return nil }
			c.entries[to.key] = e
		}
	}
	if c.entries[to.key] != e { // it failed, or has come from elsewhere meanwhile
		_ = os.Remove(f.path)
		c.free(e)
	}
	if errors.Is(err, errDigest) {
		c.counts.Damaged++
	}
	c.mu.Unlock()
	f.mu.Lock()
	f.done, f.err = true, err
	f.more.Broadcast()
	f.mu.Unlock()
}

// errDigest is what is wrong with bytes that are not those that were asked for.
var errDigest = errors.New("its bytes have another digest")

const (
	fetchTries = 5 // without a byte more
	firstPause = 200 * time.Millisecond
)

// fill gets the whole of a blob, going on where an answer broke off.
func (f *flight) fill(ctx context.Context, d digest.Digest, size int64) error {
	sum := sha256.New()
	pause := firstPause
	for tries := 0; ; tries++ {
		before := f.written
		err := f.part(ctx, d, size, sum)
		if err == nil {
			break
		}
		if f.written > before {
			tries, pause = 0, firstPause
		}
		if ctx.Err() != nil || !passing(err) || tries >= fetchTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.Encoded() {
		return errors.Join(api.Errorf(api.Invalid, "%s sent something else for %s, with the digest sha256:%s; nothing of it was kept",
			f.from.label, d, got), errDigest)
	}
	return nil
}

// part gets what is missing.
func (f *flight) part(ctx context.Context, d digest.Digest, size int64, sum hash.Hash) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(f.from.c.cfg.Stall, func() { cancel(errStalled) })
	defer stalled.Stop()
	head := http.Header{}
	if f.written > 0 {
		head.Set("Range", fmt.Sprintf("bytes=%d-", f.written))
	}
	res, err := f.from.do(ctx, http.MethodGet, "blobs/"+d.String(), head)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case f.written == 0:
	case res.StatusCode == http.StatusPartialContent:
		if !strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", f.written)) {
			return api.Errorf(api.Invalid, "%s was asked for the rest of %s and sent %q", f.from.label, d, res.Header.Get("Content-Range"))
		}
	default: // it sends the whole again
		if _, err := io.CopyN(io.Discard, res.Body, f.written); err != nil {
			return f.from.failed(err)
		}
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := res.Body.Read(buf)
		stalled.Reset(f.from.c.cfg.Stall)
		if f.written+int64(n) > size {
			return api.Errorf(api.Invalid, "%s sends more for %s than the image says", f.from.label, d)
		}
		if n > 0 {
			_, _ = sum.Write(buf[:n])
			if _, err := f.file.Write(buf[:n]); err != nil {
				return fmt.Errorf("pull cache: %w", err)
			}
			f.add(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF) && f.written == size:
			return nil
		case errors.Is(err, io.EOF):
			return f.from.failed(io.ErrUnexpectedEOF)
		case err != nil:
			return f.from.failed(errors.Join(err, context.Cause(ctx)))
		}
	}
}

var errStalled = errors.New("it has stopped sending")

func (f *flight) add(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += n
	f.more.Broadcast()
	f.from.c.fetched(n)
}

// await returns when bytes up to an offset are there, or will not be.
func (f *flight) await(ctx context.Context, upTo int64) error {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.more.Broadcast()
	})
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.written < upTo && !f.done && ctx.Err() == nil {
		f.more.Wait()
	}
	switch {
	case f.written >= upTo && !f.done:
		return nil
	case f.done:
		return f.err
	}
	return ctx.Err()
}

// ReadAt implements io.ReaderAt. The last bytes come when the whole has been compared with its digest.
func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	if h.flight != nil {
		upTo := min(off+int64(len(p)), h.size)
		if upTo == h.size {
			upTo++
		}
		if err := h.flight.await(h.ctx, upTo); err != nil {
			return 0, err
		}
	}
	n, err := h.file.ReadAt(p, off)
	h.c.mu.Lock()
	h.c.counts.ServedBytes += int64(n)
	h.c.mu.Unlock()
	return n, err
}

// Close lets the blob go. What nobody waits for any more is not fetched further.
func (h *handle) Close() {
	h.once.Do(func() {
		if h.file != nil {
			_ = h.file.Close()
		}
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		if h.e.open--; h.e.open > 0 {
			return
		}
		if h.flight != nil && h.c.flights[h.to] == h.e {
			delete(h.c.flights, h.to)
			h.flight.cancel()
		}
		h.c.wake()
	})
}

func (c *Cache) fetched(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.FetchBytes += n
}

// verify compares a file with what it should be.
func verify(path string, d digest.Digest, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	v := d.Verifier()
	n, err := io.Copy(v, f)
	if err == nil && (n != size || !v.Verified()) {
		err = errDigest
	}
	return err
}

// keep puts a small blob onto the disk: a manifest.
func (c *Cache) keep(ctx context.Context, k key, data []byte) error {
	e := &entry{size: int64(len(data)), used: c.cfg.Now(), checked: func() error { return nil }}
	if err := c.room(ctx, e); err != nil {
		return err
	}
	err := os.MkdirAll(filepath.Dir(c.file(k)), 0o700)
	if err == nil {
		err = durable.WriteFile(c.file(k), data, 0o600)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.entries[k] == nil {
		c.entries[k] = e
		return nil
	}
	c.free(e)
	return err
}
