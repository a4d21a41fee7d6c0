package recipe

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// tree is a root file system in the making. The contents of files wait in one file on disk.
type tree struct {
	entries map[string]*entry
	spool   *os.File
	size    int64
	newest  time.Time
}

type entry struct {
	kind     byte // as in a tar header
	mode     int64
	uid, gid int
	link     string
	time     time.Time // zero: made by us
	at, size int64     // of the content, in the spool
	from     string    // the package that brought it
}

const (
	maxLinks = 16      // between a name and a place
	maxTree  = 8 << 30 // bytes of files
)

func newTree(dir string) (*tree, error) {
	spool, err := os.CreateTemp(dir, "content-")
	if err != nil {
		return nil, err
	}
	return &tree{entries: map[string]*entry{}, spool: spool, newest: time.Unix(0, 0)}, nil
}

func (t *tree) close() error { return errors.Join(t.spool.Close(), os.Remove(t.spool.Name())) }

// place is where a path leads when its directories are followed through the links of the tree: a package may say lib/x where lib is a
// link to usr/lib. No link leads out of the root.
func (t *tree) place(p string) (string, error) {
	parts := strings.Split(p, "/")
	at := ""
	for hops := 0; len(parts) > 1; {
		next := path.Join(at, parts[0])
		e := t.entries[next]
		parts = parts[1:]
		switch {
		case e == nil || e.kind == tar.TypeDir:
			at = next
		case e.kind == tar.TypeSymlink:
			if hops++; hops > maxLinks {
				return "", api.Errorf(api.Invalid, "%s is behind too many links", p)
			}
			to := e.link
			if !path.IsAbs(to) {
				to = "/" + path.Join(path.Dir("/"+next), to)
			}
			to = strings.TrimPrefix(path.Clean("/"+to), "/") // "/.." is "/", as for the kernel
			parts = append(strings.Split(to, "/"), parts...)
			if to == "" {
				parts = parts[1:]
			}
			at = ""
		default:
			return "", api.Errorf(api.Invalid, "%s lies below %s, which is no directory", p, next)
		}
	}
	return path.Join(at, parts[0]), nil
}

// add takes an entry of a package in.
func (t *tree) add(from string, h *tar.Header, r io.Reader) error {
	p, err := t.place(h.Name)
	if err != nil {
		return err
	}
	e := &entry{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, link: h.Linkname, time: h.ModTime, from: from}
	if h.ModTime.After(t.newest) {
		t.newest = h.ModTime
	}
	old := t.entries[p]
	switch {
	case old == nil:
	case e.kind == tar.TypeDir && old.kind == tar.TypeDir:
		return nil // the first one's mode holds
	case e.kind == tar.TypeDir && old.kind == tar.TypeSymlink:
		return nil // a directory elsewhere, and this package's files go there
	case e.kind == tar.TypeSymlink && old.kind == tar.TypeSymlink && e.link == old.link:
		return nil
	default:
		return api.Errorf(api.Invalid, "%s is in %s and in %s", p, old.from, from)
	}
	if err := t.parents(p, from); err != nil {
		return err
	}
	switch e.kind {
	case tar.TypeReg:
		if err := t.content(e, r); err != nil {
			return err
		}
	case tar.TypeLink:
		to, err := t.place(h.Linkname)
		if err != nil {
			return err
		}
		if target := t.entries[to]; target == nil || target.kind != tar.TypeReg || target.from != from {
			return api.Errorf(api.Invalid, "%s is a hard link to %s, which is no file of the package before it", p, h.Linkname)
		}
		e.link = to
	}
	t.entries[p] = e
	return nil
}

// parents makes the directories that a path needs and nothing brought.
func (t *tree) parents(p, from string) error {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		e := t.entries[dir]
		if e == nil {
			t.entries[dir] = &entry{kind: tar.TypeDir, mode: 0o755, from: from}
			continue
		}
		if e.kind != tar.TypeDir {
			return api.Errorf(api.Invalid, "%s lies below %s, which is no directory", p, dir)
		}
	}
	return nil
}

func (t *tree) content(e *entry, r io.Reader) error {
	n, err := io.Copy(t.spool, io.LimitReader(r, maxTree-t.size+1))
	if err != nil {
		return err
	}
	e.at, e.size = t.size, n
	if t.size += n; t.size > maxTree {
		return api.Errorf(api.TooLarge, "the image is larger than %d bytes", int64(maxTree))
	}
	return nil
}

// put makes or replaces something of our own.
func (t *tree) put(p string, e entry, text []byte) error {
	p, err := t.place(p)
	if err != nil {
		return err
	}
	if old := t.entries[p]; old != nil && old.kind == tar.TypeDir && e.kind != tar.TypeDir {
		return api.Errorf(api.Invalid, "%s is a directory", p)
	}
	if err := t.parents(p, ""); err != nil {
		return err
	}
	if e.kind == tar.TypeReg {
		if err := t.content(&e, bytes.NewReader(text)); err != nil {
			return err
		}
	}
	t.entries[p] = &e
	return nil
}

// text is the content of a small file.
func (t *tree) text(p string) ([]byte, error) {
	p, err := t.place(p)
	if err != nil {
		return nil, err
	}
	e := t.entries[p]
	if e == nil || e.kind != tar.TypeReg || e.size > maxFile {
		return nil, api.Errorf(api.NotFound, "there is no (small) file %s in the packages", p)
	}
	return io.ReadAll(io.NewSectionReader(t.spool, e.at, e.size))
}

// below are the paths of files in a directory, sorted.
func (t *tree) below(dir string) []string {
	var list []string
	for p, e := range t.entries {
		if strings.HasPrefix(p, dir+"/") && e.kind == tar.TypeReg {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// write makes the archive. What we made has the time of the newest file of the packages, so that the archive depends on these alone.
// Hard links come last: what they lead to must be there.
func (t *tree) write(w io.Writer) error {
	tw := tar.NewWriter(w)
	var links []string
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		if t.entries[p].kind == tar.TypeLink {
			links = append(links, p)
			continue
		}
		if err := t.writeEntry(tw, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	for _, p := range links {
		if err := t.writeEntry(tw, p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return tw.Close()
}

func (t *tree) writeEntry(tw *tar.Writer, p string) error {
	e := t.entries[p]
	h := &tar.Header{Typeflag: e.kind, Name: p, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid, Format: tar.FormatPAX,
		ModTime: e.time.Truncate(time.Second)}
	if e.time.IsZero() || e.kind == tar.TypeDir {
		h.ModTime = t.newest.Truncate(time.Second)
	}
	switch e.kind {
	case tar.TypeDir:
		h.Name += "/"
	case tar.TypeReg:
		h.Size = e.size
	}
	if err := tw.WriteHeader(h); err != nil || e.kind != tar.TypeReg {
		return err
	}
	_, err := io.Copy(tw, io.NewSectionReader(t.spool, e.at, e.size))
	return err
}
