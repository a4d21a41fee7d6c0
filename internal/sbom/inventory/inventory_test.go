package inventory_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/roadstead-io/roadstead/internal/sbom"
	"github.com/roadstead-io/roadstead/internal/sbom/inventory"
)

// file is one entry of a layer.
type file struct {
	name, content string
	kind          byte // 0: a regular file
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.content)), Mode: 0o755}
		if f.kind != 0 {
			h.Typeflag, h.Size = f.kind, 0
			if f.kind != tar.TypeDir {
				h.Linkname = f.content
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(tw, f.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func image(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, l := range layers {
		all = append(all, static.NewLayer(l, types.OCILayer))
	}
	// The library wants to unpack every layer when it appends; ours are handed over as they are.
	return &plain{Image: empty.Image, layers: all}
}

// plain is an image with layers that nobody looked into.
type plain struct {
	v1.Image
	layers []v1.Layer
}

func (p *plain) Layers() ([]v1.Layer, error) { return p.layers, nil }

func found(t testing.TB, layers ...[]byte) inventory.Result {
	t.Helper()
	res, err := inventory.New(inventory.Limits{}).Image(t.Context(), image(t, layers...))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func urls(r inventory.Result) (list []string) {
	for _, p := range r.Packages {
		list = append(list, p.URL)
	}
	return list
}

func stanza(name, version string) string {
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\nDescription: x\n more\n\n", name, version)
}

func TestPackagesOfEveryKind(t *testing.T) {
	got := found(t, pack(t,
		file{name: "etc/os-release", content: "PRETTY_NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\n"},
		file{name: "./var/lib/dpkg/status", content: stanza("libc6", "2.36-9+deb12u4") + "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n" + "Package: last\nVersion: 1:2\n"},
		file{name: "var/lib/dpkg/status.d/tzdata", content: "Package: tzdata\nVersion: 2024a\n"},
		file{name: "var/lib/dpkg/status.d/tzdata.md5sums", content: "Package: no\nVersion: 1\n"},
		file{name: "lib/apk/db/installed", content: "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\n\nP:zlib\nV:1.3\n"},
		file{name: "usr/lib/python3/dist-packages/six-1.16.0.dist-info/METADATA", content: "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\n\nName: not this\n"},
		file{name: "app/node_modules/@scope/left/package.json", content: `{"name":"@scope/left","version":"2.0.0"}`},
		file{name: "app/package.json", content: `{"name":"own","version":"0.0.1"}`},
		file{name: "app/node_modules/broken/package.json", content: `{"name":`},
	))
	want := []string{
		"pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12", "pkg:apk/debian/zlib@1.3?distro=debian-12",
		"pkg:deb/debian/last@1:2?distro=debian-12", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12",
		"pkg:deb/debian/tzdata@2024a?distro=debian-12", "pkg:npm/%40scope/left@2.0.0", "pkg:pypi/six@1.16.0",
	}
	if !slices.Equal(urls(got), want) {
		t.Errorf("got %s\nwant %s", strings.Join(urls(got), "\n    "), strings.Join(want, "\n     "))
	}
	if got.System != "debian-12" || len(got.Notes) != 0 {
		t.Errorf("system %q, notes %q", got.System, got.Notes)
	}
}

// A real Go program, as the toolchain of this test makes it, tells of its modules; one that only holds the mark does not.
func TestGoProgramsTellOfTheirModules(t *testing.T) {
	program, err := os.ReadFile(must(os.Executable())(t)) // a test program has no list of modules, but a version
	if err != nil {
		t.Fatal(err)
	}
	mark := "\x7fELF" + strings.Repeat("\xff Go buildinf:\x08\x02", 64)
	got := found(t, pack(t, file{name: "usr/bin/test", content: string(program)}, file{name: "usr/bin/fake", content: mark},
		file{name: "usr/bin/made", content: goProgram("go1.26.8", "path\tx\nmod\texample.com/app\tv1.0.0\th1:x=\ndep\texample.com/dep\tv2.3.4\th1:y=\n=>\texample.com/fork\tv9.9.9\th1:z=\n")}))
	for _, want := range []string{"pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"), "pkg:golang/example.com/app@v1.0.0", "pkg:golang/example.com/fork@v9.9.9"} {
		if !slices.Contains(urls(got), want) {
			t.Errorf("%s is not in %q", want, urls(got))
		}
	}
	if slices.ContainsFunc(got.Packages, func(p inventory.Found) bool { return p.Path == "usr/bin/fake" || p.Name == "example.com/dep" }) {
		t.Errorf("found %+v", got.Packages)
	}
}

// goProgram is what the linker leaves, after some bytes of something else.
func goProgram(version, modules string) string {
	text := strings.Repeat("m", 16) + modules + strings.Repeat("m", 16)
	b := []byte("\x7fELF" + strings.Repeat("\x00", 4092) + "\xff Go buildinf:\x08\x02" + strings.Repeat("\x00", 16))
	b = append(binary.AppendUvarint(b, uint64(len(version))), version...)
	b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	return string(b)
}

// Layers lie over each other as a container sees them.
func TestLayersHideWhatIsBelow(t *testing.T) {
	status := func(names ...string) file {
		text := ""
		for _, n := range names {
			text += stanza(n, "1")
		}
		return file{name: "var/lib/dpkg/status", content: text}
	}
	python := file{name: "usr/lib/p/a.dist-info/METADATA", content: "Name: a\nVersion: 1\n"}
	program := file{name: "usr/bin/tool", content: goProgram("go1.1", "path\tx\nmod\texample.com/tool\tv1\t\n")}
	for _, tt := range []struct {
		name   string
		layers [][]file
		want   string // names
	}{
		{"a newer database", [][]file{{status("a", "b")}, {status("b", "c")}}, "b c"},
		{"a file that is removed", [][]file{{status("x"), python}, {{name: "usr/lib/p/a.dist-info/.wh.METADATA"}}}, "x"},
		{"a directory that is removed", [][]file{{status("x"), python}, {{name: "usr/.wh.lib"}}}, "x"},
		{"an opaque directory", [][]file{{status("x"), python}, {{name: "usr/lib/p/.wh..wh..opq"}}}, "x"},
		{"an opaque directory with something new", [][]file{{status("x"), python}, {{name: "usr/lib/.wh..wh..opq"}, python}}, "x a"},
		{"everything opaque", [][]file{{status("x"), python}, {{name: ".wh..wh..opq"}}}, ""},
		{"a removal in the same layer is of below", [][]file{{status("x")}, {{name: "usr/lib/p/.wh.a.dist-info"}, python}}, "x a"},
		{"a program that is replaced by a script", [][]file{{program}, {{name: "usr/bin/tool", content: "#!/bin/sh\n"}}}, ""},
		{"a directory that becomes a link", [][]file{{status("x"), python}, {{name: "usr/lib/p", content: "/elsewhere", kind: tar.TypeSymlink}}}, "x"},
		{"a database that becomes a link out of the image", [][]file{{status("x")}, {{name: "var/lib/dpkg/status", content: "/etc/passwd", kind: tar.TypeSymlink}}}, ""},
		{"a hard link to a database", [][]file{{{name: "x", content: stanza("x", "1")}, {name: "var/lib/dpkg/status", content: "x", kind: tar.TypeLink}}}, ""},
		{"a directory changes nothing below", [][]file{{status("x")}, {{name: "var/lib/dpkg", kind: tar.TypeDir}}}, "x"},
		{"a path out of the image", [][]file{{{name: "../../../../var/lib/dpkg/status", content: stanza("x", "1")}}}, "x"},
		{"a path from the root", [][]file{{{name: "/var/../var/lib/./dpkg//status", content: stanza("x", "1")}}}, "x"},
	} {
		var layers [][]byte
		for _, l := range tt.layers {
			layers = append(layers, pack(t, l...))
		}
		var names []string
		for _, p := range found(t, layers...).Packages {
			if p.Name != "stdlib" {
				names = append(names, p.Name)
			}
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestHostileImages(t *testing.T) {
	s := inventory.New(inventory.Limits{Bytes: 64 << 20, Entries: 1000, Packages: 500, Layers: 4, Time: 20 * time.Second})
	status := func(text string) []byte { return pack(t, file{name: "var/lib/dpkg/status", content: text}) }
	many := strings.Builder{}
	for i := range 600 {
		many.WriteString(stanza(fmt.Sprintf("p%d", i), "1"))
	}
	var files []file
	for i := range 1100 {
		files = append(files, file{name: fmt.Sprintf("f%d", i)})
	}
	for _, tt := range []struct {
		name string
		img  v1.Image
		says string // the error; "" for none
		note string
	}{
		{"a bomb", image(t, pack(t, file{name: "zeros", content: strings.Repeat("\x00", 65<<20)})), "more than 64 MB", ""},
		{"a bomb in two layers", image(t, pack(t, file{name: "a", content: strings.Repeat("\x00", 40<<20)}), pack(t, file{name: "b", content: strings.Repeat("\x00", 40<<20)})), "more than 64 MB", ""},
		{"no tar", image(t, []byte("nothing")), "cannot be read", ""},
		{"cut gzip", image(t, status(stanza("a", "1"))[:60]), "cannot be read", ""},
		{"too many files", image(t, pack(t, files...)), "more than 1000 files", ""},
		{"too many packages", image(t, status(many.String())), "more than 500 packages", ""},
		{"too many layers", image(t, nil, nil, nil, nil, nil), "more than 4 layers", ""},
		{"a database that is too large", image(t, status(stanza("a", "1")+strings.Repeat("x: "+strings.Repeat("y", 1000)+"\n", 34<<10))), "", "too large"},
		{"a line without end", image(t, status("Package: a\nVersion: 1\nX: "+strings.Repeat("x", 8<<20))), "", ""},
		{"names that cannot be shown", image(t, status(stanza("a\x1b[31m", "1")+stanza("b", "1\u202e")+stanza(strings.Repeat("c", 300), "1"))), "", "cannot be shown"},
		{"a huge package.json", image(t, pack(t, file{name: "node_modules/a/package.json", content: `{"name":"` + strings.Repeat("a", 1<<20) + `"}`})), "", "too large"},
		{"an rpm database", image(t, pack(t, file{name: "var/lib/rpm/rpmdb.sqlite", content: "x"})), "", "rpm"},
		{"a long path", image(t, pack(t, file{name: strings.Repeat("d/", 5000) + "x"})), "", ""},
		{"no layer", image(t), "", ""},
	} {
		res, err := s.Image(t.Context(), tt.img)
		switch {
		case (err == nil) != (tt.says == "") || (err != nil && !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		case tt.note != "" && (len(res.Notes) == 0 || !strings.Contains(strings.Join(res.Notes, "\n"), tt.note)):
			t.Errorf("%s: notes %q, want %q", tt.name, res.Notes, tt.note)
		}
		if _, err := res.Document("main", "sha256:x"); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// Time is bounded, whatever the image is, and a build that ends does not wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Image(ctx, image(t, status(stanza("a", "1")))); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	slow := inventory.New(inventory.Limits{Time: time.Nanosecond})
	if _, err := slow.Image(t.Context(), image(t, status(stanza("a", "1")))); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("without time: %v", err)
	}
}

// What a hostile image costs in memory is bounded: many files, a database that never ends, and a program of zeros.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a large layer")
	}
	var files []file
	for i := range 150_000 {
		files = append(files, file{name: fmt.Sprintf("d%d/f%d", i%100, i)})
	}
	wide := pack(t, append(files, file{name: "bin/x", content: "\x7fELF" + strings.Repeat("\x00", 50<<20)},
		file{name: "var/lib/dpkg/status", content: strings.Repeat("X: "+strings.Repeat("y", 60)+"\n", 600_000)})...)
	img := image(t, wide)
	s := inventory.New(inventory.Limits{})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := make(chan uint64)
	stop := make(chan struct{})
	go func() {
		var top uint64
		for {
			select {
			case <-stop:
				peak <- top
				return
			case <-time.After(20 * time.Millisecond):
				runtime.ReadMemStats(&after)
				top = max(top, after.HeapInuse)
			}
		}
	}()
	began := time.Now()
	_, err := s.Image(t.Context(), img)
	took := time.Since(began)
	close(stop)
	grown := int64(<-peak) - int64(before.HeapInuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the heap grew by at most %d MiB in %s", grown>>20, took)
	if grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestTheSameImageGivesTheSameDocument(t *testing.T) {
	layer := pack(t, file{name: "etc/os-release", content: "ID=debian\nVERSION_ID=12\n"}, file{name: "var/lib/dpkg/status", content: stanza("b", "1") + stanza("a", "2")})
	s := inventory.New(inventory.Limits{})
	var documents [][]byte
	for range 2 { // the second from what is remembered
		res, err := s.Image(t.Context(), image(t, layer))
		if err != nil {
			t.Fatal(err)
		}
		d, err := res.Document("main", "sha256:1")
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, d)
	}
	if !bytes.Equal(documents[0], documents[1]) {
		t.Errorf("%s\n%s", documents[0], documents[1])
	}
	packages, notes, err := sbom.Read(documents[0])
	want := []sbom.Package{{Kind: "deb", Name: "a", Version: "2", Arch: "amd64"}, {Kind: "deb", Name: "b", Version: "1", Arch: "amd64"}}
	if err != nil || !slices.Equal(packages, want) || notes != nil {
		t.Errorf("%+v %q %v", packages, notes, err)
	}
}

// The memory of layers is bounded: many images do not fill it.
func TestFewLayersAreRemembered(t *testing.T) {
	s := inventory.New(inventory.Limits{Cache: 4 << 10})
	for i := range 100 {
		if _, err := s.Image(t.Context(), image(t, pack(t, file{name: "var/lib/dpkg/status", content: stanza(fmt.Sprintf("p%d", i), "1")}))); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Remembered(); n > 4<<10 {
		t.Errorf("%d bytes are remembered", n)
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(pack(f, file{name: "var/lib/dpkg/status", content: stanza("a", "1")}))
	f.Add(pack(f, file{name: "bin/x", content: goProgram("go1.1", "mod\ta\tv1\t\n")}))
	s := inventory.New(inventory.Limits{Bytes: 1 << 20, Time: 5 * time.Second})
	f.Fuzz(func(t *testing.T, data []byte) {
		res, err := s.Image(t.Context(), image(t, data))
		if err != nil && strings.Contains(err.Error(), "panic") {
			t.Fatal(err)
		}
		if _, err := res.Document("x", "y"); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkImage(b *testing.B) {
	noise := make([]byte, 40<<20)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(noise[:20<<20])
	img := image(b, pack(b, file{name: "usr/lib/x.so", content: "\x7fELF" + string(noise)}))
	for b.Loop() {
		if _, err := inventory.New(inventory.Limits{}).Image(b.Context(), img); err != nil {
			b.Fatal(err)
		}
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
