package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/target"
)

// aside is what came with the source but is not part of it: it must never end up in an image.
type aside struct {
	archives map[string]string // by service: an image that was built elsewhere
	*given
}

// secret is one entry of .balena/registry-secrets.json, as balena's client sends it.
type secret struct {
	Username string `yaml:"username"`
	Password string `yaml:"password"`
}

const (
	imagesDir = ".roadstead/images"
	maxName   = 4096 // of an entry of an image archive
	maxLinks  = 10   // between a name in an image archive and the file
)

func (a *aside) has(service string) bool { return a.archives[service] != "" }

// takeAside moves images built elsewhere and secrets out of the source.
func (b *build) takeAside() (*aside, error) {
	a := &aside{archives: map[string]string{}}
	root, err := os.OpenRoot(b.source())
	if err != nil {
		return nil, fmt.Errorf("open the source: %w", err)
	}
	defer func() { _ = root.Close() }()
	if a.given, err = takeGiven(root); err != nil {
		return nil, err
	}
	info, err := root.Lstat(imagesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil || !info.IsDir() {
		return nil, api.Errorf(api.Invalid, "%s must be a directory", imagesDir)
	}
	// Every part of the path is a real directory: nothing can be unpacked below a link, and Lstat followed none at the end.
	if info, err := root.Lstat(".roadstead"); err != nil || !info.IsDir() {
		return nil, api.Errorf(api.Invalid, "%s must be a directory", imagesDir)
	}
	moved := filepath.Join(b.dir, "images")
	if err := os.Rename(filepath.Join(b.source(), imagesDir), moved); err != nil {
		return nil, fmt.Errorf("take the images aside: %w", err)
	}
	_ = root.Remove(path.Dir(imagesDir)) // fails when the project has more in it, which then stays
	entries, err := os.ReadDir(moved)
	if err != nil {
		return nil, fmt.Errorf("take the images aside: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".tar")
		if !ok || !e.Type().IsRegular() {
			return nil, api.Errorf(api.Invalid, "%s/%s: expected archives named SERVICE.tar", imagesDir, e.Name())
		}
		a.archives[name] = filepath.Join(moved, e.Name())
	}
	return a, nil
}

// fromArchive reads an image that was built elsewhere: what `docker save` writes, or an OCI layout in a tar.
// dir is for what it has to unpack.
func (b *build) fromArchive(service, file, dir string, t target.Target) (v1.Image, error) {
	bad := func(err error) error {
		return api.Errorf(api.Invalid, "the image archive of service %s cannot be used: %v", service, err)
	}
	opener := func() (io.ReadCloser, error) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		plain, err := source.Decompress(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// A small archive may unpack to any size.
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(plain, b.s.cfg.Limits.SourceBytes), f}, nil
	}
	if err := checkSaved(opener, b.s.cfg.Limits.SourceEntries); err != nil {
		return nil, bad(err)
	}
	img, err := tarball.Image(opener, nil)
	var cfg *v1.ConfigFile
	if err == nil {
		cfg, err = img.ConfigFile()
	}
	want := t.Platform
	if err == nil && cfg.OS == want.OS && cfg.Architecture == want.Architecture {
		return img, nil
	}
	// Newer engines save an OCI layout, with images for several machines, that is readable in the old form too.
	other, layoutErr := b.fromLayout(dir, t, opener)
	switch {
	case layoutErr == nil:
		return other, nil
	case err != nil:
		return nil, bad(errors.Join(layoutErr, err))
	}
	hint := ""
	if len(b.targets) > 1 {
		hint = "; give an OCI layout that holds an image for each"
	}
	return nil, api.Errorf(api.Invalid, "the image of service %s is for %s/%s, but the fleet's devices are %s%s", service,
		cfg.OS, cfg.Architecture, strings.Join(target.Names(b.targets), " and "), hint)
}

// checkSaved looks through an archive as `docker save` writes it for what will be read into memory whole: its list of images,
// and their configurations. That an archive is damaged or not of this form is for others to say.
func checkSaved(opener tarball.Opener, entries int) error {
	const list = "manifest.json"
	seen, err := scan(opener, entries)
	if err != nil {
		return err
	}
	if err := seen.small(list); err != nil {
		return err
	}
	images, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil
	}
	for _, d := range images {
		if err := seen.small(d.Config); err != nil {
			return err
		}
	}
	return nil
}

// contents are the entries of an archive, by clean name. Of two with one name the first counts, as for the library.
type contents map[string]entry

type entry struct {
	size int64
	link string // "" when it is none
}

func scan(opener tarball.Opener, entries int) (contents, error) {
	r, err := opener()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	seen := contents{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			return seen, nil
		}
		if len(seen) >= entries || max(len(h.Name), len(h.Linkname)) > maxName {
			return nil, api.Errorf(api.TooLarge, "it has more than %d entries, or one with a name of more than %d bytes", entries, maxName)
		}
		e := entry{size: h.Size}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			e.link = path.Clean(h.Linkname)
		}
		name := path.Clean(h.Name)
		if _, twice := seen[name]; !twice {
			seen[name] = e
		}
	}
}

// small refuses an entry, reached through links as the library follows them, that is too large to be read into memory.
func (c contents) small(name string) error {
	for range maxLinks {
		e := c[path.Clean(name)]
		switch {
		case e.link != "":
			name = path.Join(path.Dir(name), e.link)
		case e.size > base.MaxJSON:
			return api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, base.MaxJSON)
		default:
			return nil
		}
	}
	return api.Errorf(api.Invalid, "%s is behind more than %d links", name, maxLinks)
}

func (b *build) fromLayout(dir string, t target.Target, opener func() (io.ReadCloser, error)) (v1.Image, error) {
	r, err := opener()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := source.Extract(dir, r, b.s.sourceLimits()); err != nil {
		return nil, err
	}
	return base.FromLayout(dir, t.Platform)
}
