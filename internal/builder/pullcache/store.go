package pullcache

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Info implements content.Store, as does what follows. BuildKit reads from it what Resolve named.
func (b *Build) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	p, err := b.part(d)
	if err != nil {
		return content.Info{}, err
	}
	if p == nil {
		return content.Info{}, errdefs.ErrNotFound
	}
	return content.Info{Digest: d, Size: p.size}, nil
}

// ReaderAt gives a manifest or a blob. It is asked for every piece of one: the blob is held in between.
func (b *Build) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	p, err := b.part(desc.Digest)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, errdefs.ErrNotFound
	}
	if p.manifest != nil {
		return small{bytes.NewReader(p.manifest)}, nil
	}
	b.mu.Lock()
	h := b.held[desc.Digest]
	if h != nil {
		h.views++
	}
	b.mu.Unlock()
	if h == nil {
		opened, err := b.c.open(b.ctx, p.from, desc.Digest, p.size)
		if err != nil {
			b.fail(worded(p.from.name(), err))
			return nil, err
		}
		h = b.hold(desc.Digest, opened)
	}
	return &view{b: b, d: desc.Digest, h: h}, nil
}

// hold keeps a blob open, unless it is already.
func (b *Build) hold(d digest.Digest, opened *handle) *held {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.held[d]
	if h != nil {
		opened.Close()
	} else {
		h = &held{handle: opened}
		if b.ctx.Err() == nil {
			b.held[d] = h
		}
	}
	h.views++
	return h
}

// small is a manifest.
type small struct{ *bytes.Reader }

func (small) Close() error { return nil }

// view is one look at a blob that is held.
type view struct {
	b *Build
	d digest.Digest
	h *held
}

func (v *view) Size() int64 { return v.h.size }

func (v *view) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.h.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		v.b.fail(worded(v.b.partOf(v.d), err))
	}
	if off+int64(n) == v.h.size {
		v.b.mu.Lock()
		v.h.over = true
		v.b.mu.Unlock()
	}
	return n, err
}

func (b *Build) partOf(d digest.Digest) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.parts[d].from.name()
}

// Close lets the blob go when it was read to its end, or will not be.
func (v *view) Close() error {
	v.b.mu.Lock()
	defer v.b.mu.Unlock()
	if v.h.views--; v.h.views == 0 && (v.h.over || v.b.held[v.d] != v.h) {
		v.h.Close()
		if v.b.held[v.d] == v.h {
			delete(v.b.held, v.d)
		}
	}
	return nil
}

// What follows changes a store: this one is not changed.

func (*Build) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotImplemented
}
func (*Build) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrNotImplemented
}
func (*Build) Delete(context.Context, digest.Digest) error { return errdefs.ErrNotImplemented }
func (*Build) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotImplemented
}
func (*Build) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errdefs.ErrNotImplemented
}
func (*Build) Abort(context.Context, string) error { return errdefs.ErrNotImplemented }
func (*Build) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errdefs.ErrNotImplemented
}

var _ content.Store = (*Build)(nil)
