// Package vet looks at an image that was not built here before it becomes part of a release: that devices can run it, that all of it
// is there, and that it is of a size that can be worked with. Digests are checked by whoever reads what they name.
package vet

import (
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/base"
)

// Bounds of an image.
const (
	maxLayers = 127 // that an engine stacks
	maxBytes  = 16 << 30
	maxImages = 64 // of a list
)

// Choose gives the image that was pushed: of a list the one for a platform.
func Choose(desc *remote.Descriptor, want v1.Platform) (v1.Image, error) {
	if desc.MediaType.IsImage() {
		return desc.Image()
	}
	if !desc.MediaType.IsIndex() {
		return nil, api.Errorf(api.Invalid, "what was pushed is a %q, and no image", desc.MediaType)
	}
	list, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := list.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) > maxImages {
		return nil, api.Errorf(api.TooLarge, "the list of images that was pushed has more than %d entries", maxImages)
	}
	var found *v1.Hash
	for _, d := range m.Manifests {
		if d.Platform == nil || !d.MediaType.IsImage() || !fits(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant, want) {
			continue
		}
		if found != nil && *found != d.Digest {
			return nil, api.Errorf(api.Invalid, "the list of images that was pushed has two for %s", want.String())
		}
		found = &d.Digest
	}
	if found == nil {
		return nil, api.Errorf(api.Invalid, "the list of images that was pushed has none for %s, which the fleet's devices are", want.String())
	}
	return list.Image(*found)
}

// fits reports whether devices of a platform run programs of another one. A variant that is not said counts as any.
func fits(os, arch, variant string, want v1.Platform) bool {
	return os == want.OS && arch == want.Architecture &&
		(arch != "arm" || variant == "" || want.Variant == "" || variant <= want.Variant)
}

// Image refuses an image that devices of a platform could not run, or not pull.
func Image(img v1.Image, want v1.Platform) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if m.Config.Size > base.MaxJSON {
		return api.Errorf(api.TooLarge, "the image's configuration is larger than %d bytes", base.MaxJSON)
	}
	if !m.Config.MediaType.IsConfig() {
		return api.Errorf(api.Invalid, "what was pushed is not an image: its configuration is a %q", m.Config.MediaType)
	}
	if len(m.Layers) > maxLayers {
		return api.Errorf(api.TooLarge, "the image has %d layers; an engine stacks at most %d", len(m.Layers), maxLayers)
	}
	size := m.Config.Size
	for _, l := range m.Layers {
		switch {
		case len(l.URLs) > 0 || !l.MediaType.IsDistributable():
			return api.Errorf(api.Invalid, "layer %s is to be fetched from somewhere else; a release holds all that it needs", l.Digest)
		case !l.MediaType.IsLayer():
			return api.Errorf(api.Invalid, "layer %s is a %q, which devices cannot unpack", l.Digest, l.MediaType)
		case l.Size < 0:
			return api.Errorf(api.Invalid, "layer %s has no size", l.Digest)
		}
		if size += l.Size; size > maxBytes {
			return api.Errorf(api.TooLarge, "the image is larger than %d GiB", maxBytes>>30)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return errors.Join(api.Errorf(api.Invalid, "the image's configuration cannot be read"), fmt.Errorf("read the configuration: %w", err))
	}
	if !fits(cfg.OS, cfg.Architecture, cfg.Variant, want) {
		return api.Errorf(api.Invalid, "the image is for %s/%s, but the fleet's devices are %s", cfg.OS, cfg.Architecture, want.String())
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return api.Errorf(api.Invalid, "the image's configuration names %d layers, and its manifest %d", len(cfg.RootFS.DiffIDs), len(m.Layers))
	}
	return nil
}
