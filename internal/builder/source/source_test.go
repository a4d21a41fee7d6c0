package source_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
)

var limits = source.Limits{Bytes: 1 << 20, Entries: 100}

// archive packs headers; a regular file's content is its Linkname.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		var content string
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
}

func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

func TestExtractKeepsAnHonestTree(t *testing.T) {
	data := archive(t,
		dir("./"), dir("./app/"), file("./app/main.c", "int main;"), dir("./app"),
		tar.Header{Typeflag: tar.TypeReg, Name: "run.sh", Linkname: "#!", Mode: 0o4755},
		file("deep/er/file", "x"), symlink("app/link", "../run.sh"), symlink("dangling", "not/there"), hardlink("copy", "run.sh"),
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "git"}})
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, _ = zw.Write(data)
	_ = zw.Close()
	for name, data := range map[string][]byte{"plain": data, "gzip": zipped.Bytes()} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			sum, err := source.Extract(root, bytes.NewReader(data), limits)
			if err != nil {
				t.Fatal(err)
			}
			if want := (source.Summary{Files: 3, Bytes: 12}); sum != want {
				t.Errorf("Extract: %+v, want %+v", sum, want)
			}
			var got []string
			_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
				info, _ := d.Info()
				rel, _ := filepath.Rel(root, p)
				if rel != "." {
					got = append(got, fmt.Sprintf("%v %s", info.Mode(), rel))
				}
				return err
			})
			want := []string{"drwxr-xr-x app", "Lrwxrwxrwx app/link", "-rw-r--r-- app/main.c", "-rwxr-xr-x copy",
				"Lrwxrwxrwx dangling", "drwxr-xr-x deep", "drwxr-xr-x deep/er", "-rw-r--r-- deep/er/file", "-rwxr-xr-x run.sh"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExtractRefusesHostileArchives(t *testing.T) {
	many := make([]tar.Header, 101)
	for i := range many {
		many[i] = file(fmt.Sprintf("f%d", i), "")
	}
	deep := strings.Repeat("d/", 64) + "f"
	implied := make([]tar.Header, 0, 4)
	for i := range 4 {
		implied = append(implied, file(fmt.Sprintf("%c/", 'a'+i)+strings.Repeat("d/", 40)+"f", ""))
	}
	for name, c := range map[string]struct {
		data []byte
		want string
		code api.Code
	}{
		"parent":              {archive(t, file("../evil", "x")), `"../evil"`, api.Invalid},
		"parent inside":       {archive(t, file("a/../../evil", "x")), `"a/../../evil"`, api.Invalid},
		"parent that stays":   {archive(t, file("a/../b", "x")), `paths with ".."`, api.Invalid},
		"absolute":            {archive(t, file("/etc/passwd", "x")), `"/etc/passwd"`, api.Invalid},
		"absolute link":       {archive(t, symlink("l", "/etc/passwd")), `"/etc/passwd": links that lead outside`, api.Invalid},
		"relative link":       {archive(t, symlink("a/l", "../../etc")), `"../../etc": links that lead outside`, api.Invalid},
		"links in concert":    {archive(t, dir("s"), symlink("b", "."), symlink("s/a", "../b/../x")), "lead outside", api.Invalid},
		"empty link":          {archive(t, symlink("l", "")), "lead outside", api.Invalid},
		"through a link":      {archive(t, dir("d"), symlink("l", "d"), file("l/f", "x")), `below "l"`, api.Invalid},
		"through a file":      {archive(t, file("f", "x"), file("f/g", "x")), `below "f"`, api.Invalid},
		"file over link":      {archive(t, file("t", "x"), symlink("l", "t"), file("l", "y")), `"l" twice`, api.Invalid},
		"file twice":          {archive(t, file("f", "x"), file("./f", "y")), `"f" twice`, api.Invalid},
		"dir over link":       {archive(t, dir("d"), symlink("l", "d"), dir("l")), `"l" twice`, api.Invalid},
		"hard link outside":   {archive(t, hardlink("h", "/etc/passwd")), "lead outside", api.Invalid},
		"hard link up":        {archive(t, hardlink("h", "../x")), "lead outside", api.Invalid},
		"hard link to link":   {archive(t, file("f", ""), symlink("l", "f"), hardlink("h", "l")), "no file before it", api.Invalid},
		"hard link ahead":     {archive(t, hardlink("h", "later"), file("later", "")), "no file before it", api.Invalid},
		"device":              {archive(t, tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}), `"sda", which is a device`, api.Invalid},
		"character device":    {archive(t, tar.Header{Typeflag: tar.TypeChar, Name: "mem"}), `"mem", which is a device`, api.Invalid},
		"pipe":                {archive(t, tar.Header{Typeflag: tar.TypeFifo, Name: "p"}), `"p", which is a pipe`, api.Invalid},
		"too many":            {archive(t, many...), "more than 100 entries", api.TooLarge},
		"many implied":        {archive(t, implied...), "more than 100 entries", api.TooLarge},
		"too deep":            {archive(t, file(deep, "x")), "nested deeper", api.Invalid},
		"too large":           {archive(t, file("big", strings.Repeat("x", 1<<20+1))), `larger than 1 MiB unpacked (reached at "big")`, api.TooLarge},
		"too large in sum":    {archive(t, file("a", strings.Repeat("x", 1<<19+1)), file("b", strings.Repeat("x", 1<<19))), `"b"`, api.TooLarge},
		"part too long":       {archive(t, file(strings.Repeat("x", 256), "x")), "too long", api.Invalid},
		"path too long":       {archive(t, file(strings.Repeat("xxxxxxx/", 600)+"f", "x")), "too long", api.Invalid},
		"cut short":           {archive(t, file("f", strings.Repeat("x", 2000)))[:1024], "damaged or ended early", api.Invalid},
		"not a tar":           {bytes.Repeat([]byte("nonsense"), 200), "damaged or ended early", api.Invalid},
		"gzip of nothing":     {[]byte{0x1f, 0x8b, 8}, "damaged or ended early", api.Invalid},
		"sparse":              {sparse(t), `"holes", which is a sparse file`, api.Invalid},
		"old sparse":          {archive(t, tar.Header{Typeflag: tar.TypeGNUSparse, Name: "s"}), "", api.Invalid},
		"a link over secrets": {archive(t, file(".balena/registry-secrets.json", "x"), symlink(".balena/registry-secrets.json", "y")), "twice", api.Invalid},
		"long extended":       {extended(t, 2<<20), "damaged or ended early", api.Invalid},
		"many extended":       {bytes.Repeat(extended(t, 900<<10)[:512+(900<<10)], 4), "the source archive is too large", api.TooLarge},
		"lie about the size":  {lie(t), "larger than 1 MiB", api.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			root := filepath.Join(parent, "root")
			if err := os.Mkdir(root, 0o700); err != nil {
				t.Fatal(err)
			}
			_, err := source.Extract(root, bytes.NewReader(c.data), limits)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Extract: %v, want it to speak of %s", err, c.want)
			}
			if !errors.Is(err, &api.Error{Code: c.code}) {
				t.Errorf("Extract: code %q, want %q", api.AsError(err).Code, c.code)
			}
			if entries, _ := os.ReadDir(parent); len(entries) != 1 {
				t.Errorf("something was written outside: %v", entries)
			}
		})
	}
}

// lie makes a header that promises 2 GiB with nothing behind it.
func lie(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 2 << 30, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A million entries must be refused after a few, not after all of them were read.
// sparse is a file of 1 TiB with nothing in it, in the form of POSIX archives.
func sparse(t testing.TB) []byte {
	t.Helper()
	records := ""
	for _, r := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "holes"}, {"GNU.sparse.realsize", "1048576"}} {
		line := " " + r[0] + "=" + r[1] + "\n"
		n := len(line) + 2
		records += fmt.Sprintf("%d%s", n, line)
	}
	return raw(t, records, []byte("0\n"+strings.Repeat("\x00", 510)))
}

// extended is an entry with an extended header of a size.
func extended(t testing.TB, size int) []byte {
	t.Helper()
	line := fmt.Sprintf("%d comment=", size)
	return raw(t, line+strings.Repeat("x", size-len(line)-1)+"\n", nil)
}

// raw writes an extended header by hand, and a file after it.
func raw(t testing.TB, records string, content []byte) []byte {
	t.Helper()
	block := func(name string, flag byte, size int) []byte {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x00%011o\x00        ", size, 0))
		b[156] = flag
		copy(b[257:], "ustar\x0000")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }
	out := append(block("pax", 'x', len(records)), pad([]byte(records))...)
	return append(append(out, block("f", '0', len(content))...), append(pad(content), make([]byte, 1024)...)...)
}

// What the client appends replaces what the project has; the rest of the rules hold.
func TestAppendedRegistrySecretsReplaceTheProjects(t *testing.T) {
	root := t.TempDir()
	const name = ".balena/registry-secrets.json"
	if _, err := source.Extract(root, bytes.NewReader(archive(t, file(name, "old"), file("a", "x"), file(name, "new"))), limits); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != "new" {
		t.Errorf("%q %v", got, err)
	}
}

func TestAMillionEntriesAreRefusedEarly(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		for i := range 1_000_000 {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", i), Mode: 0o644}); err != nil {
				return
			}
		}
		_ = tw.Close()
		_ = w.Close()
	}()
	count := &counter{r: r}
	_, err := source.Extract(t.TempDir(), count, limits)
	_ = r.Close()
	if !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("Extract: %v, want too large", err)
	}
	if count.n > 1<<20 {
		t.Errorf("%d bytes were read before the refusal", count.n)
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// A gzip of zeros unpacks to a thousand times its size; reading must end at the limit.
func TestABombIsBounded(t *testing.T) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: 64 << 20, Mode: 0o644})
	_, _ = tw.Write(make([]byte, 64<<20))
	_ = tw.Close()
	_ = zw.Close()
	root := t.TempDir()
	if _, err := source.Extract(root, &buf, limits); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("Extract: %v, want too large", err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/b", "x"), symlink("l", "a"), hardlink("h", "a/b")))
	f.Add(archive(f, symlink("b", "."), symlink("a", "b/..")))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		root := filepath.Join(parent, "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := source.Extract(root, bytes.NewReader(data), limits)
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Fatalf("something was written outside: %v", entries)
		}
		if err != nil {
			return
		}
		r, err := os.OpenRoot(root)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_ = filepath.WalkDir(root, func(p string, _ fs.DirEntry, _ error) error {
			rel, _ := filepath.Rel(root, p)
			if _, err := r.Stat(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s leads outside: %v", rel, err)
			}
			return nil
		})
	})
}
