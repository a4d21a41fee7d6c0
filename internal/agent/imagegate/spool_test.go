package imagegate_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/agent/imagegate"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// half sends the first half of a layer, and cuts the connection.
func half(layer string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return blobLie(layer, func(rw http.ResponseWriter, body []byte) {
		rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = rw.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	})
}

// layer is a pull of one layer, which gives what arrived.
func (w *world) layer(g *imagegate.Gate, p pushed, at string) (body []byte, err, asked error) {
	err = g.Pull(w.t.Context(), fakeEngine(func(_ context.Context, base, user, password string) error {
		var status int
		status, body, asked = ask(w.t, "GET", base+"/blobs/"+p.layers[0], user, password, at)
		if asked == nil && status/100 != 2 {
			asked = fmt.Errorf("status %d", status)
		}
		return asked
	}), want(p), nil)
	return body, err, asked
}

func kept(t *testing.T, w *world) (names []string, size int64) {
	t.Helper()
	err := filepath.WalkDir(w.spool, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		names, size = append(names, d.Name()), size+info.Size()
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names, size
}

// After a loss of power there are a new gate and an engine that knows nothing of the pull: only the rest is fetched.
func TestALayerGoesOnAfterALossOfPower(t *testing.T) {
	w := newWorld(t)
	const size = 8 << 20
	p := w.push("v2/"+strings.Repeat("7", 32), 20, size)
	w.lies(half(p.layers[0]))
	if body, err, asked := w.layer(w.newGate(), p, ""); err == nil || asked == nil {
		t.Fatalf("%d bytes arrived: %v", len(body), err)
	}
	if names, n := kept(t, w); len(names) != 1 || n < size/2-64<<10 {
		t.Fatalf("kept: %v, %d bytes", names, n)
	}
	w.lies(nil)
	w.fetched.Store(0)
	body, err, asked := w.layer(w.newGate(), p, "")
	if err != nil || asked != nil || len(body) < size {
		t.Fatalf("%d bytes, %v %v", len(body), err, asked)
	}
	if n := w.fetched.Load(); n > size*6/10 {
		t.Errorf("%d bytes of %d were fetched after the cut in the middle", n, size)
	}
	if names, _ := kept(t, w); len(names) != 0 {
		t.Errorf("kept after the pull: %v", names)
	}

	// The same with real engines: the second one has nothing of what the first one had.
	ctx, off := context.WithCancel(t.Context())
	defer off()
	var times atomic.Int64
	cut := half(p.layers[0])
	w.lies(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasSuffix(r.URL.Path, p.layers[0]) && times.Add(1) == 2 {
			off() // the engine would try five times, with growing waits
			panic(http.ErrAbortHandler)
		}
		cut(rw, r, honest)
	})
	if err := w.newGate().Pull(ctx, w.dockerd(), want(p), nil); err == nil {
		t.Fatal("half a layer was enough")
	}
	w.lies(nil)
	w.fetched.Store(0)
	e := w.dockerd()
	w.pullAtLast(w.newGate(), e, p, nil)
	if n := w.fetched.Load(); !w.has(e, p) || n > size*6/10 {
		t.Errorf("the engine has the image: %v; %d bytes of %d were fetched after the cut", w.has(e, p), n, size)
	}
}

// What is kept is believed no more than a registry: damaged, it is fetched anew, and nobody is accused.
func TestWhatIsKeptIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	const size = 1 << 20
	p := w.push("v2/"+strings.Repeat("8", 32), 21, size)
	honest, err, asked := w.layer(w.newGate(), p, "")
	if err != nil || asked != nil {
		t.Fatal(err, asked)
	}
	path := filepath.Join(w.spool, strings.TrimPrefix(p.layers[0], "sha256:"))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	write := func(at string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(w.spool, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flipped := bytes.Clone(honest[:size/2])
	flipped[1000] ^= 1
	for _, tt := range []struct {
		name string
		keep func()
		at   string // range that is asked for
		cut  bool   // it takes another pull
	}{
		{"nothing", func() {}, "", false},
		{"a beginning", func() { write(path, honest[:size/2]) }, "", false},
		{"all of it", func() { write(path, honest) }, "", false},
		{"a beginning, more of which the engine has", func() { write(path, honest[:size/2]) }, "bytes=700000-", false},
		{"a beginning, less of which the engine has", func() { write(path, honest[:size/2]) }, "bytes=1000-", false},
		{"a flipped bit", func() { write(path, flipped) }, "", true},
		{"zeros, which some file systems leave", func() { write(path, make([]byte, size/2)) }, "", true},
		{"all of it, damaged", func() { write(path, append(bytes.Clone(flipped), honest[size/2:]...)) }, "", true},
		{"more than it is", func() { write(path, append(bytes.Clone(honest), 'x')) }, "", false},
		{"an empty file", func() { write(path, nil) }, "", false},
		{"a directory", func() { _ = os.MkdirAll(filepath.Join(path, "x"), 0o700) }, "", false},
		{"a link elsewhere", func() {
			write(elsewhere, []byte("precious"))
			if err := os.Symlink(elsewhere, path); err != nil {
				t.Fatal(err)
			}
		}, "", false},
		{"a file where the directory is to be", func() { write(elsewhere, nil); _ = os.RemoveAll(w.spool); _ = os.Rename(elsewhere, w.spool) }, "", false},
	} {
		if err := os.RemoveAll(w.spool); err != nil {
			t.Fatal(err)
		}
		tt.keep()
		body, err, asked := w.layer(w.newGate(), p, tt.at)
		if tt.cut {
			if _, refused := tuf.Rejection(err); err == nil || refused || len(body) >= len(honest) {
				t.Errorf("%s: %d bytes arrived, %v", tt.name, len(body), err)
			}
			body, err, asked = w.layer(w.newGate(), p, tt.at)
		}
		from := rangeOf(tt.at)
		if err != nil || asked != nil || !bytes.Equal(body, honest[from:]) {
			t.Errorf("%s: %d bytes, %v %v, want %d", tt.name, len(body), err, asked, len(honest)-from)
		}
	}
	if text, err := os.ReadFile(elsewhere); err == nil && string(text) != "" && string(text) != "precious" {
		t.Errorf("a link was followed: %d bytes", len(text))
	}
}

func rangeOf(at string) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(at, "bytes="), "-"))
	return n
}

// A registry that sends wrong bytes after a cut is found out all the same, by name, when all of them are its own.
func TestAWrongLayerIsNamedAfterACut(t *testing.T) {
	w := newWorld(t)
	p := w.push("v2/"+strings.Repeat("9", 32), 22, 1<<20)
	w.lies(blobLie(p.layers[0], func(rw http.ResponseWriter, body []byte) {
		body[0] ^= 1
		rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = rw.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}))
	if _, err, _ := w.layer(w.newGate(), p, ""); err == nil {
		t.Fatal("half a layer was enough")
	}
	w.lies(nil)
	if body, err, _ := w.layer(w.newGate(), p, ""); err == nil {
		t.Fatalf("%d bytes arrived", len(body))
	} else if _, refused := tuf.Rejection(err); refused {
		t.Errorf("the honest registry is accused: %v", err)
	}
	w.lies(blobLie(p.layers[0], func(rw http.ResponseWriter, body []byte) {
		body[0] ^= 1
		_, _ = rw.Write(body)
	}))
	if _, err, _ := w.layer(w.newGate(), p, ""); err == nil {
		t.Error("a wrong layer passed")
	} else if r, ok := tuf.Rejection(err); !ok || r.Reason != tuf.ReasonDigest {
		t.Errorf("%v, want a refusal of the layer", err)
	}
	if names, _ := kept(t, w); len(names) != 0 {
		t.Errorf("a wrong layer is kept: %v", names)
	}
}

// Two requests for one layer at a time: the second one waits, and gets it from the disk.
func TestOneLayerIsFetchedOnce(t *testing.T) {
	w := newWorld(t)
	const size = 2 << 20
	p := w.push("v2/"+strings.Repeat("a", 32), 23, size)
	g := w.newGate()
	err := g.Pull(t.Context(), fakeEngine(func(_ context.Context, base, user, password string) error {
		if status, _, err := ask(t, "GET", base+"/manifests/"+p.images[0].Digest, user, password, ""); err != nil || status != 200 {
			return fmt.Errorf("manifest: %d %w", status, err)
		}
		w.fetched.Store(0)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if status, body, err := ask(t, "GET", base+"/blobs/"+p.layers[0], user, password, ""); err != nil || status != 200 || len(body) < size {
					t.Errorf("%d, %d bytes, %v", status, len(body), err)
				}
			})
		}
		all.Wait()
		return nil
	}), want(p), nil)
	if n := w.fetched.Load(); err != nil || n > size+size/2 {
		t.Errorf("%v; %d bytes were fetched of %d", err, n, size)
	}
}

// Without room nothing is kept, and what was kept gives its room back; the pull goes on.
func TestNoRoomForLayers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a small file system")
	}
	w := newWorld(t)
	w.spool = filepath.Join(w.smallDisk(80<<20), "downloads")
	p := w.push("v2/"+strings.Repeat("b", 32), 24, 6<<20) // four times that, and 64 MiB, are not free
	w.lies(half(p.layers[0]))
	if _, err, _ := w.layer(w.newGate(), p, ""); err == nil {
		t.Fatal("half a layer was enough")
	}
	if names, _ := kept(t, w); len(names) != 0 {
		t.Errorf("kept on a small disk: %v", names)
	}
	w.lies(nil)
	if body, err, asked := w.layer(w.newGate(), p, ""); err != nil || asked != nil || len(body) < 6<<20 {
		t.Errorf("%d bytes, %v %v", len(body), err, asked)
	}

	// The disk fills up while a layer comes.
	p = w.push("v2/"+strings.Repeat("c", 32), 25, 3<<20)
	w.lies(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasSuffix(r.URL.Path, p.layers[0]) {
			rec := httptest.NewRecorder()
			honest.ServeHTTP(rec, r)
			_, _ = rw.Write(rec.Body.Bytes()[:1<<20])
			_ = http.NewResponseController(rw).Flush()
			fill(t, filepath.Dir(w.spool))
			_, _ = rw.Write(rec.Body.Bytes()[1<<20:])
			return
		}
		honest.ServeHTTP(rw, r)
	})
	if body, err, asked := w.layer(w.newGate(), p, ""); err != nil || asked != nil || len(body) < 3<<20 {
		t.Errorf("on a disk that fills up: %d bytes, %v %v", len(body), err, asked)
	}
	if names, _ := kept(t, w); len(names) != 0 {
		t.Errorf("kept on a full disk: %v", names)
	}
}

func TestForget(t *testing.T) {
	w := newWorld(t)
	p := w.push("v2/"+strings.Repeat("d", 32), 26, 1<<20)
	g := w.newGate()
	w.lies(half(p.layers[0]))
	if _, err, _ := w.layer(g, p, ""); err == nil {
		t.Fatal("half a layer was enough")
	}
	if names, _ := kept(t, w); len(names) != 1 {
		t.Fatalf("kept: %v", names)
	}
	g.Forget()
	g.Forget()
	if names, _ := kept(t, w); len(names) != 0 {
		t.Errorf("kept: %v", names)
	}
}

// smallDisk mounts a file system of some bytes.
func (w *world) smallDisk(size int) string {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+strconv.Itoa(size)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	return dir
}

// fill writes until nothing more goes in.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 64<<10))
	}
}
