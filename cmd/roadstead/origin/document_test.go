package origin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/origin"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// Documents come from servers that may be stolen: what is read can be shown as it is.
func FuzzReadDocument(f *testing.F) {
	const fleet, commit = "0123456789abcdef0123456789abcdef", "00000000000000000000000000000001"
	whole, err := json.Marshal(api.ReleaseDocument{Fleet: fleet, Commit: commit, Networks: map[string]json.RawMessage{"n": json.RawMessage(`{}`)},
		Services: map[string]api.ReleaseService{"web": {Images: []api.ReleaseImage{{Digest: "sha256:" + strings.Repeat("a", 64), Platform: "linux/arm/v7"}}, Labels: map[string]string{"a": "b"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(strings.Replace(string(whole), "web", `w\u001b`, 1)))
	f.Add(append(whole, '{'))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := origin.ReadDocument(fleet, commit, data)
		if err != nil {
			return
		}
		if !json.Valid(data) || d.Fleet != fleet || d.Commit != commit {
			t.Errorf("%q is read as %+v", data, d)
		}
		for name, s := range d.Services {
			if name != terminal.Printable(name) {
				t.Errorf("service %q", name)
			}
			for _, i := range s.Images {
				if len(i.Digest) != 71 {
					t.Errorf("image %q", i.Digest)
				}
			}
		}
	})
}
