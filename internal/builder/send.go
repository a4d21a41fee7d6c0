package builder

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/queue"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/upload"
	"github.com/roadstead-io/roadstead/internal/web"
)

// sending is the source of a build that comes file by file: first a manifest, then the contents that the builder lacks. Such a
// build does not end with its pusher's connection.
type sending struct {
	b        *build
	query    string // what was asked for
	manifest *source.Manifest
	shelf    *upload.Shelf
	tries    int // how often the build was begun before

	mu      sync.Mutex // covers what follows
	missing map[string]int64
	sizes   map[string]int64 // of all contents
	busy    int              // requests that bring contents
	idle    *time.Timer      // runs while there are none
	arrived chan struct{}    // closed when nothing is missing
}

const (
	idleUpload  = 2 * time.Minute // without a request that brings contents
	maxLine     = 4 << 20         // of a manifest
	maxInline   = 16 << 20        // of contents in a manifest
	entryRoom   = 1 << 10         // that an entry may take on average
	manifestTop = 64 << 20        // beyond that
)

// openSending takes a manifest, opens the build and says what the builder lacks. The build begins by itself when it lacks nothing.
func (s *Server) openSending(w http.ResponseWriter, r *http.Request) error {
	ticket, err := s.enter()
	if err != nil {
		return s.refuse(w, r, err)
	}
	o, err := s.receiveManifest(http.NewResponseController(w), r, ticket)
	if err != nil {
		s.leave(ticket)
		return s.refuse(w, r, err)
	}
	opened := o.opened()
	go o.life()
	return web.WriteJSON(w, http.StatusCreated, opened)
}

// receiveManifest opens a build for a request and reads what its source is. A build that it opened and cannot go on with has ended.
func (s *Server) receiveManifest(rc *http.ResponseController, r *http.Request, ticket *queue.Ticket) (*sending, error) {
	b, err := s.openFor(r, ticket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(b.ctx, func() { _ = rc.SetReadDeadline(time.Now()) }) // ends a read that waits
	late := b.uploadTimer()
	m, err := readManifest(r.Body, b.s.sourceLimits())
	late.Stop()
	stop()
	if err != nil {
		if cause := context.Cause(b.ctx); cause != nil {
			err = api.Errorf(api.Invalid, "%v", cause)
		}
		b.say("The source cannot be used: %s", b.words(err))
		b.end(err)
		return nil, err
	}
	o := s.newSending(b, r.URL.RawQuery, m)
	return o, nil
}

func (s *Server) newSending(b *build, query string, m *source.Manifest) *sending {
	o := &sending{
		b: b, query: query, manifest: m, shelf: s.uploads.Shelf(b.info.Fleet.Organization, b.info.Fleet.ID),
		sizes: map[string]int64{}, arrived: make(chan struct{}),
	}
	for _, e := range m.Entries() {
		if e.SHA256 != "" {
			o.sizes[e.SHA256] = e.Size
		}
	}
	o.missing = o.shelf.Hold(m)
	o.idle = time.AfterFunc(idleUpload, func() {
		b.cancel(fmt.Errorf("the source did not arrive: nothing came for %s", idleUpload))
	})
	if len(o.missing) == 0 {
		o.complete()
	}
	b.sending.Store(o)
	return o
}

// readManifest reads one entry a line.
func readManifest(body io.Reader, lim source.Limits) (*source.Manifest, error) {
	damaged := func(err error) error {
		return api.Errorf(api.Invalid, "the manifest of the source is damaged or ended early: %v", err)
	}
	zr, err := gzip.NewReader(body)
	if err != nil {
		return nil, damaged(err)
	}
	most := manifestTop + int64(lim.Entries)*entryRoom
	room := &io.LimitedReader{R: zr, N: most}
	scan := bufio.NewScanner(room)
	scan.Buffer(make([]byte, 0, 64<<10), maxLine)
	m := source.NewManifest(lim)
	inline := 0
	for scan.Scan() {
		var e api.SourceEntry
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			return nil, damaged(err)
		}
		if inline += len(e.Data); inline > maxInline {
			return nil, api.Errorf(api.TooLarge, "the files whose content comes with the manifest are larger than %d MiB together", maxInline>>20)
		}
		if err := m.Add(e); err != nil {
			return nil, err
		}
	}
	if err := scan.Err(); err != nil {
		return nil, damaged(err)
	}
	if room.N <= 0 {
		return nil, api.Errorf(api.TooLarge, "the manifest of the source is larger than %d MiB", most>>20)
	}
	return m, nil
}

// complete starts the build: all of its source is here. The caller holds the lock, or nobody else knows of it yet.
func (o *sending) complete() {
	o.idle.Stop()
	close(o.arrived)
}

// lacks are the contents that are still missing.
func (o *sending) lacks() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]string, 0, len(o.missing))
	for sum := range o.missing {
		list = append(list, sum)
	}
	slices.Sort(list)
	return list
}

func (o *sending) opened() api.BuildOpened {
	return api.BuildOpened{ID: o.b.info.ID, Commit: o.b.info.Commit, Missing: o.lacks()}
}

// life is the build, from the manifest to its end.
func (o *sending) life() {
	b := o.b
	defer b.s.leave(b.ticket)
	defer o.shelf.Release(o.manifest)
	defer o.forget()
	late := b.uploadTimer()
	select {
	case <-o.arrived:
	case <-b.ctx.Done():
	}
	late.Stop()
	o.idle.Stop()
	if cause := context.Cause(b.ctx); cause != nil {
		b.end(cause)
		return
	}
	o.remember()
	if err := o.place(); err != nil {
		b.say("The source cannot be used: %s", b.words(err))
		b.end(err)
		return
	}
	b.run()
}

// place lays the source out.
func (o *sending) place() error {
	dir := o.b.source()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make room for the source: %w", err)
	}
	return o.manifest.Place(dir, func(root *os.Root, e api.SourceEntry) error { return o.shelf.Lay(root, dir, e) })
}

// mine finds the build that a request brings a source for.
func (s *Server) mine(r *http.Request) (*sending, error) {
	id, watch, err := s.asked(r)
	if err != nil {
		return nil, err
	}
	b, _ := s.live.find(id)
	if b == nil {
		return nil, notHere(id)
	}
	if !watch.MaySend {
		return nil, api.Errorf(api.Forbidden, "build %d is somebody else's: only they send its source", id)
	}
	o := b.sending.Load()
	if o == nil {
		return nil, api.Errorf(api.Conflict, "the source of build %d did not come as a manifest", id)
	}
	return o, nil
}

func (s *Server) missing(w http.ResponseWriter, r *http.Request) error {
	o, err := s.mine(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	return web.WriteJSON(w, http.StatusOK, o.opened())
}

// blobs takes contents: each is its SHA-256 (32 bytes), its size (8 bytes, the highest first) and itself; all compressed with gzip.
// Those that came whole are kept when the connection breaks.
func (s *Server) blobs(w http.ResponseWriter, r *http.Request) error {
	o, err := s.mine(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	if err := o.take(http.NewResponseController(w), r.Body); err != nil {
		if cause := context.Cause(o.b.ctx); cause != nil {
			err = api.Errorf(api.Invalid, "%v", cause)
		}
		return s.refuse(w, r, err)
	}
	return web.WriteJSON(w, http.StatusOK, o.opened())
}

func (o *sending) take(rc *http.ResponseController, body io.Reader) error {
	o.begin()
	defer o.done()
	defer context.AfterFunc(o.b.ctx, func() { _ = rc.SetReadDeadline(time.Now()) })() // ends a read that waits
	zr, err := gzip.NewReader(bufio.NewReaderSize(body, 64<<10))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return brokenOff(err)
	}
	for {
		var head [40]byte
		if _, err := io.ReadFull(zr, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return brokenOff(err)
		}
		sum, size := hex.EncodeToString(head[:32]), binary.BigEndian.Uint64(head[32:])
		if err := o.one(sum, size, zr); err != nil {
			return err
		}
	}
}

func (o *sending) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy++
	o.idle.Stop()
}

func (o *sending) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy--; o.busy == 0 && len(o.missing) > 0 {
		o.idle.Reset(idleUpload)
	}
}

// one takes one content.
func (o *sending) one(sum string, size uint64, r io.Reader) error {
	o.mu.Lock()
	want, known := o.sizes[sum]
	_, lacks := o.missing[sum]
	o.mu.Unlock()
	switch {
	case !known:
		return api.Errorf(api.Invalid, "no file of the manifest has the SHA-256 %s", sum)
	case size != uint64(want):
		return api.Errorf(api.Invalid, "the manifest says %d bytes for the SHA-256 %s, what was sent says %d", want, sum, size)
	case !lacks: // it came another way meanwhile
		if _, err := io.CopyN(io.Discard, r, want); err != nil {
			return brokenOff(err)
		}
		return nil
	}
	if err := o.shelf.Put(sum, want, r); err != nil {
		if errors.As(err, new(*os.PathError)) || errors.As(err, new(*api.Error)) {
			return err
		}
		return brokenOff(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, lacks := o.missing[sum]; !lacks {
		return nil
	}
	delete(o.missing, sum)
	if len(o.missing) == 0 {
		o.complete()
	}
	return nil
}

func brokenOff(err error) error {
	return api.Errorf(api.Invalid, "the contents are damaged or ended early; what came whole is kept: %v", err)
}
