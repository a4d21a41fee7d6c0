// Package target says for which machines a fleet's images are made, and puts the images of several machines together.
package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
)

// Target is one kind of machine that a fleet's images are made for.
type Target struct {
	Platform v1.Platform
	// Fleet is the fleet as if it were for this machine alone: its architecture, and a device type of that.
	Fleet api.BuildFleet
}

// String is the platform: "linux/arm64".
func (t Target) String() string { return t.Platform.String() }

// Of gives the targets of a fleet; that of its own device type comes first.
func Of(fleet *api.BuildFleet) []Target {
	list := []Target{{platform(fleet.Arch), *fleet}}
	for _, a := range fleet.Also {
		own := *fleet
		own.Arch, own.DeviceType, own.Also = a.Arch, a.DeviceType, nil
		if p := platform(a.Arch); !slices.ContainsFunc(list, func(t Target) bool { return t.String() == p.String() }) {
			list = append(list, Target{p, own})
		}
	}
	return list
}

// platform is what an architecture is called elsewhere.
func platform(arch string) v1.Platform {
	p, err := base.PlatformOf(arch)
	if err != nil {
		// The api role knows the architectures; one that we do not is built as it is named.
		return v1.Platform{OS: "linux", Architecture: arch}
	}
	return p
}

// Names are the platforms of targets.
func Names(list []Target) []string {
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.String()
	}
	return names
}

// Only gives those of a fleet's targets that a service names. Devices of every other architecture of the fleet must run one of them too:
// 64-bit ARM runs what is made for 32 bits.
func Only(all []Target, platforms []string) ([]Target, error) {
	if len(platforms) == 0 {
		return all, nil
	}
	var list []Target
	for _, want := range platforms {
		n := slices.IndexFunc(all, func(t Target) bool { return Same(want, t.Platform) })
		if n < 0 {
			return nil, api.Errorf(api.Invalid, "platform %.50q: the fleet is built for %s; `roadstead fleet set --also-for` adds to that", want,
				strings.Join(Names(all), ", "))
		}
		if !slices.ContainsFunc(list, func(t Target) bool { return t.String() == all[n].String() }) {
			list = append(list, all[n])
		}
	}
	for _, t := range all {
		if !slices.ContainsFunc(list, func(l Target) bool { return runs(t.Platform, l.Platform) }) {
			return nil, api.Errorf(api.Invalid, "platform %s: devices of the fleet are %s too, and do not run it", strings.Join(platforms, ", "), t)
		}
	}
	return list, nil
}

// Same reports whether a name that people write ("linux/arm64", "linux/arm64/v8", "linux/arm") is that of a platform.
func Same(text string, p v1.Platform) bool {
	w, err := v1.ParsePlatform(text)
	if err != nil || w.OS != p.OS || w.Architecture != p.Architecture {
		return false
	}
	switch {
	case w.Variant == p.Variant, w.Architecture == "arm64" && w.Variant == "v8":
		return true
	case w.Architecture == "arm" && w.Variant == "":
		return p.Variant == "v7"
	}
	return false
}

// runs reports whether a machine runs programs of another.
func runs(machine, program v1.Platform) bool {
	switch machine.Architecture {
	case program.Architecture:
		return machine.Architecture != "arm" || program.Variant <= machine.Variant
	case "arm64":
		return program.Architecture == "arm"
	}
	return false
}

// Part is the image of one target.
type Part struct {
	Target Target
	Image  v1.Image
}

// Whole is what devices are given of a service: its image, or the index of its images for several machines.
type Whole struct {
	Parts      []ocispec.Descriptor // of the images, in their order
	Descriptor ocispec.Descriptor
	Size       int64 // that a device downloads at most

	image v1.Image
	index v1.ImageIndex // nil for one image
}

// Assemble puts images together. The same images make the same index.
func Assemble(parts []Part) (*Whole, error) {
	if len(parts) == 0 {
		return nil, errors.New("there is no image")
	}
	w := &Whole{image: plain{parts[0].Image}}
	var adds []mutate.IndexAddendum
	for _, p := range parts {
		p.Image = plain{p.Image}
		size, err := imagestore.Size(p.Image)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", p.Target, err)
		}
		w.Size = max(w.Size, size)
		d, err := describe(p.Image)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", p.Target, err)
		}
		w.Parts = append(w.Parts, d)
		platform := p.Target.Platform
		adds = append(adds, mutate.IndexAddendum{Add: p.Image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	w.Descriptor = w.Parts[0]
	if len(parts) == 1 {
		return w, nil
	}
	w.index = mutate.IndexMediaType(mutate.AppendManifests(empty.Index, adds...), types.OCIImageIndex)
	var err error
	w.Descriptor, err = describe(w.index)
	return w, err
}

func describe(m interface {
	RawManifest() ([]byte, error)
	MediaType() (types.MediaType, error)
}) (d ocispec.Descriptor, err error) {
	text, err := m.RawManifest()
	if err != nil {
		return d, err
	}
	kind, err := m.MediaType()
	return ocispec.Descriptor{MediaType: string(kind), Digest: digest.FromBytes(text), Size: int64(len(text))}, err
}

// plain is an image whose layers say nothing of another repository. Those of an image that was read from a registry ask to be mounted from where
// they are, which no repository here allows; and asking makes the pushing of several at once a data race in the library.
type plain struct{ v1.Image }

// Layers implements v1.Image.
func (i plain) Layers() ([]v1.Layer, error) {
	all, err := i.Image.Layers()
	layers := make([]v1.Layer, len(all))
	for n, l := range all {
		layers[n] = unmounted(l)
	}
	return layers, err
}

// LayerByDigest implements v1.Image.
func (i plain) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	l, err := i.Image.LayerByDigest(h)
	return unmounted(l), err
}

// LayerByDiffID implements v1.Image.
func (i plain) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	l, err := i.Image.LayerByDiffID(h)
	return unmounted(l), err
}

func unmounted(l v1.Layer) v1.Layer {
	if m, ok := l.(*remote.MountableLayer); ok {
		return m.Layer
	}
	return l
}

// Write pushes everything, the index last.
func (w *Whole) Write(ref name.Reference, opts ...remote.Option) error {
	if w.index != nil {
		return remote.WriteIndex(ref, w.index, opts...)
	}
	return remote.Write(ref, w.image, opts...)
}
