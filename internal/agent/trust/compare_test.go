package trust_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
)

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func TestSameJSON(t *testing.T) {
	for _, tt := range []struct {
		signed, got string
		says        string // "" when they are the same
	}{
		{`{"a":1,"b":[1,2]}`, ` { "b" : [1, 2], "a" : 1 }`, ""},
		{``, `null`, ""},
		{``, `{}`, ""},
		{`{"a":{}}`, `{"a":null}`, "a of x"},
		{`{"a":1}`, `{"a":1.0}`, "a of x"},
		{`{"a":1}`, `{"A":1}`, "of x"},
		{`{"a":1}`, `{"a":1,"b":2}`, "b of x: composition, expected none, got 2"},
		{`{"a":1,"b":2}`, `{"a":1}`, "b of x: composition, expected 2, got none"},
		{`{"a":{"b":{"c":1}}}`, `{"a":{"b":{"c":2}}}`, "c of b of a of x"},
		{`[1,2]`, `[2,1]`, "x: composition"},
		{`{"a":1}`, `{"a":2,"a":1}`, "stands twice"},
		{`{"a":1}`, `{"a":1} {"b":2}`, "something after"},
		{`{"a":1}`, `{"a":`, "malformed"},
		{`{"a":1}`, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "too deep"},
		{`{"n":12345678901234567890}`, `{"n":12345678901234567891}`, "n of x"},
	} {
		err := trust.SameJSON("x", json.RawMessage(tt.signed), json.RawMessage(tt.got))
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s and %s: got %v, want %q", tt.signed, tt.got, err, tt.says)
		}
	}
}

func TestLabels(t *testing.T) {
	doc := &api.ReleaseDocument{Services: map[string]api.ReleaseService{"web": {
		Images: []api.ReleaseImage{{Digest: digest, Size: 1}, {Digest: strings.Replace(digest, "1", "2", 1), Platform: "linux/arm64", Size: 1}},
		Labels: map[string]string{"io.balena.features.supervisor-api": "1", "mine": "x"},
	}}}
	for _, tt := range []struct {
		change map[string]string // "-" takes a label away
		says   string
	}{
		{nil, ""},
		{map[string]string{"theirs": "y"}, ""},
		{map[string]string{"io.resin.update.strategy": "hand-over", "io.resin.update.handover-timeout": "5000"}, ""},
		{map[string]string{"mine": "y"}, "label mine of service web"},
		{map[string]string{"mine": "-"}, "label mine of service web"},
		{map[string]string{"io.balena.features.balena-socket": "1"}, "label io.balena.features.balena-socket of service web"},
		{map[string]string{"IO.Balena.features.dbus": "1"}, "label IO.Balena.features.dbus"},
		{map[string]string{"io.resin.features.kernel-modules": "1"}, "label io.resin.features.kernel-modules"},
		{map[string]string{"io.balena.features.supervisor-api": "-"}, "label io.balena.features.supervisor-api"},
	} {
		labels := maps.Clone(doc.Services["web"].Labels)
		for name, val := range tt.change {
			if labels[name] = val; val == "-" {
				delete(labels, name)
			}
		}
		rel := &api.ReleaseTarget{Services: map[string]*api.ServiceTarget{"web": {Image: "registry2.example.com/v2/x@" + digest, Labels: labels}}}
		if err := trust.Compare(doc, rel); (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v: got %v, want %q", tt.change, err, tt.says)
		}
	}
	rel := &api.ReleaseTarget{Services: map[string]*api.ServiceTarget{"web": {
		Image: "registry2.example.com/v2/x@" + doc.Services["web"].Images[1].Digest, Labels: doc.Services["web"].Labels,
	}}}
	if err := trust.Compare(doc, rel); err == nil || !strings.Contains(err.Error(), "image of service web") {
		t.Errorf("the image of another architecture in place of the index: %v", err)
	}
}

// What is found the same is the same for whoever reads it after us.
func FuzzSameJSON(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a":{"b":[1,null,true,"x"]}}`, `null`, `{"a":1,"a":2}`, `[{}]`, "\"\\ud800\"", `1e400`} {
		f.Add(seed, seed)
		f.Add(seed, `{}`)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if trust.SameJSON("x", json.RawMessage(a), json.RawMessage(b)) != nil {
			return
		}
		var x, y any
		for text, into := range map[string]*any{a: &x, b: &y} {
			if text == "" || json.Unmarshal([]byte(text), into) != nil && a != b {
				return
			}
		}
		if a == b {
			return
		}
		one, _ := json.Marshal(x)
		two, _ := json.Marshal(y)
		if none := map[string]bool{"null": true, "{}": true}; !bytes.Equal(one, two) && (!none[string(one)] || !none[string(two)]) {
			t.Errorf("%q and %q count as the same, and are %s and %s", a, b, one, two)
		}
	})
}

// No file makes the reading of a copy end otherwise than with an error.
func FuzzReadCopy(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\n{}"))
	f.Add([]byte("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n{}"))
	f.Add([]byte(fmt.Sprint(digest, "\n", `{"fleet":"x","files":[{"role":"root","data":"e30="}]}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state-a.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := trust.ReadCopy(path); (st == nil) == (err == nil) {
			t.Errorf("%q: %v, %v", text, st, err)
		}
	})
}

// Whatever a server tells, only what was accepted is run.
func FuzzTarget(f *testing.F) {
	here := newFleet(hereUUID)
	site := newSite(f, here)
	target := releases(here, commitA, 1)
	site.accepts(target)
	text, err := json.Marshal(target)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(strings.Replace(string(text), `"composition":{}`, `"composition":null`, 1))
	f.Add(strings.Replace(string(text), `"apps":{`, `"apps":{"`+otherUUID+`":{"releases":{}},`, 1))
	f.Add(strings.Replace(string(text), `"`+commitA+`":{`, `"`+commitB+`":null,"`+commitA+`":{`, 1))
	f.Add(strings.Replace(string(text), `"is_host":false`, `"is_host":true`, 1))
	f.Add(`{"apps":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var told api.DeviceTarget
		if json.Unmarshal([]byte(text), &told) != nil || site.Remembered(&told) != nil {
			return
		}
		for uuid, app := range told.Apps {
			if app == nil || app.IsHost || app.Class == "app" {
				continue
			}
			if uuid != hereUUID {
				t.Errorf("runs something of the fleet %q", uuid)
			}
			for commit, rel := range app.Releases {
				if rel != nil && (len(rel.Services) != 1 || !strings.HasSuffix(rel.Services["web"].Image, "@"+fmt.Sprintf("sha256:%064x", 1))) {
					t.Errorf("runs %q: %+v", commit, rel)
				}
			}
		}
	})
}
