package pullcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Options say for whom images are fetched.
type Options struct {
	Domain     string                           // whose build it is
	Account    func(registry string) Account    // for a registry; nil: there are none
	Revalidate bool                             // every registry is asked what its names stand for
	Say        func(format string, args ...any) // tells the people who follow the build
	Platform   v1.Platform                      // what is built for, which is looked for first
}

// Build is what one build has of other registries. A name stands for one digest as long as it lasts. As a store it gives what
// belongs to the images that were resolved, and nothing else.
type Build struct {
	c    *Cache
	opt  Options
	ctx  context.Context
	end  context.CancelFunc
	once sync.Once

	mu     sync.Mutex // covers what follows
	names  map[string]*resolving
	parts  map[digest.Digest]*part
	held   map[digest.Digest]*held
	failed error // of the first blob that could not be had
}

// Image is what a name stands for.
type Image struct {
	Name   string // as it is written in full
	Digest digest.Digest
}

// resolving is a name whose meaning is being found out.
type resolving struct {
	done  chan struct{}
	image Image
	err   error
}

// part is something that belongs to an image.
type part struct {
	from     *source
	size     int64
	manifest []byte // when it is one, and was read
	children []v1.Descriptor
	lists    bool // it may be a manifest, and was not read
}

// held is a blob that the build reads, piece by piece.
type held struct {
	*handle
	views int
	over  bool // it was read to its end
}

// Begin gives a build its images. It must be closed.
func (c *Cache) Begin(ctx context.Context, opt Options) *Build {
	b := &Build{c: c, opt: opt, names: map[string]*resolving{}, parts: map[digest.Digest]*part{}, held: map[digest.Digest]*held{}}
	b.ctx, b.end = context.WithCancel(ctx)
	return b
}

// Close lets everything go.
func (b *Build) Close() {
	b.once.Do(func() {
		b.end()
		b.mu.Lock()
		defer b.mu.Unlock()
		for d, h := range b.held {
			h.Close()
			delete(b.held, d)
		}
	})
}

// Failed is why a blob could not be had, in words for people. What reads the store says so in its own.
func (b *Build) Failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Names gives the names that were resolved, by digest.
func (b *Build) Names() map[digest.Digest][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[digest.Digest][]string{}
	for _, r := range b.names {
		select {
		case <-r.done:
			if r.err == nil && !slices.Contains(all[r.image.Digest], r.image.Name) {
				all[r.image.Digest] = append(all[r.image.Digest], r.image.Name)
			}
		default:
		}
	}
	return all
}

// reference is the name of an image, written in full as BuildKit does.
type reference struct{ registry, repository, tag, digest string }

var (
	repositoryForm = pattern.New(`^[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*$`)
	tagForm        = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

func parse(text string) (r reference, ok bool) {
	full, sum, fixed := strings.Cut(text, "@")
	r.digest = sum
	r.registry, r.repository, _ = strings.Cut(full, "/")
	r.repository, r.tag, _ = strings.Cut(r.repository, ":")
	d := digest.Digest(sum)
	switch {
	case fixed && (d.Validate() != nil || d.Algorithm() != digest.SHA256), !fixed && r.tag == "":
		return r, false
	case len(text) > 512 || !repositoryForm.MatchString(r.repository), r.tag != "" && !tagForm.MatchString(r.tag):
		return r, false
	}
	return r, true
}

// fixed is the same by a digest alone: it decides, whatever the tag.
func (r reference) fixed(sum string) string { return r.registry + "/" + r.repository + "@" + sum }

// Resolve finds out what a name stands for, once for the whole build.
func (b *Build) Resolve(text string) (Image, error) {
	ref, ok := parse(text)
	if !ok {
		return Image{}, api.Errorf(api.Invalid, "%.200s is not the name of an image that can be fetched; digests are of sha256", text)
	}
	at := text
	if ref.digest != "" {
		at = ref.fixed(ref.digest)
	}
	b.mu.Lock()
	r := b.names[at]
	if r == nil {
		r = &resolving{done: make(chan struct{})}
		b.names[at] = r
		b.mu.Unlock()
		r.image, r.err = b.resolve(ref)
		b.mu.Lock()
		if again := ref.fixed(r.image.Digest.String()); r.err == nil && b.names[again] == nil {
			b.names[again] = r // BuildKit goes on with what a tag stood for
		}
		close(r.done)
	}
	b.mu.Unlock()
	select {
	case <-r.done:
		return r.image, r.err
	case <-b.ctx.Done():
		return Image{}, b.ctx.Err()
	}
}

func (b *Build) resolve(ref reference) (Image, error) {
	registry, err := name.NewRegistry(ref.registry)
	if err != nil {
		return Image{}, api.Errorf(api.Invalid, "%.200s is not the name of a registry", ref.registry)
	}
	account := Account{}
	if b.opt.Account != nil {
		account = b.opt.Account(registry.RegistryStr())
	}
	s := b.c.from(registry.Repo(ref.repository), b.opt.Domain, account)
	image, known, what := Image{Name: s.name()}, s.name()+"@"+ref.digest, ref.digest
	if ref.tag != "" {
		image.Name += ":" + ref.tag
	}
	if ref.digest == "" {
		known, what = image.Name, ref.tag
	}
	d, stale, why, err := b.c.resolve(b.ctx, s, key{s.scope, known}, what, b.opt.Revalidate)
	if err != nil {
		return image, worded(image.Name, err)
	}
	image.Digest = d
	if why != nil {
		b.opt.Say("Note: %s; %s is taken as it was known at %s, %s", api.AsError(why).Text, image.Name, stale.UTC().Format(time.RFC3339), d)
	}
	if err := b.learn(s, d, 0); err != nil {
		return image, worded(image.Name, err)
	}
	return image, nil
}

// worded says which image an error is about.
func worded(name string, err error) error {
	e := api.AsError(err)
	if e.Code == api.Internal {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return errors.Join(api.Errorf(e.Code, "%s cannot be had: %s", name, e.Text), err)
}

const (
	maxDepth    = 3   // of indexes within indexes
	maxChildren = 500 // of one manifest
)

// learn reads a manifest and takes in what belongs to it: of an index, what is for the platform is read too.
func (b *Build) learn(s *source, d digest.Digest, depth int) error {
	b.mu.Lock()
	p := b.parts[d]
	b.mu.Unlock()
	if p != nil && p.manifest != nil {
		return nil
	}
	data, err := b.c.manifest(b.ctx, s, d)
	if err != nil {
		return err
	}
	p = &part{from: s, size: int64(len(data)), manifest: data}
	kinds, err := children(data)
	if err != nil {
		return api.Errorf(api.Invalid, "%s sent a manifest that cannot be read (%s): %v", s.label, d, err)
	}
	p.children = kinds
	b.mu.Lock()
	b.parts[d] = p
	for _, k := range kinds {
		if at := digest.Digest(k.Digest.String()); b.parts[at] == nil {
			b.parts[at] = &part{from: s, size: k.Size, lists: k.MediaType.IsIndex() || k.MediaType.IsImage()}
		}
	}
	b.mu.Unlock()
	if depth >= maxDepth {
		return nil
	}
	for _, k := range kinds {
		if !k.MediaType.IsIndex() && !k.MediaType.IsImage() || k.Platform == nil || k.Platform.OS != b.opt.Platform.OS ||
			k.Platform.Architecture != b.opt.Platform.Architecture {
			continue
		}
		if err := b.learn(s, digest.Digest(k.Digest.String()), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// children are what a manifest or an index names.
func children(data []byte) ([]v1.Descriptor, error) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	list := append(m.Layers, index.Manifests...)
	if m.Config.Digest != (v1.Hash{}) {
		list = append(list, m.Config)
	}
	switch {
	case m.SchemaVersion != 2:
		return nil, fmt.Errorf("it has version %d of the form, and not 2", m.SchemaVersion)
	case len(list) == 0:
		return nil, errors.New("it names nothing")
	case len(list) > maxChildren:
		return nil, fmt.Errorf("it names %d things", len(list))
	}
	for _, d := range list {
		if d.Size < 0 || d.Digest.Algorithm != "sha256" {
			return nil, fmt.Errorf("it names %s with %d bytes", d.Digest, d.Size)
		}
	}
	return list, nil
}

// part finds what a digest is. One that is not known may belong to a part of an index that was not read: one for another platform.
func (b *Build) part(d digest.Digest) (*part, error) {
	for {
		b.mu.Lock()
		p := b.parts[d]
		var next digest.Digest
		var from *source
		for at, q := range b.parts {
			if p == nil && q.lists && q.manifest == nil {
				next, from = at, q.from
				break
			}
		}
		b.mu.Unlock()
		switch {
		case p != nil && p.lists && p.manifest == nil:
			next, from = d, p.from
		case p != nil:
			return p, nil
		case next == "":
			return nil, nil
		}
		if err := b.learn(from, next, maxDepth); err != nil {
			b.fail(err)
			return nil, err
		}
	}
}

func (b *Build) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil && b.ctx.Err() == nil {
		b.failed = err
	}
}
