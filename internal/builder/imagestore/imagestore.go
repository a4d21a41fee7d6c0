// Package imagestore puts base images into the content store that is shared with the build service, and reads what that exports into it.
package imagestore

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/internal/builder/base"
)

// Read reads a manifest or a configuration of a store.
func Read(store content.Store, hash v1.Hash) ([]byte, error) {
	return (&stored{store: store}).read(hash)
}

// Image reads an image of a store.
func Image(store content.Store, hash v1.Hash) (v1.Image, error) {
	img := &stored{store: store}
	var err error
	if img.manifest, err = img.read(hash); err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(img.manifest))
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", hash, err)
	}
	if !m.MediaType.IsImage() {
		return nil, fmt.Errorf("read image %s: it is a %s", hash, m.MediaType)
	}
	img.parsed = m
	if img.config, err = img.read(m.Config.Digest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(img)
}

// stored is an image in a content store; partial makes the rest of the interface.
type stored struct {
	store            content.Store
	manifest, config []byte
	parsed           *v1.Manifest
}

func (i *stored) read(hash v1.Hash) ([]byte, error) {
	ctx := context.Background() // a local file
	d := digest.Digest(hash.String())
	info, err := i.store.Info(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	if info.Size > base.MaxJSON {
		return nil, fmt.Errorf("read image: %s is larger than %d bytes", hash, base.MaxJSON)
	}
	text, err := content.ReadBlob(ctx, i.store, ocispec.Descriptor{Digest: d, Size: info.Size})
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	return text, nil
}

// RawManifest implements partial.CompressedImageCore, as does what follows.
func (i *stored) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *stored) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *stored) MediaType() (types.MediaType, error) { return i.parsed.MediaType, nil }
func (i *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range append([]v1.Descriptor{i.parsed.Config}, i.parsed.Layers...) {
		if d.Digest == h {
			return &storedLayer{store: i.store, desc: d}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}

type storedLayer struct {
	store content.Store
	desc  v1.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *storedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	ra, err := l.store.ReaderAt(context.Background(), ocispec.Descriptor{
		Digest: digest.Digest(l.desc.Digest.String()), Size: l.desc.Size})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}, nil
}

// Size is what a device downloads for the image: manifest, configuration and compressed layers.
func Size(img v1.Image) (int64, error) {
	m, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	size, err := img.Size()
	if err != nil {
		return 0, err
	}
	size += m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return size, nil
}

// Copy puts an image of a layout into the store, unless it is there.
func Copy(ctx context.Context, store content.Store, path string, hash v1.Hash) error {
	if _, err := store.Info(ctx, digest.Digest(hash.String())); err == nil {
		return nil
	}
	idx, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return err
	}
	img, err := idx.Image(hash)
	if err != nil {
		return err
	}
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		r, err := layout.Path(path).Blob(d.Digest)
		if err != nil {
			return err
		}
		if err := putBlob(ctx, store, r, d.Digest, d.Size); err != nil {
			return err
		}
	}
	// The manifest comes last: where it is, everything is.
	text, err := img.RawManifest()
	if err != nil {
		return err
	}
	return putBlob(ctx, store, io.NopCloser(bytes.NewReader(text)), hash, int64(len(text)))
}

func putBlob(ctx context.Context, store content.Store, r io.ReadCloser, hash v1.Hash, size int64) error {
	defer r.Close()
	d := ocispec.Descriptor{Digest: digest.Digest(hash.String()), Size: size}
	err := content.WriteBlob(ctx, store, "base-"+hash.String(), r, d)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
