package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
)

// Contents are a project's files by what is in them: a builder that has most of them already is sent only the others.
type Contents struct {
	Entries []api.SourceEntry
	files   map[string]string // by SHA-256: one file that holds it
}

// private files hold secrets, perhaps: they go out with each push and are kept nowhere. The builder insists on it.
func private(name string) bool {
	return strings.HasPrefix(name, ".balena/") || strings.HasPrefix(name, ".resin/") || name == ".roadstead/build.json"
}

// Contents reads the project's files. hashes may be nil. progress, when not nil, is told how many bytes were looked at.
func (p *Project) Contents(ctx context.Context, hashes *Hashes, progress func(n int64)) (*Contents, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	c := &Contents{Entries: make([]api.SourceEntry, len(p.entries)), files: map[string]string{}}
	group, whole := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range p.entries {
		if whole.Err() != nil {
			break
		}
		group.Go(func() (err error) {
			if c.Entries[i], err = e.describe(hashes, progress); err != nil {
				return fmt.Errorf("read %s: %w", e.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, e := range p.entries {
		if sum := c.Entries[i].SHA256; sum != "" {
			c.files[sum] = e.file
		}
	}
	return c, nil
}

func (e entry) describe(hashes *Hashes, progress func(int64)) (api.SourceEntry, error) {
	out := api.SourceEntry{Path: strings.TrimSuffix(e.name, "/"), Mode: 0o644}
	if e.info == nil {
		progress(int64(len(e.data)))
		out.Data = e.data
		return out, nil
	}
	out.Mode, out.Time = uint32(e.info.Mode().Perm()), e.info.ModTime().Unix()
	switch {
	case e.link != "":
		out.Type, out.Link, out.Mode = api.SourceLink, e.link, 0o777
		return out, nil
	case e.info.IsDir():
		out.Type = api.SourceDir
		return out, nil
	}
	if private(out.Path) {
		text, err := os.ReadFile(e.file)
		progress(int64(len(text)))
		out.Data = text
		return out, err
	}
	if sum, ok := hashes.known(e.file, e.info); ok {
		progress(e.info.Size())
		out.Size, out.SHA256 = e.info.Size(), sum
		return out, nil
	}
	return out, e.read(&out, hashes, progress)
}

// read takes a file's SHA-256 anew. Its size is that of what was read: the file may have grown since it was looked at.
func (e entry) read(out *api.SourceEntry, hashes *Hashes, progress func(int64)) error {
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	hash := sha256.New()
	n, err := io.Copy(&counting{hash, progress}, f)
	if err != nil {
		return err
	}
	after, err := f.Stat()
	if err != nil {
		return err
	}
	out.Size, out.SHA256, out.Time = n, hex.EncodeToString(hash.Sum(nil)), after.ModTime().Unix()
	if same(before, after) && n == after.Size() {
		hashes.learn(e.file, after, out.SHA256)
	}
	return nil
}

func same(a, b fs.FileInfo) bool { return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) }

// Open gives the content of a SHA-256 that one of the entries names, and the file that it is in.
func (c *Contents) Open(sum string) (content io.ReadCloser, file string, err error) {
	file, ok := c.files[sum]
	if !ok {
		return nil, "", api.Errorf(api.Internal, "the builder asks for a file that the project does not hold: %s", sum)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, file, err
	}
	return f, file, nil
}

// Sizes are those of the contents, by SHA-256.
func (c *Contents) Sizes() map[string]int64 {
	sizes := map[string]int64{}
	for _, e := range c.Entries {
		if e.SHA256 != "" {
			sizes[e.SHA256] = e.Size
		}
	}
	return sizes
}
