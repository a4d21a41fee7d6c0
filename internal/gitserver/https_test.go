package gitserver_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// door plays the edge: it hands requests on under its own certificate.
func (w *world) door() string {
	w.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge))
	if err != nil {
		w.t.Fatal(err)
	}
	peer := id.Client(api.RoleGit, w.web)
	to, err := url.Parse(peer.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewServer(&httputil.ReverseProxy{
		Transport: peer.HTTP.Transport, FlushInterval: -1,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to)
			pr.Out.Header.Set("X-Forwarded-For", "192.0.2.7")
		},
	})
	w.t.Cleanup(srv.Close)
	return srv.URL
}

func TestPushOverHTTPS(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	at := w.door()
	w.keys.users["rsu_secret"] = "alice"
	w.keys.users["rsu_viewer"] = "bob"
	w.keys.viewer = "bob"
	with := func(token string) string { return strings.Replace(at, "http://", "http://whoever:"+token+"@", 1) }
	p := w.person("")
	p.commit("large", strings.Repeat("0123456789abcdef", 200_000)) // in chunks
	out := p.must("push", with("rsu_secret")+"/acme/harbour.git", "main")
	for _, want := range []string{"remote: a red line", "remote: Release 1 is ready"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pusher does not see %q:\n%s", want, out)
		}
	}
	if b := w.next(); b.address != "192.0.2.7" || b.authorization != "Ticket rsu_secret@acme/harbour" {
		t.Errorf("the build was opened by %q from %q", b.authorization, b.address)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	p.must("clone", "-q", with("rsu_secret")+"/acme/harbour.git", clone)
	p.refused("Authentication failed", "push", with("wrong")+"/acme/harbour.git", "main")
	p.refused("bob may see acme/harbour, but neither", "push", with("rsu_viewer")+"/acme/harbour.git", "main")
	p.refused("not found", "push", with("rsu_secret")+"/acme/nothing.git", "main")
	p.refused("could not read Username", "push", at+"/acme/harbour.git", "main")
	w.make = failing
	p.commit("more", "x")
	p.refused("ERROR: service main: exit code: 1", "push", with("rsu_secret")+"/acme/harbour.git", "main")
}

func TestHTTPSRequestsThatAreRefused(t *testing.T) {
	w := newWorld(t, gitserver.Limits{})
	at := w.door()
	w.keys.users["rsu_secret"] = "alice"
	ask := func(method, path, kind string, body []byte, headers ...string) (int, string) {
		req, err := http.NewRequest(method, at+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("x", "rsu_secret")
		req.Header.Set("Content-Type", kind)
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	const in = "application/x-git-receive-pack-request"
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	_, _ = zw.Write(bytes.Repeat([]byte("0032want 0000000000000000000000000000000000000000\n"), 1_000_000))
	_ = zw.Close()
	for _, tt := range []struct {
		method, path, kind string
		body               []byte
		headers            []string
		status             int
	}{
		{"GET", "/acme/harbour.git/HEAD", "", nil, nil, 404},
		{"GET", "/acme/harbour.git/objects/info/packs", "", nil, nil, 404},
		{"GET", "/acme/harbour.git/config", "", nil, nil, 404},
		{"GET", "/acme/harbour.git/info/refs", "", nil, nil, 403},
		{"GET", "/acme/harbour.git/info/refs?service=git-upload-archive", "", nil, nil, 403},
		{"GET", "/acme/harbour.git/info/refs?service=--help", "", nil, nil, 403},
		{"GET", "/acme/harbour/info/refs?service=git-receive-pack", "", nil, nil, 400},
		{"GET", "/acme/..%2f..%2fx.git/info/refs?service=git-receive-pack", "", nil, nil, 400},
		{"GET", "/acme/%2e%2e.git/info/refs?service=git-receive-pack", "", nil, nil, 400},
		{"GET", "/a$(id)/harbour.git/info/refs?service=git-receive-pack", "", nil, nil, 400},
		{"PUT", "/acme/harbour.git/git-receive-pack", in, nil, nil, 404},
		{"POST", "/acme/harbour.git/git-receive-pack", "text/plain", nil, nil, 415},
		{"POST", "/acme/harbour.git/git-receive-pack", in, []byte("x"), []string{"Content-Encoding", "gzip"}, 400},
		{"POST", "/acme/harbour.git/git-receive-pack", in, []byte("zzzz"), nil, 400},
	} {
		if status, text := ask(tt.method, tt.path, tt.kind, tt.body, tt.headers...); status != tt.status {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.path, status, text, tt.status)
		}
	}
	// What grows when it is unpacked: git reads it in pieces, and nothing of it is kept.
	if status, text := ask("POST", "/acme/harbour.git/git-receive-pack", in, bomb.Bytes(), "Content-Encoding", "gzip"); status != 413 {
		t.Errorf("a bomb: %d %q", status, text)
	}
	w.nothingBuilt()
}
