package builder_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	testToken     = "rsu_pusher"
	readerToken   = "rsu_reader"   // reads the fleet, and does not push to it
	strangerToken = "rsu_stranger" // of another tenant
	testFleet     = "acme/hello"
	otherFleet    = "mallory/hello"
	foreignFleet  = "zeta/hello" // of another organization
)

var site = api.Site{Domain: "roadstead.test", Port: 8443}

var discard = slog.New(slog.DiscardHandler)

// releases is the api role's end of a build, as the wire has it. What the real one does with it is tested there; here it
// remembers what it was told.
type releases struct {
	t    testing.TB
	arch string
	also []api.BuildArch

	mu     sync.Mutex
	builds map[int64]*release
	down   bool            // answers 503 to everything
	gone   map[string]bool // logins that hold no more
	gate   chan struct{}   // not nil: builds wait here before they have images
}

type release struct {
	api.Build
	ask    api.BuildImagesRequest
	images []api.BuildImage
	result *api.BuildResult
	beats  int

	promotion *api.Promotion // of what a client pushed
	leased    bool           // to a builder
}

func (s *releases) handler() http.Handler {
	mux := http.NewServeMux()
	log := slog.New(slog.DiscardHandler)
	handle := func(pattern string, roles string, h func(r *http.Request, b *release) (any, error)) {
		mux.Handle(pattern, web.Handle(log, func(w http.ResponseWriter, r *http.Request) error {
			if !strings.Contains(roles, pki.PeerRole(r)) {
				return api.Errorf(api.Forbidden, "not for %s", pki.PeerRole(r))
			}
			if gate := s.closedGate(); gate != nil && strings.HasSuffix(pattern, "/images") {
				select {
				case <-gate:
				case <-r.Context().Done():
				}
			}
			if strings.HasSuffix(pattern, "/quarantine/next") {
				_, _ = io.Copy(io.Discard, r.Body) // or it would not be noticed that the builder goes away
				if s.awaitChore(r.Context()); r.Context().Err() != nil {
					return r.Context().Err()
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.down {
				return api.Errorf(api.Unavailable, "the api role is down")
			}
			var b *release
			if text := r.PathValue("id"); text != "" {
				var id int64
				_, _ = fmt.Sscan(text, &id)
				if b = s.builds[id]; b == nil {
					return api.Errorf(api.NotFound, "no build %s", text)
				}
			}
			out, err := h(r, b)
			if err != nil {
				return err
			}
			return web.WriteJSON(w, http.StatusOK, out)
		}))
	}
	handle("POST /internal/v1/builds", api.RoleBuilder, s.open)
	handle("POST /internal/v1/builds/{id}/images", api.RoleBuilder, s.addImages)
	handle("POST /internal/v1/builds/{id}/heartbeat", api.RoleBuilder, func(r *http.Request, b *release) (any, error) {
		b.beats++
		var beat api.BuildBeat
		if err := json.NewDecoder(r.Body).Decode(&beat); err != nil {
			return nil, api.Errorf(api.Invalid, "%v", err)
		}
		out := b.Build
		for _, f := range beat.Followers {
			if s.gone[f.Login] {
				out.Gone = append(out.Gone, f.ID)
			}
		}
		return out, nil
	})
	handle("POST /internal/v1/builds/{id}/watch", api.RoleBuilder, s.watch)
	handle("POST /internal/v1/builders/ask", api.RoleBuilder, func(r *http.Request, _ *release) (any, error) {
		if r.Header.Get("Authorization") != "Bearer "+readerToken {
			return nil, api.ErrUnauthorized
		}
		return struct{}{}, nil
	})
	handle("POST /internal/v1/quarantine/next", api.RoleBuilder, s.nextChore)
	handle("POST /internal/v1/builds/{id}/emptied", api.RoleBuilder, func(_ *http.Request, b *release) (any, error) {
		b.Quarantine, b.promotion = nil, nil
		return b.Build, nil
	})
	handle("POST /internal/v1/builds/{id}/finish", api.RoleBuilder, func(r *http.Request, b *release) (any, error) {
		var result api.BuildResult
		if err := json.NewDecoder(r.Body).Decode(&result); err != nil {
			return nil, api.Errorf(api.Invalid, "%v", err)
		}
		if b.Status == api.StatusRunning {
			b.Status = result.Status
		}
		b.result = &result
		return b.Build, nil
	})
	handle("GET /internal/v1/builds/{id}", api.RoleBuilder+api.RoleSigner, func(_ *http.Request, b *release) (any, error) {
		return b.Build, nil
	})
	return mux
}

func (s *releases) closedGate() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gate
}

// watch knows who pushes, and somebody who only reads the fleet.
func (s *releases) watch(r *http.Request, b *release) (any, error) {
	w := api.BuildWatch{Build: b.Build}
	login := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case s.gone[login]:
		return nil, api.ErrUnauthorized
	case login == testToken:
		w.MaySend, w.Follower = true, api.BuildFollower{User: 1, Login: testToken}
	case login == readerToken:
		w.Follower = api.BuildFollower{User: 2, Login: readerToken}
	case login == strangerToken:
		return nil, api.Errorf(api.NotFound, "no build %d", b.ID)
	default:
		return nil, api.ErrUnauthorized
	}
	return w, nil
}

func (s *releases) open(r *http.Request, _ *release) (any, error) {
	if r.Header.Get("Authorization") != "Bearer "+testToken {
		return nil, api.Errorf(api.Unauthorized, "unknown token")
	}
	var ask api.BuildRequest
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	fleet, organization := int64(1), int64(1)
	switch ask.Slug {
	case testFleet:
	case otherFleet:
		fleet = 2 // its maker chose the uuid of the other
	case foreignFleet:
		fleet, organization = 3, 2
	default:
		if n, err := fmt.Sscanf(ask.Slug, "tenant%d/hello", &organization); n != 1 || err != nil {
			return nil, api.Errorf(api.NotFound, "there is no fleet %q", ask.Slug)
		}
		organization += 100
		fleet = organization
	}
	id := int64(len(s.builds) + 1)
	b := &release{Build: api.Build{ID: id, Commit: fmt.Sprintf("%032x", id), Status: api.StatusRunning,
		Fleet: &api.BuildFleet{ID: fleet, UUID: strings.Repeat("f", 32), Slug: ask.Slug, DeviceType: "generic-amd64", Arch: s.arch, Also: s.also, Organization: organization}}}
	s.builds[id] = b
	return b.Build, nil
}

func (s *releases) addImages(r *http.Request, b *release) (any, error) {
	if err := json.NewDecoder(r.Body).Decode(&b.ask); err != nil {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	b.images, b.Repositories = nil, nil
	for i, name := range b.ask.Services {
		repo := fmt.Sprintf("v2/%030x%02x", b.ID, i)
		b.images = append(b.images, api.BuildImage{ID: b.ID*100 + int64(i), Service: name,
			Location: site.Host("registry2") + "/" + repo, Repository: repo})
		b.Repositories = append(b.Repositories, repo)
	}
	return b.images, nil
}

func (s *releases) set(f func(*releases)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// get copies what is known of a build.
func (s *releases) get(id int64) release {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.builds[id]; b != nil {
		return *b
	}
	return release{}
}

// world is a builder among real roles.
type world struct {
	t        testing.TB
	dir      string
	releases *releases
	edge     *pki.Peer // the builder as the edge role reaches it
	registry string    // address
	stop     func()    // the builder
	cfg      builder.Config
}

type role interface {
	Run(ctx context.Context, ln net.Listener) error
}

// newWorld starts a builder with a signer, a registry and the api role's end of builds. The build service is the one at
// buildkit, an address.
func newWorld(t testing.TB, buildkit string, limits builder.Limits, change ...func(*registry.Config)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), releases: &releases{t: t, arch: "amd64", builds: map[int64]*release{}, gone: map[string]bool{}}}
	check(t, pki.NewTestIdentities(w.dir, api.RoleEdge, api.RoleAPI, api.RoleSigner, api.RoleRegistry, api.RoleBuilder, api.RoleAdmin, api.RoleGit))
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	peers := map[string]string{}

	id := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI)))(t)
	w.serve(api.RoleAPI, peers, httpRole{srv: &http.Server{Handler: w.releases.handler(), TLSConfig: id.ServerTLS()}})

	key := filepath.Join(w.dir, api.RoleSigner, signer.KeyFile)
	check(t, signer.NewKey(key))
	check(t, signer.NewAuditKey(filepath.Join(w.dir, api.RoleSigner, signer.AuditKeyFile)))
	check(t, signer.NewStatementKey(filepath.Join(w.dir, api.RoleSigner, signer.StatementKeyFile)))
	check(t, signer.NewTrustKey(filepath.Join(w.dir, api.RoleSigner, signer.TrustKeyFile)))
	check(t, signer.NewChannelAuthority(filepath.Join(w.dir, api.RoleSigner, signer.ChannelCAFile)))
	public := must(signer.PublicKeys(key))(t)
	check(t, os.WriteFile(filepath.Join(w.dir, api.RoleRegistry, registry.PublicKeysFile), public, 0o600))
	w.serve(api.RoleSigner, peers, must(signer.New(signer.Config{Dir: filepath.Join(w.dir, api.RoleSigner), Site: site, Peers: peers}, log))(t))
	reg := registry.Config{Dir: filepath.Join(w.dir, api.RoleRegistry), Site: site}
	for _, f := range change {
		f(&reg)
	}
	w.serve(api.RoleRegistry, peers, must(registry.New(reg, log))(t))
	w.registry = peers[api.RoleRegistry]

	w.cfg = builder.Config{Dir: filepath.Join(w.dir, api.RoleBuilder), Site: site, Peers: peers, Bases: filepath.Join(w.dir, "bases"),
		BuildKit: buildkit, Limits: limits}
	w.startBuilder(log)
	return w
}

func (w *world) startBuilder(log *slog.Logger) {
	peers := map[string]string{}
	w.stop = w.serve(api.RoleBuilder, peers, alone{must(builder.New(w.cfg, log))(w.t)})
	edge := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge)))(w.t)
	w.edge = edge.Client(api.RoleBuilder, peers[api.RoleBuilder])
}

// alone is a builder without workers of other machines.
type alone struct{ *builder.Server }

func (a alone) Run(ctx context.Context, ln net.Listener) error { return a.Server.Run(ctx, ln, nil) }

type httpRole struct{ srv *http.Server }

func (h httpRole) Run(ctx context.Context, ln net.Listener) error {
	return web.Serve(ctx, h.srv, func() error { return h.srv.ServeTLS(ln, "", "") }, time.Second)
}

// serve runs a role until the test ends, or the function that it gives is called.
func (w *world) serve(name string, peers map[string]string, r role) func() {
	w.t.Helper()
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(w.t)
	peers[name] = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, ln) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// push sends a project and gives the answer; the caller closes its body.
func (w *world) push(ctx context.Context, query url.Values, body io.Reader) *http.Response {
	w.t.Helper()
	q := url.Values{"slug": {testFleet}, "dockerfilePath": {""}, "emulated": {"false"}, "nocache": {"false"}, "headless": {"false"},
		"isdraft": {"false"}}
	for k, v := range query {
		q[k] = v
	}
	req := must(http.NewRequestWithContext(ctx, http.MethodPost, w.edge.URL+"/v3/build?"+q.Encode(), body))(w.t)
	req.Header.Set("Authorization", "Bearer "+testToken)
	req.Header.Set("Content-Encoding", "gzip")
	res, err := w.edge.HTTP.Do(req)
	if err != nil {
		w.t.Fatalf("push: %v", err)
	}
	return res
}

// outcome is a finished stream.
type outcome struct {
	release release
	text    string
	failed  bool
}

// build pushes a project and reads the stream to its end.
func (w *world) build(query url.Values, files map[string]string) outcome {
	w.t.Helper()
	res := w.push(w.t.Context(), query, pack(w.t, files))
	return w.read(res)
}

func (w *world) read(res *http.Response) outcome {
	w.t.Helper()
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		w.t.Fatalf("push: %s: %s", res.Status, text)
	}
	var out outcome
	dec := json.NewDecoder(res.Body)
	if tok, err := dec.Token(); err != nil || tok != json.Delim('[') {
		w.t.Fatalf("the stream begins with %v, %v, want an array", tok, err)
	}
	var text strings.Builder
	for dec.More() {
		var e api.BuildEvent
		if err := dec.Decode(&e); err != nil {
			w.t.Fatalf("the stream broke: %v\n%s", err, text.String())
		}
		text.WriteString(e.Message + "\n")
		out.failed = out.failed || e.IsError
		if e.Resource == "buildLogId" {
			out.release.ID = int64(e.Value.(float64))
		}
	}
	if tok, err := dec.Token(); err != nil || tok != json.Delim(']') {
		w.t.Fatalf("the stream ends with %v, %v, want the array's end", tok, err)
	}
	out.text = text.String()
	out.release = w.releases.get(out.release.ID)
	return out
}

// workEmpty reports whether the builder left nothing of its builds on disk.
func (w *world) workEmpty() bool {
	entries, err := os.ReadDir(filepath.Join(w.cfg.Dir, "work"))
	return err == nil && len(entries) == 0
}

// pack makes a gzipped tar of files; a name that ends with "@" is a symbolic link to its content.
func pack(t testing.TB, files map[string]string) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for name, content := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o755}
		if link, ok := strings.CutSuffix(name, "@"); ok {
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: content}
			content = ""
		}
		check(t, tw.WriteHeader(h))
		must(io.WriteString(tw, content))(t)
	}
	check(t, tw.Close())
	check(t, zw.Close())
	return &buf
}

// tree reads a directory for pack.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	check(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := must(filepath.Rel(dir, p))(t)
		files[rel] = string(must(os.ReadFile(p))(t))
		return nil
	}))
	return files
}

// buildService starts the real build service and gives its address; it skips where buildkitd is not built.
func buildService(t testing.TB, change ...func(*worker.Config)) string {
	t.Helper()
	return worker.Config{Dir: buildServiceDir(t, change...)}.Address()
}

// buildServiceDir does the same and gives the service's directory.
func buildServiceDir(t testing.TB, change ...func(*worker.Config)) string {
	t.Helper()
	buildkitd := os.Getenv("ROADSTEAD_BUILDKITD")
	if buildkitd == "" {
		t.Skip("ROADSTEAD_BUILDKITD does not name a buildkitd; `make test` builds one and sets it")
	}
	dir := must(os.MkdirTemp("", "builder"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := worker.Config{Dir: filepath.Join(dir, "w"), Buildkitd: buildkitd}
	if os.Geteuid() == 0 {
		cfg.User = "roadstead-buildkit"
		check(t, os.Chmod(dir, 0o755))
		if exec.Command("id", cfg.User).Run() != nil {
			if out, err := exec.Command("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", cfg.User).CombinedOutput(); err != nil {
				t.Fatalf("useradd: %v: %s", err, out)
			}
		}
		check(t, worker.Prepare(cfg.User))
	}
	for _, c := range change {
		c(&cfg)
	}
	m := must(worker.NewManager(cfg, slog.New(slog.DiscardHandler)))(t)
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.Run(ctx) })
	group.Go(func() error { return m.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("the build service: %v", err)
		}
	})
	await(t, "the build service is healthy", func() bool { return m.Healthy(t.Context()) == nil })
	return cfg.Dir
}

// withBase imports base/busybox: the real one where `make test` made it, else one around Debian's static busybox.
func (w *world) withBase() {
	w.t.Helper()
	file := os.Getenv("ROADSTEAD_BASE_BUSYBOX")
	var archive io.Reader
	if file != "" {
		f := must(os.Open(file))(w.t)
		defer f.Close()
		archive = f
	} else {
		box, err := os.ReadFile("/bin/busybox")
		if err != nil {
			w.t.Skip("neither ROADSTEAD_BASE_BUSYBOX nor /bin/busybox is there")
		}
		archive = pack(w.t, map[string]string{"bin/busybox": string(box), "bin/sh@": "busybox", "bin/cat@": "busybox",
			"bin/uname@": "busybox", "bin/id@": "busybox", "bin/ls@": "busybox", "bin/sleep@": "busybox", "bin/wget@": "busybox",
			"bin/stat@": "busybox", "bin/touch@": "busybox"})
	}
	check(w.t, base.Import(w.cfg.Bases, "base/busybox", archive, "amd64"))
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s in vain until %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}
