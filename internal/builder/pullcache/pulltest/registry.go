// Package pulltest is another registry, as there are many on the internet, for tests: one that counts what it is asked, goes away, moves
// its tags, wants a password, and lies.
package pulltest

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Registry is one with TLS on 127.0.0.1.
type Registry struct {
	Host string // its name in references

	t     testing.TB
	srv   *httptest.Server
	store http.Handler

	mu      sync.Mutex
	asked   []string
	account string
	answer  func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// New starts one; the test's end ends it.
func New(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{t: t, store: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	r.srv = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.srv.StartTLS()
	t.Cleanup(r.srv.Close)
	r.Host = strings.TrimPrefix(r.srv.URL, "https://")
	return r
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, req.Method+" "+req.URL.Path)
	account, answer := r.account, r.answer
	r.mu.Unlock()
	user, password, _ := req.BasicAuth()
	switch {
	case account != "" && user+":"+password != account:
		w.Header().Set("WWW-Authenticate", `Basic realm="pulltest"`)
		w.WriteHeader(http.StatusUnauthorized)
	case answer != nil:
		answer(w, req, r.store)
	default:
		r.store.ServeHTTP(w, req)
	}
}

// PEM is the certificate to trust.
func (r *Registry) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.srv.Certificate().Raw}))
}

// Roots is the same as a pool.
func (r *Registry) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(r.srv.Certificate())
	return pool
}

// Want has the registry ask everybody for an account, "name:password"; "" for none.
func (r *Registry) Want(account string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.account = account
}

// Answer has the registry answer by a function; nil has it answer as it should.
func (r *Registry) Answer(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// Break has the registry answer everything with a status.
func (r *Registry) Break(status int) {
	r.Answer(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(status) })
}

// Flip has the registry change one bit of every blob.
func (r *Registry) Flip() {
	r.Answer(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method != http.MethodGet || !IsBlob(req) {
			next.ServeHTTP(w, req)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, req)
		data := rec.Body.Bytes()
		data[len(data)/2] ^= 1
		w.WriteHeader(rec.Code)
		_, _ = w.Write(data)
	})
}

// IsBlob tells a request for a blob.
func IsBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

// Asked gives what was asked since the last call that contains a text.
func (r *Registry) Asked(part string) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asked {
		if strings.Contains(a, part) {
			list = append(list, a)
		}
	}
	return list
}

// Forget begins the count anew.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = nil
}

// Publish puts an image under a name: one that exists, with a layer more that holds a file "upstream". It gives the digest.
func (r *Registry) Publish(ref string, base v1.Image, content []byte) v1.Image {
	r.t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "upstream", Size: int64(len(content)), Mode: 0o644}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(content); err != nil {
			return nil, err
		}
		return io.NopCloser(&buf), tw.Close()
	})
	if err != nil {
		r.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		r.t.Fatal(err)
	}
	r.Put(ref, img)
	return img
}

// Put puts an image under a name.
func (r *Registry) Put(ref string, img v1.Image) {
	r.t.Helper()
	to, err := name.NewTag(r.Host + "/" + ref)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	account, answer := r.account, r.answer
	r.account, r.answer = "", nil
	r.mu.Unlock()
	err = remote.Write(to, img, remote.WithTransport(r.srv.Client().Transport))
	r.mu.Lock()
	r.account, r.answer, r.asked = account, answer, nil
	r.mu.Unlock()
	if err != nil {
		r.t.Fatal(err)
	}
}
