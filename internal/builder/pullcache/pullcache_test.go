package pullcache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/pullcache"
	"github.com/roadstead-io/roadstead/internal/builder/pullcache/pulltest"
)

const (
	one = "org-1"
	two = "org-2"
)

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

// noise are bytes that cannot be compressed.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, seed)))
	_, _ = r.Read(data)
	return data
}

// open opens a cache that may ask a registry.
func open(t testing.TB, up *pulltest.Registry, change ...func(*pullcache.Config)) *pullcache.Cache {
	t.Helper()
	cfg := pullcache.Config{Dir: t.TempDir(), Allow: []string{"127.0.0.1"}, Roots: up.Roots(), Stall: 2 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	c := must(pullcache.Open(cfg, slog.New(slog.DiscardHandler)))(t)
	t.Cleanup(c.Close)
	return c
}

// build is one build, which ends with the test at the latest.
func build(t testing.TB, c *pullcache.Cache, domain string, change ...func(*pullcache.Options)) *pullcache.Build {
	t.Helper()
	opt := pullcache.Options{Domain: domain, Platform: amd64, Say: func(format string, args ...any) { t.Logf(format, args...) }}
	for _, f := range change {
		f(&opt)
	}
	b := c.Begin(t.Context(), opt)
	t.Cleanup(b.Close)
	return b
}

// read reads everything of an image, as BuildKit does: layers piece by piece.
func read(b *pullcache.Build, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	at, err := img.Digest()
	if err != nil {
		return err
	}
	if _, err := blob(b, at); err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		data, err := blob(b, d.Digest)
		if err != nil {
			return err
		}
		if digest.FromBytes(data).String() != d.Digest.String() {
			return fmt.Errorf("%s: %d bytes that are not it", d.Digest, len(data))
		}
	}
	return nil
}

func blob(b *pullcache.Build, h v1.Hash) ([]byte, error) {
	ctx, d := context.Background(), digest.Digest(h.String())
	info, err := b.Info(ctx, d)
	if err != nil {
		return nil, err
	}
	var all []byte
	for off := int64(0); off < info.Size; {
		r, err := b.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
		if err != nil {
			return nil, err
		}
		piece := make([]byte, min(100_000, info.Size-off))
		n, err := content.ReaderAt.ReadAt(r, piece, off)
		_ = r.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		all, off = append(all, piece[:n]...), off+int64(n)
	}
	return all, nil
}

// pull resolves a name and reads the image.
func pull(b *pullcache.Build, ref string, img v1.Image) error {
	got, err := b.Resolve(ref)
	if err != nil {
		return err
	}
	if want, err := img.Digest(); err != nil || got.Digest.String() != want.String() {
		return fmt.Errorf("%s is %s, want %s (%w)", ref, got.Digest, want, err)
	}
	return read(b, img)
}

// files lists what lies in a directory of a cache, below every scope.
func files(t testing.TB, dir, kind string) (list []string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(p, "/"+kind+"/") {
			list = append(list, p)
		}
		return err
	}))
	return list
}

func TestOneFetchServesAll(t *testing.T) {
	up := pulltest.New(t)
	img := up.Publish("team/base:1", empty.Image, noise(1, 3<<20))
	c := open(t, up)
	// At the same time, of several organizations.
	gate := make(chan struct{})
	up.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if pulltest.IsBlob(r) {
			<-gate
		}
		next.ServeHTTP(w, r)
	})
	var all sync.WaitGroup
	failed := make(chan error, 20)
	for i := range 20 {
		b := build(t, c, fmt.Sprint("org-", i))
		all.Go(func() { failed <- pull(b, up.Host+"/team/base:1", img) })
	}
	go func() { <-time.After(300 * time.Millisecond); close(gate) }()
	all.Wait()
	for range 20 {
		check(t, <-failed)
	}
	for _, d := range must(img.Manifest())(t).Layers {
		if got := up.Asked("/blobs/" + d.Digest.String()); len(got) != 1 {
			t.Errorf("asked %q", got)
		}
	}
	// Opened again, the cache has it still, and the registry is not there any more.
	up.Break(http.StatusBadGateway)
	s := c.Status()
	if s.Bytes < 3<<20 || s.Misses == 0 || s.Images[0].Name != up.Host+"/team/base:1" {
		t.Errorf("status %+v", s)
	}
}

func TestAKilledCacheServesNothingHalf(t *testing.T) {
	if dir := os.Getenv("PULLCACHE_CHILD"); dir != "" {
		child(t, dir)
		return
	}
	up := pulltest.New(t)
	img := up.Publish("team/base:1", empty.Image, noise(2, 4<<20))
	dir := t.TempDir()
	half := make(chan struct{})
	up.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		if !pulltest.IsBlob(r) || rec.Body.Len() < 1<<20 {
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:2<<20])
		w.(http.Flusher).Flush()
		select {
		case half <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	})
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAKilledCacheServesNothingHalf$")
	pem := filepath.Join(t.TempDir(), "pem")
	check(t, os.WriteFile(pem, []byte(up.PEM()), 0o600))
	cmd.Env = append(os.Environ(), "PULLCACHE_CHILD="+dir, "PULLCACHE_REF="+up.Host+"/team/base:1", "SSL_CERT_FILE="+pem)
	check(t, cmd.Start())
	<-half
	await(t, "half a layer is on the disk", func() bool {
		for _, f := range files(t, dir, "partial") {
			if info, err := os.Stat(f); err == nil && info.Size() >= 2<<20 {
				return true
			}
		}
		return false
	})
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()

	up.Answer(nil)
	up.Forget()
	c := open(t, up, func(cfg *pullcache.Config) { cfg.Dir = dir })
	if got := files(t, dir, "partial"); len(got) > 0 {
		t.Errorf("half a blob stays behind: %q", got)
	}
	check(t, pull(build(t, c, one), up.Host+"/team/base:1", img))
	if got := up.Asked("GET /v2/team/base/blobs/"); len(got) == 0 {
		t.Error("nothing was fetched after the kill")
	}
}

// child fetches until it is killed.
func child(t *testing.T, dir string) {
	c := must(pullcache.Open(pullcache.Config{Dir: dir, Allow: []string{"127.0.0.1"}}, slog.New(slog.DiscardHandler)))(t)
	b := c.Begin(t.Context(), pullcache.Options{Domain: one, Platform: amd64, Say: t.Logf})
	got := must(b.Resolve(os.Getenv("PULLCACHE_REF")))(t)
	data := must(blob(b, must(v1.NewHash(got.Digest.String()))(t)))(t)
	m := must(v1.ParseManifest(bytes.NewReader(data)))(t)
	for _, l := range m.Layers {
		_, _ = blob(b, l.Digest)
	}
}

func TestAFetchGoesOnWhereItBrokeOff(t *testing.T) {
	for name, ranges := range map[string]bool{"a registry that sends parts": true, "one that sends the whole each time": false} {
		t.Run(name, func(t *testing.T) {
			up := pulltest.New(t)
			img := up.Publish("team/base:1", empty.Image, noise(3, 1<<20))
			size := must(img.Manifest())(t).Layers[0].Size
			var mu sync.Mutex
			var from []string
			up.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				rec := httptest.NewRecorder()
				asked := r.Header.Get("Range")
				r.Header.Del("Range")
				next.ServeHTTP(rec, r)
				data := rec.Body.Bytes()
				if !pulltest.IsBlob(r) || int64(len(data)) != size {
					for k, v := range rec.Header() {
						w.Header()[k] = v
					}
					w.WriteHeader(rec.Code)
					_, _ = w.Write(data)
					return
				}
				mu.Lock()
				from = append(from, asked)
				breaks := len(from) < 4
				mu.Unlock()
				start := 0
				if asked != "" && ranges {
					_, _ = fmt.Sscanf(asked, "bytes=%d-", &start)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(data)-1, len(data)))
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(data)-start))
				if start > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				if !breaks {
					_, _ = w.Write(data[start:])
					return
				}
				end := len(from) * len(data) / 5
				_, _ = w.Write(data[start:end])
				panic(http.ErrAbortHandler)
			})
			c := open(t, up)
			check(t, pull(build(t, c, one), up.Host+"/team/base:1", img))
			mu.Lock()
			defer mu.Unlock()
			if len(from) != 4 || from[0] != "" || !strings.HasPrefix(from[3], "bytes=") {
				t.Errorf("asked for %q", from)
			}
		})
	}
}

func TestWhatIsNotWhatItShouldBeIsNotKept(t *testing.T) {
	up := pulltest.New(t)
	img := up.Publish("team/base:1", empty.Image, noise(4, 1<<20))
	dir := t.TempDir()
	c := open(t, up, func(cfg *pullcache.Config) { cfg.Dir = dir })
	up.Flip()
	b := build(t, c, one)
	err := pull(b, up.Host+"/team/base:1", img)
	if err == nil || b.Failed() == nil || !strings.Contains(b.Failed().Error(), up.Host+" sent something else for sha256:") {
		t.Errorf("a flipped bit: %v; the build is told %v", err, b.Failed())
	}
	for _, f := range append(files(t, dir, "blobs"), files(t, dir, "partial")...) {
		if data := must(os.ReadFile(f))(t); digest.FromBytes(data).Encoded() != filepath.Base(f) {
			t.Errorf("%s was kept", f)
		}
	}
	if s := c.Status(); s.Damaged == 0 {
		t.Errorf("status %+v", s)
	}
	up.Answer(nil)
	check(t, pull(build(t, c, two), up.Host+"/team/base:1", img))

	// A disk that forgets: the blob is compared with its digest by the next run, and fetched again.
	c.Close()
	for _, f := range files(t, dir, "blobs") {
		data := must(os.ReadFile(f))(t)
		data[len(data)/2] ^= 1
		check(t, os.WriteFile(f, data, 0o600))
	}
	c = open(t, up, func(cfg *pullcache.Config) { cfg.Dir = dir })
	check(t, pull(build(t, c, one), up.Host+"/team/base:1", img))
	if s := c.Status(); s.Damaged == 0 {
		t.Errorf("status %+v", s)
	}
}

func TestATagIsAskedForAgain(t *testing.T) {
	up := pulltest.New(t)
	now := time.Now()
	var mu sync.Mutex
	c := open(t, up, func(cfg *pullcache.Config) {
		cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	first := up.Publish("team/base:1", empty.Image, noise(5, 1000))
	b := build(t, c, one)
	check(t, pull(b, up.Host+"/team/base:1", first))
	second := up.Publish("team/base:1", empty.Image, noise(6, 1000))
	check(t, pull(build(t, c, two), up.Host+"/team/base:1", first)) // it is believed for a moment
	mu.Lock()
	now = now.Add(2 * time.Minute)
	mu.Unlock()
	check(t, pull(build(t, c, two), up.Host+"/team/base:1", second))
	check(t, pull(b, up.Host+"/team/base:1", first)) // one build, one meaning
	check(t, pull(b, fmt.Sprintf("%s/team/base:1@%s", up.Host, must(first.Digest())(t)), first))
	check(t, pull(build(t, c, two, func(o *pullcache.Options) { o.Revalidate = true }), up.Host+"/team/base:1", second))

	// A digest stands for itself: nobody is asked.
	up.Break(http.StatusTooManyRequests)
	pinned := build(t, c, one)
	if err := pull(pinned, fmt.Sprintf("%s/team/base@%s", up.Host, must(second.Digest())(t)), second); err == nil {
		t.Error("a digest that this repository was never asked for is served without asking")
	}
	var said string
	stale := build(t, c, one, func(o *pullcache.Options) {
		o.Revalidate, o.Say = true, func(format string, args ...any) { said = fmt.Sprintf(format, args...) }
	})
	check(t, pull(stale, up.Host+"/team/base:1", second))
	if !strings.Contains(said, "429") || !strings.Contains(said, "is taken as it was known at") {
		t.Errorf("a stale name is not told of: %q", said)
	}
	up.Break(http.StatusNotFound) // it is no more: what was known does not hold
	if _, err := build(t, c, one, func(o *pullcache.Options) { o.Revalidate = true }).Resolve(up.Host + "/team/base:1"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an image that was deleted: %v", err)
	}
}

// The attack: what one organization's account may have is read by another, or by somebody with a wrong password, out of the cache.
func TestWhatAnAccountMayHaveIsForThatAccount(t *testing.T) {
	up := pulltest.New(t)
	img := up.Publish("team/secret:1", empty.Image, noise(7, 1<<20))
	up.Want("ann:correct horse")
	dir := t.TempDir()
	c := open(t, up, func(cfg *pullcache.Config) { cfg.Dir = dir })
	as := func(domain, user, password string) *pullcache.Build {
		return build(t, c, domain, func(o *pullcache.Options) {
			o.Account = func(registry string) pullcache.Account {
				if registry == up.Host {
					return pullcache.Account{Username: user, Password: password}
				}
				return pullcache.Account{}
			}
		})
	}
	refs := []string{up.Host + "/team/secret:1", fmt.Sprintf("%s/team/secret@%s", up.Host, must(img.Digest())(t))}
	for _, ref := range refs {
		check(t, pull(as(one, "ann", "correct horse"), ref, img))
	}
	for name, b := range map[string]*pullcache.Build{
		"another organization":                      build(t, c, two),
		"another organization with a wrong account": as(two, "ann", "guess"),
		"the same organization without the account": build(t, c, one),
		"the same with a wrong password":            as(one, "ann", "guess"),
	} {
		for _, ref := range refs {
			if _, err := b.Resolve(ref); err == nil || api.AsError(err).Code != api.Invalid || !strings.Contains(err.Error(), "refuses team/secret") {
				t.Errorf("%s: %s: %v", name, ref, err)
			}
		}
		// Not by a layer's digest in an image of one's own, either.
		layer := must(img.Manifest())(t).Layers[0].Digest
		if _, err := blob(b, layer); err == nil {
			t.Errorf("%s reads a layer", name)
		}
	}
	// A registry of theirs that says it has the layer: it is fetched from there, not taken from what ann may have.
	theirs := pulltest.New(t)
	theirs.Put("team/x:1", img)
	theirs.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if pulltest.IsBlob(r) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
	c2 := open(t, theirs, func(cfg *pullcache.Config) { cfg.Dir = dir })
	if err := pull(build(t, c2, two), theirs.Host+"/team/x:1", img); err == nil {
		t.Error("a layer that only an account may have was served to another's image")
	}
	up.Break(http.StatusServiceUnavailable) // away: it is as it was
	check(t, pull(as(one, "ann", "correct horse"), refs[0], img))
	if err := pull(as(two, "ann", "correct horse"), refs[0], img); err == nil {
		t.Error("another organization had it from the cache")
	}
	check(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if data := must(os.ReadFile(p))(t); bytes.Contains(data, []byte("correct horse")) || strings.Contains(p, "horse") {
			t.Errorf("the password is in %s", p)
		}
		return nil
	}))
}

// The attack: a registry says that it has a layer of another's image, and never ends sending it.
func TestARegistryKeepsNobodyElseWaiting(t *testing.T) {
	good, bad := pulltest.New(t), pulltest.New(t)
	img := good.Publish("team/base:1", empty.Image, noise(8, 1<<20))
	bad.Put("team/base:1", img)
	stuck, leave := make(chan struct{}, 1), make(chan struct{})
	defer close(leave)
	bad.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !pulltest.IsBlob(r) {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case stuck <- struct{}{}:
		default:
		}
		<-leave
	})
	roots := good.Roots()
	roots.AppendCertsFromPEM([]byte(bad.PEM()))
	c := open(t, good, func(cfg *pullcache.Config) { cfg.Roots, cfg.Stall = roots, time.Minute })
	b := build(t, c, one)
	var wait sync.WaitGroup
	wait.Go(func() { _ = pull(b, bad.Host+"/team/base:1", img) })
	<-stuck
	check(t, pull(build(t, c, two), good.Host+"/team/base:1", img))
	b.Close()
	wait.Wait()
}

func TestTheCacheStaysWithinItsBound(t *testing.T) {
	up := pulltest.New(t)
	dir := t.TempDir()
	c := open(t, up, func(cfg *pullcache.Config) { cfg.Dir, cfg.Bytes = dir, 3<<20 })
	var images []v1.Image
	for i := range 5 {
		images = append(images, up.Publish(fmt.Sprintf("team/base:%d", i), empty.Image, noise(uint64(10+i), 1<<20)))
	}
	pullOf := func(i int) error {
		b := c.Begin(t.Context(), pullcache.Options{Domain: one, Platform: amd64, Say: t.Logf})
		defer b.Close()
		return pull(b, fmt.Sprintf("%s/team/base:%d", up.Host, i), images[i])
	}
	for _, i := range []int{0, 1, 0, 2, 0, 3, 0, 4} {
		check(t, pullOf(i))
		var size int64
		for _, f := range append(files(t, dir, "blobs"), files(t, dir, "partial")...) {
			size += must(os.Stat(f))(t).Size()
		}
		if s := c.Status(); size > 3<<20 || s.Bytes != size {
			t.Fatalf("%d bytes on the disk, the status says %d", size, s.Bytes)
		}
	}
	up.Forget()
	check(t, pullOf(0)) // it was used again and again, and is still there
	if got := up.Asked("blobs"); len(got) > 0 {
		t.Errorf("what was used last was let go of: %q", got)
	}
	check(t, pullOf(1))
	if got := up.Asked("blobs"); len(got) == 0 {
		t.Error("what was used first is still there")
	}
	if s := c.Status(); s.Evicted == 0 {
		t.Errorf("status %+v", s)
	}
	large := up.Publish("team/large:1", empty.Image, noise(20, 4<<20))
	b := build(t, c, one)
	if err := pull(b, up.Host+"/team/large:1", large); err == nil || !strings.Contains(err.Error(), "--pull-cache-bytes") {
		t.Errorf("a layer larger than everything: %v", err)
	}
	done := must(c.Purge(t.Context(), api.PullCachePurge{Images: []string{up.Host + "/team/base:1"}}))(t)
	if done.Images != 1 || done.Bytes < 1<<20 {
		t.Errorf("purged %+v", done)
	}
	if _, err := c.Purge(t.Context(), api.PullCachePurge{Images: []string{"x"}}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("purge of what is not there: %v", err)
	}
	if _, err := c.Purge(t.Context(), api.PullCachePurge{}); api.AsError(err).Code != api.Invalid {
		t.Errorf("purge of nothing: %v", err)
	}
	b.Close()
	must(c.Purge(t.Context(), api.PullCachePurge{All: true}))(t)
	if s := c.Status(); s.Bytes != 0 || len(s.Images) != 0 || len(files(t, dir, "blobs")) != 0 {
		t.Errorf("after everything was purged: %+v", s)
	}
}

func TestRegistriesThatFailAreNamed(t *testing.T) {
	up := pulltest.New(t)
	up.Publish("team/base:1", empty.Image, noise(30, 1000))
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("a password was sent in plain http: %s", r.Header.Get("Authorization"))
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="plain"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer plain.Close()
	for _, c := range []struct {
		name   string
		status int
		head   string
		ref    string
		want   string
	}{
		{"too many", 429, "120", "team/base:1", "lets nobody here fetch more for now (status 429), it says in 120 s: give the build an account there with --registry-secrets"},
		{"broken", 500, "", "team/base:1", "does not work (status 500)"},
		{"not there", 404, "", "team/none:1", "has no such image"},
		{"forbidden", 403, "", "team/base:1", "refuses team/base: it wants an account, given with --registry-secrets"},
		{"strange", 418, "", "team/base:1", "answers with status 418"},
	} {
		up.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, "manifests") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Retry-After", c.head)
			w.WriteHeader(c.status)
		})
		_, err := build(t, open(t, up), one).Resolve(up.Host + "/" + c.ref)
		want := up.Host + "/" + c.ref + " cannot be had: " + up.Host + " " + c.want
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", c.name, err, want)
		}
	}
	up.Answer(nil)
	shut := func(cfg *pullcache.Config) { cfg.Allow = nil }
	for ref, want := range map[string]string{
		up.Host + "/team/base:1": "is not at a public address; the operator lets builds reach private ones with --build-allow",
		"localhost:1/x:1":        "is not at a public address",
		"169.254.169.254/x:1":    "is not at a public address",
		"10.0.0.1/x:1":           "is not at a public address",
		up.Host + "/team/base@sha512:" + strings.Repeat("a", 128): "is not the name of an image that can be fetched",
		"UPPER/x": "is not the name of an image",
	} {
		if _, err := build(t, open(t, up, shut), one).Resolve(ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", ref, err, want)
		}
	}
	// This machine's own addresses lie in no network that is allowed as a whole.
	if _, err := build(t, open(t, up, func(cfg *pullcache.Config) { cfg.Allow = []string{"127.0.0.0/8"} }), one).Resolve(up.Host + "/team/base:1"); err == nil {
		t.Error("this machine was reached")
	}
	// A password is for TLS alone.
	b := build(t, open(t, up), one, func(o *pullcache.Options) {
		o.Account = func(string) pullcache.Account { return pullcache.Account{Username: "ann", Password: "x"} }
	})
	if _, err := b.Resolve(strings.TrimPrefix(plain.URL, "http://") + "/x:1"); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a password in plain http: %v", err)
	}
}

// The attack: a registry leads into this network, by a redirect or by a manifest.
func TestARegistryLeadsNowhereElse(t *testing.T) {
	up := pulltest.New(t)
	img := up.Publish("team/base:1", empty.Image, noise(31, 100_000))
	cdn := pulltest.New(t)
	cdn.Put("team/base:1", img)
	roots := up.Roots()
	roots.AppendCertsFromPEM([]byte(cdn.PEM()))
	up.Want("ann:secret")
	lead := func(to string) {
		up.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if pulltest.IsBlob(r) {
				http.Redirect(w, r, to+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	ann := func(o *pullcache.Options) {
		o.Account = func(registry string) pullcache.Account {
			if registry == up.Host {
				return pullcache.Account{Username: "ann", Password: "secret"}
			}
			return pullcache.Account{}
		}
	}
	// To where layers really lie, without the password.
	cdn.Answer(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s was sent on with %q", r.URL, r.Header.Get("Authorization"))
		}
		next.ServeHTTP(w, r)
	})
	lead("https://" + cdn.Host)
	wide := func(cfg *pullcache.Config) { cfg.Roots = roots }
	check(t, pull(build(t, open(t, up, wide), one, ann), up.Host+"/team/base:1", img))
	for _, to := range []string{"https://10.0.0.1", "https://169.254.169.254", "http://10.0.0.1", "https://" + up.Host + "/again"} {
		lead(to)
		if err := pull(build(t, open(t, up, wide), one, ann), up.Host+"/team/base:1", img); err == nil {
			t.Errorf("a blob was had from %s", to)
		}
	}
}

func FuzzChildren(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":1},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":-1}]}`))
	f.Add([]byte(`{"schemaVersion":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := pullcache.Children(data)
		for _, d := range list {
			if err != nil || d.Size < 0 || d.Digest.Algorithm != "sha256" || len(list) > 500 {
				t.Errorf("%q gives %v, %v", data, list, err)
			}
		}
	})
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s in vain until %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}
