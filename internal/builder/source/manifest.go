package source

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Manifest is a project as a list of what is in it, whose contents are elsewhere. It is as hostile as an archive and held to the
// same rules: nothing leads outside, nothing is there twice or below what is no directory, and all of it is bounded.
type Manifest struct {
	lim     Limits
	entries []api.SourceEntry
	kinds   map[string]string // what stands at each path; directories that were implied are in it too
	count   int
	sum     Summary
}

// implied is the kind of a directory that only the path of another entry names.
const implied = "implied"

// NewManifest makes an empty one.
func NewManifest(lim Limits) *Manifest {
	return &Manifest{lim: lim, kinds: map[string]string{".": api.SourceDir}}
}

// Entries are those that were added, with clean paths.
func (m *Manifest) Entries() []api.SourceEntry { return m.entries }

// Summary says how much it is.
func (m *Manifest) Summary() Summary { return m.sum }

// Add adds an entry, or says what is wrong with it.
func (m *Manifest) Add(e api.SourceEntry) error {
	if err := m.counted(e.Path); err != nil {
		return err
	}
	name, err := checkName(e.Path)
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	e.Path = name
	if err := m.parents(name); err != nil {
		return err
	}
	switch old, exists := m.kinds[name]; {
	case exists && old == implied && e.Type == api.SourceDir:
	case exists:
		return api.Errorf(api.Invalid, "the source holds %q twice", name)
	}
	if err := m.check(e); err != nil {
		return err
	}
	m.kinds[name] = e.Type
	m.entries = append(m.entries, e)
	return nil
}

func (m *Manifest) counted(name string) error {
	if m.count++; m.count > m.lim.Entries {
		return api.Errorf(api.TooLarge, "the source has more than %d entries (limit source_entries; reached at %.200q); leave files out with .dockerignore",
			m.lim.Entries, name)
	}
	return nil
}

func (m *Manifest) parents(name string) error {
	for i := range name {
		if name[i] != '/' {
			continue
		}
		dir := name[:i]
		switch kind, ok := m.kinds[dir]; {
		case ok && kind != api.SourceDir && kind != implied:
			return api.Errorf(api.Invalid, "the source holds %q below %q, which is not a directory", name, dir)
		case !ok:
			if err := m.counted(name); err != nil {
				return err
			}
			m.kinds[dir] = implied
		}
	}
	return nil
}

func (m *Manifest) check(e api.SourceEntry) error {
	if e.Type != api.SourceFile && (e.Size != 0 || e.SHA256 != "" || len(e.Data) > 0) || e.Type != api.SourceLink && e.Link != "" {
		return api.Errorf(api.Invalid, "the source holds %q, which is of two kinds", e.Path)
	}
	switch e.Type {
	case api.SourceDir:
		return nil
	case api.SourceLink:
		if e.Link == "" || path.IsAbs(e.Link) || len(e.Link) > maxName || strings.ContainsRune(e.Link, 0) {
			return outside(e.Path, e.Link)
		}
		if to := path.Join(path.Dir(e.Path), e.Link); to == ".." || strings.HasPrefix(to, "../") {
			return outside(e.Path, e.Link)
		}
		return nil
	case api.SourceFile:
	default:
		return api.Errorf(api.Invalid, "the source holds %q of type %.50q: only files, directories and links are taken", e.Path, e.Type)
	}
	size := e.Size
	switch sum, err := hex.DecodeString(e.SHA256); {
	case e.SHA256 == "" && e.Size == 0:
		size = int64(len(e.Data)) // sent along; or empty
	case err != nil || len(sum) != 32 || strings.ToLower(e.SHA256) != e.SHA256 || len(e.Data) > 0:
		return api.Errorf(api.Invalid, "the source holds %q, whose content is named by neither a SHA-256 nor itself", e.Path)
	case private(e.Path):
		return api.Errorf(api.Invalid, "%q may hold secrets: its content must be sent along, not named", e.Path)
	}
	if size < 0 || size > m.lim.Bytes-m.sum.Bytes {
		return api.Errorf(api.TooLarge, "the source is larger than %d MiB unpacked (limit source_bytes; reached at %q)", m.lim.Bytes>>20, e.Path)
	}
	m.sum.Bytes += size
	m.sum.Files++
	return nil
}

// private files are never kept from one push to the next.
func private(name string) bool {
	return strings.HasPrefix(name, ".balena/") || strings.HasPrefix(name, ".resin/") || name == ".roadstead/build.json"
}

// Mode is the permissions that an entry gets on disk: those that it asks for, less what would be dangerous or in our way.
func Mode(e api.SourceEntry) fs.FileMode {
	if e.Type == api.SourceDir {
		return fs.FileMode(e.Mode).Perm() | 0o700
	}
	return fs.FileMode(e.Mode).Perm() | 0o600
}

// Place lays the project out in a directory, which must be empty. Files are laid by the function, which must not follow links: the
// root is all that it may write to.
func (m *Manifest) Place(dir string, file func(root *os.Root, e api.SourceEntry) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("lay out the source: %w", err)
	}
	defer func() { _ = root.Close() }()
	var links []api.SourceEntry
	made := map[string]bool{".": true}
	for _, e := range m.entries {
		if up := path.Dir(e.Path); !made[up] {
			if err := root.MkdirAll(up, 0o755); err != nil {
				return fmt.Errorf("lay out %q: %w", e.Path, err)
			}
			made[up] = true
		}
		switch e.Type {
		case api.SourceDir:
			err = root.Mkdir(e.Path, 0o755)
			if errors.Is(err, fs.ErrExist) {
				err = nil
			}
			if err == nil {
				err = root.Chmod(e.Path, Mode(e))
			}
		case api.SourceLink:
			links = append(links, e)
		default:
			err = file(root, e)
		}
		if err != nil {
			return wrapWrite(e.Path, err)
		}
	}
	// Links come last: nothing is ever written through one.
	x := &extraction{root: root}
	for _, e := range links {
		if err := root.Symlink(e.Link, e.Path); err != nil {
			return wrapWrite(e.Path, err)
		}
		x.links = append(x.links, e.Path)
	}
	return x.checkLinks()
}
