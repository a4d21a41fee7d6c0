package imagegate_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/container"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/imagegate"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const deviceKey = "the-device-key"

// world is a registry that asks for tokens, over TLS of a root of its own, and lies when it is told to.
type world struct {
	t       *testing.T
	root    []byte
	host    string // of the registry
	api     string // its base URL
	blobs   string // host where redirects lead
	gate    string // address
	spool   string // where gates keep layers
	mu      sync.Mutex
	lie     func(w http.ResponseWriter, r *http.Request, honest http.Handler) // nil: none
	realm   string
	shown   []string // keys that were shown, by host
	fetched atomic.Int64
}

// counting counts the bytes of blobs that leave the registry.
type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cert, root := roletest.Certificate(t, "127.0.0.1", "localhost")
	w := &world{t: t, spool: filepath.Join(t.TempDir(), "downloads"), root: root}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	serve := func(h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = conf
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	honest := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			if at := r.Header.Get("Range"); at != "" { // the library's registry knows no ranges
				w.ranged(rw, r, images, at)
				return
			}
			rw = counting{rw, &w.fetched}
		}
		images.ServeHTTP(rw, r)
	})
	apiServer := serve(func(rw http.ResponseWriter, r *http.Request) { w.token(rw, r, "api") })
	w.api = apiServer.URL
	w.realm = apiServer.URL + "/auth/v1/token"
	reg := serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/harvest" {
			w.token(rw, r, "registry")
			return
		}
		w.mu.Lock()
		lie, realm := w.lie, w.realm
		w.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer good" && r.Header.Get("X-Push") == "" {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="registry",scope="repository:x:pull"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		if lie != nil && r.Header.Get("X-Push") == "" {
			lie(rw, r, honest)
			return
		}
		honest(rw, r)
	})
	w.host = strings.TrimPrefix(reg.URL, "https://")
	storage := serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the storage is shown a credential")
		}
		honest(rw, r)
	})
	w.blobs = strings.TrimPrefix(storage.URL, "https://")
	// A free port of an address of the gate's own.
	ln, err := net.Listen("tcp", "127.48.48.4:0")
	if err != nil {
		t.Fatal(err)
	}
	w.gate = ln.Addr().String()
	_ = ln.Close()
	return w
}

func (w *world) token(rw http.ResponseWriter, r *http.Request, who string) {
	_, key, _ := r.BasicAuth()
	w.mu.Lock()
	w.shown = append(w.shown, who+" "+key)
	w.mu.Unlock()
	if key != deviceKey {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(rw, `{"token":"good"}`)
}

// ranged answers a range of a blob.
func (w *world) ranged(rw http.ResponseWriter, r *http.Request, images http.Handler, at string) {
	rec := httptest.NewRecorder()
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	images.ServeHTTP(rec, r)
	from, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(at, "bytes="), "-"))
	if err != nil || from > rec.Body.Len() {
		rw.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	body := rec.Body.Bytes()
	rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
	rw.WriteHeader(http.StatusPartialContent)
	_, _ = counting{rw, &w.fetched}.Write(body[from:])
}

func (w *world) lies(lie func(http.ResponseWriter, *http.Request, http.Handler)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lie = lie
}

type pushing struct{ http.RoundTripper }

func (p pushing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Push", "1")
	return p.RoundTripper.RoundTrip(r)
}

// pushed is an image in the registry.
type pushed struct {
	ref    string
	images []api.ReleaseImage
	layers []string
	config string
}

// push makes an image of one layer for each size, of bytes that nothing compresses.
func (w *world) push(repo string, seed uint64, sizes ...int) pushed {
	w.t.Helper()
	img := empty.Image
	var p pushed
	src := mathrand.NewChaCha8([32]byte{byte(seed)})
	for i, size := range sizes {
		body := make([]byte, size)
		_, _ = src.Read(body)
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}); err != nil {
			w.t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			w.t.Fatal(err)
		}
		if err := tw.Close(); err != nil {
			w.t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
		if err != nil {
			w.t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			w.t.Fatal(err)
		}
		digest, err := layer.Digest()
		if err != nil {
			w.t.Fatal(err)
		}
		p.layers = append(p.layers, digest.String())
	}
	conf, err := img.ConfigFile()
	if err != nil {
		w.t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: conf.RootFS, Config: v1.Config{Cmd: []string{"/none"}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(repo, img, p)
}

func (w *world) options() []remote.Option {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.root)
	return []remote.Option{remote.WithTransport(pushing{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}})}
}

func (w *world) put(repo string, img v1.Image, p pushed) pushed {
	w.t.Helper()
	digest, err := img.Digest()
	if err != nil {
		w.t.Fatal(err)
	}
	size, err := img.Size()
	if err != nil {
		w.t.Fatal(err)
	}
	conf, err := img.ConfigName()
	if err != nil {
		w.t.Fatal(err)
	}
	p.ref, p.config = w.host+"/"+repo+"@"+digest.String(), conf.String()
	p.images = []api.ReleaseImage{{Digest: digest.String(), Size: size}}
	ref, err := name.NewDigest(p.ref)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag("latest"), img, w.options()...); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) newGate() *imagegate.Gate {
	w.t.Helper()
	g, err := imagegate.New(imagegate.Config{Address: w.gate, Endpoint: w.api, RootCA: w.root, Dir: w.spool, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

func want(p pushed) imagegate.Pull {
	return imagegate.Pull{Ref: p.ref, Service: "web", Images: p.images, Auth: engine.Auth{Username: "d_x", Password: deviceKey}}
}

// dockerd starts an engine of the test's own.
func (w *world) dockerd() *engine.Client {
	w.t.Helper()
	e := enginetest.NewDaemon(w.t).Client
	e.ThroughGate(w.gate)
	return e
}

// pullAtLast pulls as an agent does: again when it fails. The engine may still be busy with a pull that was refused before; a refusal ends the test.
func (w *world) pullAtLast(g *imagegate.Gate, e *engine.Client, p pushed, progress func(int)) {
	w.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(5 * time.Minute); time.Now().Before(late); <-tick.C {
		err := g.Pull(w.t.Context(), e, want(p), progress)
		if err == nil {
			return
		}
		if _, refused := tuf.Rejection(err); refused {
			w.t.Fatal(err)
		}
		w.t.Logf("once more: %v", err)
	}
	w.t.Fatal("the engine does not get the image")
}

func (w *world) has(e *engine.Client, p pushed) bool {
	w.t.Helper()
	list, err := e.Images(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.Contains(list, p.ref)
}

// blobLie changes what the registry says of one blob. The body is the honest one.
func blobLie(digest string, change func(rw http.ResponseWriter, body []byte)) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if !strings.HasSuffix(r.URL.Path, "/"+digest) {
			honest.ServeHTTP(rw, r)
			return
		}
		rec := httptest.NewRecorder()
		r = r.Clone(r.Context())
		r.Header.Del("Range")
		honest.ServeHTTP(rec, r)
		rw.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		change(rw, bytes.Clone(rec.Body.Bytes()))
	}
}

// A real engine gets through the gate what the release names, and nothing else of a registry that lies.
func TestRealEngineThroughTheGate(t *testing.T) {
	w := newWorld(t)
	e := w.dockerd()
	g := w.newGate()
	p := w.push("v2/"+strings.Repeat("1", 32), 1, 300<<10, 2<<20, 100)
	other := w.push("v2/"+strings.Repeat("1", 32), 2, 1000)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	flip := func(rw http.ResponseWriter, body []byte) {
		body[len(body)/2] ^= 1
		_, _ = rw.Write(body)
	}
	for _, tt := range []struct {
		name, what, reason string
		lie                func(http.ResponseWriter, *http.Request, http.Handler)
		change             func(*imagegate.Pull)
	}{
		{"a flipped byte of a layer", "layer " + p.layers[1], tuf.ReasonDigest, blobLie(p.layers[1], flip), nil},
		{"the last byte of a layer flipped", "layer " + p.layers[0], tuf.ReasonDigest, blobLie(p.layers[0], func(rw http.ResponseWriter, body []byte) {
			body[len(body)-1] ^= 1
			_, _ = rw.Write(body)
		}), nil},
		{"a flipped byte of the configuration", "layer " + p.config, tuf.ReasonDigest, blobLie(p.config, flip), nil},
		{"a shorter layer", "layer " + p.layers[1], tuf.ReasonSize, blobLie(p.layers[1], func(rw http.ResponseWriter, body []byte) {
			rw.Header().Set("Content-Length", strconv.Itoa(len(body)-1))
			_, _ = rw.Write(body[1:])
		}), nil},
		{"an endless layer", "layer " + p.layers[1], tuf.ReasonSize, blobLie(p.layers[1], func(rw http.ResponseWriter, body []byte) {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := rw.Write(body); err != nil {
					return
				}
			}
		}), nil},
		{"a foreign manifest", "manifest " + p.images[0].Digest, tuf.ReasonSize, func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
			r = r.Clone(r.Context())
			r.URL.Path = strings.Replace(r.URL.Path, p.images[0].Digest, other.images[0].Digest, 1)
			honest.ServeHTTP(rw, r)
		}, nil},
		{"a flipped byte of the manifest", "manifest " + p.images[0].Digest, tuf.ReasonDigest, blobLie(p.images[0].Digest, flip), nil},
		{"a manifest of another size than the release says", "manifest " + p.images[0].Digest, tuf.ReasonSize, nil, func(p *imagegate.Pull) {
			p.Images = []api.ReleaseImage{{Digest: p.Images[0].Digest, Size: p.Images[0].Size + 1}}
		}},
		{"an image that the release does not name", "image of service web", tuf.ReasonDigest, nil, func(p *imagegate.Pull) { p.Ref = other.ref }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.Forget() // right layers, which an earlier lie did not touch
			w.lies(tt.lie)
			defer w.lies(nil)
			pull := want(p)
			if tt.change != nil {
				tt.change(&pull)
			}
			err := g.Pull(t.Context(), e, pull, nil)
			r, ok := tuf.Rejection(err)
			if !ok || !strings.HasPrefix(r.What, tt.what) || r.Reason != tt.reason || r.Expected == "" || r.Got == "" {
				t.Errorf("Pull: %v, want a refusal of %s because of its %s", err, tt.what, tt.reason)
			}
			if w.has(e, p) || w.has(e, other) {
				t.Error("the engine has the image")
			}
		})
	}
	if conn, err := net.Dial("tcp", w.gate); err == nil {
		_ = conn.Close()
		t.Error("the gate listens although nothing is pulled")
	}

	t.Log("the honest registry")
	var progress int
	w.pullAtLast(g, e, p, func(percent int) { progress = percent })
	if !w.has(e, p) || progress != 100 {
		t.Errorf("the engine does not have %s; progress %d", p.ref, progress)
	}
	id, err := e.Create(t.Context(), engine.Spec{Name: "web", Config: container.Config{Image: p.ref, Labels: map[string]string{engine.LabelSupervised: "true"}}})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := e.Containers(t.Context()); err != nil || len(list) != 1 || list[0].Image != p.ref {
		t.Errorf("Containers: %+v %v, want one of %s", list, err, p.ref)
	}
	if err := e.RemoveImage(t.Context(), p.ref); err == nil {
		t.Error("it removed an image in use")
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveImage(t.Context(), p.ref); err != nil || w.has(e, p) {
		t.Errorf("RemoveImage: %v, there still: %v", err, w.has(e, p))
	}
}

// A registry that sends on to its storage, over ways that break: the engine gets everything, and little of it twice.
func TestRedirectsAndCuts(t *testing.T) {
	w := newWorld(t)
	e := w.dockerd()
	g := w.newGate()
	p := w.push("v2/"+strings.Repeat("2", 32), 3, 8<<20, 1000)
	w.lies(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(rw, r, "https://"+w.blobs+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		honest.ServeHTTP(rw, r)
	})
	w.pullAtLast(g, e, p, nil)
	if err := e.RemoveImage(t.Context(), p.ref); err != nil {
		t.Fatal(err)
	}

	w.fetched.Store(0)
	var cuts atomic.Int64
	w.lies(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if strings.HasSuffix(r.URL.Path, p.layers[0]) && cuts.Add(1) == 1 {
			rec := httptest.NewRecorder()
			honest.ServeHTTP(rec, r)
			w.fetched.Store(0)
			rw.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
			_, _ = rw.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			panic(http.ErrAbortHandler)
		}
		honest.ServeHTTP(rw, r)
	})
	w.pullAtLast(g, e, p, nil)
	if !w.has(e, p) || cuts.Load() < 2 {
		t.Errorf("the engine has the image: %v, after %d requests", w.has(e, p), cuts.Load())
	}
	if after := w.fetched.Load(); after > 8<<20*6/10 {
		t.Errorf("%d bytes were fetched after the cut in the middle of 8 MiB", after)
	}
}

// fakeEngine is an engine that asks what a test wants it to ask.
type fakeEngine func(ctx context.Context, base, user, password string) error

func (f fakeEngine) Pull(ctx context.Context, ref string, auth engine.Auth, _ func(int)) error {
	name, _, _ := strings.Cut(ref, "@")
	host, repo, _ := strings.Cut(name, "/")
	return f(ctx, "http://"+host+"/v2/"+repo, auth.Username, auth.Password)
}

// ask makes one request and gives status and body.
func ask(t *testing.T, method, url, user, password, at string) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	if at != "" {
		req.Header.Set("Range", at)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// Only the pull that goes on gets anything, and only what it is of.
func TestDoors(t *testing.T) {
	w := newWorld(t)
	g := w.newGate()
	p := w.push("v2/"+strings.Repeat("3", 32), 4, 200<<10)
	foreign := w.push("v2/"+strings.Repeat("4", 32), 5, 100)
	err := g.Pull(t.Context(), fakeEngine(func(_ context.Context, base, user, password string) error {
		root := "http://" + w.gate
		for _, tt := range []struct {
			name, method, url, user, password string
			status                            int
		}{
			{"the question whether it is one", "GET", root + "/v2/", user, password, 200},
			{"nobody", "GET", root + "/v2/", "", "", 401},
			{"nobody, a manifest", "GET", base + "/manifests/" + p.images[0].Digest, "", "", 401},
			{"a wrong password", "GET", base + "/manifests/" + p.images[0].Digest, user, "x", 401},
			{"the device's key", "GET", base + "/manifests/" + p.images[0].Digest, "d_x", deviceKey, 401},
			{"an upload", "POST", base + "/blobs/uploads/", user, password, 405},
			{"a path that climbs", "GET", base + "/../" + p.images[0].Digest, user, password, 403},
			{"a tag", "GET", base + "/manifests/latest", user, password, 403},
			{"the list of tags", "GET", base + "/tags/list", user, password, 403},
			{"another repository", "GET", strings.Replace(base, "3333", "4444", 1) + "/manifests/" + foreign.images[0].Digest, user, password, 403},
			{"a manifest", "GET", base + "/manifests/" + p.images[0].Digest, user, password, 200},
			{"its head", "HEAD", base + "/manifests/" + p.images[0].Digest, user, password, 200},
			{"a layer's head", "HEAD", base + "/blobs/" + p.layers[0], user, password, 200},
			{"a layer", "GET", base + "/blobs/" + p.layers[0], user, password, 200},
		} {
			if status, _, err := ask(t, tt.method, tt.url, tt.user, tt.password, ""); err != nil || status != tt.status {
				t.Errorf("%s: %d %v, want %d", tt.name, status, err, tt.status)
			}
		}
		_, whole, err := ask(t, "GET", base+"/blobs/"+p.layers[0], user, password, "")
		if err != nil {
			t.Fatal(err)
		}
		if status, part, err := ask(t, "GET", base+"/blobs/"+p.layers[0], user, password, "bytes=100000-"); err != nil || status != 206 || !bytes.Equal(part, whole[100000:]) {
			t.Errorf("a range: %d, %d bytes, %v; want the last %d", status, len(part), err, len(whole)-100000)
		}
		for _, odd := range []string{"bytes=-5", "bytes=x-", "bytes=99999999-", "items=5-", "bytes=-", "bytes"} { // then all of it is sent, as the protocol allows
			if status, all, err := ask(t, "GET", base+"/blobs/"+p.layers[0], user, password, odd); err != nil || status != 200 || !bytes.Equal(all, whole) {
				t.Errorf("the range %q: %d, %d bytes, %v; want all %d", odd, status, len(all), err, len(whole))
			}
		}
		status, _, err := ask(t, "GET", base+"/blobs/"+foreign.layers[0], user, password, "")
		if err != nil || status != 403 {
			t.Errorf("a layer that no manifest names: %d %v", status, err)
		}
		if status, _, _ := ask(t, "GET", base+"/blobs/"+p.layers[0], user, password, ""); status != 403 {
			t.Errorf("a layer after a refusal: %d", status)
		}
		return nil
	}), want(p), nil)
	if r, ok := tuf.Rejection(err); !ok || r.What != "layer "+foreign.layers[0]+" of service web" {
		t.Errorf("Pull: %v, want a refusal of the foreign layer", err)
	}
}

// A wrong layer is cut off before its end, whatever reads it: also a reader that checks nothing has no whole layer.
func TestWrongLayerHasNoEnd(t *testing.T) {
	w := newWorld(t)
	g := w.newGate()
	p := w.push("v2/"+strings.Repeat("5", 32), 6, 200<<10, 10)
	for _, layer := range p.layers {
		w.lies(blobLie(layer, func(rw http.ResponseWriter, body []byte) {
			body[0] ^= 1
			_, _ = rw.Write(body)
		}))
		err := g.Pull(t.Context(), fakeEngine(func(_ context.Context, base, user, password string) error {
			if status, _, err := ask(t, "GET", base+"/manifests/"+p.images[0].Digest, user, password, ""); err != nil || status != 200 {
				t.Errorf("manifest: %d %v", status, err)
			}
			if _, body, err := ask(t, "GET", base+"/blobs/"+layer, user, password, ""); err == nil {
				t.Errorf("all %d bytes arrived", len(body))
			}
			return nil
		}), want(p), nil)
		if r, ok := tuf.Rejection(err); !ok || r.Reason != tuf.ReasonDigest {
			t.Errorf("Pull: %v", err)
		}
	}
}

// A registry that was taken over cannot have the device's key sent elsewhere.
func TestKeyIsShownToTheServerOnly(t *testing.T) {
	w := newWorld(t)
	g := w.newGate()
	p := w.push("v2/"+strings.Repeat("6", 32), 7, 10)
	fetch := fakeEngine(func(_ context.Context, base, user, password string) error {
		status, _, err := ask(t, "GET", base+"/manifests/"+p.images[0].Digest, user, password, "")
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	harvest := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.token(rw, r, "harvest") }))
	defer harvest.Close()
	for _, realm := range []string{harvest.URL + "/token", "http://" + strings.TrimPrefix(w.api, "https://") + "/auth/v1/token", "https://" + w.blobs + "/token", "", "https://user@" + w.host + "/x"} {
		w.mu.Lock()
		w.realm, w.shown = realm, nil
		w.mu.Unlock()
		if err := g.Pull(t.Context(), fetch, want(p), nil); err == nil {
			t.Errorf("realm %q: no error", realm)
		}
		w.mu.Lock()
		if len(w.shown) != 0 {
			t.Errorf("realm %q: the key was shown to %v", realm, w.shown)
		}
		w.mu.Unlock()
	}
	for _, realm := range []string{w.api + "/auth/v1/token", "https://" + w.host + "/harvest"} {
		w.mu.Lock()
		w.realm = realm
		w.mu.Unlock()
		if err := g.Pull(t.Context(), fetch, want(p), nil); err != nil {
			t.Errorf("realm %q: %v", realm, err)
		}
	}
	// Where an image is said to come from is nobody's to sign: who writes that may name a registry of his own.
	elsewhere := want(p)
	foreign := strings.Replace(w.host, "127.0.0.1", "localhost", 1)
	elsewhere.Ref = strings.Replace(elsewhere.Ref, w.host, foreign, 1)
	w.mu.Lock()
	w.realm, w.shown = "https://"+foreign+"/harvest", nil
	w.mu.Unlock()
	err := g.Pull(t.Context(), fetch, elsewhere, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || len(w.shown) != 0 {
		t.Errorf("a registry elsewhere: %v; the key was shown to %v", err, w.shown)
	}
}

func TestBesideTheAPI(t *testing.T) {
	for _, tt := range []struct {
		api, host string
		want      bool
	}{
		{"https://api.roadstead.test", "registry2.roadstead.test", true},
		{"https://api.roadstead.test:8443", "registry2.roadstead.test", true},
		{"https://api.roadstead.test", "roadstead.test", false},
		{"https://api.roadstead.test", "registry2.example.com", false},
		{"https://api.roadstead.test", "api.roadstead.test.example.com", false},
		{"https://api.roadstead.test", "x.registry2.roadstead.test", false},
		{"https://roadstead.test", "other.test", false}, // a domain of one label is nobody's own
		{"https://192.0.2.1", "192.0.2.1", true},
		{"https://192.0.2.1", "198.51.2.1", false},
		{"", "roadstead.test", false},
	} {
		if got := imagegate.BesideAPI(tt.api, tt.host); got != tt.want {
			t.Errorf("%s beside %s: %v", tt.host, tt.api, got)
		}
	}
}

// Several pulls at once have passwords of their own; the last one shuts the gate.
func TestManyPullsAtOnce(t *testing.T) {
	w := newWorld(t)
	g := w.newGate()
	var all sync.WaitGroup
	for i := range 8 {
		p := w.push("v2/"+strings.Repeat(strconv.Itoa(i), 32), uint64(10+i), 50<<10)
		all.Go(func() {
			err := g.Pull(t.Context(), fakeEngine(func(_ context.Context, base, user, password string) error {
				for _, path := range []string{"/manifests/" + p.images[0].Digest, "/blobs/" + p.config, "/blobs/" + p.layers[0]} {
					if status, _, err := ask(t, "GET", base+path, user, password, ""); err != nil || status != 200 {
						return fmt.Errorf("%s: %d %w", path, status, err)
					}
				}
				return nil
			}), want(p), nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if conn, err := net.Dial("tcp", w.gate); err == nil {
		_ = conn.Close()
		t.Error("the gate still listens")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []imagegate.Config{{Address: "192.0.2.1:80"}, {Address: "x"}, {RootCA: []byte("no certificate")}} {
		if _, err := imagegate.New(c); err == nil {
			t.Errorf("New(%+v): no error", c)
		}
	}
}

// A service of the host's network takes the gate's port: the engine pulls at another one, finds what it pulled, and removes it; freed, the port is the gate's again.
func TestAnotherProgramHasTheGatesPort(t *testing.T) {
	w := newWorld(t)
	e := w.dockerd()
	var said []string // by one pull at a time
	g, err := imagegate.New(imagegate.Config{Address: w.gate, Endpoint: w.api, RootCA: w.root, Dir: w.spool, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Taken: func(address, instead string) { said = append(said, address+" "+instead) }})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(w.gate)
	ln, err := net.Listen("tcp", "0.0.0.0:"+port) // on all addresses: no other one of 127/8 would do
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	one, two, three := w.push("v2/"+strings.Repeat("1", 32), 1, 1000), w.push("v2/"+strings.Repeat("2", 32), 2, 1000), w.push("v2/"+strings.Repeat("3", 32), 3, 1000)
	w.pullAtLast(g, e, one, nil)
	w.pullAtLast(g, e, two, nil)
	if len(said) != 1 || !strings.HasPrefix(said[0], w.gate+" 127.48.48.4:") {
		t.Errorf("it said %q", said)
	}
	_ = ln.Close()
	w.pullAtLast(g, e, three, nil)
	again := w.newGate()
	for i, p := range []pushed{one, two, three} {
		if !w.has(e, p) {
			t.Errorf("the engine has no image %d", i+1)
			continue
		}
		id, err := e.Create(t.Context(), engine.Spec{Name: fmt.Sprintf("image%d", i), Config: container.Config{Image: p.ref, Cmd: []string{"/x"}}})
		if err != nil {
			t.Errorf("a container of image %d: %v", i+1, err)
			continue
		}
		if err := e.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	w.pullAtLast(again, e, one, nil) // under the gate's own name too
	for i, p := range []pushed{one, two, three} {
		if err := e.RemoveImage(t.Context(), p.ref); err != nil || w.has(e, p) {
			t.Errorf("image %d is there still: %v", i+1, err)
		}
	}
}
