package shell_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/shell"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/sshtest"
)

const (
	uuid      = "0123456789abcdef0123456789abcdef"
	deviceKey = "the device's key"
)

// world is a device's SSH server, and a server beside it that vouches on the API's wire.
type world struct {
	*testing.T
	dir          string
	addr         string
	users, hosts ssh.Signer
	shell        *shell.Shell
	stop         func()

	mu      sync.Mutex // covers what follows
	grants  map[string]bool
	keys    map[string]api.SSHKeyAnswer // by fingerprint
	record  bool
	deleted bool // the device: its key is refused
	away    bool
	guest   time.Duration // how long a key of a guest is good for, from the begin of a session
	next    int64
	open    map[int64]api.SSHProgress
	cut     map[int64]bool
	why     string   // they are cut; "": it is not said
	heard   []string // commands of sessions that were open
	ended   map[int64]api.SSHProgress
	shown   map[int64]string
}

func newWorld(t *testing.T, change ...func(*shell.Config)) *world {
	t.Helper()
	w := &world{
		T: t, dir: t.TempDir(), users: newSigner(t), hosts: newSigner(t), grants: map[string]bool{"g1": true}, keys: map[string]api.SSHKeyAnswer{},
		open: map[int64]api.SSHProgress{}, cut: map[int64]bool{}, ended: map[int64]api.SSHProgress{}, shown: map[int64]string{},
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(w.vouch))
	t.Cleanup(srv.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	server, err := remote.New(remote.Config{Endpoint: strings.Replace(srv.URL, "127.0.0.1", "127.0.0.1", 1), RootCA: root})
	w.must(err)
	docker, err := engine.New("")
	w.must(err)
	t.Cleanup(func() { _ = docker.Close() })
	w.must(os.MkdirAll(filepath.Join(w.dir, "state"), 0o700))
	cfg := shell.Config{
		StateDir: filepath.Join(w.dir, "state"), RunDir: filepath.Join(w.dir, "run"), UUID: uuid, Key: func() string { return deviceKey },
		Server: server, Engine: docker, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Every: 100 * time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	w.shell, err = shell.New(cfg)
	w.must(err)
	w.must(w.shell.Trust(sshtest.Line(w.users.PublicKey()), w.hostCertificate(w.hosts, uuid)))
	again, err := shell.New(cfg) // what it was told it remembers
	w.must(err)
	if again.HostKey() != w.shell.HostKey() {
		t.Error("the host key is another after a restart")
	}
	w.shell = again
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.shell.Serve(ctx, ln) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server of shells does not end")
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// vouch is the api role as far as SSH goes.
func (w *world) vouch(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	answer := func(status int, v any) {
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(v)
	}
	body, _ := io.ReadAll(r.Body)
	if w.away {
		answer(http.StatusServiceUnavailable, "away")
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/device/v3/ssh/session/"); ok {
		n, _ := strconv.ParseInt(strings.TrimSuffix(id, "/recording"), 10, 64)
		if r.Header.Get("Roadstead-Session") != fmt.Sprintf("token %d", n) {
			answer(http.StatusNotFound, "no")
			return
		}
		w.shown[n] = string(body)
		answer(http.StatusOK, nil)
		return
	}
	if r.URL.Path == "/device/v3/ssh/end" {
		var told api.SSHProgress
		_ = json.Unmarshal(body, &told)
		if told.Token != fmt.Sprintf("token %d", told.Session) {
			answer(http.StatusNotFound, "no")
			return
		}
		w.ended[told.Session] = told
		delete(w.open, told.Session)
		answer(http.StatusOK, nil)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+deviceKey || w.deleted {
		answer(http.StatusUnauthorized, "no")
		return
	}
	switch r.URL.Path {
	case "/device/v3/ssh/key":
		var ask api.SSHKeyAsk
		_ = json.Unmarshal(body, &ask)
		got, ok := w.keys[ask.Fingerprint]
		if !ok {
			answer(http.StatusNotFound, "no")
			return
		}
		answer(http.StatusOK, got)
	case "/device/v3/ssh/begin":
		var ask api.SSHBegin
		_ = json.Unmarshal(body, &ask)
		got, known := w.keys[ask.Fingerprint]
		if !known && !w.grants[ask.Grant] {
			answer(http.StatusNotFound, "no")
			return
		}
		if got.User == "" {
			got.User = "ann"
		}
		if known && w.guest > 0 {
			got.Until = time.Now().Add(w.guest)
		}
		w.next++
		w.open[w.next] = api.SSHProgress{}
		answer(http.StatusOK, api.SSHBegun{Session: w.next, Token: fmt.Sprintf("token %d", w.next), User: got.User, Until: got.Until, Record: w.record})
	case "/device/v3/ssh/still":
		var ask, end api.SSHStill
		_ = json.Unmarshal(body, &ask)
		for _, one := range ask.Sessions {
			if _, over := w.ended[one.Session]; !over { // the question may come after the word of its end
				w.open[one.Session] = one
			}
			w.heard = append(w.heard, one.Commands...)
			if w.cut[one.Session] {
				end.End, end.Why = append(end.End, one.Session), map[int64]string{one.Session: w.why}
			}
		}
		answer(http.StatusOK, end)
	default:
		answer(http.StatusNotFound, "no")
	}
}

func newSigner(t *testing.T) ssh.Signer { t.Helper(); s, _ := sshtest.Signer(t); return s }

func (w *world) hostCertificate(by ssh.Signer, name string) string {
	w.Helper()
	return sshtest.Line(sshtest.Certify(w, by, sshtest.Parse(w, w.shell.HostKey()), ssh.HostCert, "device", []string{name}))
}

// use has a world's sessions work with an engine.
func use(d *sshtest.Docker) func(*shell.Config) {
	return func(c *shell.Config) { c.Engine, c.Docker = d.Engine, d.Host }
}

// person is somebody's key, with a certificate or without one, as files of OpenSSH.
type person struct {
	w    *world
	dir  string
	key  ssh.Signer
	cert *ssh.Certificate
}

func (w *world) person() *person {
	w.Helper()
	p := &person{w: w, dir: w.TempDir()}
	p.key = sshtest.KeyFile(w, filepath.Join(p.dir, "id"))
	w.must(os.WriteFile(filepath.Join(p.dir, "known"), []byte("@cert-authority "+uuid+" "+sshtest.Line(w.hosts.PublicKey())+"\n"), 0o600))
	return p
}

// certified gives the person a certificate, as the signer makes it but for what a test changes.
func (w *world) certified(change ...func(*ssh.Certificate)) *person {
	w.Helper()
	return w.certifiedBy(w.users, change...)
}

func (w *world) certifiedBy(by ssh.Signer, change ...func(*ssh.Certificate)) *person {
	w.Helper()
	p := w.person()
	p.cert = sshtest.Certify(w, by, p.key.PublicKey(), ssh.UserCert, "roadstead:g1:ann", []string{uuid}, change...)
	w.must(os.WriteFile(filepath.Join(p.dir, "id-cert.pub"), []byte(sshtest.Line(p.cert)+"\n"), 0o600))
	return p
}

func (p *person) client() sshtest.Client {
	return sshtest.Client{Address: p.w.addr, Key: filepath.Join(p.dir, "id"), Known: filepath.Join(p.dir, "known"), Alias: uuid}
}

type result struct {
	out, err string
	code     int
}

// run runs a program of OpenSSH's.
func (p *person) run(program, input string, args ...string) result {
	p.w.Helper()
	r := p.client().Run(p.w, program, input, args...)
	return result{r.Out, r.Err, r.Code}
}

func (p *person) ssh(args ...string) result { p.w.Helper(); return p.run("ssh", "", args...) }

// eventually waits for a condition, which is looked at under the lock.
func (w *world) eventually(what string, f func() bool) {
	w.Helper()
	sshtest.Eventually(w, &w.mu, what, f)
}

// last is the end of the session that was told of last, once nothing is open.
func (w *world) last() (told api.SSHProgress) {
	w.Helper()
	w.eventually("the end of a session is told", func() bool {
		if len(w.open) > 0 || len(w.ended) == 0 {
			return false
		}
		told = w.ended[slices.Max(slices.Collect(maps.Keys(w.ended)))]
		return true
	})
	return told
}
