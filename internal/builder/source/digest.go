package source

import (
	"context"
	"crypto/sha1" //nolint:gosec // what git calls a tree by; the other digest is the strong one
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Digests takes two digests of a source, in one pass: gitTree, which `git rev-parse HEAD^{tree}` shows for a clean checkout, and
// dirHash, which is that of
//
//	find . -type f | sed 's,^\./,,' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum
//
// Only the first knows links and what is executable, only the second is strong: together they say what was built.
func Digests(ctx context.Context, root *os.Root) (map[string]string, error) {
	t := &trees{ctx: ctx, root: root, files: map[string]string{}, buf: make([]byte, 256<<10)}
	top, err := t.tree(".", 0)
	if err != nil {
		return nil, fmt.Errorf("digest of the source: %w", err)
	}
	names := make([]string, 0, len(t.files))
	for name := range t.files {
		names = append(names, name)
	}
	slices.Sort(names)
	sum := sha256.New()
	for _, name := range names {
		fmt.Fprintf(sum, "%s  %s\n", t.files[name], name)
	}
	if top == nil {
		top = object("tree", nil)
	}
	return map[string]string{"gitTree": hex.EncodeToString(top), "dirHash": hex.EncodeToString(sum.Sum(nil))}, nil
}

// trees is a walk through a source.
type trees struct {
	ctx   context.Context
	root  *os.Root
	files map[string]string // path → SHA-256
	buf   []byte
}

// object is git's name for an object that is in memory.
func object(kind string, data []byte) []byte {
	h := blobHash(kind, int64(len(data)))
	h.Write(data)
	return h.Sum(nil)
}

func blobHash(kind string, size int64) hash.Hash {
	h := sha1.New() //nolint:gosec // see above
	fmt.Fprintf(h, "%s %d\x00", kind, size)
	return h
}

// tree gives git's name of a directory, nil when git would not keep it because it is empty.
func (t *trees) tree(dir string, depth int) ([]byte, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("directories are nested more than %d deep", maxDepth)
	}
	d, err := t.root.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil {
		return nil, err
	}
	type item struct{ key, line string }
	var items []item
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		mode, id, err := t.entry(name, e, depth)
		if err != nil {
			return nil, err
		}
		if id == nil {
			continue
		}
		key := e.Name()
		if e.IsDir() {
			key += "/" // as git sorts
		}
		items = append(items, item{key, mode + " " + e.Name() + "\x00" + string(id)})
	}
	if len(items) == 0 {
		return nil, nil
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	var data strings.Builder
	for _, i := range items {
		data.WriteString(i.line)
	}
	return object("tree", []byte(data.String())), nil
}

// entry gives git's mode and name of one entry of a directory; no name for what git does not keep.
func (t *trees) entry(name string, e fs.DirEntry, depth int) (mode string, id []byte, err error) {
	switch {
	case e.IsDir():
		id, err = t.tree(name, depth+1)
		return "40000", id, err
	case e.Type() == fs.ModeSymlink:
		to, err := t.root.Readlink(name)
		return "120000", object("blob", []byte(to)), err
	case !e.Type().IsRegular():
		return "", nil, nil
	}
	f, err := t.root.Open(name)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", nil, err
	}
	git, strong := blobHash("blob", info.Size()), sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(git, strong)}, struct{ io.Reader }{f}, t.buf); err != nil {
		return "", nil, err
	}
	t.files[name] = hex.EncodeToString(strong.Sum(nil))
	mode = "100644"
	if info.Mode()&0o100 != 0 {
		mode = "100755"
	}
	return mode, git.Sum(nil), nil
}
