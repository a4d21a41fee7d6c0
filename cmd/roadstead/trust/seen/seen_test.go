package seen_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/seen"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

const origin = "log.roadstead.test"

var private = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))

func key(t testing.TB) api.TrustLogKey {
	text, err := tlog.VerifierKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return api.TrustLogKey{Origin: origin, Key: text}
}

// kept is what is kept of a log with so many leaves.
func kept(t testing.TB, leaves int) []byte {
	path := filepath.Join(t.TempDir(), "state.json")
	s, err := seen.Load(key(t), path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range leaves {
		s.Add(tlog.LeafHash([]byte(fmt.Sprint(i))))
	}
	signer, err := tlog.NewSigner(origin, private)
	if err != nil {
		t.Fatal(err)
	}
	note, err := s.State().Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(note); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func load(t testing.TB, data []byte) (*seen.Log, error) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return seen.Load(key(t), path)
}

// What is kept is read again as it was; what was damaged says so, and is not taken for a server's lie.
func TestWhatWasSeenIsKept(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 100} {
		s, err := load(t, kept(t, n))
		if err != nil || s.Size != int64(n) {
			t.Errorf("%d leaves: %+v, %v", n, s, err)
		}
	}
	for name, change := range map[string]func(m map[string]any){
		"a size below 0":       func(m map[string]any) { m["size"] = -1 },
		"no size":              func(m map[string]any) { m["size"] = 0 },
		"another size":         func(m map[string]any) { m["size"] = 3 },
		"no subtrees":          func(m map[string]any) { m["subtrees"] = nil },
		"a subtree of nothing": func(m map[string]any) { m["subtrees"] = []string{"", ""} },
		"another checkpoint":   func(m map[string]any) { m["checkpoint"] = "x" },
	} {
		var m map[string]any
		if err := json.Unmarshal(kept(t, 5), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := load(t, data); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(kept(f, 5))
	f.Add([]byte(`{"size":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := load(t, data)
		if err != nil {
			return
		}
		for i := range 5 {
			s.Add(tlog.LeafHash([]byte{byte(i)}))
		}
		s.Root()
	})
}
