package builder_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

func TestABuildBeyondALimitSaysWhich(t *testing.T) {
	w := newWorld(t, buildService(t, func(c *worker.Config) { c.Limits.Processes = 300 }), builder.Limits{})
	w.withBase()
	out := w.build(nil, map[string]string{"Dockerfile": "FROM base/busybox\nRUN mkfifo /tmp/p; b() { if [ $1 -lt 10 ]; then b $(($1+1)) & b $(($1+1)) & fi; until read x </tmp/p; do :; done; }; b 0\n"})
	const want = "service main: a step was ended: it had more than 300 processes, the limit for one step"
	if !out.failed || out.release.Status != api.StatusFailed || !strings.Contains(out.text, want) || !strings.Contains(out.release.result.Error, want) {
		t.Errorf("status %q, error %q, stream:\n%s", out.release.Status, out.release.result.Error, out.text)
	}
	if out := w.build(nil, map[string]string{"Dockerfile": "FROM base/busybox\nRUN exit 137\n"}); !out.failed || strings.Contains(out.text, "a step was ended") {
		t.Errorf("a step that ends itself; stream:\n%s", out.text)
	}
}
