package engine_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Names at the gate lead back to the real ones whichever port it had, and nothing else does.
func TestNamesAtTheGate(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	ref := "registry2.roadstead.test:8443/v2/x" + digest
	local, err := engine.LocalRef(engine.GateAddress, ref)
	if err != nil || local != engine.GateAddress+"/registry2.roadstead.test__8443/v2/x"+digest {
		t.Fatalf("the name is %q, %v", local, err)
	}
	_, name, _ := strings.Cut(local, "/")
	for given, want := range map[string]string{
		local: ref, "127.48.48.4:1/" + name: ref, "127.48.48.4:65535/" + name: ref, ref: ref,
	} {
		if got := engine.CanonicalRef(engine.GateAddress, given); got != want {
			t.Errorf("%q is %q, want %q", given, got, want)
		}
	}
	for _, other := range []string{"127.48.48.4/" + name, "127.48.48.4:0/" + name, "127.48.48.4:65536/" + name, "127.48.48.4:x/" + name, "127.48.48.41:48480/" + name, "127.0.0.1:48480/" + name,
		"127.48.48.4:48480", "127.48.48.4:48480/x", "", "/", "127.48.48.4:48480/"} {
		if got := engine.CanonicalRef(engine.GateAddress, other); got != other {
			t.Errorf("%q is taken for %q", other, got)
		}
	}
}
