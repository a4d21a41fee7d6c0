package fromurl_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/fromurl"
	"github.com/roadstead-io/roadstead/internal/builder/source"
)

// archive is a gzipped tar of entries: "dir/", "file=content", "link->target" (hard), and "!" for what forges put before all.
func archive(t *testing.T, entries ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, e := range entries {
		h := &tar.Header{Name: e, Mode: 0o644, Typeflag: tar.TypeReg}
		name, content, isFile := strings.Cut(e, "=")
		link, target, isLink := strings.Cut(e, "->")
		switch {
		case e == "!":
			h = &tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "c0ffee"}}
		case strings.HasSuffix(e, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case isLink:
			h.Typeflag, h.Name, h.Linkname = tar.TypeLink, link, target
		case isFile:
			h.Name, h.Size = name, int64(len(content))
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// forge is a host of archives, over TLS.
type forge struct {
	*httptest.Server
	asked atomic.Int64
	files map[string][]byte // read only once it serves
	cfg   fromurl.Config
}

func newForge(t *testing.T, files map[string][]byte) *forge {
	f := &forge{files: files}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		switch data, ok := f.files[r.URL.Path]; {
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/good.tar.gz", http.StatusFound)
		case r.URL.Path == "/elsewhere":
			http.Redirect(w, r, "https://192.0.2.1/x.tar.gz", http.StatusFound)
		case r.URL.Path == "/endless":
			_ = tar.NewWriter(w).WriteHeader(&tar.Header{Name: "p/x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 40})
			for ok := true; ok; {
				_, err := w.Write(make([]byte, 64<<10))
				ok = err == nil
			}
		case ok:
			_, _ = w.Write(data)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(f.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	f.cfg = fromurl.Config{Allow: []string{"127.0.0.1"}, CA: string(ca)}
	return f
}

// send sends a request to the handler in front of a builder that unpacks what it gets, when it lets somebody.
func send(t *testing.T, cfg fromurl.Config, body string, may bool) (status int, said, slug, dir string) {
	t.Helper()
	dir = t.TempDir()
	h := fromurl.Handler(func(w http.ResponseWriter, r *http.Request) error {
		slug = r.URL.Query().Get("slug") + " headless=" + r.URL.Query().Get("headless")
		if may {
			r.Body.(*fromurl.Body).Fetch(r.Context(), cfg, 1<<20)
		}
		if n, err := source.Extract(dir, r.Body, source.Limits{Bytes: 1 << 20, Entries: 100}); err != nil || n.Files == 0 {
			http.Error(w, fmt.Sprint(api.AsError(err).Text), api.AsError(err).Code.Status())
		}
		return nil
	})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v3/buildFromUrl?headless=true&owner=acme&app=hello", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if err := h(w, r); err != nil {
		t.Fatal(err)
	}
	return w.Code, strings.TrimSpace(w.Body.String()), slug, dir
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all = append(all, name+"="+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestFetched(t *testing.T) {
	f := newForge(t, map[string][]byte{
		"/good.tar.gz": archive(t, "!", "p-1.0/", "p-1.0/Dockerfile=FROM x", "p-1.0/a/b=1", "p-1.0/c->p-1.0/a/b"),
		"/flat.tar.gz": archive(t, "Dockerfile=FROM y", "a/b=2"),
		"/dots.tar.gz": archive(t, "./p/", "./p/Dockerfile=FROM z"),
	})
	for _, x := range []struct{ body, want string }{
		{`{"url":"%s/good.tar.gz"}`, "Dockerfile=FROM x a/b=1 c=1"},
		{`{"url":"%s/good.tar.gz","shouldFlatten":true}`, "Dockerfile=FROM x a/b=1 c=1"},
		{`{"url":"%s/good.tar.gz","shouldFlatten":false}`, "p-1.0/Dockerfile=FROM x p-1.0/a/b=1 p-1.0/c=1"},
		{`{"url":"%s/flat.tar.gz","shouldFlatten":false}`, "Dockerfile=FROM y a/b=2"},
		{`{"url":"%s/dots.tar.gz"}`, "Dockerfile=FROM z"},
		{`{"url":"%s/moved"}`, "Dockerfile=FROM x a/b=1 c=1"},
	} {
		status, said, slug, dir := send(t, f.cfg, fmt.Sprintf(x.body, f.URL), true)
		if got := tree(t, dir); status != http.StatusOK || got != x.want || slug != "acme/hello headless=true" {
			t.Errorf("%s for %s: %d %s, %q, want %q", x.body, slug, status, said, got, x.want)
		}
	}
}

// Nothing is asked of an address for somebody who may not push.
func TestNothingIsFetchedForStrangers(t *testing.T) {
	f := newForge(t, map[string][]byte{"/good.tar.gz": archive(t, "p/Dockerfile=FROM x")})
	_, _, _, dir := send(t, f.cfg, fmt.Sprintf(`{"url":"%s/good.tar.gz"}`, f.URL), false)
	if n := f.asked.Load(); n != 0 || tree(t, dir) != "" {
		t.Errorf("asked %d times, got %q", n, tree(t, dir))
	}
}

func TestRefused(t *testing.T) {
	f := newForge(t, map[string][]byte{
		"/two.tar.gz": archive(t, "a/x=1", "b/y=2"), "/top.tar.gz": archive(t, "a/x=1", "y=2"), "/out.tar.gz": archive(t, "a/x=1", "a/../../y=2"),
		"/absolute.tar.gz": archive(t, "/etc/passwd=x"), "/link.tar.gz": archive(t, "a/x=1", "a/l->../../etc/passwd"),
		"/noise": bytes.Repeat([]byte("noise"), 1000), "/cut.tar.gz": archive(t, "a/x="+strings.Repeat("1", 10_000))[:60],
	})
	for _, x := range []struct {
		url    string
		status int
		want   string
	}{
		{"", 400, "url: the address of an archive is missing"},
		{"/etc/passwd", 400, "is not an address"},
		{"file:///etc/passwd", 400, "is not an address"},
		{"ftp://example.com/x", 400, "is not an address"},
		{"https://me:secret@example.com/x", 400, "with a name or password"},
		{"http://192.0.2.1/x.tar.gz", 400, "only public addresses over https"},
		{"https://192.0.2.1/x.tar.gz", 400, "only public addresses over https"},
		{"https://[::1]/x.tar.gz", 400, "only public addresses over https"},
		{"https://169.254.169.254/latest/meta-data", 400, "only public addresses over https"},
		{f.URL + "/elsewhere", 400, "only public addresses over https"},
		{f.URL + "/nothing.tar.gz", 400, "answered 404 Not Found for the archive"},
		{f.URL + "/endless", 413, "larger than"},
		{f.URL + "/two.tar.gz", 400, `more than one directory at its top, "a" and "b"`},
		{f.URL + "/top.tar.gz", 400, `"y" at its top`},
		{f.URL + "/out.tar.gz", 400, "../y"},
		{f.URL + "/absolute.tar.gz", 400, `"/etc/passwd" at its top`},
		{f.URL + "/link.tar.gz", 400, "etc/passwd"},
		{f.URL + "/noise", 400, "damaged"},
		{f.URL + "/cut.tar.gz", 400, "damaged or ended early"},
	} {
		status, said, _, dir := send(t, f.cfg, fmt.Sprintf(`{"url":%q}`, x.url), true)
		if status != x.status || !strings.Contains(said, x.want) {
			t.Errorf("%s: %d %s, want %d %s", x.url, status, said, x.status, x.want)
		}
		if strings.Contains(said, "secret") {
			t.Errorf("%s: the answer repeats a secret: %s", x.url, said)
		}
		if _, err := os.Stat(filepath.Join(dir, "../y")); err == nil {
			t.Errorf("%s: something got out", x.url)
		}
	}
	if status, said, _, _ := send(t, fromurl.Config{}, fmt.Sprintf(`{"url":"%s/two.tar.gz"}`, f.URL), true); status != 400 || !strings.Contains(said, "--source-allow") {
		t.Errorf("this machine's own address: %d %s", status, said)
	}
	if status, said, _, _ := send(t, fromurl.Config{Allow: f.cfg.Allow}, fmt.Sprintf(`{"url":"%s/two.tar.gz"}`, f.URL), true); status != 503 || !strings.Contains(said, "certificate") {
		t.Errorf("an authority that nobody trusts: %d %s", status, said)
	}
	for _, body := range []string{"", "[]", `{"url":5}`, "nonsense"} {
		if status, said, _, _ := send(t, f.cfg, body, true); status != 400 || said == "" {
			t.Errorf("body %q: %d %s", body, status, said)
		}
	}
}

// A body that is closed before its end leaves nothing running: Close waits for the other side.
func TestClosedEarly(t *testing.T) {
	f := newForge(t, map[string][]byte{"/good.tar.gz": archive(t, "p/x="+strings.Repeat("1", 500_000))})
	h := fromurl.Handler(func(_ http.ResponseWriter, r *http.Request) error {
		r.Body.(*fromurl.Body).Fetch(r.Context(), f.cfg, 1<<20)
		_, err := io.ReadFull(r.Body, make([]byte, 100))
		return err
	})
	for range 20 {
		r := httptest.NewRequest(http.MethodPost, "/v3/buildFromUrl?slug=acme/hello", strings.NewReader(fmt.Sprintf(`{"url":"%s/good.tar.gz"}`, f.URL)))
		if err := h(httptest.NewRecorder(), r); err != nil {
			t.Fatal(err)
		}
	}
}
