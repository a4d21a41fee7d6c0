package gitserver_test

import (
	"archive/tar"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// The test binary plays roadsteadd, which starts git behind its walls.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ConfineCommand {
		fmt.Fprintln(os.Stderr, sandbox.Confined(os.Args[2:]))
		os.Exit(126)
	}
	os.Exit(m.Run())
}

// world is the git role between an api role and a builder that the test plays, with real certificates, git and ssh.
type world struct {
	t       *testing.T
	dir     string // of the roles
	ssh     string // address
	web     string // of the internal listener
	log     *roletest.Log
	site    api.Site
	keys    *rules
	limits  gitserver.Limits
	sources gitserver.Sources
	stopRun func()

	built chan built // what the builder was given
	make  func(w http.ResponseWriter, r *http.Request)
	able  func(f api.BuildFleet) error // whether somebody builds for a fleet
}

// rules is what the played api role knows.
type rules struct {
	mu     sync.Mutex
	users  map[string]string // fingerprint or token → user
	asked  []string          // fingerprints that were opened with
	fleets map[string]int64
	branch string
	viewer string // a user who only looks
	gone   map[int64]bool

	jobs    chan api.SourceJob // to be built
	results chan api.SourceResult
	lost    map[string]bool // claims that do not hold
}

type built struct {
	query, authorization, address string
	files                         map[string]string
}

const domain = "git-test.roadstead.test"

func newWorld(t *testing.T, limits gitserver.Limits) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "git-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, log: &roletest.Log{}, site: api.Site{Domain: domain, Port: 443}, limits: limits, built: make(chan built, 100),
		keys: &rules{users: map[string]string{}, fleets: map[string]int64{"acme/harbour": 7, "acme/pier": 8}, gone: map[int64]bool{},
			jobs: make(chan api.SourceJob, 10), results: make(chan api.SourceResult, 10), lost: map[string]bool{}},
	}
	if err := pki.NewTestIdentities(dir, api.RoleGit, api.RoleAPI, api.RoleBuilder, api.RoleEdge, api.RoleDashboard); err != nil {
		t.Fatal(err)
	}
	if err := gitserver.Prepare(filepath.Join(dir, api.RoleGit)); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w
}

// start starts the role; started again it goes on on the same directory.
func (w *world) start() {
	w.t.Helper()
	apiLn, builderLn := roletest.Listen(w.t), roletest.Listen(w.t)
	roletest.Play(w.t, filepath.Join(w.dir, api.RoleAPI), apiLn, w.keys.handler())
	roletest.Play(w.t, filepath.Join(w.dir, api.RoleBuilder), builderLn, http.HandlerFunc(w.build))
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := gitserver.New(gitserver.Config{
		Dir: filepath.Join(w.dir, api.RoleGit), Site: w.site, Exe: exe, Limits: w.limits, Sources: w.sources,
		Peers: map[string]string{api.RoleAPI: apiLn.Addr().String(), api.RoleBuilder: builderLn.Addr().String()},
	}, w.log.Logger())
	if err != nil {
		w.t.Fatal(err)
	}
	internal, public := roletest.Listen(w.t), roletest.Listen(w.t)
	w.ssh, w.web = public.Addr().String(), internal.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, internal, public) }()
	w.stopRun = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the role ended: %v", err)
		}
	})
	w.t.Cleanup(w.stopRun)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Log(w.log.String())
		}
	})
}

// handler plays the api role.
func (k *rules) handler() http.Handler {
	answer := func(w http.ResponseWriter, v any, err error) {
		status := http.StatusOK
		if err != nil {
			e := api.AsError(err)
			status, v = e.Code.Status(), e.Text
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/v1/git/key", func(w http.ResponseWriter, r *http.Request) {
		var ask api.GitKey
		_ = json.NewDecoder(r.Body).Decode(&ask)
		k.mu.Lock()
		defer k.mu.Unlock()
		user, ok := k.users[ask.Fingerprint]
		if !ok {
			answer(w, nil, api.ErrNotFound)
			return
		}
		answer(w, api.GitKey{Fingerprint: ask.Fingerprint, User: user}, nil)
	})
	mux.HandleFunc("POST /internal/v1/git/open", func(w http.ResponseWriter, r *http.Request) {
		var ask api.GitOpenRequest
		_ = json.NewDecoder(r.Body).Decode(&ask)
		who := ask.Fingerprint
		if _, password, ok := r.BasicAuth(); ok {
			who = password
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.asked = append(k.asked, ask.Fingerprint)
		user, ok := k.users[who]
		id := k.fleets[ask.Path]
		switch {
		case !ok:
			answer(w, nil, api.ErrUnauthorized)
		case id == 0:
			answer(w, nil, api.Errorf(api.NotFound, "There is no fleet %q.", ask.Path))
		case user == k.viewer:
			answer(w, nil, api.Errorf(api.Forbidden, "%s may see %s, but neither push to it nor clone it.", user, ask.Path))
		default:
			answer(w, api.GitOpen{Ticket: who + "@" + ask.Path, User: user, Fleet: api.BuildFleet{ID: id, Slug: ask.Path, Arch: "amd64"}, Branch: k.branch}, nil)
		}
	})
	mux.HandleFunc("POST /internal/v1/git/tickets", func(w http.ResponseWriter, r *http.Request) {
		var list api.GitTickets
		_ = json.NewDecoder(r.Body).Decode(&list)
		k.mu.Lock()
		defer k.mu.Unlock()
		for i, ticket := range list.Tickets {
			who, _, _ := strings.Cut(ticket, "@")
			if _, ok := k.users[who]; !ok {
				list.Tickets[i] = ""
			}
		}
		answer(w, list, nil)
	})
	mux.HandleFunc("POST /internal/v1/git/fleets", func(w http.ResponseWriter, r *http.Request) {
		var list, there api.GitFleets
		_ = json.NewDecoder(r.Body).Decode(&list)
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, id := range list.IDs {
			if !k.gone[id] {
				there.IDs = append(there.IDs, id)
			}
		}
		answer(w, there, nil)
	})
	k.playSources(mux, answer)
	return mux
}

// build plays the builder: it reads the source and says what the test wants.
func (w *world) build(res http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/internal/v1/platforms/check" && pki.PeerRole(r) == api.RoleGit {
		var fleet api.BuildFleet
		if err := json.NewDecoder(r.Body).Decode(&fleet); err != nil {
			w.t.Errorf("a question about a fleet: %v", err)
		}
		if w.able != nil && w.able(fleet) != nil {
			http.Error(res, strconv.Quote(w.able(fleet).Error()), http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(res, "{}")
		return
	}
	if r.URL.Path != "/v3/build" || pki.PeerRole(r) != api.RoleGit {
		http.NotFound(res, r)
		return
	}
	b := built{query: r.URL.RawQuery, authorization: r.Header.Get("Authorization"), address: r.Header.Get("X-Forwarded-For"), files: map[string]string{}}
	for tr := tar.NewReader(r.Body); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			http.Error(res, "the source archive is damaged: "+err.Error(), http.StatusBadRequest)
			return
		}
		if h.Typeflag == tar.TypeReg {
			text, _ := io.ReadAll(io.LimitReader(tr, 1<<10))
			b.files[h.Name] = string(text)
		}
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.built <- b
	if w.make != nil {
		w.make(res, r)
		return
	}
	_, _ = io.WriteString(res, `[{"message":"a \u001b[31mred\u001b[0m line"},`+"\n"+`{"message":"Release 1 is ready"}]`)
}

// failing is a builder whose builds fail.
func failing(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `[{"message":"step 1"},{"message":"ERROR: service main: exit code: 1","isError":true}]`)
}

// pusher is a person with a key, a project and git.
type pusher struct {
	w    *world
	dir  string // the project
	key  string // file of the private key
	sum  string // its fingerprint
	env  []string
	args []string // more of ssh
}

// person makes a key; the played api role knows it as user's, unless that is "".
func (w *world) person(user string) *pusher {
	w.t.Helper()
	home := w.t.TempDir()
	p := &pusher{w: w, dir: filepath.Join(home, "project"), key: filepath.Join(home, "id")}
	p.sum = newKey(w.t, p.key)
	if user != "" {
		w.keys.mu.Lock()
		w.keys.users[p.sum] = user
		w.keys.mu.Unlock()
	}
	p.env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_TERMINAL_PROMPT=0"}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	p.must("init", "-q", "-b", "main")
	p.commit("Dockerfile", "FROM scratch\n")
	return p
}

func newKey(t testing.TB, file string) (fingerprint string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key)
}

// commit writes a file and commits it.
func (p *pusher) commit(name, content string) {
	p.w.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		p.w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		p.w.t.Fatal(err)
	}
	p.must("add", "-A", ".")
	p.must("commit", "-q", "-m", "change "+name)
}

// sshArgs are those of a client that knows the server and has one key.
func (p *pusher) sshArgs() []string {
	host, port, _ := net.SplitHostPort(p.w.ssh)
	return append(append([]string{"-F", "none"}, p.args...), // the first that is said of a thing holds
		"-i", p.key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "HostName="+host, "-o", "Port="+port)
}

func (p *pusher) git(args ...string) (string, error) {
	return p.gitContext(p.w.t.Context(), args...)
}

func (p *pusher) gitContext(ctx context.Context, args ...string) (string, error) {
	var out roletest.Log
	err := p.gitTo(ctx, &out, args...)
	return out.String(), err
}

// gitTo shows what git says while it runs.
func (p *pusher) gitTo(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = p.dir
	cmd.Env = append(append([]string{}, p.env...), "GIT_SSH_COMMAND=ssh "+strings.Join(p.sshArgs(), " "))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) } // Ctrl-C goes to ssh too
	return cmd.Run()
}

func (p *pusher) must(args ...string) string {
	p.w.t.Helper()
	out, err := p.git(args...)
	if err != nil {
		p.w.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// refused pushes and wants it refused in these words.
func (p *pusher) refused(words string, args ...string) string {
	p.w.t.Helper()
	out, err := p.git(args...)
	if err == nil || !strings.Contains(out, words) {
		p.w.t.Errorf("git %s: %v, want it refused with %q:\n%s", strings.Join(args, " "), err, words, out)
	}
	return out
}

// raw runs ssh itself.
func (p *pusher) raw(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(p.w.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append(append(p.sshArgs()[:len(p.sshArgs()):len(p.sshArgs())], "git.roadstead.test"), args...)...)
	cmd.Env = p.env
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) url(fleet string) string {
	return "ssh://somebody@git.roadstead.test/" + fleet + ".git"
}

// next is what the builder was given next.
func (w *world) next() built {
	w.t.Helper()
	select {
	case b := <-w.built:
		return b
	case <-time.After(3 * time.Minute):
		w.t.Fatal("nothing was built")
		return built{}
	}
}

func (w *world) nothingBuilt() {
	w.t.Helper()
	select {
	case b := <-w.built:
		w.t.Errorf("something was built: %+v", b)
	default:
	}
}

// repo is the repository on the server's disk.
func (w *world) repo(id int) string {
	return filepath.Join(w.dir, api.RoleGit, "repositories", fmt.Sprintf("%d.git", id))
}

// refs are the branches there.
func (w *world) refs(id int) string {
	w.t.Helper()
	out, err := exec.Command("git", "-c", "safe.directory=*", "--git-dir="+w.repo(id), "for-each-ref", "--format=%(refname) %(objectname)").CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
