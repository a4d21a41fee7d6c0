package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
)

// place is the token that the maker of a release gets for one repository in quarantine, and emptier the builder's.
func place(repo string, actions ...string) []api.Grant {
	return []api.Grant{{Type: "repository", Name: repo, Actions: actions, Quarantine: true}}
}

func (s *store) pusher(repo string) string  { return s.token(place(repo, "pull", "push"), nil) }
func (s *store) emptier(repo string) string { return s.token(place(repo, "pull", "delete"), nil) }

// pushOutside pushes as a client does, through the edge, and gives the error.
func (s *store) pushOutside(repo, token string, img v1.Image) error {
	s.t.Helper()
	ref, err := name.NewTag(s.addr + "/" + repo + ":latest")
	if err != nil {
		s.t.Fatal(err)
	}
	return remote.Write(ref, img, remote.WithTransport(s.transport("edge", token)), remote.WithAuth(authn.Anonymous))
}

func (s *store) get(role, token, repo string, digest v1.Hash) error {
	s.t.Helper()
	ref, err := name.NewDigest(s.addr + "/" + repo + "@" + digest.String())
	if err != nil {
		s.t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithTransport(s.transport(role, token)), remote.WithAuth(authn.Anonymous))
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return err
		}
	}
	_, err = img.RawConfigFile()
	return err
}

func digestOf(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What is pushed from outside is the builder's to read, to close and to throw away, and nobody else's.
func TestQuarantine(t *testing.T) {
	s := start(t)
	img := image(t)
	digest := digestOf(t, img)
	for range 2 { // the second time everything is there
		if err := s.pushOutside(mine, s.pusher(mine), img); err != nil {
			t.Fatalf("push: %v", err)
		}
	}
	if err := s.get("builder", s.emptier(mine), mine, digest); err != nil {
		t.Errorf("the builder reads: %v", err)
	}
	for what, token := range map[string]string{
		"a pull token": s.token(grant(mine, "pull"), nil), "the maker's": s.pusher(mine), "the builder's, from outside": s.emptier(mine),
		"a pull of quarantine": s.token(place(mine, "pull"), nil),
	} {
		if err := s.get("edge", token, mine, digest); err == nil {
			t.Errorf("%s reads what is in quarantine", what)
		}
	}
	if err := s.get("builder", s.token(grant(mine, "pull", "push"), nil), mine, digest); err == nil {
		t.Error("a build's push token reads what is in quarantine")
	}
	for _, path := range []string{"blobs/uploads/", "blobs/"} {
		for role, token := range map[string]string{"edge": s.emptier(mine), "builder": s.pusher(mine)} {
			if res, _ := s.do(role, token, "DELETE", "/v2/"+mine+"/"+path, nil); res.StatusCode != http.StatusForbidden {
				t.Errorf("DELETE %s as %s: %d", path, role, res.StatusCode)
			}
		}
	}
	if res, body := s.do("builder", s.emptier(mine), "DELETE", "/v2/"+mine+"/blobs/uploads/", nil); res.StatusCode != http.StatusAccepted {
		t.Fatalf("close: %d %s", res.StatusCode, body)
	}
	if err := s.pushOutside(mine, s.pusher(mine), image(t)); err == nil || !strings.Contains(err.Error(), "takes nothing any more") {
		t.Errorf("a push after it was closed: %v", err)
	}
	if err := s.get("builder", s.emptier(mine), mine, digest); err != nil {
		t.Errorf("the builder reads after it was closed: %v", err)
	}
	if res, body := s.do("builder", s.emptier(mine), "DELETE", "/v2/"+mine+"/blobs/", nil); res.StatusCode != http.StatusAccepted {
		t.Fatalf("empty: %d %s", res.StatusCode, body)
	}
	if err := s.get("builder", s.emptier(mine), mine, digest); err == nil {
		t.Error("after it was emptied there is still something")
	}
	if err := s.pushOutside(mine, s.pusher(mine), image(t)); err == nil {
		t.Error("after it was emptied it takes something")
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "registry", registry.QuarantineDir, "*", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("on the disk is left: %v %v", left, err)
	}
}

// A token for quarantine opens no repository of the registry, whatever its name, and one for a repository nothing in quarantine.
func TestQuarantineIsAnotherStore(t *testing.T) {
	s := start(t)
	released := image(t)
	digest := s.push(mine, released)
	layers, err := released.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	pusher := s.pusher(mine)
	if res, _ := s.do("edge", pusher, "HEAD", "/v2/"+mine+"/blobs/"+layer.String(), nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("a token for quarantine finds a released layer: %d", res.StatusCode)
	}
	if res, _ := s.do("edge", pusher, "HEAD", "/v2/"+mine+"/manifests/"+digest.String(), nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("a token for quarantine finds a released manifest: %d", res.StatusCode)
	}
	// Mounting what others have opens an ordinary upload, and a manifest that speaks of it is refused.
	for _, from := range []string{mine, other} {
		res, _ := s.do("edge", s.pusher(other), "POST", "/v2/"+other+"/blobs/uploads/?mount="+layer.String()+"&from="+from, nil)
		if res.StatusCode != http.StatusAccepted || res.Header.Get("Location") == "" {
			t.Errorf("a mount from %s: %d", from, res.StatusCode)
		}
	}
	text, err := released.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	res, body := s.do("edge", s.pusher(other), "PUT", "/v2/"+other+"/manifests/latest", bytes.NewReader(text), "Content-Type",
		"application/vnd.docker.distribution.manifest.v2+json")
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "MANIFEST_BLOB_UNKNOWN") {
		t.Errorf("a manifest of somebody else's layers: %d %s", res.StatusCode, body)
	}
	// The other way round: what is in quarantine is not in the registry, and the old walls stand.
	own := image(t)
	if err := s.pushOutside(other, s.pusher(other), own); err != nil {
		t.Fatal(err)
	}
	if err := s.get("edge", s.token(grant(other, "pull"), nil), other, digestOf(t, own)); err == nil {
		t.Error("a pull token reads what is in quarantine")
	}
	for _, role := range []string{"edge", "api"} {
		res, _ := s.do(role, s.token(grant(other, "pull", "push"), nil), "POST", "/v2/"+other+"/blobs/uploads/", nil)
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("a write as %s with a build's token: %d", role, res.StatusCode)
		}
	}
	for what, token := range map[string]string{
		"another repository's": s.pusher(other), "a pull of it": s.token(place(mine, "pull"), nil), "a pull": s.token(grant(mine, "pull"), nil),
	} {
		if err := s.pushOutside(mine, token, own); err == nil {
			t.Errorf("a push with the token %s succeeds", what)
		}
	}
}

// Manifests that are none, or speak of what is elsewhere; and more of everything than a release needs.
func TestQuarantineRefusesWhatIsWrong(t *testing.T) {
	s := start(t)
	repo, token := "/v2/"+mine, s.pusher(mine)
	img := image(t)
	if err := s.pushOutside(mine, token, img); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(m *v1.Manifest)) string {
		c := m.DeepCopy()
		change(c)
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for what, tt := range map[string]struct {
		reference, body string
		status          int
		code            string
	}{
		"no JSON":                 {"latest", "{", 400, "MANIFEST_INVALID"},
		"nothing":                 {"latest", "{}", 400, "MANIFEST_INVALID"},
		"an old manifest":         {"latest", `{"schemaVersion":1,"fsLayers":[]}`, 400, "MANIFEST_INVALID"},
		"a huge one":              {"latest", strings.Repeat(" ", 5<<20), 413, "MANIFEST_INVALID"},
		"an empty list":           {"latest", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`, 400, "MANIFEST_INVALID"},
		"a list of what is not":   {"latest", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"` + sum("x") + `","size":1}]}`, 400, "MANIFEST_BLOB_UNKNOWN"},
		"a layer of another size": {"latest", changed(func(m *v1.Manifest) { m.Layers[0].Size++ }), 400, "MANIFEST_BLOB_UNKNOWN"},
		"a foreign layer":         {"latest", changed(func(m *v1.Manifest) { m.Layers[0].URLs = []string{"https://example.com/layer"} }), 400, "MANIFEST_BLOB_UNKNOWN"},
		"another digest":          {sum("x"), changed(func(*v1.Manifest) {}), 400, "DIGEST_INVALID"},
		"a tag that is none":      {"-x", changed(func(*v1.Manifest) {}), 400, "TAG_INVALID"},
	} {
		res, body := s.do("edge", token, "PUT", repo+"/manifests/"+tt.reference, strings.NewReader(tt.body), "Content-Type", string(m.MediaType))
		if res.StatusCode != tt.status || !strings.Contains(body, tt.code) {
			t.Errorf("%s: got %d %s, want %d %s", what, res.StatusCode, body, tt.status, tt.code)
		}
	}
	// A list that holds the image is taken: newer engines push one.
	list := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})
	text, err := list.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if res, body := s.do("edge", token, "PUT", repo+"/manifests/latest", bytes.NewReader(text)); res.StatusCode != http.StatusCreated {
		t.Errorf("a list of what is there: %d %s", res.StatusCode, body)
	}

	// Uploads: a wrong digest, a wrong place, somebody else's, and too many.
	open := func() (*http.Response, string) { return s.do("edge", token, "POST", repo+"/blobs/uploads/", nil) }
	res, _ := open()
	at := res.Header.Get("Location")
	if res, body := s.do("edge", token, "PATCH", at, strings.NewReader("abc"), "Content-Range", "5-7"); res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a part from nowhere: %d %s", res.StatusCode, body)
	}
	if res, _ := s.do("edge", s.pusher(other), "PATCH", strings.Replace(at, mine, other, 1), strings.NewReader("abc")); res.StatusCode != http.StatusNotFound {
		t.Errorf("an upload in another repository: %d", res.StatusCode)
	}
	if res, body := s.do("edge", token, "PUT", at+"?digest="+sum("other"), strings.NewReader("abc")); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, "DIGEST_INVALID") {
		t.Errorf("a wrong digest: %d %s", res.StatusCode, body)
	}
	if res, _ := s.do("edge", token, "GET", at, nil); res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusNotFound {
		t.Errorf("a refused upload is still there: %d", res.StatusCode)
	}
	opened := 0
	for range 10_000 {
		res, body := open()
		if res.StatusCode != http.StatusAccepted {
			if !strings.Contains(body, "too many") {
				t.Errorf("one upload too many: %d %s", res.StatusCode, body)
			}
			break
		}
		opened++
	}
	if opened > 64 {
		t.Errorf("%d uploads were opened in one repository", opened)
	}
}

// A registry that is restarted in the middle of a push goes on with it.
func TestQuarantineGoesOnAfterARestart(t *testing.T) {
	s := start(t)
	repo := "/v2/" + mine
	res, _ := s.do("edge", s.pusher(mine), "POST", repo+"/blobs/uploads/", nil)
	at := res.Header.Get("Location")
	if res, body := s.do("edge", s.pusher(mine), "PATCH", at, strings.NewReader("first, ")); res.StatusCode != http.StatusAccepted {
		t.Fatalf("PATCH: %d %s", res.StatusCode, body)
	}
	s.run(registry.Config{}) // another process on the same directory
	res, body := s.do("edge", s.pusher(mine), "PUT", at+"?digest="+sum("first, second"), strings.NewReader("second"))
	if res.StatusCode != http.StatusCreated {
		t.Fatalf("PUT: %d %s", res.StatusCode, body)
	}
	res, body = s.do("builder", s.emptier(mine), "GET", repo+"/blobs/"+sum("first, second"), nil)
	if res.StatusCode != http.StatusOK || body != "first, second" {
		t.Errorf("GET: %d %s", res.StatusCode, body)
	}
}
