package kept_test

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/adrg/xdg"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const fleet = "0123456789abcdef0123456789abcdef"

// root makes a root of a key, signed by some.
func root(t *testing.T, version int64, of tuf.Ed25519Signer, by ...tuf.Signer) []byte {
	t.Helper()
	x := tuf.Root{Version: version, Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Keys: map[string][]*metadata.Key{}, Threshold: map[string]int{},
		Mark: api.TrustMark{Fleet: fleet, SignedAt: time.Now().UTC().Truncate(time.Second), HeldBy: api.HeldByOwner}}
	for _, role := range []string{api.TrustRoot, api.TrustTargets, api.TrustSnapshot, api.TrustTimestamp} {
		x.Keys[role], x.Threshold[role] = []*metadata.Key{of.Public()}, 1
	}
	data, err := x.Make(by...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func key(seed string) tuf.Ed25519Signer {
	return tuf.Ed25519Signer(ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, 32))))
}

// Whoever has the server may give new devices a root of their own. A machine that knows the fleet's writes no such configuration.
func TestANewDeviceGetsTheRootThatIsKnown(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	xdg.Reload()
	t.Cleanup(xdg.Reload)
	mine, next, thief := key("a"), key("b"), key("c")
	config := func(fleet string, data []byte) map[string]json.RawMessage {
		text, err := json.Marshal(api.ConfigTrust{Fleet: fleet, Root: data})
		if err != nil {
			t.Fatal(err)
		}
		return map[string]json.RawMessage{"roadsteadTrust": text}
	}
	first := root(t, 1, mine, mine)
	if err := kept.Vouch(fleet, config(fleet, root(t, 1, thief, thief))); err != nil {
		t.Errorf("nothing is known here: %v", err)
	}
	s, err := kept.Open("", fleet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(fleet, root(t, 2, mine, mine)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		config map[string]json.RawMessage
		want   string
	}{
		"the same":               {},
		"one that follows":       {config(fleet, root(t, 3, next, mine, next)), ""},
		"one that does not":      {config(fleet, root(t, 3, thief, thief)), "does not follow"},
		"another of that number": {config(fleet, root(t, 2, thief, thief)), "is not the root"},
		"an older one":           {config(fleet, first), "older root"},
		"another fleet's":        {config(strings.Repeat("f", 32), root(t, 3, next, mine, next)), "of the fleet"},
		"none":                   {map[string]json.RawMessage{}, "no root of trust"},
		"null":                   {map[string]json.RawMessage{"roadsteadTrust": json.RawMessage("null")}, "no root of trust"},
		"rubbish":                {map[string]json.RawMessage{"roadsteadTrust": json.RawMessage(`"x"`)}, "cannot be read"},
	} {
		if name == "the same" {
			data, err := os.ReadFile(s.Path("metadata/root.json"))
			if err != nil {
				t.Fatal(err)
			}
			tt.config, tt.want = config(fleet, data), ""
		}
		err := kept.Vouch(fleet, tt.config)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "not written")) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
