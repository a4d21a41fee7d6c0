package gitserver_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver"
)

// playSources plays what of the api role is about sources: it gives the jobs of the test, and keeps the results.
func (k *rules) playSources(mux *http.ServeMux, answer func(http.ResponseWriter, any, error)) {
	mux.HandleFunc("POST /internal/v1/sources/next", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&struct{}{})
		select {
		case job := <-k.jobs:
			answer(w, job, nil)
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
			answer(w, api.SourceJob{}, nil)
		}
	})
	mux.HandleFunc("POST /internal/v1/sources/renew", func(w http.ResponseWriter, r *http.Request) {
		var list, held api.SourceClaims
		_ = json.NewDecoder(r.Body).Decode(&list)
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, c := range list.Claims {
			if !k.lost[c] {
				held.Claims = append(held.Claims, c)
			}
		}
		answer(w, held, nil)
	})
	mux.HandleFunc("POST /internal/v1/sources/finish", func(w http.ResponseWriter, r *http.Request) {
		var result api.SourceResult
		_ = json.NewDecoder(r.Body).Decode(&result)
		k.results <- result
		answer(w, struct{}{}, nil)
	})
}

// forge is a real git behind a real TLS server.
type forge struct {
	*httptest.Server
	root    string
	ca      string
	user    string // of Basic authentication; "" lets everybody in
	pass    string
	asked   atomic.Int64
	handler func(w http.ResponseWriter, r *http.Request) bool // answers itself if it says so
}

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{root: t.TempDir()}
	backend := &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + f.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		if f.handler != nil && f.handler(w, r) {
			return
		}
		if user, pass, _ := r.BasicAuth(); f.user != "" && (user != f.user || pass != f.pass) {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	f.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
	return f
}

// publish puts a project into the forge and gives its address.
func (f *forge) publish(p *pusher, name string) string {
	p.w.t.Helper()
	path := filepath.Join(f.root, name+".git")
	p.must("clone", "-q", "--bare", p.dir, path)
	p.must("remote", "add", "forge", path)
	return f.URL + "/" + name + ".git"
}

// newSourceWorld is a role that may reach the forge, which is on this machine.
func newSourceWorld(t *testing.T, f *forge, limits gitserver.Limits) *world {
	t.Helper()
	w := newWorld(t, limits)
	w.stopRun()
	w.sources = gitserver.Sources{Allow: []string{"127.0.0.1"}, CA: f.ca}
	w.start()
	return w
}

// source has the role build a source.
func (w *world) source(job api.SourceJob) api.SourceResult {
	w.t.Helper()
	w.give(job)
	return w.result()
}

func (w *world) give(job api.SourceJob) {
	if job.Claim == "" {
		job.Claim = "claim"
	}
	job.Delivery = 1
	if job.Ref == "" {
		job.Ref = "refs/heads/main"
	}
	w.keys.mu.Lock()
	w.keys.users["source"] = "ann"
	w.keys.mu.Unlock()
	job.Open = api.GitOpen{Ticket: "source@acme/harbour", User: "ann", Fleet: api.BuildFleet{ID: 7, Slug: "acme/harbour"}}
	w.keys.jobs <- job
}

func (w *world) result() api.SourceResult {
	w.t.Helper()
	select {
	case r := <-w.keys.results:
		return r
	case <-time.After(30 * time.Second):
		w.t.Fatal("the source was not finished")
		return api.SourceResult{}
	}
}

// fails wants a source refused in these words, and nothing built.
func (w *world) fails(words string, job api.SourceJob) {
	w.t.Helper()
	if r := w.source(job); !strings.Contains(r.Error, words) || r.Again {
		w.t.Errorf("%s: got %+v, want it to fail with %q", job.URL, r, words)
	}
	w.nothingBuilt()
}

// The commit that was pushed is what is built, whatever the branch is by then; without a commit it is what the branch is now.
func TestASourceOverHTTPS(t *testing.T) {
	f := newForge(t)
	f.user, f.pass = "reader", "s3cret"
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("")
	first := p.must("rev-parse", "HEAD")
	p.commit("more.txt", "more\n")
	second := p.must("rev-parse", "HEAD")
	url := f.publish(p, "team/app")
	for what, tt := range map[string]struct{ commit, want string }{"the commit": {first, first}, "the branch": {"", second}} {
		r := w.source(api.SourceJob{URL: url, Commit: tt.commit, Username: f.user, Password: f.pass, Draft: true})
		if r.Error != "" || r.Commit != tt.want {
			t.Fatalf("%s: got %+v", what, r)
		}
		b := w.next()
		if _, more := b.files["more.txt"]; b.files["Dockerfile"] == "" || more != (tt.want == second) {
			t.Errorf("%s: built %v", what, b.files)
		}
		for _, part := range []string{"gitCommit=" + tt.want, "gitUrl=" + strings.NewReplacer(":", "%3A", "/", "%2F").Replace(url), "isdraft=true", "slug=acme%2Fharbour"} {
			if !strings.Contains(b.query, part) {
				t.Errorf("%s: the builder was asked %s, without %s", what, b.query, part)
			}
		}
		if b.authorization != "Ticket source@acme/harbour" {
			t.Errorf("%s: the builder was asked with %q", what, b.authorization)
		}
	}
	w.fails("does not let us in", api.SourceJob{URL: url, Commit: first, Username: f.user, Password: "wrong"})
	w.fails("no such repository", api.SourceJob{URL: f.URL + "/team/other.git", Commit: first, Username: f.user, Password: f.pass})
	w.fails("has no commit", api.SourceJob{URL: url, Commit: strings.Repeat("12", 20), Username: f.user, Password: f.pass})
	w.fails("could not fetch heads/gone", api.SourceJob{URL: url, Ref: "refs/heads/gone", Username: f.user, Password: f.pass})
	if left, _ := os.ReadDir(filepath.Join(w.dir, api.RoleGit, "sources")); len(left) > 0 {
		t.Errorf("what was fetched is still there: %v", left)
	}
	if strings.Contains(w.log.String(), f.pass) {
		t.Error("the password is in the log")
	}
}

// A tag is an object of its own, which stands for a commit.
func TestASourceOfAnAnnotatedTag(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("")
	p.must("tag", "-a", "v1", "-m", "one")
	commit, object := p.must("rev-parse", "HEAD"), p.must("rev-parse", "v1")
	url := f.publish(p, "app")
	for _, named := range []string{commit, object, ""} {
		if r := w.source(api.SourceJob{URL: url, Ref: "refs/tags/v1", Commit: named}); r.Error != "" || r.Commit != commit {
			t.Errorf("named %q: got %+v, want commit %s", named, r, commit)
		}
		w.next()
	}
}

// Over SSH, from a server with the older protocol that gives away no commit but those at the end of a branch: the git role itself.
func TestASourceOverSSH(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("ann")
	first := p.must("rev-parse", "HEAD")
	p.must("push", "-q", w.url("acme/pier"), "main")
	w.next()
	p.commit("more.txt", "more\n")
	second := p.must("rev-parse", "HEAD")
	p.must("push", "-q", w.url("acme/pier"), "main")
	w.next()
	key, err := os.ReadFile(p.key)
	if err != nil {
		t.Fatal(err)
	}
	host := hostKey(t, w)
	job := api.SourceJob{URL: "ssh://git@" + w.ssh + "/acme/pier.git", Key: string(key), HostKey: host}
	for _, commit := range []string{first, second, ""} {
		job.Commit = commit
		want := commit
		if want == "" {
			want = second
		}
		if r := w.source(job); r.Error != "" || r.Commit != want {
			t.Errorf("commit %q: got %+v", commit, r)
			continue
		}
		if b := w.next(); (b.files["more.txt"] != "") != (want == second) {
			t.Errorf("commit %q: built %v", commit, b.files)
		}
	}
	stranger := w.person("")
	other := job
	other.Key = string(must(os.ReadFile(stranger.key)))
	w.fails("does not take the deploy key", other)
	other = job
	other.HostKey = strings.TrimSpace(string(must(os.ReadFile(stranger.key + ".pub"))))
	w.fails("is not the one of the source", other)
	other = job
	other.URL = "ssh://git@" + w.ssh + "/acme/nothing.git"
	w.fails("no fleet", other)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// hostKey is the public key of the role's SSH server, in the one spelling that is kept.
func hostKey(t *testing.T, w *world) string {
	t.Helper()
	host, port, _ := strings.Cut(w.ssh, ":")
	out, err := exec.Command("ssh-keyscan", "-t", "ed25519", "-p", port, host).Output()
	if err != nil {
		t.Fatalf("ssh-keyscan: %v", err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	return key
}

// What leads elsewhere than to the host that was named is not followed, by a redirect, by git's own protocols, or by the name itself.
func TestSourcesThatLeadElsewhere(t *testing.T) {
	f := newForge(t)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a service inside was asked") }))
	t.Cleanup(inside.Close)
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("")
	commit := p.must("rev-parse", "HEAD")
	url := f.publish(p, "app")
	for to, words := range map[string]string{
		"http://169.254.169.254/latest/meta-data/info/refs": "sends us to http://169.254.169.254",
		inside.URL + "/info/refs":                           "which is not followed",
		"https://example.com/app.git/info/refs":             "sends us to https://example.com",
		"file:///etc/info/refs":                             "which is not followed",
		"/elsewhere":                                        "which is not followed",
	} {
		f.handler = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
			return true
		}
		w.fails(words, api.SourceJob{URL: url, Commit: commit})
	}
	f.handler = func(w http.ResponseWriter, r *http.Request) bool { // to itself, for ever
		http.Redirect(w, r, r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
		return true
	}
	w.fails("from one place to the next", api.SourceJob{URL: url, Commit: commit})
	f.handler = func(w http.ResponseWriter, r *http.Request) bool { // a forge whose repository has another name now
		if rest, ok := strings.CutPrefix(r.URL.Path, "/old.git"); ok {
			http.Redirect(w, r, "/app.git"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return true
		}
		return false
	}
	if r := w.source(api.SourceJob{URL: f.URL + "/old.git", Commit: commit}); r.Error != "" {
		t.Errorf("a redirect to another path of the same host: %+v", r)
	}
	w.next()
	for address, words := range map[string]string{
		"https://169.254.169.254/app.git":  "not at a public address",
		"https://10.0.0.1/app.git":         "not at a public address",
		"https://[::1]/app.git":            "not at a public address",
		"ssh://git@10.0.0.1/app.git":       "not at a public address",
		"file:///etc/passwd":               "and from nothing else",
		"ext::sh -c touch% /tmp/x":         "and from nothing else",
		"git://127.0.0.1/app.git":          "and from nothing else",
		"http://127.0.0.1/app.git":         "and from nothing else",
		"https://no-such.invalid/team.git": "There is no host",
	} {
		key, host := string(must(os.ReadFile(p.key))), hostKey(t, w)
		w.fails(words, api.SourceJob{URL: address, Commit: commit, Key: key, HostKey: host})
	}
}

// What a repository may not be.
func TestSourcesThatAreTooMuch(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{PushBytes: 64 << 10, Objects: 20, TreeFiles: 10})
	large := w.person("")
	random := make([]byte, 0, 300<<10)
	for i := range cap(random) / 16 {
		random = fmt.Appendf(random, "%016x", uint64(i)*0x9E3779B97F4A7C15)
	}
	large.commit("large.bin", string(random))
	w.fails("more than is taken", api.SourceJob{URL: f.publish(large, "large"), Commit: large.must("rev-parse", "HEAD")})
	many := w.person("")
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(many.dir, fmt.Sprint("f", i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	many.commit("last", "last\n")
	w.fails("objects; at most 20", api.SourceJob{URL: f.publish(many, "many"), Commit: many.must("rev-parse", "HEAD")})
	module := w.person("")
	module.must("update-index", "--add", "--cacheinfo", "160000,"+module.must("rev-parse", "HEAD")+",sub")
	module.must("commit", "-q", "-m", "a submodule")
	w.fails("ubmodule", api.SourceJob{URL: f.publish(module, "module"), Commit: module.must("rev-parse", "HEAD")})
	f.handler = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>log in</html>"))
		return true
	}
	w.fails("is no git repository", api.SourceJob{URL: f.URL + "/page", Commit: strings.Repeat("a", 40)})
	f.handler = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	if r := w.source(api.SourceJob{URL: f.URL + "/down"}); !r.Again || !strings.Contains(r.Error, "answered 502") {
		t.Errorf("a forge that is down: got %+v, want it tried again", r)
	}
}

// An object that would harm who checks it out is refused as in a push.
func TestASourceWithABrokenObject(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("")
	blob := p.must("rev-parse", "HEAD:Dockerfile")
	p.must("config", "core.protectHFS", "false")
	tree := filepath.Join(t.TempDir(), "tree")
	raw := append([]byte("100644 .git\x00"), must(hexBytes(blob))...)
	if err := os.WriteFile(tree, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := p.must("hash-object", "-t", "tree", "-w", "--literally", tree)
	commit := p.must("commit-tree", bad, "-m", "a tree with .git")
	p.must("update-ref", "refs/heads/main", commit)
	w.fails("hasDotgit", api.SourceJob{URL: f.publish(p, "broken"), Commit: commit})
}

func hexBytes(text string) (out []byte, err error) {
	_, err = fmt.Sscanf(text, "%x", &out)
	return out, err
}

// A right that ends ends the build; a role that stops says that it is to be done again; and so does a builder that is not there.
func TestASourceThatIsInterrupted(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{RenewMilli: 50})
	p := w.person("")
	commit := p.must("rev-parse", "HEAD")
	url := f.publish(p, "app")
	begun := make(chan struct{}, 1)
	slow := func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	}
	w.make = slow
	w.give(api.SourceJob{URL: url, Commit: commit})
	<-begun
	w.next()
	w.keys.mu.Lock()
	delete(w.keys.users, "source")
	w.keys.mu.Unlock()
	if r := w.result(); r.Again || !strings.Contains(r.Error, "your right to use this repository has ended") {
		t.Errorf("after the right ended: %+v", r)
	}
	w.make = func(res http.ResponseWriter, _ *http.Request) {
		http.Error(res, `"the queue is full"`, http.StatusTooManyRequests)
	}
	if r := w.source(api.SourceJob{URL: url, Commit: commit}); !r.Again {
		t.Errorf("with a full queue: %+v, want it tried again", r)
	}
	w.next()
	w.make = failing
	if r := w.source(api.SourceJob{URL: url, Commit: commit}); r.Again || !strings.Contains(r.Error, "exit code: 1") {
		t.Errorf("a build that fails: %+v", r)
	}
	w.next()
	w.make = slow
	w.give(api.SourceJob{URL: url, Commit: commit, Claim: "given away"})
	<-begun
	w.next()
	w.keys.mu.Lock()
	w.keys.lost["given away"] = true
	w.keys.mu.Unlock()
	if r := w.result(); r.Again {
		t.Errorf("after the claim was given to somebody else: %+v", r)
	}
	w.give(api.SourceJob{URL: url, Commit: commit})
	<-begun
	w.next()
	w.stopRun()
	if r := w.result(); !r.Again || r.Error != "the server was stopped" {
		t.Errorf("after a stop: %+v, want it tried again", r)
	}
}

// git has no network of its own while it fetches: whatever address it is made to try, by its configuration or a helper.
func TestTheGitOfASourceHasNoNetwork(t *testing.T) {
	f := newForge(t)
	w := newSourceWorld(t, f, gitserver.Limits{})
	p := w.person("")
	url := f.publish(p, "app")
	if r := w.source(api.SourceJob{URL: url, Commit: p.must("rev-parse", "HEAD")}); r.Error != "" {
		t.Fatal(r.Error)
	}
	w.next()
	asked := f.asked.Load()
	exe := must(os.Executable())
	dir := t.TempDir()
	p.must("init", "-q", "--bare", filepath.Join(dir, "r.git"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	confine := must(json.Marshal(map[string]any{"write": []string{dir}, "memory": 1 << 30, "files": 100}))
	cmd := exec.CommandContext(ctx, exe, "__confined", string(confine), "/usr/bin/git", "--git-dir="+filepath.Join(dir, "r.git"), "-c", "safe.directory=*",
		"-c", "http.sslVerify=false", "fetch", url, "main")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	if out, err := cmd.CombinedOutput(); err == nil || f.asked.Load() != asked {
		t.Errorf("git reached the forge by itself: %v: %s", err, out)
	}
}
