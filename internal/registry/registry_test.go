package registry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

const (
	mine  = "v2/0123456789abcdef0123456789abcdef"
	other = "v2/ffffffffffffffffffffffffffffffff"
)

var site = api.Site{Domain: "roadstead.test", Port: 443}

// store is a running registry, and the signer's key that it must never see.
type store struct {
	t    *testing.T
	dir  string
	addr string
	key  *ecdsa.PrivateKey
	jwks []byte
	log  *roletest.Log
	cfg  registry.Config // as it runs
	srv  *registry.Server
}

const keyID = "k1"

func prepare(t *testing.T) *store {
	t.Helper()
	s := &store{t: t, dir: t.TempDir(), log: &roletest.Log{}}
	if err := pki.NewTestIdentities(s.dir, "registry", "builder", "edge", "api", "parent", "admin"); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &s.key.PublicKey, KeyID: keyID, Algorithm: "ES256", Use: "sig"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "registry", registry.PublicKeysFile), s.jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *store) run(cfg registry.Config) *store {
	s.t.Helper()
	cfg.Dir, cfg.Site = filepath.Join(s.dir, "registry"), site
	s.cfg = cfg
	srv, err := registry.New(cfg, s.log.Logger())
	if err != nil {
		s.t.Fatal(err)
	}
	s.srv = srv
	ln := roletest.Listen(s.t)
	s.addr = ln.Addr().String()
	roletest.Run(s.t, func(ctx context.Context) error { return srv.Run(ctx, ln) })
	return s
}

func start(t *testing.T) *store { t.Helper(); return prepare(t).run(registry.Config{}) }

func grant(repo string, actions ...string) []api.Grant {
	return []api.Grant{{Type: "repository", Name: repo, Actions: actions}}
}

// token signs what the signer would, unless change says otherwise.
func (s *store) token(access []api.Grant, change func(*jwt.Claims)) string {
	s.t.Helper()
	now := time.Now()
	claims := struct {
		jwt.Claims
		Access []api.Grant `json:"access"`
	}{jwt.Claims{
		Issuer: api.TokenIssuer, Subject: "d_x", Audience: jwt.Audience{"registry2.roadstead.test"}, ID: "1",
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Second)),
		Expiry: jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}, access}
	if change != nil {
		change(&claims.Claims)
	}
	return s.sign(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: keyID}}, claims)
}

func (s *store) sign(key jose.SigningKey, claims any) string {
	s.t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// as is a transport of a role with a token.
type as struct {
	next  http.RoundTripper
	token string
}

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+a.token)
	return a.next.RoundTrip(r)
}

func (s *store) transport(role, token string) http.RoundTripper {
	s.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, role))
	if err != nil {
		s.t.Fatal(err)
	}
	peer := id.Client(api.RoleRegistry, s.addr)
	s.t.Cleanup(peer.HTTP.CloseIdleConnections)
	if token == "" {
		return peer.HTTP.Transport
	}
	return as{peer.HTTP.Transport, token}
}

func (s *store) do(role, token, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, "https://"+s.addr+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.transport(role, token).RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		out = append(out, "!"+err.Error()...)
	}
	return res, string(out)
}

// push pushes an image as the builder does: with go-containerregistry, by digest.
func (s *store) push(repo string, img v1.Image) v1.Hash {
	s.t.Helper()
	digest, err := img.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	ref, err := name.NewDigest(s.addr + "/" + repo + "@" + digest.String())
	if err != nil {
		s.t.Fatal(err)
	}
	token := s.token(grant(repo, "pull", "push"), nil)
	if err := remote.Write(ref, img, remote.WithTransport(s.transport("builder", token)), remote.WithAuth(authn.Anonymous)); err != nil {
		s.t.Fatalf("push: %v", err)
	}
	return digest
}

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(64<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestBuilderPushesAndADevicePullsByDigest(t *testing.T) {
	s := start(t)
	img := image(t)
	digest := s.push(mine, img)
	s.push(mine, img) // again: nothing to do, no error

	ref, err := name.NewDigest(s.addr + "/" + mine + "@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	pull := s.token(grant(mine, "pull"), nil)
	got, err := remote.Image(ref, remote.WithTransport(s.transport("edge", pull)), remote.WithAuth(authn.Anonymous))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, rc); err != nil {
			t.Errorf("layer: %v", err)
		}
		_ = rc.Close()
	}
	if n, err := registry.VerifyBlobs(context.Background(), s.cfg); err != nil || n != 4 {
		t.Errorf("VerifyBlobs: %d, %v; want 4", n, err)
	}
	// A restarted engine goes on where it stopped.
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	res, body := s.do("edge", pull, "GET", "/v2/"+mine+"/blobs/"+blob.String(), nil, "Range", "bytes=10-19")
	if res.StatusCode != http.StatusPartialContent || len(body) != 10 {
		t.Errorf("a range: %d, %d bytes", res.StatusCode, len(body))
	}
}

func TestEveryWrongTokenIsRefused(t *testing.T) {
	s := start(t)
	digest := s.push(mine, image(t)).String()
	s.push(other, image(t))
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"iss": "roadstead-signer", "aud": "registry2.roadstead.test", "iat": time.Now().Unix(), "nbf": time.Now().Unix() - 1,
		"exp": time.Now().Add(time.Minute).Unix(), "access": grant(mine, "pull"),
	}
	public, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	manifest := "/v2/" + mine + "/manifests/" + digest
	pull := grant(mine, "pull")
	if res, body := s.do("edge", s.token(pull, nil), "GET", manifest, nil); res.StatusCode != 200 {
		t.Fatalf("the good token: %d %s", res.StatusCode, body)
	}
	for what, token := range map[string]string{
		"none":               "",
		"rubbish":            "rubbish",
		"expired":            s.token(pull, func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-time.Minute)) }),
		"not yet":            s.token(pull, func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Minute)) }),
		"lives too long":     s.token(pull, func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(time.Hour)) }),
		"without end":        s.token(pull, func(c *jwt.Claims) { c.Expiry = nil }),
		"without beginning":  s.token(pull, func(c *jwt.Claims) { c.IssuedAt = nil }),
		"another audience":   s.token(pull, func(c *jwt.Claims) { c.Audience = jwt.Audience{"registry2.example.com"} }),
		"no audience":        s.token(pull, func(c *jwt.Claims) { c.Audience = nil }),
		"another issuer":     s.token(pull, func(c *jwt.Claims) { c.Issuer = "me" }),
		"another key":        s.sign(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: otherKey, KeyID: keyID}}, claims),
		"an unknown key":     s.sign(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: otherKey, KeyID: "k2"}}, claims),
		"HS256, public DER":  s.sign(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: keyID}}, claims),
		"HS256, public JWKS": s.sign(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: s.jwks, KeyID: keyID}}, claims),
		"alg none":           unsigned(t, claims),
		"nothing granted":    s.token(nil, nil),
		"another repository": s.token(grant(other, "pull"), nil),
		"another type":       s.token([]api.Grant{{Type: "registry", Name: mine, Actions: []string{"pull"}}}, nil),
		"a longer name":      s.token(grant(mine+"-1", "pull"), nil),
		"push without pull":  s.token(grant(mine, "push"), nil),
	} {
		for _, role := range []string{"edge", "builder"} {
			res, body := s.do(role, token, "GET", manifest, nil)
			if res.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "UNAUTHORIZED") {
				t.Errorf("%s, through the %s: %d %s, want 401", what, role, res.StatusCode, body)
			}
			want := `Bearer realm="https://api.roadstead.test/auth/v1/token",service="registry2.roadstead.test",scope="repository:` + mine + `:pull"`
			if c := res.Header.Get("WWW-Authenticate"); !strings.HasPrefix(c, want) {
				t.Errorf("%s: challenge %q, want %q", what, c, want)
			}
		}
	}
}

func unsigned(t *testing.T, claims any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Appendf(nil, `{"alg":"none","kid":%q}`, keyID)
	return b64(head) + "." + b64(body) + "."
}

func TestOnlyTheBuilderWrites(t *testing.T) {
	s := start(t)
	digest := s.push(mine, image(t)).String()
	push, pull := s.token(grant(mine, "pull", "push"), nil), s.token(grant(mine, "pull"), nil)
	uploads := "/v2/" + mine + "/blobs/uploads/"
	for _, tt := range []struct {
		what, role, token, method, path string
		status                          int
	}{
		{"a pull token, as the builder", "builder", pull, "POST", uploads, 401},
		{"a push token, through the edge", "edge", push, "POST", uploads, 403},
		{"a push token, as the api role", "api", push, "POST", uploads, 403},
		{"a push token, as the parent", "parent", push, "PUT", "/v2/" + mine + "/manifests/x", 403},
		{"a push token, to another repository", "builder", push, "POST", "/v2/" + other + "/blobs/uploads/", 401},
		{"asking for an upload's state through the edge", "edge", push, "GET", uploads + "x", 403},
		{"deleting a manifest", "builder", push, "DELETE", "/v2/" + mine + "/manifests/" + digest, 405},
		{"deleting a manifest through the edge", "edge", push, "DELETE", "/v2/" + mine + "/manifests/" + digest, 403},
		{"deleting a blob", "builder", push, "DELETE", "/v2/" + mine + "/blobs/" + digest, 405},
		{"the catalogue", "builder", push, "GET", "/v2/_catalog", 403},
		{"the catalogue, through the edge", "edge", pull, "GET", "/v2/_catalog", 403},
		{"the tags", "edge", pull, "GET", "/v2/" + mine + "/tags/list", 403},
		{"another repository's referrers", "edge", pull, "GET", "/v2/" + other + "/referrers/" + digest, 401},
		{"another form of name", "builder", push, "POST", "/v2/library/x/blobs/uploads/", 403},
		{"a name with an escape", "edge", pull, "GET", "/v2/" + strings.Replace(mine, "/", "%2F", 1) + "/manifests/" + digest, 403},
		{"a pull by tag, through the edge", "edge", pull, "GET", "/v2/" + mine + "/manifests/latest", 404},
		{"the base, with a token", "edge", pull, "GET", "/v2/", 200},
		{"the base, without", "edge", "", "GET", "/v2/", 401},
		{"anything else", "edge", pull, "GET", "/debug/vars", 404},
	} {
		if res, body := s.do(tt.role, tt.token, tt.method, tt.path, nil); res.StatusCode != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.what, res.StatusCode, body, tt.status)
		}
	}
}

func TestNoBlobIsTakenFromAnotherRepository(t *testing.T) {
	s := start(t)
	img := image(t)
	s.push(other, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	access := append(grant(mine, "pull", "push"), grant(other, "pull")...)
	res, body := s.do("builder", s.token(access, nil), "POST",
		"/v2/"+mine+"/blobs/uploads/?mount="+blob.String()+"&from="+other, nil)
	if res.StatusCode != http.StatusAccepted {
		t.Errorf("mount: %d %s, want 202, an ordinary upload", res.StatusCode, body)
	}
	// What another repository holds is not there, even for who knows its digest.
	if res, _ := s.do("edge", s.token(grant(mine, "pull"), nil), "GET", "/v2/"+mine+"/blobs/"+blob.String(), nil); res.StatusCode != 404 {
		t.Errorf("a blob of another repository: %d, want 404", res.StatusCode)
	}
}

func TestATagDoesNotChangeItsMeaning(t *testing.T) {
	s := start(t)
	token := s.token(grant(mine, "pull", "push"), nil)
	opts := []remote.Option{remote.WithTransport(s.transport("builder", token)), remote.WithAuth(authn.Anonymous)}
	ref, err := name.NewTag(s.addr + "/" + mine + ":r1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image(t), opts...); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Get(ref, opts...); err != nil {
		t.Errorf("the builder reads its tag: %v", err)
	}
	if err := remote.Write(ref, image(t), opts...); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("overwriting a tag: %v, want a refusal", err)
	}
}

// corrupt changes one byte of a stored blob.
func (s *store) corrupt(h v1.Hash) {
	s.t.Helper()
	file := filepath.Join(s.dir, "registry", registry.StorageDir, "docker", "registry", "v2", "blobs", "sha256", h.Hex[:2], h.Hex, "data")
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	data[len(data)/2] ^= 0x20
	if err := os.WriteFile(file, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestChangedBytesAreNotServed(t *testing.T) {
	s := start(t)
	img := image(t)
	digest := s.push(mine, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	s.corrupt(digest)
	s.corrupt(blob)
	pull := s.token(grant(mine, "pull"), nil)
	for _, path := range []string{"/manifests/" + digest.String(), "/blobs/" + blob.String()} {
		res, body := s.do("edge", pull, "GET", "/v2/"+mine+path, nil)
		whole := false
		if res.StatusCode == 200 {
			sum := sha256.Sum256([]byte(body))
			whole = int64(len(body)) == res.ContentLength || strings.HasSuffix(path, hex.EncodeToString(sum[:]))
		}
		if whole {
			t.Errorf("GET %s gave %d whole bytes that are not what was asked for", path, len(body))
		}
	}
	if log := s.log.String(); strings.Count(log, "ALARM") != 2 {
		t.Errorf("the log has no two alarms: %s", log)
	}
	_, err = registry.VerifyBlobs(context.Background(), s.cfg)
	if err == nil || !strings.Contains(err.Error(), blob.Hex) || !strings.Contains(err.Error(), digest.Hex) {
		t.Errorf("VerifyBlobs: %v, want both damaged blobs named", err)
	}
}

// A file is compared once a minute while many ask for it, and again as soon as somebody wrote to it, whatever times they gave it afterwards.
func TestAWrittenFileIsNotBelieved(t *testing.T) {
	s := start(t)
	digest := s.push(mine, image(t))
	pull := s.token(grant(mine, "pull"), nil)
	path := "/v2/" + mine + "/manifests/" + digest.String()
	s.do("edge", pull, "GET", path, nil)
	if s.srv.Believes(digest.String()) {
		t.Error("a file is believed that was written just now: the next change might have the same time")
	}
	deadline := time.Now().Add(20 * time.Second)
	for !s.srv.Believes(digest.String()) {
		if res, _ := s.do("edge", pull, "GET", path, nil); res.StatusCode != 200 || time.Now().After(deadline) {
			t.Fatalf("%d; it is never believed", res.StatusCode)
		}
		<-time.After(100 * time.Millisecond)
	}
	if res, body := s.do("edge", pull, "GET", path, nil); res.StatusCode != 200 || int64(len(body)) != res.ContentLength {
		t.Errorf("a file that is believed: %d, %d bytes", res.StatusCode, len(body))
	}
	file := filepath.Join(s.dir, "registry", registry.StorageDir, "docker", "registry", "v2", "blobs", "sha256", digest.Hex[:2], digest.Hex, "data")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	s.corrupt(digest)
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if s.srv.Believes(digest.String()) {
		t.Error("a file is believed that was written to")
	}
	if res, body := s.do("edge", pull, "GET", path, nil); res.StatusCode == 200 && int64(len(body)) == res.ContentLength {
		t.Errorf("what was written was served: %q", body)
	}
	if log := s.log.String(); strings.Count(log, "ALARM") != 1 {
		t.Errorf("the log has no alarm: %s", log)
	}
}

func TestUploadGoesOnAfterARestart(t *testing.T) {
	s := start(t)
	token := s.token(grant(mine, "pull", "push"), nil)
	res, _ := s.do("builder", token, "POST", "/v2/"+mine+"/blobs/uploads/", nil)
	upload := strings.TrimPrefix(res.Header.Get("Location"), "https://"+s.addr)
	res, body := s.do("builder", token, "PATCH", upload, strings.NewReader("hello, "), "Content-Type", "application/octet-stream")
	if res.StatusCode != http.StatusAccepted {
		t.Fatalf("first part: %d %s", res.StatusCode, body)
	}
	next := strings.TrimPrefix(res.Header.Get("Location"), "https://"+s.addr)
	s.run(registry.Config{}) // a second process on the same directory, with another address
	res, body = s.do("builder", token, "PATCH", next, strings.NewReader("world"), "Content-Type", "application/octet-stream",
		"Content-Range", "7-11")
	if res.StatusCode != http.StatusAccepted {
		t.Fatalf("second part: %d %s", res.StatusCode, body)
	}
	sum := sha256.Sum256([]byte("hello, world"))
	last := strings.TrimPrefix(res.Header.Get("Location"), "https://"+s.addr)
	res, body = s.do("builder", token, "PUT", last+"&digest=sha256:"+hex.EncodeToString(sum[:]), nil)
	if res.StatusCode != http.StatusCreated {
		t.Errorf("the end: %d %s, want 201", res.StatusCode, body)
	}
	res, body = s.do("builder", token, "GET", "/v2/"+mine+"/blobs/sha256:"+hex.EncodeToString(sum[:]), nil)
	if res.StatusCode != 200 || body != "hello, world" {
		t.Errorf("read back: %d %q", res.StatusCode, body)
	}
}
