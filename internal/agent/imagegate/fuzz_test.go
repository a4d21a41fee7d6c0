package imagegate_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/agent/imagegate"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// A manifest lets pass only what it names by digest and size, and what is refused is refused by name.
func FuzzLearn(f *testing.F) {
	digest := "sha256:" + strings.Repeat("1", 64)
	for _, seed := range []string{
		``, `null`, `{"schemaVersion":2}`, `{"schemaVersion":1,"fsLayers":[]}`,
		`{"schemaVersion":2,"config":{"digest":"` + digest + `","size":1},"layers":[{"digest":"` + digest + `","size":2}]}`,
		`{"schemaVersion":2,"config":{"digest":"` + digest + `","size":1},"layers":[{"digest":"` + digest + `","size":1,"urls":["https://x"]}]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"` + digest + `","size":2}]}`,
		`{"schemaVersion":2,"manifests":[],"config":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		blobs, kind, err := imagegate.Learn(body)
		if err != nil {
			if r, ok := tuf.Rejection(err); !ok || r.What == "" || r.Reason == "" {
				t.Errorf("%v is no refusal", err)
			}
			return
		}
		if kind == "" || !json.Valid(body) {
			t.Errorf("%q passes as %q", body, kind)
		}
		for digest, size := range blobs {
			if !engine.IsDigest(digest) || size < 0 || !strings.Contains(string(body), digest[:10]) {
				t.Errorf("%q lets %q of %d bytes pass", body, digest, size)
			}
		}
	})
}

// Whatever a registry asks for its token with is read to its end.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{`realm="https://a/t",service="b"`, `realm=x,service`, `="`, `a="b`, `,,=,`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, value := range imagegate.Parameters(text) {
			if name != strings.ToLower(name) || !strings.Contains(text, value) {
				t.Errorf("%q has %q as %q", text, name, value)
			}
		}
	})
}
