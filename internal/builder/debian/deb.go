package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/roadstead-io/roadstead/api"
)

const (
	maxControl  = 16 << 20
	maxEntries  = 200_000
	maxUnpacked = 4 << 30
	maxWindow   = 128 << 20
)

// Contents are what a package is made of.
type Contents struct {
	Control string            // its control file
	Scripts map[string][]byte // the other files beside it, by name: md5sums, postinst, …
}

// Unpack reads a package and calls each with every entry of its file system, in order. Names come clean and relative; an entry that
// leads out of the root, or is neither file, directory nor link, is an error.
func Unpack(file string, each func(h *tar.Header, r io.Reader) error) (*Contents, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unpackDeb(f, each)
}

func unpackDeb(r io.Reader, each func(h *tar.Header, r io.Reader) error) (*Contents, error) {
	members := ar{r: r}
	if err := members.begin(); err != nil {
		return nil, err
	}
	c := &Contents{Scripts: map[string][]byte{}}
	for want := range 3 {
		name, body, err := members.next()
		if err != nil {
			return nil, api.Errorf(api.Invalid, "the package is cut off or damaged: %v", err)
		}
		switch want {
		case 0:
			text, err := io.ReadAll(io.LimitReader(body, 16))
			if err != nil || name != "debian-binary" || !bytes.HasPrefix(text, []byte("2.")) {
				return nil, api.Errorf(api.Invalid, "this is no package of Debian's form 2")
			}
		case 1:
			if err := member(name, "control.tar", body, maxControl, c.control); err != nil {
				return nil, err
			}
		case 2:
			if err := member(name, "data.tar", body, maxUnpacked, each); err != nil {
				return nil, err
			}
		}
	}
	if c.Control == "" {
		return nil, api.Errorf(api.Invalid, "the package has no control file")
	}
	return c, nil
}

// control takes one file of the control archive in.
func (c *Contents) control(h *tar.Header, r io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if strings.Contains(h.Name, "/") {
		return api.Errorf(api.Invalid, "control.tar: entry %q is in a directory", h.Name)
	}
	if h.Name == "control" {
		c.Control = string(text)
		return nil
	}
	c.Scripts[h.Name] = text
	return nil
}

// member walks the tar archive in one member of a package.
func member(name, want string, body io.Reader, limit int64, each func(h *tar.Header, r io.Reader) error) error {
	ending, ok := strings.CutPrefix(name, want)
	if !ok {
		return api.Errorf(api.Invalid, "the package has %q where %s is expected", name, want)
	}
	var plain io.Reader
	var err error
	if ending == ".zst" {
		d, zerr := zstd.NewReader(body, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if zerr != nil {
			return zerr
		}
		defer d.Close()
		plain = d
	} else if plain, err = unpack(body, ending); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	bounded := &io.LimitedReader{R: plain, N: limit}
	tr := tar.NewReader(bounded)
	for entries := 0; ; entries++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if bounded.N <= 0 {
				return api.Errorf(api.TooLarge, "%s unpacks to more than %d bytes", name, limit)
			}
			return api.Errorf(api.Invalid, "%s is damaged: %v", name, err)
		}
		if entries >= maxEntries {
			return api.Errorf(api.TooLarge, "%s has more than %d entries", name, maxEntries)
		}
		if err := plainEntry(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if h.Name == "." {
			continue
		}
		if err := each(h, tr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// plainEntry makes an entry's name clean and relative, or says why it is none of a package's.
func plainEntry(h *tar.Header) error {
	clean, err := inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
	case tar.TypeLink:
		if h.Linkname, err = inside(h.Linkname); err != nil {
			return err
		}
	default:
		return api.Errorf(api.Invalid, "entry %q is neither file, directory nor link (type %q)", h.Name, h.Typeflag)
	}
	if h.Typeflag == tar.TypeSymlink && (h.Linkname == "" || strings.ContainsRune(h.Linkname, 0)) {
		return api.Errorf(api.Invalid, "entry %q is a link to nothing", h.Name)
	}
	h.Name = clean
	return nil
}

func inside(name string) (string, error) {
	if strings.ContainsRune(name, 0) || strings.HasPrefix(name, "/") || len(name) > 4096 {
		return "", api.Errorf(api.Invalid, "entry %q leads outside the package", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", api.Errorf(api.Invalid, "entry %q leads outside the package", name)
		}
	}
	return path.Clean(name), nil
}

// ar reads the outer form of a package.
type ar struct {
	r    io.Reader
	left io.LimitedReader // of the member before
	pad  int64
}

func (a *ar) begin() error {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(a.r, magic); err != nil || string(magic) != "!<arch>\n" {
		return api.Errorf(api.Invalid, "this is no package of Debian's")
	}
	return nil
}

func (a *ar) next() (name string, body io.Reader, err error) {
	if a.left.R != nil {
		if _, err := io.Copy(io.Discard, &a.left); err != nil {
			return "", nil, err
		}
		if a.left.N > 0 {
			return "", nil, io.ErrUnexpectedEOF
		}
		if _, err := io.CopyN(io.Discard, a.r, a.pad); err != nil {
			return "", nil, err
		}
	}
	head := make([]byte, 60)
	if _, err := io.ReadFull(a.r, head); err != nil {
		return "", nil, err
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
	if err != nil || size < 0 || head[58] != '`' || head[59] != '\n' {
		return "", nil, errors.New("a member's header is wrong")
	}
	a.left, a.pad = io.LimitedReader{R: a.r, N: size}, size%2
	return strings.TrimRight(strings.TrimSpace(string(head[:16])), "/"), &a.left, nil
}
