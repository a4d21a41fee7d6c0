package builder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/pullcache/pulltest"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// reaching lets the builder reach registries on this machine; it is started anew.
func (w *world) reaching(registries ...*pulltest.Registry) {
	w.t.Helper()
	w.stop()
	w.cfg.Pulls.Allow = []string{"127.0.0.1"}
	for _, r := range registries {
		w.cfg.Pulls.Roots += r.PEM()
	}
	w.startBuilder(slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
}

// box is the image that base/busybox is.
func (w *world) box() v1.Image {
	w.t.Helper()
	w.withBase()
	bases := must(base.List(w.cfg.Bases))(w.t)
	return must(base.FromLayout(bases[0].Path, v1.Platform{OS: "linux", Architecture: "amd64"}))(w.t)
}

func digestIn(t testing.TB, img v1.Image) string {
	t.Helper()
	return must(img.Digest())(t).String()
}

// buildFor pushes a project of a fleet.
func (w *world) buildFor(fleet string, files map[string]string) outcome {
	w.t.Helper()
	return w.build(url.Values{"slug": {fleet}}, files)
}

// baseOf is a base of the only service.
func (o outcome) base(t testing.TB, w *world, name string) string {
	t.Helper()
	if o.failed {
		t.Fatalf("the build failed:\n%s", o.text)
	}
	return named(w.statement(o.release), name).Sum()
}

// pulls asks the builder how its cache is, as the operator does.
func (w *world) pulls() (s api.PullCacheStatus) {
	w.t.Helper()
	admin := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleAdmin)))(w.t)
	peer := admin.Client(api.RoleBuilder, strings.TrimPrefix(w.edge.URL, "https://"))
	res := must(peer.HTTP.Get(peer.URL + "/internal/v1/pull-cache"))(w.t)
	defer res.Body.Close()
	check(w.t, json.NewDecoder(res.Body).Decode(&s))
	return s
}

func TestImagesOfOtherRegistriesAreFetchedOnce(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	box, up := w.box(), pulltest.New(t)
	w.reaching(up)
	first := digestIn(t, up.Publish("team/base:1", box, []byte("one")))
	files := map[string]string{"Dockerfile": fmt.Sprintf("ARG TAG=1\nFROM %s/team/base:$TAG AS a\nRUN cat /upstream\nFROM scratch\nCOPY --from=%s/team/base:1 /upstream /u\nCOPY --from=a /upstream /v\n", up.Host, up.Host)}
	out := w.build(nil, files)
	if got := out.base(t, w, up.Host+"/team/base:1"); got != first {
		t.Errorf("the base is recorded as %q, want %s", got, first)
	}
	if got := up.Asked("GET /v2/team/base/blobs/"); len(got) == 0 || len(got) > 4 {
		t.Errorf("the first build fetched %v", got)
	}

	// Another organization's build fetches nothing; a registry that is away, or lets nobody fetch more, is no matter.
	for _, broken := range []int{0, http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		up.Forget()
		if broken != 0 {
			up.Break(broken)
		}
		fleet := foreignFleet
		if broken != 0 {
			fleet = fmt.Sprintf("tenant%d/hello", broken)
		}
		if out := w.buildFor(fleet, files); out.base(t, w, up.Host+"/team/base:1") != first {
			t.Errorf("a build of another organization:\n%s", out.text)
		}
		if got := up.Asked(""); len(got) != 0 {
			t.Errorf("another organization's build asked %v", got)
		}
	}
	// A name that is asked for in spite of what is known is taken as it was known, and the log says so.
	out = w.build(url.Values{"nocache": {"true"}}, files)
	if out.base(t, w, up.Host+"/team/base:1") != first || !strings.Contains(out.text, "Note: "+up.Host+" lets nobody here fetch more for now (status 429)") ||
		!strings.Contains(out.text, "is taken as it was known at") {
		t.Errorf("a build while the registry lets nobody fetch more:\n%s", out.text)
	}
	if s := w.pulls(); s.Stale == 0 || s.Hits == 0 || s.Misses == 0 || len(s.Images) != 1 || s.Images[0].Digest != first || s.Images[0].Domain != "public" {
		t.Errorf("the status: %+v", s)
	}

	up.Answer(nil)
	second := digestIn(t, up.Publish("team/base:1", box, []byte("two")))
	if out = w.build(url.Values{"nocache": {"true"}}, files); out.base(t, w, up.Host+"/team/base:1") != second {
		t.Errorf("the tag moved, and the build did not follow:\n%s", out.text)
	}
}

// bases are all that a release's images started from under a name.
func (o outcome) bases(t testing.TB, w *world, name string) (digests, services []string) {
	t.Helper()
	if o.failed {
		t.Fatalf("the build failed:\n%s", o.text)
	}
	for _, d := range w.statement(o.release).Predicate.BuildDefinition.ResolvedDependencies {
		if d.Name == name {
			digests, services = append(digests, d.Sum()), append(services, d.Annotations["services"])
		}
	}
	return digests, services
}

// A tag moves while a project of several services and stages is being built.
func TestANameHasOneMeaningInABuild(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	box, up := w.box(), pulltest.New(t)
	w.reaching(up)
	first, second := up.Publish("team/base:1", box, []byte("one")), up.Publish("team/other:1", box, []byte("two"))
	up.Put("team/base:1", first)
	heads := 0
	var mu sync.Mutex
	up.Answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(rw, r)
		if strings.HasSuffix(r.URL.Path, "/team/base/manifests/1") {
			mu.Lock()
			defer mu.Unlock()
			if heads++; heads == 1 {
				go up.Put("team/base:1", second)
			}
		}
	})
	base := up.Host + "/team/base:1"
	out := w.build(url.Values{"nocache": {"true"}}, map[string]string{
		"docker-compose.yml": fmt.Sprintf("version: '2'\nservices:\n  made: {build: made}\n  same: {build: same}\n  taken: {image: '%s'}\n", base),
		"made/Dockerfile":    fmt.Sprintf("FROM %s AS a\nRUN cat /upstream >/a\nFROM %s\nRUN echo first >/x\nCOPY --from=a /a /a\nRUN --mount=from=%s,target=/m cmp /m/upstream /a\n", base, base, base),
		"same/Dockerfile":    fmt.Sprintf("ARG HOST=%s\nFROM scratch\nCOPY --from=%s /upstream /\n", up.Host, base),
	})
	digests, services := out.bases(t, w, base)
	if len(digests) != 1 || digests[0] != digestIn(t, first) || services[0] != "made same taken" {
		t.Errorf("the bases are %q of %q, want %s of all three", digests, services, digestIn(t, first))
	}
	mu.Lock()
	if heads != 1 {
		t.Errorf("the registry was asked %d times what the tag stands for", heads)
	}
	mu.Unlock()
	if n := strings.Count(out.text, digestIn(t, second)); n > 0 {
		t.Errorf("the log names the other image %d times:\n%s", n, out.text)
	}
}

// A byte changes on the way: the build stops, and nothing of it is kept.
func TestAFlippedByteOfAnotherRegistryStopsTheBuild(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	box, up := w.box(), pulltest.New(t)
	w.reaching(up)
	want := digestIn(t, up.Publish("team/base:1", box, []byte("one")))
	files := map[string]string{"Dockerfile": "FROM " + up.Host + "/team/base:1\nRUN cat /upstream\n"}
	up.Flip()
	out := w.build(nil, files)
	if !out.failed || !strings.Contains(out.text, up.Host+" sent something else for sha256:") || !strings.Contains(out.text, "nothing of it was kept") {
		t.Errorf("a flipped byte:\n%s", out.text)
	}
	if out.release.result == nil || out.release.result.Status == api.StatusSuccess {
		t.Errorf("the release: %+v", out.release.result)
	}
	if s := w.pulls(); s.Damaged == 0 {
		t.Errorf("the status: %+v", s)
	}
	up.Answer(nil)
	if out := w.build(nil, files); out.base(t, w, up.Host+"/team/base:1") != want {
		t.Errorf("after that:\n%s", out.text)
	}
	// What is not there, and what may not be reached, is said in words.
	for from, words := range map[string]string{
		up.Host + "/team/none:1": up.Host + "/team/none:1 cannot be had: " + up.Host + " has no such image",
		"10.0.0.1:5000/team/x:1": "10.0.0.1:5000 is not at a public address; the operator lets builds reach private ones with --build-allow",
	} {
		if out := w.build(nil, map[string]string{"Dockerfile": "FROM " + from + "\n"}); !out.failed || !strings.Contains(out.text, "service main: ") || !strings.Contains(out.text, words) {
			t.Errorf("FROM %s:\n%s", from, out.text)
		}
	}
}

// A registry that asks for a password: a build that has one gets what it starts from, the password is nowhere, and nobody else gets it
// out of what was fetched.
func TestPrivateRegistriesNeedTheirAccount(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	box, up := w.box(), pulltest.New(t)
	w.reaching(up)
	const password = "correct-horse-battery"
	want := digestIn(t, up.Publish("team/private:1", box, []byte("private")))
	up.Want("anneliese:" + password)
	files := map[string]string{
		"Dockerfile":                    "FROM " + up.Host + "/team/private:1\nRUN cat /upstream; echo 'it is " + password + "'\nRUN ! ls /.balena/registry-secrets.json .balena\n",
		".balena/registry-secrets.json": fmt.Sprintf(`{"%s":{"username":"anneliese","password":"%s"}}`, up.Host, password),
	}
	out := w.build(nil, files)
	if got := out.base(t, w, up.Host+"/team/private:1"); got != want {
		t.Errorf("the base is recorded as %q, want %s", got, want)
	}
	if strings.Contains(out.text, password) || !strings.Contains(out.text, "it is [secret]") {
		t.Errorf("the password is in the log:\n%s", out.text)
	}
	if payload := string(must(json.Marshal(w.statement(out.release)))(t)); strings.Contains(payload, password) || strings.Contains(payload, "anneliese") {
		t.Errorf("the account is in the statement: %s", payload)
	}
	if result := string(must(json.Marshal(out.release.result))(t)); strings.Contains(result, password) {
		t.Error("the password is in the result of the build")
	}
	// An image that is the whole service, by its digest, as `roadstead deploy` names it.
	out = w.build(nil, map[string]string{
		"docker-compose.yml":            fmt.Sprintf("services:\n  main: {image: '%s/team/private@%s'}\n", up.Host, want),
		".balena/registry-secrets.json": files[".balena/registry-secrets.json"],
	})
	if got := out.base(t, w, up.Host+"/team/private"); got != want {
		t.Errorf("the image is recorded as %q, want %s", got, want)
	}
	delete(files, ".balena/registry-secrets.json")
	pinned := map[string]string{"Dockerfile": "FROM " + up.Host + "/team/private@" + want + "\n"}
	for name, files := range map[string]map[string]string{"a tag": files, "a digest": pinned} {
		for _, fleet := range []string{foreignFleet, testFleet} {
			if out := w.buildFor(fleet, files); !out.failed || !strings.Contains(out.text, "refuses team/private: it wants an account, given with --registry-secrets") {
				t.Errorf("%s in %s without the account:\n%s", name, fleet, out.text)
			}
		}
	}
	files[".balena/registry-secrets.json"] = fmt.Sprintf(`{"%s":{"username":"anneliese","password":"wrong"}}`, up.Host)
	if out := w.buildFor(foreignFleet, files); !out.failed || !strings.Contains(out.text, "does not let the account of --registry-secrets have it") {
		t.Errorf("with a wrong password:\n%s", out.text)
	}
	check(t, filepath.WalkDir(w.cfg.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a work directory may go meanwhile
		}
		if data, err := os.ReadFile(p); err == nil && strings.Contains(string(data), password) {
			// The image itself has it in its history: the Dockerfile says it.
			if !strings.Contains(p, "/content/") {
				t.Errorf("the password is in %s", p)
			}
		}
		return nil
	}))
}

// The cache can be switched off: builds then fetch by themselves, within their walls.
func TestWithoutTheCacheBuildsFetchByThemselves(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	up := pulltest.New(t)
	w.cfg.Pulls.Off = true
	w.reaching(up)
	up.Publish("team/base:1", empty.Image, []byte("one"))
	out := w.build(nil, map[string]string{"Dockerfile": "FROM " + up.Host + "/team/base:1\n"})
	if !out.failed || len(up.Asked("")) > 0 {
		t.Errorf("a build reached this machine: %q\n%s", up.Asked(""), out.text)
	}
	if s := w.pulls(); !s.Off {
		t.Errorf("the status: %+v", s)
	}
}

// Two builds of one organization wait for the same layer, and the one that asked first is cancelled: the other has it all the same.
func TestACancelledBuildTakesNobodysImageAway(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	box, up := w.box(), pulltest.New(t)
	w.reaching(up)
	want := digestIn(t, up.Publish("team/base:1", box, bytes.Repeat([]byte("0123456789abcdef"), 1<<16)))
	reached, gate := make(chan struct{}, 10), make(chan struct{})
	up.Answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && pulltest.IsBlob(r) {
			reached <- struct{}{}
			<-gate
		}
		next.ServeHTTP(rw, r)
	})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	files := map[string]string{"Dockerfile": "FROM " + up.Host + "/team/base:1\nRUN cat /upstream | wc -c\n"}
	ctx, cancel := context.WithCancel(t.Context())
	first := w.push(ctx, nil, pack(t, files))
	<-reached
	res := w.push(t.Context(), nil, pack(t, files))
	second := make(chan outcome, 1)
	go func() { second <- w.read(res) }()
	await(t, "the second build is at work", func() bool { return len(w.releases.get(2).images) > 0 })
	cancel()
	_ = first.Body.Close()
	await(t, "the first build has ended", func() bool { return w.releases.get(1).result != nil })
	open()
	if out := <-second; out.base(t, w, up.Host+"/team/base:1") != want {
		t.Errorf("the other build:\n%s", out.text)
	}
}
