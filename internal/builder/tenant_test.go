package builder_test

import (
	"net/url"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/internal/builder"
)

// The attack: a tenant builds somebody else's Dockerfile first, through a proxy of his own that answers with other files.
// BuildKit does not count proxies and the addresses of extra hosts to a step's identity, so the victim's next build would find
// the step done, and ship what the attacker made. The other way round he would be given what the victim's steps fetched.
func TestStepsOfOneFleetAreNotAnothers(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	const dockerfile = "FROM base/busybox\nRUN cat /proc/sys/kernel/random/uuid > /fetched; echo \"${http_proxy:-none}\" >> /fetched\n"
	plain := map[string]string{"Dockerfile": dockerfile}
	through := func(args string) map[string]string {
		return map[string]string{"Dockerfile": dockerfile, "docker-compose.yml": "services:\n  main:\n    build:\n      context: .\n" +
			"      args:\n        http_proxy: http://192.0.2.66:3128\n" + args}
	}
	const victim = "ffffffffffffffffffffffffffffffff-1"
	poison := through("")
	posing := through("        BUILDKIT_SANDBOX_HOSTNAME: " + victim + "\n        BUILDKIT_CACHE_MOUNT_NS: " + victim + "\n")
	last := func(fleet string, files map[string]string) v1.Hash {
		t.Helper()
		out := w.build(url.Values{"slug": {fleet}}, files)
		if out.failed {
			t.Fatalf("stream:\n%s", out.text)
		}
		img := w.pull(out.release.images[0].Repository, out.release.result.Images[0].Digest)
		layers := must(img.Layers())(t)
		return must(layers[len(layers)-1].Digest())(t)
	}
	attackers := last(otherFleet, poison)
	victims := last(testFleet, plain)
	if victims == attackers {
		t.Error("a fleet was given the layer that another fleet's build made")
	}
	if again := last(testFleet, plain); again != victims {
		t.Error("a fleet's own step was not taken from the cache")
	}
	if again := last(otherFleet, posing); again == victims {
		t.Error("a build argument opens the steps of another fleet")
	}
}
