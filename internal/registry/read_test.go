package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

// put puts a blob into a repository.
func (s *store) put(repo, data string) (digest string) {
	s.t.Helper()
	token := s.token(grant(repo, "pull", "push"), nil)
	res, body := s.do("builder", token, "PUT", s.open(token, repo)+"&digest="+sum(data), strings.NewReader(data), "Content-Type", octets)
	if res.StatusCode != http.StatusCreated {
		s.t.Fatalf("PUT a blob: %d %s", res.StatusCode, body)
	}
	return sum(data)
}

// Pulls go on where they stopped, ask for an end (as preloading does), and are spared what they have.
func TestRangesAndConditions(t *testing.T) {
	s := start(t)
	const data = "0123456789abcdef"
	digest := s.put(mine, data)
	pull := s.token(grant(mine, "pull"), nil)
	path := "/v2/" + mine + "/blobs/" + digest
	etag := `"` + digest + `"`
	for _, tt := range []struct {
		what    string
		header  []string
		status  int
		body    string
		content string // Content-Range
	}{
		{"all", nil, 200, data, ""},
		{"a part", []string{"Range", "bytes=4-7"}, 206, "4567", "bytes 4-7/16"},
		{"from a place on", []string{"Range", "bytes=10-"}, 206, "abcdef", "bytes 10-15/16"},
		{"the end", []string{"Range", "bytes=-4"}, 206, "cdef", "bytes 12-15/16"},
		{"beyond the end", []string{"Range", "bytes=16-"}, 416, "", "bytes */16"},
		{"the rest of the same", []string{"Range", "bytes=12-", "If-Range", etag}, 206, "cdef", "bytes 12-15/16"},
		{"the rest of another", []string{"Range", "bytes=12-", "If-Range", `"sha256:0"`}, 200, data, ""},
		{"what I have", []string{"If-None-Match", etag}, 304, "", ""},
		{"what I do not have", []string{"If-None-Match", `"sha256:0"`}, 200, data, ""},
	} {
		res, body := s.do("edge", pull, "GET", path, nil, tt.header...)
		if res.StatusCode != tt.status || (tt.body != "" && body != tt.body) || res.Header.Get("Content-Range") != tt.content {
			t.Errorf("%s: %d %q %q, want %d %q %q", tt.what, res.StatusCode, body, res.Header.Get("Content-Range"), tt.status, tt.body, tt.content)
		}
		if tt.status < 400 && res.Header.Get("ETag") != etag {
			t.Errorf("%s: ETag %q", tt.what, res.Header.Get("ETag"))
		}
	}
	res, _ := s.do("edge", pull, "HEAD", path, nil)
	if res.StatusCode != 200 || res.ContentLength != 16 || res.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD: %s %v", res.Status, res.Header)
	}
}

// Damage is said until it is gone: in the log, by the role's health (over a restart too) and by the check; pushing the same bytes
// again repairs it.
func TestDamageIsSaidUntilItIsRepaired(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	shared := layer(t, 10_000)
	img := withLayer(t, shared)
	_, repo := w.release(w.rows.Alice, "alice/harbour", img)
	var got api.RegistryChecked
	if status, text := w.ask("/internal/v1/check", nil, &got); status != 200 || got.Blobs != 4 || len(got.Damaged) != 0 {
		t.Fatalf("check of what is whole: %d %s", status, text)
	}
	w.corrupt(hash(t, shared))
	if err := w.pull(repo, hash(t, img)); err == nil {
		t.Error("damaged bytes were served")
	}
	health := func() (int, string) {
		res, body := w.do("parent", "", "GET", "/healthz", nil)
		return res.StatusCode, body
	}
	if status, body := health(); status != http.StatusServiceUnavailable || !strings.Contains(body, hash(t, shared).String()) {
		t.Errorf("health after a pull: %d %s", status, body)
	}
	w.run(w.cfg) // again
	if status, _ := health(); status != http.StatusServiceUnavailable {
		t.Errorf("health after a restart: %d", status)
	}
	if status, text := w.ask("/internal/v1/check", nil, &got); status != 200 || len(got.Damaged) != 1 || got.Damaged[0] != hash(t, shared).String() {
		t.Errorf("check: %d %s", status, text)
	}
	if n, err := registry.VerifyBlobs(t.Context(), w.cfg); err == nil || n != 4 {
		t.Errorf("VerifyBlobs: %d %v", n, err)
	}
	// The same layer comes with another release: both are well again.
	_, again := w.release(w.rows.Alice, "alice/harbour", withLayer(t, shared))
	if again == repo {
		t.Fatal("the same repository")
	}
	if err := w.pull(repo, hash(t, img)); err != nil {
		t.Errorf("after it was pushed again: %v", err)
	}
	if status, body := health(); status != http.StatusOK {
		t.Errorf("health afterwards: %d %s", status, body)
	}
}

func TestReferrers(t *testing.T) {
	s := start(t)
	img := image(t)
	subject := s.push(mine, img)
	size := len(must(img.RawManifest())(t))
	push, pull := s.token(grant(mine, "pull", "push"), nil), s.token(grant(mine, "pull"), nil)
	const kind = "application/vnd.oci.image.manifest.v1+json"
	config := s.put(mine, "{}")
	refer := func(artifact string) string {
		m := `{"schemaVersion":2,"mediaType":"` + kind + `","artifactType":"` + artifact + `","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` +
			config + `","size":2},"layers":[{"mediaType":"application/octet-stream","digest":"` + config + `","size":2}],"subject":{"mediaType":"` + kind +
			`","digest":"` + subject.String() + `","size":` + itoa(size) + `}}`
		for range 2 { // the second time it is there already
			res, body := s.do("builder", push, "PUT", "/v2/"+mine+"/manifests/"+sum(m), strings.NewReader(m), "Content-Type", kind)
			if res.StatusCode != 201 || res.Header.Get("OCI-Subject") != subject.String() {
				t.Fatalf("PUT a referrer: %d %s %v", res.StatusCode, body, res.Header)
			}
		}
		return sum(m)
	}
	sbom, statement := refer("application/spdx+json"), refer("application/vnd.in-toto+json")
	list := func(query string) string {
		res, body := s.do("edge", pull, "GET", "/v2/"+mine+"/referrers/"+subject.String()+query, nil)
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/vnd.oci.image.index.v1+json" {
			t.Errorf("referrers: %d %v", res.StatusCode, res.Header)
		}
		return body
	}
	if all := list(""); strings.Count(all, `"digest"`) != 2 || !strings.Contains(all, sbom) || !strings.Contains(all, statement) {
		t.Errorf("referrers: %s", all)
	}
	if one := list("?artifactType=application/spdx%2Bjson"); strings.Contains(one, statement) || !strings.Contains(one, sbom) {
		t.Errorf("the SBOMs: %s", one)
	}
	tag := "/v2/" + mine + "/manifests/sha256-" + subject.Hex
	res, index := s.do("edge", pull, "GET", tag, nil, "Accept", "application/vnd.oci.image.index.v1+json")
	if res.StatusCode != 200 {
		t.Errorf("the tag, by a device: %d %s", res.StatusCode, index)
	}
	less := strings.Replace(index, index[strings.Index(index, `{"mediaType":"`+kind):strings.LastIndex(index, `,{"mediaType"`)+1], "", 1)
	if less == index || strings.Contains(less, sbom) {
		t.Fatalf("the list without its first: %s", less)
	}
	if res, body := s.do("builder", push, "PUT", tag, strings.NewReader(less), "Content-Type", "application/vnd.oci.image.index.v1+json"); res.StatusCode != 409 {
		t.Errorf("a list of referrers that forgets one: %d %s", res.StatusCode, body)
	}
	if res, body := s.do("edge", push, "PUT", tag, strings.NewReader(index), "Content-Type", "application/vnd.oci.image.index.v1+json"); res.StatusCode != 403 {
		t.Errorf("a list of referrers through the edge: %d %s", res.StatusCode, body)
	}
	if res, body := s.do("edge", pull, "GET", "/v2/"+mine+"/referrers/"+sum("nothing"), nil); res.StatusCode != 200 || !strings.Contains(body, `"manifests":[]`) {
		t.Errorf("referrers of nothing: %d %s", res.StatusCode, body)
	}
	foreign := `{"schemaVersion":2,"mediaType":"` + kind + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + config +
		`","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"` + sum("x") + `","size":1,"urls":["http://169.254.169.254/"]}]}`
	if res, body := s.do("builder", push, "PUT", "/v2/"+mine+"/manifests/"+sum(foreign), strings.NewReader(foreign), "Content-Type", kind); res.StatusCode != 400 {
		t.Errorf("a layer that a device would get elsewhere: %d %s", res.StatusCode, body)
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Two builds of one registry's storage: only its own server takes it.
func TestTheStorageOfAnotherServerIsRefused(t *testing.T) {
	s := start(t)
	s.put(mine, "something")
	cfg := s.cfg
	cfg.Site.Domain = "another.test"
	srv, err := registry.New(cfg, s.log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "belongs to the server of") {
		t.Errorf("Run: %v, want a refusal", err)
	}
}
