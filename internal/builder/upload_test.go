package builder_test

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
)

// noService is a build service that these tests do not reach.
const noService = "unix:///nonexistent/buildkitd.sock"

// A pusher that stops sending in the middle must not keep its place once the build is not wanted any more.
func TestCancellingEndsAnUploadThatStalls(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	whole := must(io.ReadAll(pack(t, map[string]string{"Dockerfile": "FROM base/busybox\n"})))(t)
	body, pipe := io.Pipe()
	defer pipe.Close()
	go func() { // ends with the pipe
		_, _ = pipe.Write(whole[:len(whole)/2])
		await(t, "the build is open", func() (open bool) {
			w.releases.set(func(s *releases) {
				if open = s.builds[1] != nil; open {
					s.builds[1].Status = api.StatusCancelled
				}
			})
			return open
		})
	}()
	res := w.push(t.Context(), nil, body)
	defer res.Body.Close()
	text := must(io.ReadAll(res.Body))(t)
	if res.StatusCode != 400 || !strings.Contains(string(text), "the build was cancelled") {
		t.Errorf("the answer is %s: %s", res.Status, text)
	}
	if r := w.releases.get(1); r.result == nil || r.result.Status != api.StatusCancelled {
		t.Errorf("reported as %+v", r.result)
	}
	await(t, "the work directory is empty", w.workEmpty)
}

// A disk without room must not leave a release that looks as if it were being built.
func TestABuildWithoutRoomIsFinishedAsFailed(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	check(t, os.RemoveAll(filepath.Join(w.cfg.Dir, "work")))
	res := w.push(t.Context(), nil, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\n"}))
	_ = res.Body.Close()
	if res.StatusCode != 500 {
		t.Errorf("the answer is %s, want 500", res.Status)
	}
	if r := w.releases.get(1); r.Status != api.StatusFailed {
		t.Errorf("the release is %q, want it failed", r.Status)
	}
}

func TestLibrariesLogThroughOurs(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	w.stop()
	var text bytes.Buffer
	must(builder.New(w.cfg, slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))))(t)
	logrus.WithError(io.ErrUnexpectedEOF).Error("store broken")
	logrus.Warn("no verity here")
	for _, want := range []string{
		`level=WARN msg="builder library" message="store broken" error="unexpected EOF"`,
		`level=DEBUG msg="builder library" message="no verity here"`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, text.String())
		}
	}
}
