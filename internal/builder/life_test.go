package builder_test

import (
	"context"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/registry"
)

// slow is a project whose build takes long enough to be interrupted, and is never in the cache.
func slow(mark string) map[string]string {
	return map[string]string{"Dockerfile": "FROM base/busybox\nRUN echo " + mark + "; sleep 60\n"}
}

// begun waits until a build's step is running.
func (w *world) begun(id int64) {
	w.t.Helper()
	await(w.t, "the build has images", func() bool { return len(w.releases.get(id).images) > 0 })
}

func TestCancellingTheReleaseStopsTheBuild(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	res := w.push(t.Context(), nil, pack(t, slow("cancel")))
	w.begun(1)
	w.releases.set(func(s *releases) { s.builds[1].Status = api.StatusCancelled })
	began := time.Now()
	out := w.read(res)
	if !out.failed || !strings.Contains(out.text, "the build was cancelled") {
		t.Errorf("stream:\n%s", out.text)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("it took %s", d)
	}
	r := w.releases.get(1)
	if r.Status != api.StatusCancelled || r.result.Status != api.StatusCancelled || r.beats == 0 {
		t.Errorf("the release is %q, reported as %q after %d heartbeats", r.Status, r.result.Status, r.beats)
	}
	await(t, "the work directory is empty", w.workEmpty)
}

func TestALostConnectionCancels(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	ctx, cancel := context.WithCancel(t.Context())
	res := w.push(ctx, nil, pack(t, slow("gone")))
	defer res.Body.Close()
	w.begun(1)
	cancel()
	await(t, "the release is cancelled", func() bool { return w.releases.get(1).Status == api.StatusCancelled })
	await(t, "the work directory is empty", w.workEmpty)
}

func TestStoppingTheRoleEndsItsBuilds(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	res := w.push(t.Context(), url.Values{"headless": {"true"}}, pack(t, slow("stop")))
	_ = res.Body.Close()
	w.begun(1)
	began := time.Now()
	w.stop()
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("it took %s to stop", d)
	}
	r := w.releases.get(1)
	if r.Status != api.StatusFailed || !strings.Contains(r.result.Error, "the builder was stopped") {
		t.Errorf("the release is %q: %q", r.Status, r.result.Error)
	}
	if !w.workEmpty() {
		t.Error("the work directory is not empty")
	}
}

func TestTwoPushesAtOnceAndAQueue(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{Builds: 1, Queue: 2})
	w.withBase()
	first := w.push(t.Context(), nil, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\nRUN sleep 2; echo first\n"}))
	second := w.push(t.Context(), nil, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\nRUN echo second\n"}))
	third := w.push(t.Context(), nil, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\n"}))
	_ = third.Body.Close()
	if third.StatusCode != 429 || third.Header.Get("Retry-After") == "" {
		t.Errorf("a third push: %s, want 429 with Retry-After", third.Status)
	}
	a, b := w.read(first), w.read(second)
	if a.failed || b.failed {
		t.Fatalf("streams:\n%s\n%s", a.text, b.text)
	}
	if waited := strings.Contains(a.text, "you are 1st of 1") || strings.Contains(b.text, "you are 1st of 1"); !waited {
		t.Errorf("neither push says that it waited:\n%s\n%s", a.text, b.text)
	}
}

func TestTheOutcomeOutlivesAnAPIThatIsAway(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	res := w.push(t.Context(), nil, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\nRUN sleep 2; echo api is away; exit 7\n"}))
	w.begun(1)
	w.releases.set(func(s *releases) { s.down = true })
	text := make(chan outcome, 1)
	go func() { text <- w.read(res) }()
	deadline := time.After(5 * time.Second)
	select {
	case out := <-text:
		t.Errorf("the stream ended while the api was away:\n%s", out.text)
		return
	case <-deadline:
	}
	w.releases.set(func(s *releases) { s.down = false })
	out := <-text
	if r := w.releases.get(1); !out.failed || r.Status != api.StatusFailed || !strings.Contains(r.result.Error, "exit code: 7") {
		t.Errorf("the release is %q: %+v", r.Status, r.result)
	}
}

// The service restarts within a second, and the build goes on from its cache.
func TestABuildOutlivesTheDeathOfTheBuildService(t *testing.T) {
	dir := buildServiceDir(t)
	w := newWorld(t, worker.Config{Dir: dir}.Address(), builder.Limits{})
	w.withBase()
	res := w.push(t.Context(), nil, pack(t, map[string]string{
		"Dockerfile": "FROM base/busybox\nRUN echo before\nRUN --mount=type=cache,target=/c test -e /c/second || { touch /c/second; sleep 60; }\n"}))
	w.begun(1)
	second := func() bool {
		snapshots := filepath.Join(dir, "caches/*/runc-*/snapshots/snapshots/*")
		overlay := must(filepath.Glob(filepath.Join(snapshots, "fs/second")))(t)
		native := must(filepath.Glob(filepath.Join(snapshots, "second")))(t) // where a file system takes no overlay
		return len(overlay)+len(native) > 0
	}
	await(t, "the second step runs", second)
	pids := must(exec.Command("pgrep", "-f", "buildkitd --config "+dir+"/d").Output())(t)
	for _, pid := range strings.Fields(string(pids)) {
		_ = exec.Command("kill", "-9", pid).Run() // the first may take the others along
	}
	out := w.read(res)
	if out.failed || !strings.Contains(out.text, "trying once more") {
		t.Errorf("stream:\n%s", out.text)
	}
}

func TestNoBuildServiceIsSaidPlainly(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	out := w.build(nil, map[string]string{"Dockerfile": "FROM scratch\n"})
	if !out.failed || !strings.Contains(out.text, "the build service is not running") || out.release.Status != api.StatusFailed {
		t.Errorf("the release is %q, stream:\n%s", out.release.Status, out.text)
	}
}

func TestAFullRegistryIsSaidPlainly(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{}, func(c *registry.Config) { c.MinFree = 1 << 60 })
	w.withBase()
	out := w.build(nil, map[string]string{"Dockerfile": "FROM base/busybox\n"})
	if !out.failed || !strings.Contains(out.text, "service main could not be pushed") || out.release.Status != api.StatusFailed {
		t.Errorf("the release is %q, stream:\n%s", out.release.Status, out.text)
	}
	t.Log(out.text[strings.LastIndex(out.text, "ERROR"):])
}

func TestBadProjectsFailTheRelease(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	for title, c := range map[string]struct {
		query url.Values
		files map[string]string
		want  string
	}{
		"empty":            {nil, map[string]string{"README": ""}, "there is no Dockerfile in the source"},
		"no such file":     {url.Values{"dockerfilePath": {"sub/x"}}, map[string]string{"Dockerfile": "FROM scratch"}, `no Dockerfile "sub/x"`},
		"refused field":    {nil, map[string]string{"docker-compose.yml": "services: {web: {image: x, deploy: {}}}"}, "services.web.deploy is not supported"},
		"syntax":           {nil, map[string]string{"Dockerfile": "FORM base/busybox\n"}, "unknown instruction: FORM"},
		"unknown base":     {nil, map[string]string{"Dockerfile": "FROM registry.invalid/nobody/nothing\n"}, "registry.invalid/nobody/nothing"},
		"unreachable":      {nil, map[string]string{"docker-compose.yml": "services: {web: {image: registry.invalid/x/y}}"}, "service web: registry.invalid/x/y"},
		"not an image":     {nil, map[string]string{"docker-compose.yml": "services: {web: {image: \"x\\nRUN evil\"}}"}, "is not the name of an image"},
		"link in archives": {nil, map[string]string{"Dockerfile": "FROM scratch", ".roadstead/images/main.tar@": "../../Dockerfile"}, "expected archives"},
		"not an archive":   {nil, map[string]string{".roadstead/images/main.tar": "nonsense"}, "image archive of service main cannot be used"},
	} {
		t.Run(title, func(t *testing.T) {
			out := w.build(c.query, c.files)
			if !out.failed || !strings.Contains(out.text, c.want) || out.release.Status != api.StatusFailed {
				t.Errorf("the release is %q, want %q in the stream:\n%s", out.release.Status, c.want, out.text)
			}
			if !strings.Contains(out.release.result.Log, c.want) {
				t.Errorf("the release's log lacks %q:\n%s", c.want, out.release.result.Log)
			}
		})
	}
}

func TestEveryWayToADockerfile(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	out := w.build(nil, map[string]string{
		"docker-compose.yml": `
services:
  template: {build: ./template}
  device: {build: ./device}
  inline: {build: {context: ., dockerfile_inline: "FROM base/busybox\nRUN echo inline-$$WHAT\nARG WHAT\nRUN echo arg-$$WHAT\n", args: {WHAT: yes}}}
  other: {build: {context: ./sub, dockerfile: ../Other, target: first}}
  external: {image: base/busybox}
`,
		"template/Dockerfile.template":    "FROM base/busybox\nRUN echo tpl-%%BALENA_MACHINE_NAME%%-%%RESIN_ARCH%%-%%BALENA_SERVICE_NAME%%\n",
		"device/Dockerfile":               "FROM base/busybox\nRUN echo wrong\n",
		"device/Dockerfile.generic-amd64": "FROM base/busybox\nCOPY kept /\nRUN ls / | grep -v dev\n",
		"device/.dockerignore":            "dropped\n",
		"device/kept":                     "",
		"device/dropped":                  "",
		"Other":                           "FROM base/busybox AS first\nCOPY x /\nLABEL made.by=test\nFROM base/busybox\nRUN echo wrong\n",
		"sub/x":                           "",
	})
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	for _, want := range []string{"tpl-generic-amd64-amd64-template", "   inline-\n", "   arg-yes\n"} {
		if !strings.Contains(out.text, want) {
			t.Errorf("the stream lacks %q:\n%s", want, out.text)
		}
	}
	for _, evil := range []string{"   wrong", "   dropped"} {
		if strings.Contains(out.text, evil) {
			t.Errorf("the stream holds %q", evil)
		}
	}
	kinds := map[string]string{}
	for _, image := range out.release.images {
		for _, r := range out.release.result.Images {
			if r.ID == image.ID {
				kinds[image.Service] = r.ProjectType
				if image.Service == "other" && r.Labels["made.by"] != "test" {
					t.Errorf("labels of other: %v", r.Labels)
				}
			}
		}
	}
	for service, want := range map[string]string{"template": "Dockerfile.template", "device": "Architecture-specific Dockerfile",
		"inline": "Standard Dockerfile", "external": "External image"} {
		if kinds[service] != want {
			t.Errorf("%s is recorded as %q, want %q", service, kinds[service], want)
		}
	}
}

// Images that were built elsewhere need no build service.
func TestImagesBuiltElsewhere(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	img := must(random.Image(2000, 3))(t)
	cfg := must(img.ConfigFile())(t).DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img = must(mutate.ConfigFile(img, cfg))(t)
	cfg = cfg.DeepCopy() // the image above holds on to its own
	cfg.Architecture = "arm64"
	foreign := must(mutate.ConfigFile(img, cfg))(t)

	want := must(img.ConfigName())(t)
	for title, archive := range map[string]string{"docker save": dockerSave(t, img), "OCI layout": ociLayout(t, foreign, img)} {
		out := w.build(nil, map[string]string{".roadstead/images/main.tar": archive})
		if out.failed {
			t.Fatalf("%s: stream:\n%s", title, out.text)
		}
		pushed := w.pull(out.release.images[0].Repository, out.release.result.Images[0].Digest)
		if got := must(pushed.ConfigName())(t); got != want {
			t.Errorf("%s: the image pushed has the configuration %s, want %s", title, got, want)
		}
		// Nothing is known of how it came to be, and its statement says so.
		s := w.statement(out.release)
		p := s.Predicate.BuildDefinition.ExternalParameters.Services["main"]
		if !p.BuiltElsewhere || p.Origin != "Built elsewhere" || len(s.Bases()) != 0 {
			t.Errorf("%s: %+v built from %+v", title, p, s.Bases())
		}
		w.hangsTogether(out.release, s)
	}
	out := w.build(nil, map[string]string{".roadstead/images/main.tar": dockerSave(t, foreign)})
	if !out.failed || !strings.Contains(out.text, "is for linux/arm64, but the fleet's devices are linux/amd64") {
		t.Errorf("an image for another architecture: stream:\n%s", out.text)
	}
}

// What is read into memory whole must be small, however little of it came over the wire.
func TestAnImageArchiveThatWouldFillTheMemoryIsRefused(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	large := strings.Repeat(" ", base.MaxJSON+1)
	archive := func(files map[string]string) string { return string(must(io.ReadAll(pack(t, files)))(t)) }
	for title, files := range map[string]map[string]string{
		"list":               {"manifest.json": large},
		"list behind a link": {"manifest.json@": "x/../y", "y": large},
		"configuration":      {"manifest.json": `[{"Config": "./c.json"}]`, "c.json@": "d.json", "d.json": large},
		"index of a layout":  {"oci-layout": `{"imageLayoutVersion": "1.0.0"}`, "index.json": large},
		"manifest of a layout": {"oci-layout": `{"imageLayoutVersion": "1.0.0"}`, "blobs/sha256/" + strings.Repeat("a", 64): large,
			"index.json": `{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,` +
				`"digest": "sha256:` + strings.Repeat("a", 64) + `"}]}`},
	} {
		out := w.build(nil, map[string]string{".roadstead/images/main.tar": archive(files)})
		if !out.failed || !strings.Contains(out.text, "is larger than 8388608 bytes") {
			t.Errorf("%s: stream:\n%s", title, out.text)
		}
	}
}

func dockerSave(t testing.TB, img v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	check(t, tarball.WriteToFile(file, must(name.NewTag("example.com/some/image:latest"))(t), img))
	return string(must(os.ReadFile(file))(t))
}

func ociLayout(t testing.TB, images ...v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p := must(layout.Write(dir, empty.Index))(t)
	for _, img := range images {
		check(t, p.AppendImage(img))
	}
	r := pack(t, tree(t, dir))
	return string(must(io.ReadAll(r))(t))
}
