// Package base keeps the base images that a server offers to `FROM base/NAME`. Each is an OCI layout in a directory of its
// own with one image per architecture. The operator imports them; the builder role only reads.
package base

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// prefix starts the name of every base image.
const prefix = "base/"

var nameForm = pattern.New(`^base/[a-z0-9]+([._-][a-z0-9]+)*$`)

// bounds of an imported archive. An operator gives it, but it may have come from anywhere.
var bounds = source.Limits{Bytes: 4 << 30, Entries: 1_000_000}

// Base is one base image.
type Base struct {
	Name   string // "base/busybox"
	Path   string // of the OCI layout
	Images map[string]v1.Hash
	Former map[string][]v1.Hash // what newer images took the place of, newest first
}

// Import makes or replaces one architecture of a base image in dir from a tar archive: either a root file system, or an OCI
// layout whose image is for that architecture. An import that fails changes nothing.
func Import(dir, name string, archive io.Reader, arch string) error {
	if !nameForm.MatchString(name) {
		return api.Errorf(api.Invalid, "%q is no name for a base image: it looks like base/busybox", name)
	}
	platform, err := PlatformOf(arch)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("import base image %s: %w", name, err)
	}
	tmp, err := os.MkdirTemp(dir, ".import-")
	if err != nil {
		return fmt.Errorf("import base image %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	img, err := read(tmp, archive, platform)
	if err != nil {
		return fmt.Errorf("import base image %s: %w", name, err)
	}
	if err := Publish(dir, name, img, platform, Record{About: "imported"}); err != nil {
		return fmt.Errorf("import base image %s: %w", name, err)
	}
	return nil
}

// read makes an image of the archive, using tmp for what it needs on disk.
func read(tmp string, archive io.Reader, platform v1.Platform) (v1.Image, error) {
	file := filepath.Join(tmp, "archive.tar")
	size, err := save(file, archive)
	if err != nil {
		return nil, err
	}
	kind, newest, err := inspect(file)
	if err != nil {
		return nil, err
	}
	if size > bounds.Bytes {
		return nil, api.Errorf(api.TooLarge, "the archive is larger than %d bytes", bounds.Bytes)
	}
	if kind == isRoot {
		return fromRoot(file, newest, platform, Config{Cmd: []string{"sh"}})
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpacked := filepath.Join(tmp, "layout")
	if err := os.Mkdir(unpacked, 0o700); err != nil {
		return nil, err
	}
	if _, err := source.Extract(unpacked, f, bounds); err != nil {
		return nil, err
	}
	return FromLayout(unpacked, platform)
}

func save(file string, r io.Reader) (int64, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	plain, err := source.Decompress(r)
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	n, err := io.Copy(f, io.LimitReader(plain, bounds.Bytes+1))
	return n, errors.Join(err, f.Close())
}

type kind int

const (
	isRoot   kind = iota // a root file system
	isLayout             // an OCI layout
)

// inspect walks the archive once: what it is, and the time of its newest file.
func inspect(file string) (kind, time.Time, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, time.Time{}, err
	}
	defer f.Close()
	newest := time.Unix(0, 0)
	entries := 0
	for tr := tar.NewReader(f); ; entries++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, newest, api.Errorf(api.Invalid, "not a tar archive: %v", err)
		}
		switch name := path.Clean(strings.TrimPrefix(h.Name, "/")); {
		case name == "oci-layout":
			return isLayout, newest, nil
		case name == ".." || strings.HasPrefix(name, "../"):
			return 0, newest, api.Errorf(api.Invalid, "entry %q leads outside the archive", h.Name)
		}
		if h.ModTime.After(newest) {
			newest = h.ModTime
		}
	}
	if entries == 0 {
		return 0, newest, api.Errorf(api.Invalid, "the archive is empty")
	}
	return isRoot, newest, nil
}

// Config is what an image says of itself.
type Config struct {
	Env    map[string]string // PATH has a value when it is not named
	Cmd    []string
	Labels map[string]string
}

// FromRoot makes an image of a root file system in a tar archive. The same archive makes the same image, byte for byte.
func FromRoot(file string, platform v1.Platform, c Config) (v1.Image, error) {
	kind, newest, err := inspect(file)
	if err != nil {
		return nil, err
	}
	if kind != isRoot {
		return nil, api.Errorf(api.Invalid, "the archive is no root file system")
	}
	return fromRoot(file, newest, platform, c)
}

func fromRoot(file string, created time.Time, platform v1.Platform, c Config) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: created.UTC()}, CreatedBy: "import of a root file system"}})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.Created = v1.Time{Time: created.UTC()}
	cfg.OS, cfg.Architecture, cfg.Variant = platform.OS, platform.Architecture, platform.Variant
	cfg.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if name == "PATH" {
			cfg.Config.Env[0] = "PATH=" + c.Env[name]
			continue
		}
		cfg.Config.Env = append(cfg.Config.Env, name+"="+c.Env[name])
	}
	cfg.Config.Cmd, cfg.Config.Labels = c.Cmd, c.Labels
	return mutate.ConfigFile(img, cfg)
}

// MaxJSON bounds the manifests, indexes and configurations of an image, which are read into memory whole.
const MaxJSON = 8 << 20

// FromLayout finds the image for a platform in an OCI layout on disk.
func FromLayout(dir string, platform v1.Platform) (v1.Image, error) {
	if err := small(filepath.Join(dir, "index.json")); err != nil {
		return nil, err
	}
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "not an OCI layout: %v", err)
	}
	img, err := find(dir, idx, platform, 3)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "not an OCI layout: %v", err)
	}
	if img == nil {
		return nil, api.Errorf(api.Invalid, "the OCI layout holds no image for %s", platform.String())
	}
	return img, nil
}

// small refuses a file that nobody should read into memory. That it is not there is for its reader to say.
func small(file string) error {
	if info, err := os.Stat(file); err == nil && info.Size() > MaxJSON {
		return api.Errorf(api.TooLarge, "%s is larger than %d bytes", filepath.Base(file), MaxJSON)
	}
	return nil
}

func smallBlob(dir string, hash v1.Hash) error {
	return small(filepath.Join(dir, "blobs", hash.Algorithm, hash.Hex))
}

// find looks for an image of a platform in an index and the indexes it names, at most depth levels deep.
func find(dir string, idx v1.ImageIndex, platform v1.Platform, depth int) (v1.Image, error) {
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if err := smallBlob(dir, d.Digest); err != nil {
			return nil, err
		}
		switch {
		case d.MediaType.IsIndex() && depth > 0:
			child, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := find(dir, child, platform, depth-1); img != nil || err != nil {
				return img, err
			}
		case d.MediaType.IsImage():
			img, err := idx.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			if ok, err := isFor(dir, img, platform); ok || err != nil {
				return img, err
			}
		}
	}
	return nil, nil
}

func isFor(dir string, img v1.Image, platform v1.Platform) (bool, error) {
	m, err := img.Manifest()
	if err != nil {
		return false, err
	}
	if err := smallBlob(dir, m.Config.Digest); err != nil {
		return false, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return false, err
	}
	return cfg.OS == platform.OS && cfg.Architecture == platform.Architecture &&
		(platform.Variant == "" || cfg.Variant == platform.Variant || cfg.Variant == ""), nil
}

// List reads which base images a directory holds. A directory that does not exist holds none.
func List(dir string) ([]Base, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list base images: %w", err)
	}
	var bases []Base
	for _, e := range entries {
		name := prefix + e.Name()
		if !e.IsDir() || !nameForm.MatchString(name) {
			continue
		}
		b := Base{Name: name, Path: filepath.Join(dir, e.Name()), Images: map[string]v1.Hash{}, Former: map[string][]v1.Hash{}}
		idx, err := layout.ImageIndexFromPath(b.Path)
		if err != nil {
			return nil, fmt.Errorf("base image %s: %w", name, err)
		}
		m, err := idx.IndexManifest()
		if err != nil {
			return nil, fmt.Errorf("base image %s: %w", name, err)
		}
		for _, d := range m.Manifests {
			switch {
			case d.Platform != nil:
				b.Images[d.Platform.String()] = d.Digest
			case d.Annotations[formerPlatform] != "":
				at := d.Annotations[formerPlatform]
				b.Former[at] = append(b.Former[at], d.Digest)
			}
		}
		bases = append(bases, b)
	}
	return bases, nil
}

// PlatformOf is the OCI name of an architecture as fleets name it (amd64, aarch64, armv7hf, rpi, i386). "" means amd64.
func PlatformOf(arch string) (v1.Platform, error) {
	switch arch {
	case "amd64", "":
		return v1.Platform{OS: "linux", Architecture: "amd64"}, nil
	case "aarch64", "arm64":
		return v1.Platform{OS: "linux", Architecture: "arm64"}, nil
	case "armv7hf", "armv7":
		return v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, nil
	case "rpi", "armv6":
		return v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, nil
	case "i386", "386":
		return v1.Platform{OS: "linux", Architecture: "386"}, nil
	}
	return v1.Platform{}, api.Errorf(api.Invalid, "unknown architecture %q", arch)
}
