package upload

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
)

const (
	maxLine     = 4 << 20  // of a manifest
	maxInline   = 16 << 20 // of contents in a manifest
	entryRoom   = 1 << 10  // that an entry may take on average
	manifestTop = 64 << 20 // beyond that
)

// ReadManifest reads a manifest: compressed with gzip, one entry a line.
func ReadManifest(body io.Reader, lim source.Limits) (*source.Manifest, error) {
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

// Incoming is what a project lacks on its way onto a shelf. It is safe for concurrent use.
type Incoming struct {
	shelf    *Shelf
	manifest *source.Manifest
	idleFor  time.Duration

	mu      sync.Mutex // covers what follows
	missing map[string]int64
	sizes   map[string]int64 // of all contents
	busy    int              // requests that bring contents
	idle    *time.Timer      // runs while there are none
	arrived chan struct{}    // closed when nothing is missing
}

// Expect holds what is on the shelf of a project, until [Incoming.Release], and waits for the rest. idle is called when nothing came
// for so long.
func (h *Shelf) Expect(m *source.Manifest, idleFor time.Duration, idle func()) *Incoming {
	i := &Incoming{shelf: h, manifest: m, idleFor: idleFor, sizes: map[string]int64{}, arrived: make(chan struct{})}
	for _, e := range m.Entries() {
		if e.SHA256 != "" {
			i.sizes[e.SHA256] = e.Size
		}
	}
	i.missing = h.Hold(m)
	i.idle = time.AfterFunc(idleFor, idle)
	if len(i.missing) == 0 {
		i.complete()
	}
	return i
}

// complete says that all is here. The caller holds the lock, or nobody else knows of it yet.
func (i *Incoming) complete() {
	i.idle.Stop()
	close(i.arrived)
}

// Arrived is closed when nothing is missing.
func (i *Incoming) Arrived() <-chan struct{} { return i.arrived }

// Release lets go of the contents; nothing is waited for any more.
func (i *Incoming) Release() {
	i.idle.Stop()
	i.shelf.Release(i.manifest)
}

// Lacks are the contents that are still missing.
func (i *Incoming) Lacks() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	list := make([]string, 0, len(i.missing))
	for sum := range i.missing {
		list = append(list, sum)
	}
	slices.Sort(list)
	return list
}

// Take takes contents: each is its SHA-256 (32 bytes), its size (8 bytes, the highest first) and itself; all compressed with gzip.
// Those that came whole are kept when it fails.
func (i *Incoming) Take(body io.Reader) error {
	i.begin()
	defer i.done()
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
		if err := i.one(hex.EncodeToString(head[:32]), binary.BigEndian.Uint64(head[32:]), zr); err != nil {
			return err
		}
	}
}

func (i *Incoming) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.busy++
	i.idle.Stop()
}

func (i *Incoming) done() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.busy--; i.busy == 0 && len(i.missing) > 0 {
		i.idle.Reset(i.idleFor)
	}
}

// one takes one content.
func (i *Incoming) one(sum string, size uint64, r io.Reader) error {
	i.mu.Lock()
	want, known := i.sizes[sum]
	_, lacks := i.missing[sum]
	i.mu.Unlock()
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
	if err := i.shelf.Put(sum, want, r); err != nil {
		if errors.As(err, new(*os.PathError)) || errors.As(err, new(*api.Error)) {
			return err
		}
		return brokenOff(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, lacks := i.missing[sum]; !lacks {
		return nil
	}
	delete(i.missing, sum)
	if len(i.missing) == 0 {
		i.complete()
	}
	return nil
}

func brokenOff(err error) error {
	return api.Errorf(api.Invalid, "the contents are damaged or ended early; what came whole is kept: %v", err)
}
