package base

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/shelf"
)

// Record is what is kept of how an image came to be. Its texts are files beside the image, by the image's digest.
type Record struct {
	About      string
	Packages   int
	LockSum    string // of the lock file
	SBOMSum    string
	Checked    time.Time // zero: nothing to compare it with
	Texts      map[string][]byte
	ReplacedAt time.Time // of what was there; zero means now
}

const (
	// formerPlatform marks an image of an index that another one took the place of, and says for which platform it is.
	formerPlatform = "org.roadstead.base.former"
	recordsDir     = "records"
	keepFormer     = 8 // images that were replaced, for each platform
)

// Publish puts an image into the base's layout, in the place of the one for that platform, which stays reachable by its digest. Until
// the index is replaced, in one step, nothing has changed for those who read it.
func Publish(dir, name string, img v1.Image, platform v1.Platform, rec Record) error {
	if !nameForm.MatchString(name) {
		return api.Errorf(api.Invalid, "%q is no name for a base image: it looks like base/busybox", name)
	}
	home := filepath.Join(dir, strings.TrimPrefix(name, prefix))
	if err := os.MkdirAll(filepath.Join(home, recordsDir), 0o755); err != nil {
		return err
	}
	free, err := lockHome(home)
	if err != nil {
		return err
	}
	defer free()
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(home, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	index, err := readIndex(home)
	if err != nil {
		return err
	}
	if err := layout.Path(home).WriteImage(img); err != nil {
		return err
	}
	for what, text := range rec.Texts {
		if err := durable.WriteFile(filepath.Join(home, recordsDir, digest.Hex+"."+what), text, 0o644); err != nil {
			return err
		}
	}
	desc, err := describe(img, platform)
	if err != nil {
		return err
	}
	index.Manifests = supersede(index.Manifests, desc)
	text, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(home, "index.json"), text, 0o644); err != nil {
		return err
	}
	if err := note(home, name, digest.String(), platform, rec); err != nil {
		return err
	}
	return errors.Join(sweep(home, index), Open(dir, home))
}

// lockHome keeps two that make one image apart: the operator, and the schedule.
func lockHome(home string) (free func(), err error) {
	f, err := os.Open(home)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func readIndex(home string) (*v1.IndexManifest, error) {
	empty := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	if err := small(filepath.Join(home, "index.json")); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(home, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return v1.ParseIndexManifest(f)
}

func describe(img v1.Image, platform v1.Platform) (v1.Descriptor, error) {
	digest, err := img.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	size, err := img.Size()
	if err != nil {
		return v1.Descriptor{}, err
	}
	media, err := img.MediaType()
	return v1.Descriptor{MediaType: media, Size: size, Digest: digest, Platform: &platform}, err
}

// supersede puts an image in the place of the one for its platform, and drops the oldest of what it had replaced before.
func supersede(list []v1.Descriptor, now v1.Descriptor) []v1.Descriptor {
	next := []v1.Descriptor{now}
	var former []v1.Descriptor
	for _, d := range list {
		switch {
		case d.Digest == now.Digest:
		case d.Platform != nil && d.Platform.Equals(*now.Platform):
			d.Platform, d.Annotations = nil, map[string]string{formerPlatform: now.Platform.String()}
			former = append([]v1.Descriptor{d}, former...)
		case d.Annotations[formerPlatform] == now.Platform.String():
			former = append(former, d)
		default:
			next = append(next, d)
		}
	}
	return append(next, former[:min(len(former), keepFormer)]...)
}

// note writes down what people are told of the image.
func note(home, name, digest string, platform v1.Platform, rec Record) error {
	b, err := shelf.One(home)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if b.Images == nil {
		b.Images = map[string]api.BaseBuild{}
	}
	now := time.Now().UTC().Truncate(time.Second)
	old := b.Images[platform.String()]
	build := api.BaseBuild{Digest: digest, MadeAt: now, Packages: rec.Packages, Lock: rec.LockSum, SBOM: rec.SBOMSum, Former: old.Former}
	switch {
	case old.Digest == digest:
		build.MadeAt = old.MadeAt
	case old.Digest != "":
		build.Former = append([]api.FormerBase{{Digest: old.Digest, ReplacedAt: now}}, build.Former...)
		build.Former = build.Former[:min(len(build.Former), keepFormer)]
	}
	b.Name, b.About, b.Error, b.Images[platform.String()] = name, rec.About, "", build
	b.CheckedAt = rec.Checked
	return shelf.Write(home, b)
}

// sweep removes blobs and records that no image of the index has any more. A blob that cannot be told stays.
func sweep(home string, index *v1.IndexManifest) error {
	needed := map[string]bool{}
	for _, d := range index.Manifests {
		needed[d.Digest.Hex] = true
		text, err := os.ReadFile(filepath.Join(home, "blobs", d.Digest.Algorithm, d.Digest.Hex))
		if err != nil {
			return fmt.Errorf("tidy: %w", err)
		}
		var m v1.Manifest
		if err := json.Unmarshal(text, &m); err != nil {
			return fmt.Errorf("tidy: %w", err)
		}
		for _, part := range append(m.Layers, m.Config) {
			needed[part.Digest.Hex] = true
		}
	}
	for _, dir := range []string{filepath.Join(home, "blobs", "sha256"), filepath.Join(home, recordsDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("tidy: %w", err)
		}
		for _, e := range entries {
			of, _, _ := strings.Cut(e.Name(), ".")
			if needed[of] {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("tidy: %w", err)
			}
		}
	}
	return nil
}

// Open makes a base image readable for everybody on the machine, whatever the umask, and gives it to whoever has the directory of all
// of them: base images are no secret, and the roles that read and renew them are other users than the operator.
func Open(dir, home string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	return filepath.WalkDir(home, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if owner != nil && os.Geteuid() == 0 {
			if err := os.Lchown(p, int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
		if d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return os.Chmod(p, 0o644)
	})
}
