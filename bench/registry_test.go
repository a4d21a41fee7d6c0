package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the driver registers itself by name
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry"
)

const (
	blobSize   = 32 << 20
	repository = "v2/0123456789abcdef0123456789abcdef"
)

// images is a registry with the builder and a device before it, a plain file server over the same files, and the library's own server; all
// of them over the same TLS.
type images struct {
	b                    *testing.B
	dir                  string
	push, pull           string // tokens
	ours, plain, library string
	builder, edge        *http.Client
}

func newImages(b *testing.B) *images {
	b.Helper()
	i := &images{b: b, dir: b.TempDir()}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(pki.NewTestIdentities(i.dir, api.RoleRegistry, api.RoleBuilder, api.RoleEdge))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	must(err)
	dir := filepath.Join(i.dir, api.RoleRegistry)
	must(os.WriteFile(filepath.Join(dir, registry.PublicKeysFile), public, 0o600))
	site := api.Site{Domain: "roadstead.test", Port: 443}
	srv, err := registry.New(registry.Config{Dir: dir, Site: site}, slog.New(slog.DiscardHandler))
	must(err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	must(err)
	token := func(actions ...string) string {
		now := time.Now()
		t, err := jwt.Signed(signer).Claims(map[string]any{
			"iss": api.TokenIssuer, "aud": site.Host("registry2"), "iat": now.Unix(), "nbf": now.Unix() - 1, "exp": now.Add(5 * time.Minute).Unix(),
			"access": []api.Grant{{Type: "repository", Name: repository, Actions: actions}},
		}).Serialize()
		must(err)
		return t
	}
	i.push, i.pull = token("pull", "push"), token("pull")
	id, err := pki.LoadIdentity(dir)
	must(err)
	i.ours = i.serve(id, srv.Handler())
	i.plain = i.serve(id, http.FileServer(http.Dir(filepath.Join(dir, registry.StorageDir))))
	cfg := &configuration.Configuration{Version: "0.1", Storage: configuration.Storage{
		"filesystem": {"rootdirectory": filepath.Join(i.dir, "library")}, "maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	cfg.HTTP.Secret = "a secret of the bench"
	app := handlers.NewApp(context.Background(), cfg)
	b.Cleanup(func() { _ = app.Shutdown() })
	i.library = i.serve(id, app)
	client := func(role string) *http.Client {
		id, err := pki.LoadIdentity(filepath.Join(i.dir, role))
		must(err)
		return id.Client(api.RoleRegistry, "").HTTP
	}
	i.builder, i.edge = client(api.RoleBuilder), client(api.RoleEdge)
	return i
}

func (i *images) serve(id *pki.Identity, h http.Handler) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		i.b.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: id.ServerTLS(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(ln, "", "") }()
	i.b.Cleanup(func() { _ = srv.Close(); <-done })
	return "https://" + ln.Addr().String()
}

func (i *images) do(c *http.Client, token, method, url string, body []byte, status int) *http.Response {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		i.b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.Do(req)
	if err != nil {
		i.b.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != status || (method == "GET" && n != blobSize) {
		i.b.Fatalf("%s %s: %s, %d bytes, %v", method, url, res.Status, n, err)
	}
	return res
}

// upload pushes a blob as the builder does and gives its digest.
func (i *images) upload(base, token string, data []byte) string {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	local := func(res *http.Response) string {
		at := res.Header.Get("Location")
		return base + at[strings.Index(at, "/v2/"):]
	}
	at := local(i.do(i.builder, token, "POST", base+"/v2/"+repository+"/blobs/uploads/", nil, http.StatusAccepted))
	at = local(i.do(i.builder, token, "PATCH", at, data, http.StatusAccepted))
	i.do(i.builder, token, "PUT", at+"&digest="+digest, nil, http.StatusCreated)
	return digest
}

// BenchmarkRegistry compares pulls with a plain file server on the same files and pushes with the library's own server. The two of a pair
// take turns, so that a busy machine is as busy for both.
func BenchmarkRegistry(b *testing.B) {
	i := newImages(b)
	data := make([]byte, blobSize)
	fresh := func() []byte {
		_, _ = rand.Read(data[:64]) // another blob
		return data
	}
	_, _ = rand.Read(data)
	digest := i.upload(i.ours, i.push, data)
	h := strings.TrimPrefix(digest, "sha256:")
	file := i.plain + "/docker/registry/v2/blobs/sha256/" + h[:2] + "/" + h + "/data"
	var pull, plain, push, library []time.Duration
	timed := func(f func()) time.Duration {
		began := time.Now()
		f()
		return time.Since(began)
	}
	const rounds = 9
	for b.Loop() {
		pull, plain, push, library = nil, nil, nil, nil
		for range rounds {
			pull = append(pull, timed(func() { i.do(i.edge, i.pull, "GET", i.ours+"/v2/"+repository+"/blobs/"+digest, nil, 200) }))
			plain = append(plain, timed(func() { i.do(i.edge, "", "GET", file, nil, 200) }))
			fresh()
			push = append(push, timed(func() { i.upload(i.ours, i.push, data) }))
			fresh()
			library = append(library, timed(func() { i.upload(i.library, "", data) }))
		}
	}
	rate := func(d time.Duration) float64 { return float64(blobSize) / d.Seconds() / 1e6 }
	fmt.Printf("registry: pull %.0f MB/s, a plain file server %.0f MB/s: %.0f %% (budget 80)\n", rate(middle(pull)), rate(middle(plain)),
		100*rate(middle(pull))/rate(middle(plain)))
	fmt.Printf("registry: push %.0f MB/s, the library's own server %.0f MB/s: %.0f %% (budget 80)\n", rate(middle(push)), rate(middle(library)),
		100*rate(middle(push))/rate(middle(library)))
}

// middle is the median.
func middle(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}
