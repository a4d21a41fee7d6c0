// Package inventory finds the packages of an image in its layers: those of dpkg and apk, the modules of Go programs, the packages of
// Python and Node. Whoever pushed the image chose every byte of it, so nothing is unpacked, no path is followed, no link is
// resolved, and memory, size and time are bounded; see DESIGN.md.
package inventory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/internal/sbom"
)

// Limits bound the reading of one image. Zero values mean what is said here.
type Limits struct {
	Bytes    int64         // that the layers unpack to, 8 GiB
	Entries  int           // files of a layer, 500,000
	Packages int           // of a layer, 50,000
	Layers   int           // 200
	Time     time.Duration // a minute
	Cache    int64         // bytes of layers that are remembered, 32 MiB
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.Entries, 500_000)
	set(&l.Packages, 50_000)
	set(&l.Layers, 200)
	if l.Bytes == 0 {
		l.Bytes = 8 << 30
	}
	if l.Time == 0 {
		l.Time = time.Minute
	}
	if l.Cache == 0 {
		l.Cache = 32 << 20
	}
	return l
}

// Scanner reads images, one at a time, and remembers the layers that it has read: most of an image's are those of its base.
type Scanner struct {
	limits Limits
	turn   chan struct{} // holds one; whoever has it may use what follows

	program *bufio.Reader
	known   map[v1.Hash]*layer
	order   []v1.Hash // of known, the one that was used longest ago first
	bytes   int64     // of known
}

// New makes a scanner.
func New(limits Limits) *Scanner {
	return &Scanner{
		limits: limits.withDefaults(), turn: make(chan struct{}, 1), program: bufio.NewReaderSize(nil, goWindow),
		known: map[v1.Hash]*layer{},
	}
}

// Result is what an image holds.
type Result struct {
	System   string   // "debian-12"; "" when the image does not say
	Packages []Found  // sorted by package URL, each once
	Notes    []string // what is missing from the list, and why
}

// Found is a package, and the file that tells of it.
type Found struct {
	sbom.Package
	URL  string
	Path string
}

// Image reads an image. An error says, in words for people, why there is no list.
func (s *Scanner) Image(ctx context.Context, img v1.Image) (res Result, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limits.Time, fmt.Errorf("reading it takes longer than %s", s.limits.Time))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
	}()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return res, ctx.Err()
	}
	layers, err := img.Layers()
	if err != nil {
		return res, err
	}
	if len(layers) > s.limits.Layers {
		return res, fmt.Errorf("it has more than %d layers", s.limits.Layers)
	}
	left := s.limits.Bytes
	all := make([]*layer, 0, len(layers))
	for _, l := range layers {
		known, err := s.layer(ctx, l, &left)
		if errors.Is(err, errTooLarge) {
			return res, fmt.Errorf("its layers unpack to more than %d MB", s.limits.Bytes>>20)
		}
		if err != nil {
			return res, fmt.Errorf("a layer cannot be read: %w", err)
		}
		all = append(all, known)
	}
	return merge(all), nil
}

// layer reads one layer, or remembers it.
func (s *Scanner) layer(ctx context.Context, l v1.Layer, left *int64) (*layer, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	if known := s.known[digest]; known != nil {
		s.order = append(slices.DeleteFunc(s.order, func(h v1.Hash) bool { return h == digest }), digest)
		return known, nil
	}
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	read, err := s.readLayer(ctx, rc, left)
	if err != nil {
		return nil, err
	}
	s.remember(digest, read)
	return read, nil
}

func (s *Scanner) remember(digest v1.Hash, l *layer) {
	if l.cost() > s.limits.Cache {
		return
	}
	s.known[digest], s.order, s.bytes = l, append(s.order, digest), s.bytes+l.cost()
	for s.bytes > s.limits.Cache {
		oldest := s.order[0]
		s.bytes -= s.known[oldest].cost()
		delete(s.known, oldest)
		s.order = s.order[1:]
	}
}

// merge lays the layers over each other.
func merge(layers []*layer) Result {
	found := map[string]finding{}
	var res Result
	for _, l := range layers {
		maps.DeleteFunc(found, func(p string, _ finding) bool { return l.hides(p) })
		maps.Copy(found, l.found)
		for _, n := range l.notes {
			if len(res.Notes) < maxNotes && !slices.Contains(res.Notes, n) {
				res.Notes = append(res.Notes, n)
			}
		}
	}
	for _, p := range []string{"usr/lib/os-release", "etc/os-release"} {
		if f, ok := found[p]; ok && f.system != "" {
			res.System = f.system
		}
	}
	seen := map[string]bool{}
	for _, p := range slices.Sorted(maps.Keys(found)) {
		for _, pkg := range found[p].packages {
			u := pkg.URL(res.System)
			if !seen[u] {
				seen[u] = true
				res.Packages = append(res.Packages, Found{Package: pkg, URL: u, Path: p})
			}
		}
	}
	slices.SortFunc(res.Packages, func(a, b Found) int { return strings.Compare(a.URL, b.URL) })
	return res
}
