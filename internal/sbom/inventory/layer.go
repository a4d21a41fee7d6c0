package inventory

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// layer is what one layer of an image does to the list of packages: files that tell of some, and paths below which nothing of the
// layers under it is left. Paths are kept as hashes, for a layer can have many.
type layer struct {
	found  map[string]finding
	hidden []uint64 // sorted: what is no directory, or was removed: the path and everything below it
	opaque []uint64 // sorted: directories of which nothing shines through: everything below
	notes  []string
}

var seed = maphash.MakeSeed()

func hashOf(p string) uint64 { return maphash.String(seed, p) }

// hides reports whether nothing of a path of the layers below is left.
func (l *layer) hides(p string) bool {
	if contains(l.hidden, p) {
		return true
	}
	for p = path.Dir(p); p != "."; p = path.Dir(p) {
		if contains(l.hidden, p) || contains(l.opaque, p) {
			return true
		}
	}
	return contains(l.opaque, ".")
}

func contains(sorted []uint64, p string) bool {
	_, ok := slices.BinarySearch(sorted, hashOf(p))
	return ok
}

// cost is about how many bytes of memory a layer takes.
func (l *layer) cost() int64 {
	n := int64(8*(len(l.hidden)+len(l.opaque)) + 256)
	for name, f := range l.found {
		n += int64(len(name)) + 128
		for _, p := range f.packages {
			n += int64(len(p.Name)+len(p.Version)+len(p.Arch)) + 72
		}
	}
	return n
}

// decompress recognises gzip, zstd and no compression by their first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// meter counts what is read, against a limit for the whole image, and ends with the context.
type meter struct {
	ctx  context.Context
	r    io.Reader
	left *int64
}

var errTooLarge = errors.New("it is too large")

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	if *m.left <= 0 {
		return 0, errTooLarge
	}
	n, err := m.r.Read(p[:min(int64(len(p)), *m.left)])
	*m.left -= int64(n)
	return n, err
}

// readLayer reads a layer from its compressed form. left is how many bytes the image may still unpack to.
func (s *Scanner) readLayer(ctx context.Context, compressed io.Reader, left *int64) (*layer, error) {
	plain, err := decompress(compressed)
	if err != nil {
		return nil, err
	}
	defer func() { _ = plain.Close() }()
	l := &layer{found: map[string]finding{}}
	tr := tar.NewReader(&meter{ctx: ctx, r: plain, left: left})
	found := 0
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if n >= s.limits.Entries {
			return nil, fmt.Errorf("a layer has more than %d files", s.limits.Entries)
		}
		// A path is made to stay inside the image before anything else is done with it, and it is only ever compared.
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || len(name) > maxPath {
			continue
		}
		dir, file := path.Split(name)
		if file == ".wh..wh..opq" {
			l.opaque = append(l.opaque, hashOf(path.Clean(dir)))
			continue
		}
		if gone, ok := strings.CutPrefix(file, ".wh."); ok {
			l.hidden = append(l.hidden, hashOf(path.Join(dir, gone)))
			continue
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		l.hidden = append(l.hidden, hashOf(name))
		delete(l.found, name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		f, err := s.readFile(ctx, name, tr)
		if err != nil {
			return nil, err
		}
		if f.problem != "" && len(l.notes) < maxNotes && !slices.Contains(l.notes, f.problem) {
			l.notes = append(l.notes, f.problem)
		}
		f.problem = ""
		if len(f.packages) == 0 && f.system == "" {
			continue
		}
		l.found[name] = f
		if found += len(f.packages); found > s.limits.Packages {
			return nil, fmt.Errorf("it has more than %d packages", s.limits.Packages)
		}
	}
	slices.Sort(l.hidden)
	slices.Sort(l.opaque)
	return l, nil
}

const (
	maxPath  = 4096
	maxNotes = 10
)

// maxProgram is how much of a program is looked through.
const maxProgram = 1 << 30

// readFile reads one file, if it may tell of packages. A sparse file is as large as it says, though not in the archive: it has a
// limit of its own, and all together the time.
func (s *Scanner) readFile(ctx context.Context, name string, r io.Reader) (finding, error) {
	own := int64(math.MaxInt64)
	m := io.LimitReader(&meter{ctx: ctx, r: r, left: &own}, maxProgram)
	if read := readerOf(name); read != nil {
		f := read(m)
		if err := ctx.Err(); err != nil {
			return f, err
		}
		return f, nil
	}
	s.program.Reset(m)
	head, err := s.program.Peek(4)
	if err != nil || string(head) != "\x7fELF" {
		if err != nil && !errors.Is(err, io.EOF) {
			return finding{}, err
		}
		return finding{}, nil
	}
	return golang(s.program)
}
