package imagestore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// View is what one owner has of a store that several share: the blobs that it put there itself. A build service is given a view and not the
// store, because it runs other people's programs, perhaps on another machine: what others built is not there for it, whatever digest it
// names. Who brings the bytes of a blob that another has is told that it was written, and has it too; it is kept once.
type View struct {
	store content.Store
	mark  string // before the names of writes that are under way

	mu  sync.Mutex // covers has
	has map[digest.Digest]bool
}

// NewView makes an empty one. Views of one store differ in their owner.
func NewView(store content.Store, owner string) *View {
	return &View{store: store, mark: owner + "/", has: map[digest.Digest]bool{}}
}

func (v *View) check(d digest.Digest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.has[d] {
		return fmt.Errorf("content %v: %w", d, errdefs.ErrNotFound)
	}
	return nil
}

// Info implements content.Store, as does what follows.
func (v *View) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if err := v.check(d); err != nil {
		return content.Info{}, err
	}
	return v.store.Info(ctx, d)
}

// ReaderAt opens a blob of the owner's.
func (v *View) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := v.check(desc.Digest); err != nil {
		return nil, err
	}
	return v.store.ReaderAt(ctx, desc)
}

// Walk lists nothing: a build knows what it asks for.
func (v *View) Walk(context.Context, content.WalkFunc, ...string) error { return nil }

// Update and Delete are refused: the blob may be another's too.
func (v *View) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, fmt.Errorf("change a blob: %w", errdefs.ErrPermissionDenied)
}

// Delete is refused.
func (v *View) Delete(context.Context, digest.Digest) error {
	return fmt.Errorf("delete a blob: %w", errdefs.ErrPermissionDenied)
}

// Status is of a write of the owner's that is under way.
func (v *View) Status(ctx context.Context, ref string) (content.Status, error) {
	s, err := v.store.Status(ctx, v.mark+ref)
	s.Ref = ref
	return s, err
}

// ListStatuses lists those that are the owner's. Filters are not understood: there are few.
func (v *View) ListStatuses(ctx context.Context, _ ...string) ([]content.Status, error) {
	all, err := v.store.ListStatuses(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s content.Status) bool { return !strings.HasPrefix(s.Ref, v.mark) })
	for i := range all {
		all[i].Ref = strings.TrimPrefix(all[i].Ref, v.mark)
	}
	return all, nil
}

// Abort gives up a write of the owner's.
func (v *View) Abort(ctx context.Context, ref string) error { return v.store.Abort(ctx, v.mark+ref) }

// Writer begins a write. That a blob is there already is told only to an owner who has it.
func (v *View) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Ref == "" {
		return nil, fmt.Errorf("a write without a name: %w", errdefs.ErrInvalidArgument)
	}
	if v.check(o.Desc.Digest) != nil {
		o.Desc.Digest = ""
	}
	w, err := v.store.Writer(ctx, content.WithRef(v.mark+o.Ref), content.WithDescriptor(o.Desc))
	if err != nil {
		return nil, err
	}
	return &viewWriter{Writer: w, v: v, ref: o.Ref}, nil
}

type viewWriter struct {
	content.Writer
	v   *View
	ref string
}

// Status implements content.Writer.
func (w *viewWriter) Status() (content.Status, error) {
	s, err := w.Writer.Status()
	s.Ref = w.ref
	return s, err
}

// Commit implements content.Writer. The store has compared the bytes with the digest before it says that somebody brought them before.
func (w *viewWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	err := w.Writer.Commit(ctx, size, expected, opts...)
	if err == nil || errdefs.IsAlreadyExists(err) {
		d := expected
		if d == "" {
			d = w.Digest()
		}
		w.v.mu.Lock()
		w.v.has[d] = true
		w.v.mu.Unlock()
	}
	return err
}
