// Package source unpacks the archives that people push. An archive is hostile until proven otherwise: nothing in it may be
// written, linked or read outside the directory it is unpacked into, and its size and number of entries are bounded.
package source

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Limits bounds an archive.
type Limits struct {
	Bytes   int64 // of all files together, unpacked
	Entries int
}

// Summary says what was unpacked.
type Summary struct {
	Files int
	Bytes int64
}

const (
	maxName  = 4096 // of a whole path, as Linux has it
	maxPart  = 255  // of one part of it
	maxDepth = 64
	// headroom is what an archive may spend on one entry besides its content: headers, extended headers, padding.
	headroom = 8 << 10
)

// lastWins are files that balena's client appends to a project, which may have one of its own.
var lastWins = map[string]bool{".balena/registry-secrets.json": true}

// Decompress undoes gzip where the data begins like it; everything else passes as it is.
func Decompress(r io.Reader) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, cut(err)
	}
	if len(magic) < 2 || magic[0] != 0x1f || magic[1] != 0x8b {
		return br, nil
	}
	zr, err := gzip.NewReader(br)
	if err != nil {
		return nil, cut(err)
	}
	return zr, nil
}

// cut words what a reader found. A coded error (the body's own limit, say) passes.
func cut(err error) error {
	var coded *api.Error
	if errors.As(err, &coded) {
		return err
	}
	return api.Errorf(api.Invalid, "the source archive is damaged or ended early: %v", err)
}

// Extract unpacks a tar archive, gzipped or not, into a directory, which must be empty. Its errors name the entry. What was
// unpacked before an error stays; the caller owns the directory.
func Extract(dir string, r io.Reader, lim Limits) (Summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("unpack the source: %w", err)
	}
	defer func() { _ = root.Close() }()
	plain, err := Decompress(r)
	if err != nil {
		return Summary{}, err
	}
	budget := lim.Bytes + int64(lim.Entries+1)*headroom
	x := &extraction{root: root, lim: lim, kinds: map[string]byte{".": tar.TypeDir}}
	if err := x.all(tar.NewReader(&bounded{r: plain, left: budget})); err != nil {
		return x.sum, err
	}
	return x.sum, x.checkLinks()
}

// bounded fails once more was read than an archive within its limits can hold, however it is packed.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, api.Errorf(api.TooLarge, "the source archive is too large")
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

type extraction struct {
	root  *os.Root
	lim   Limits
	sum   Summary
	count int
	kinds map[string]byte // what stands at each path so far; directories that were implied are in it too
	links []string        // symbolic links, checked at the end
}

func (x *extraction) all(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return cut(err)
		}
		x.count++
		if x.count > x.lim.Entries {
			return api.Errorf(api.TooLarge, "the source has more than %d entries (reached at %q); leave files out with .dockerignore",
				x.lim.Entries, h.Name)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := checkName(h.Name)
		if err != nil {
			return err
		}
		if name == "." {
			continue
		}
		if err := x.entry(h, name, tr); err != nil {
			return err
		}
	}
}

// checkName gives the path of an entry in its one clean form, or refuses it.
func checkName(name string) (string, error) {
	bad := func(why string) (string, error) {
		shown := name
		if len(shown) > 200 {
			shown = shown[:200] + "…"
		}
		return "", api.Errorf(api.Invalid, "the source holds %q: %s", shown, why)
	}
	switch {
	case name == "":
		return bad("an entry needs a name")
	case len(name) > maxName:
		return bad("the path is too long")
	case strings.ContainsRune(name, 0):
		return bad("the path holds a NUL byte")
	case strings.HasPrefix(name, "/"):
		return bad("absolute paths are refused")
	}
	parts := strings.Split(name, "/")
	for _, part := range parts {
		if part == ".." {
			return bad(`paths with ".." are refused`)
		}
		if len(part) > maxPart {
			return bad("a part of the path is too long")
		}
	}
	clean := path.Clean(name)
	if strings.Count(clean, "/") >= maxDepth {
		return bad(fmt.Sprintf("directories nested deeper than %d are refused", maxDepth))
	}
	return clean, nil
}

func (x *extraction) entry(h *tar.Header, name string, r io.Reader) error {
	if err := x.parents(name); err != nil {
		return err
	}
	old, exists := x.kinds[name]
	if exists && lastWins[name] && old == tar.TypeReg && h.Typeflag == tar.TypeReg {
		if err := x.root.Remove(name); err != nil {
			return fmt.Errorf("unpack %q: %w", name, err)
		}
		exists = false
	}
	for record := range h.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") {
			return api.Errorf(api.Invalid, "the source holds %q, which is a sparse file: pack it whole", name)
		}
	}
	if exists && (old != tar.TypeDir || h.Typeflag != tar.TypeDir) {
		return api.Errorf(api.Invalid, "the source holds %q twice", name)
	}
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if !exists {
			err = x.root.Mkdir(name, 0o755)
		}
		// Directories stay writable to us: files follow, and all of it is deleted in the end.
		if err == nil {
			err = x.root.Chmod(name, h.FileInfo().Mode().Perm()|0o700)
		}
	case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old archives have it
		err = x.file(h, name, r)
	case tar.TypeSymlink:
		err = x.symlink(h, name)
	case tar.TypeLink:
		err = x.hardlink(h, name)
	default:
		return api.Errorf(api.Invalid, "the source holds %q, which is a %s: only files, directories and links are taken",
			name, kindName(h.Typeflag))
	}
	if err != nil {
		return wrapWrite(name, err)
	}
	kind := h.Typeflag
	if kind != tar.TypeDir && kind != tar.TypeSymlink {
		kind = tar.TypeReg
	}
	x.kinds[name] = kind
	return nil
}

// wrapWrite keeps coded errors and says which entry the others are about.
func wrapWrite(name string, err error) error {
	var coded *api.Error
	if errors.As(err, &coded) {
		return err
	}
	return fmt.Errorf("unpack %q: %w", name, err)
}

// parents makes the directories above an entry. Every one of them must be a directory: a link there could lead elsewhere.
func (x *extraction) parents(name string) error {
	for i := range name {
		if name[i] != '/' {
			continue
		}
		dir := name[:i]
		switch kind, ok := x.kinds[dir]; {
		case ok && kind != tar.TypeDir:
			return api.Errorf(api.Invalid, "the source holds %q below %q, which is not a directory", name, dir)
		case !ok:
			// Directories that only a path names count: an archive must not make a million of them for free.
			x.count++
			if x.count > x.lim.Entries {
				return api.Errorf(api.TooLarge, "the source has more than %d entries (reached at %q)", x.lim.Entries, name)
			}
			if err := x.root.Mkdir(dir, 0o755); err != nil {
				return fmt.Errorf("unpack %q: %w", dir, err)
			}
			x.kinds[dir] = tar.TypeDir
		}
	}
	return nil
}

func (x *extraction) file(h *tar.Header, name string, r io.Reader) error {
	if h.Size < 0 || h.Size > x.lim.Bytes-x.sum.Bytes {
		return api.Errorf(api.TooLarge, "the source is larger than %d MiB unpacked (reached at %q)", x.lim.Bytes>>20, name)
	}
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	x.sum.Bytes += n
	x.sum.Files++
	if err != nil {
		return errors.Join(readError(err), f.Close())
	}
	// Set-user-id and the like mean nothing in a source tree and would be dangerous on the server.
	if err := errors.Join(f.Chmod(h.FileInfo().Mode().Perm()|0o600), f.Close()); err != nil {
		return err
	}
	return x.root.Chtimes(name, time.Time{}, h.ModTime)
}

// readError tells an archive that ends early from a disk that is full.
func readError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return cut(err)
}

func (x *extraction) symlink(h *tar.Header, name string) error {
	if h.Linkname == "" || path.IsAbs(h.Linkname) || len(h.Linkname) > maxName || strings.ContainsRune(h.Linkname, 0) {
		return outside(name, h.Linkname)
	}
	target := path.Join(path.Dir(name), h.Linkname)
	if target == ".." || strings.HasPrefix(target, "../") {
		return outside(name, h.Linkname)
	}
	x.links = append(x.links, name)
	return x.root.Symlink(h.Linkname, name)
}

func (x *extraction) hardlink(h *tar.Header, name string) error {
	target, err := checkName(h.Linkname)
	if err != nil {
		return outside(name, h.Linkname)
	}
	if x.kinds[target] != tar.TypeReg {
		return api.Errorf(api.Invalid, "the source holds %q, a link to %q, which is no file before it in the archive", name, h.Linkname)
	}
	return x.root.Link(target, name)
}

func outside(name, target string) error {
	return api.Errorf(api.Invalid, "the source holds %q, a link to %q: links that lead outside are refused", name, target)
}

// checkLinks follows every symbolic link once all are there: several that each stay inside can together lead outside. A link
// to nothing is left alone.
func (x *extraction) checkLinks() error {
	for _, name := range x.links {
		if _, err := x.root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			target, _ := x.root.Readlink(name)
			return outside(name, target)
		}
	}
	return nil
}

func kindName(flag byte) string {
	switch flag {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "pipe"
	}
	return fmt.Sprintf("thing of tar type %q", flag)
}
