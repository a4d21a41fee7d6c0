package registry_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

// local is the path of a Location header.
func (s *store) local(res *http.Response) string {
	at := res.Header.Get("Location")
	if i := strings.Index(at, "/v2/"); i >= 0 {
		return at[i:]
	}
	return at
}

// open begins an upload and gives where it goes on.
func (s *store) open(token, repo string) string {
	s.t.Helper()
	res, body := s.do("builder", token, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusAccepted {
		s.t.Fatalf("POST uploads: %d %s", res.StatusCode, body)
	}
	return s.local(res)
}

const octets = "application/octet-stream"

func TestTooLargeIsSaid(t *testing.T) {
	s := prepare(t).run(registry.Config{MaxBlob: 10_000, MaxManifest: 1000})
	token := s.token(grant(mine, "pull", "push"), nil)
	big := bytes.Repeat([]byte("x"), 10_001)
	unknown := func() io.Reader { return io.MultiReader(bytes.NewReader(big)) } // of a length that nobody says
	first := s.open(token, mine)
	res, _ := s.do("builder", token, "PATCH", first, strings.NewReader(strings.Repeat("y", 9000)), "Content-Type", octets)
	second := s.local(res)
	for _, tt := range []struct {
		what, method, path string
		body               io.Reader
	}{
		{"a part that is too large", "PATCH", s.open(token, mine), bytes.NewReader(big)},
		{"a part that becomes too large", "PATCH", s.open(token, mine), unknown()},
		{"a second part that is too much", "PATCH", second, strings.NewReader(strings.Repeat("y", 1001))},
		{"a whole blob of which nobody says how long it is", "PUT", s.open(token, mine) + "&digest=" + sum(string(big)), unknown()},
		{"a whole blob", "PUT", s.open(token, mine) + "&digest=" + sum(string(big)), bytes.NewReader(big)},
		{"a manifest", "PUT", "/v2/" + mine + "/manifests/x", bytes.NewReader(big[:1001])},
	} {
		res, body := s.do("builder", token, tt.method, tt.path, tt.body, "Content-Type", octets)
		if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(body, "SIZE_INVALID") || !strings.Contains(body, "at most") {
			t.Errorf("%s: %d %s, want 413 and the bound", tt.what, res.StatusCode, body)
		}
	}
	if left := files(t, filepath.Join(s.dir, "registry", registry.StorageDir)); len(left) != 1 {
		t.Errorf("left of what was refused: %v", left)
	}
	res, body := s.do("builder", token, "PUT", s.open(token, mine)+"&digest=sha512:"+strings.Repeat("0", 128), strings.NewReader("x"), "Content-Type", octets)
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "DIGEST_INVALID") {
		t.Errorf("another kind of digest: %d %s", res.StatusCode, body)
	}
	exact := string(big[:10_000])
	if res, body := s.do("builder", token, "PUT", s.open(token, mine)+"&digest="+sum(exact), strings.NewReader(exact), "Content-Type", octets); res.StatusCode != 201 {
		t.Errorf("exactly the largest: %d %s", res.StatusCode, body)
	}
}

// The attack of 10,000 open uploads, by whoever has the builder's certificate and a token: few are opened, and none for long.
func TestOpenUploadsAreBounded(t *testing.T) {
	s := newWorld(t, stored.Config{}, func(c *registry.Config) { c.MaxUploads = 20 })
	s.rows.Fleet(s.rows.Alice, "harbour", "intel-nuc")
	_, repo := s.build(s.rows.Alice, "alice/harbour")
	token := s.token(grant(repo, "pull", "push"), nil)
	way := s.transport("builder", token)
	var opened, refused atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 100 {
				req, err := http.NewRequest("POST", "https://"+s.addr+"/v2/"+repo+"/blobs/uploads/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				res, err := way.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				switch res.StatusCode {
				case http.StatusAccepted:
					opened.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
				default:
					t.Errorf("POST: %s", res.Status)
					return
				}
			}
		})
	}
	all.Wait()
	if opened.Load() != 20 || refused.Load() != 1980 {
		t.Errorf("%d opened, %d refused; want 20 and 1980", opened.Load(), refused.Load())
	}
	if done := s.collect(0, false); done.Uploads != 0 {
		t.Errorf("purged %d that began just now", done.Uploads)
	}
	for _, f := range files(t, filepath.Join(s.dir, "registry", registry.StorageDir)) {
		if filepath.Base(f) == "startedat" { // they are given up
			if err := os.WriteFile(f, []byte(time.Now().Add(-7*time.Hour).Format(time.RFC3339)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if done := s.collect(0, false); done.Uploads != 20 {
		t.Errorf("purged %d, want 20", done.Uploads)
	}
	s.push(repo, image(t))
}

// An upload whose connection is cut goes on where it was.
func TestUploadGoesOnAfterACut(t *testing.T) {
	s := start(t)
	token := s.token(grant(mine, "pull", "push"), nil)
	data := make([]byte, 300_000)
	_, _ = rand.Read(data)
	at := s.open(token, mine)
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(data[:200_000])
		_ = pw.CloseWithError(io.ErrUnexpectedEOF) // the client dies
	}()
	req, err := http.NewRequest("PATCH", "https://"+s.addr+at, pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", octets)
	if res, err := s.transport("builder", token).RoundTrip(req); err == nil {
		_ = res.Body.Close()
		t.Logf("the cut part: %s", res.Status)
	}
	// A client asks how far it came and goes on there; while the registry has not noticed the cut, it is told to ask again.
	var res *http.Response
	var body string
	for deadline := time.Now().Add(10 * time.Second); ; {
		var have int
		if res, body = s.do("builder", token, "GET", at, nil); res.StatusCode != http.StatusNoContent {
			t.Fatalf("the state: %d %s", res.StatusCode, body)
		}
		if _, err := fmt.Sscanf(res.Header.Get("Range"), "0-%d", &have); err != nil {
			t.Fatal(err)
		}
		if have > 0 {
			have++ // the last byte's place is said
			res, body = s.do("builder", token, "PATCH", s.local(res), bytes.NewReader(data[have:]), "Content-Type", octets,
				"Content-Range", fmt.Sprintf("%d-%d", have, len(data)-1))
			if res.StatusCode == http.StatusAccepted {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the rest, from %d on: %d %s", have, res.StatusCode, body)
		}
	}
	if res, body = s.do("builder", token, "PUT", s.local(res)+"&digest="+sum(string(data)), nil); res.StatusCode != http.StatusCreated {
		t.Fatalf("the end: %d %s", res.StatusCode, body)
	}
	if res, body := s.do("edge", token, "GET", "/v2/"+mine+"/blobs/"+sum(string(data)), nil); res.StatusCode != 200 || body != string(data) {
		t.Errorf("read back: %d, %d bytes", res.StatusCode, len(body))
	}
	at = s.open(token, mine)
	if res, body := s.do("builder", token, "PUT", at+"&digest="+sum("x"), io.LimitReader(rand.Reader, 70_000), "Content-Type", octets); res.StatusCode != 411 {
		t.Errorf("the end of a blob without a length: %d %s", res.StatusCode, body)
	}
	// It can be given up as well.
	if res, body := s.do("builder", token, "DELETE", at, nil); res.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: %d %s", res.StatusCode, body)
	}
	if res, _ := s.do("builder", token, "DELETE", at, nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("DELETE again: %s", res.Status)
	}
}

// pushError pushes and gives what went wrong.
func (s *store) pushError(repo string, img v1.Image) error {
	s.t.Helper()
	ref, err := name.NewDigest(s.addr + "/" + repo + "@" + hash(s.t, img).String())
	if err != nil {
		s.t.Fatal(err)
	}
	token := s.token(grant(repo, "pull", "push"), nil)
	return remote.Write(ref, img, remote.WithTransport(s.transport("builder", token)), remote.WithAuth(authn.Anonymous))
}

// An organization's quota counts every blob once. Beyond it nothing is pushed, and the pusher reads why; other organizations go on.
func TestQuota(t *testing.T) {
	w := newWorld(t, stored.Config{Quota: 100_000})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	w.rows.Fleet(w.rows.Alice, "quay", "intel-nuc")
	w.rows.Fleet(w.rows.Bob, "pier", "intel-nuc")
	shared := layer(t, 60_000)
	w.release(w.rows.Alice, "alice/harbour", withLayer(t, shared))
	// A layer that is there costs nothing: four more releases fit, though they would be 300 kB.
	for range 4 {
		w.release(w.rows.Alice, "alice/quay", withLayer(t, shared))
	}
	w.release(w.rows.Bob, "bob/pier", withLayer(t, shared)) // his own count
	var usage api.RegistryUsage
	if err := w.call(api.RoleAdmin, "usage", struct{}{}, &usage); err != nil || len(usage.Organizations) != 2 {
		t.Fatalf("usage: %+v %v", usage, err)
	}
	if a := usage.Organizations[0]; a.Organization != "alice" || a.Bytes < 80_000 || a.Bytes > 95_000 || *a.Quota != 100_000 || a.Own || a.Unused != 0 {
		t.Errorf("alice: %+v", a)
	}
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	err := w.pushError(repo, withLayer(t, layer(t, 30_000)))
	if err == nil || !strings.Contains(err.Error(), "alice") || !strings.Contains(err.Error(), "100.0 kB") {
		t.Errorf("a layer that does not fit: %v", err)
	}
	// While it goes up: it cannot be any layer that she has.
	token := w.token(grant(repo, "pull", "push"), nil)
	res, body := w.do("builder", token, "PATCH", w.open(token, repo), io.LimitReader(rand.Reader, 70_000), "Content-Type", octets)
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "does not fit") {
		t.Errorf("a body without end: %d %s", res.StatusCode, body)
	}
	w.finish(b, api.StatusFailed)

	// The operator gives her less than she has: not even an upload begins. And then as much as she likes.
	less := int64(10_000)
	if err := w.call(api.RoleAdmin, "quota", api.SetQuota{Organization: "alice", Bytes: &less}, nil); err != nil {
		t.Fatal(err)
	}
	_, repo = w.buildAnyway("alice/harbour")
	res, body = w.do("builder", w.token(grant(repo, "pull", "push"), nil), "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "DENIED") || !strings.Contains(body, "10.0 kB") {
		t.Errorf("an upload beyond the quota: %d %s", res.StatusCode, body)
	}
	if err := w.call(api.RoleAdmin, "quota", api.SetQuota{Organization: "alice"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.pushError(repo, withLayer(t, layer(t, 300_000))); err != nil {
		t.Errorf("without a quota: %v", err)
	}
	if err := w.call(api.RoleAdmin, "quota", api.SetQuota{Organization: "nobody"}, nil); err == nil {
		t.Error("a quota for an organization that is not there")
	}
	bad := int64(-1)
	if err := w.call(api.RoleAdmin, "quota", api.SetQuota{Organization: "alice", Bytes: &bad}, nil); err == nil {
		t.Error("a negative quota")
	}
}

// buildAnyway opens a build as it would have been before the quota was set.
func (w *world) buildAnyway(slug string) (api.Build, string) { return w.build(w.rows.Alice, slug) }

func TestAnImageIsBounded(t *testing.T) {
	w := newWorld(t, stored.Config{MaxRepository: 50_000, MaxLinks: 5})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	_, repo := w.build(w.rows.Alice, "alice/harbour")
	if err := w.pushError(repo, withLayer(t, layer(t, 60_000))); err == nil || !strings.Contains(err.Error(), "at most 50.0 kB") {
		t.Errorf("a large image: %v", err)
	}
	_, repo = w.build(w.rows.Alice, "alice/harbour")
	w.push(repo, withLayer(t, layer(t, 1000)))
	if err := w.pushError(repo, must(random.Image(100, 4))(t)); err == nil || !strings.Contains(err.Error(), "at most 5 blobs") {
		t.Errorf("many blobs: %v", err)
	}
}

// Without the api role nothing is kept that has no row; what is there is still given.
func TestPullsGoOnWithoutTheAPIRole(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	img := image(t)
	_, repo := w.release(w.rows.Alice, "alice/harbour", img)
	alone := *w.store
	alone.run(registry.Config{Peers: map[string]string{api.RoleAPI: "127.0.0.1:1"}})
	if err := alone.pull(repo, hash(t, img)); err != nil {
		t.Errorf("pull: %v", err)
	}
	res, body := alone.do("builder", alone.token(grant(repo, "pull", "push"), nil), "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "try again") {
		t.Errorf("push: %d %s, want 503", res.StatusCode, body)
	}
}
