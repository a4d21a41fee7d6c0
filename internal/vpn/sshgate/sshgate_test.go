package sshgate_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/shell"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/sshtest"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/vpn/sshgate"
)

const (
	uuid    = "0123456789abcdef0123456789abcdef"
	offline = "ffffffffffffffffffffffffffffffff"
	hidden  = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
	false2  = "dddddddddddddddddddddddddddddddd" // whose host key another authority certified
)

// world is the gateway between OpenSSH's client and devices' own SSH servers, with an api role that plays.
type world struct {
	*testing.T
	dir, addr           string
	users, hosts, other ssh.Signer
	devices             map[string]string // where they listen

	mu    sync.Mutex // covers what follows
	mine  string     // fingerprint of the key that is known
	end   bool       // every permit ends
	ended []api.ReachEnded
	asked []api.ReachRequest
	given string   // the key with which the gateway may enter the device with an SSH server of its own
	mean  bool     // that device is not given it
	saw   string   // the host key that is remembered of it
	asks  []string // for whose keys it asked

	told []api.SSHProgress // how sessions on it ended, as the gateway told
	open api.SSHProgress   // how the one that is open is said to go on
	cut  bool              // an end to it was ordered
	full bool              // it has too many sessions
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// certify signs a certificate as the signer would.
func (w *world) certify(by ssh.Signer, kind uint32, key, keyID string, names ...string) string {
	return sshtest.Line(sshtest.Certify(w, by, sshtest.Parse(w, key), kind, keyID, names))
}

// apiRole plays the api role.
func (w *world) apiRole(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	answer := func(status int, v any) {
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(v)
	}
	switch r.URL.Path {
	case "/internal/ssh/key":
		var ask api.SSHGatewayKey
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if ask.Fingerprint != w.mine {
			answer(http.StatusNotFound, "no")
			return
		}
		answer(http.StatusOK, api.SSHGatewayKey{User: "ann"})
	case "/internal/ssh/host":
		var ask api.SSHHostAsk
		_ = json.NewDecoder(r.Body).Decode(&ask)
		answer(http.StatusOK, api.SSHCertificate{Certificate: w.certify(w.hosts, ssh.HostCert, ask.PublicKey, "gateway", "ssh.devices.roadstead.test"), Until: time.Now().Add(80 * 24 * time.Hour)})
	case "/internal/ssh/certificate":
		var ask api.SSHGatewayAsk
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if ask.Device == foreignID {
			if w.given = ask.PublicKey; w.mean {
				w.given = ""
			}
			answer(http.StatusOK, api.SSHCertificate{Own: &api.SSHOwnServer{User: "ann", HostKey: w.saw, Grant: "g1"}})
			return
		}
		answer(http.StatusOK, api.SSHCertificate{
			Certificate:    w.certify(w.users, ssh.UserCert, ask.PublicKey, "roadstead:g1:ann", ask.Device),
			SSHAuthorities: api.SSHAuthorities{Users: sshtest.Line(w.users.PublicKey()), Hosts: sshtest.Line(w.hosts.PublicKey())},
		})
	case "/internal/ssh/host-key":
		var saw api.SSHSawHostKey
		_ = json.NewDecoder(r.Body).Decode(&saw)
		if w.saw == "" {
			w.saw = saw.PublicKey
		}
		answer(http.StatusOK, api.SSHSawHostKey{PublicKey: w.saw})
	case "/internal/ssh/begin":
		var ask api.SSHGatewayBegin
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if ask.Device != foreignID || ask.Grant != "g1" || w.full {
			answer(http.StatusTooManyRequests, "the device has too many SSH sessions already")
			return
		}
		answer(http.StatusOK, api.SSHBegun{Session: int64(len(w.told) + 1), Token: "t", User: "ann"})
	case "/internal/ssh/still":
		var ask api.SSHGatewayStill
		_ = json.NewDecoder(r.Body).Decode(&ask)
		var out api.SSHStill
		if w.open = ask.SSHProgress; ask.Token != "t" || ask.Device != foreignID || w.cut {
			out.End, out.Why = []int64{ask.Session}, map[int64]string{ask.Session: "somebody ended it"}
		}
		answer(http.StatusOK, out)
	case "/internal/ssh/end":
		var told api.SSHProgress
		_ = json.NewDecoder(r.Body).Decode(&told)
		w.told = append(w.told, told)
		rw.WriteHeader(http.StatusOK)
	case "/internal/reach/permit":
		var ask api.ReachRequest
		_ = json.NewDecoder(r.Body).Decode(&ask)
		w.asked = append(w.asked, ask)
		if ask.UUID == hidden {
			answer(http.StatusNotFound, "no\x1b]0;owned\a")
			return
		}
		if ask.UUID == api.DeviceUUID(strings.Repeat("c", 32)) {
			answer(http.StatusForbidden, "not \x1b[31myou\x1b]52;c;aWQ=\a")
			return
		}
		answer(http.StatusOK, api.ReachPermit{Permit: rand.Text(), UUID: ask.UUID, Port: ask.Port, Username: "ann"})
	case "/internal/reach/still":
		var ask api.ReachStill
		_ = json.NewDecoder(r.Body).Decode(&ask)
		w.ended = append(w.ended, ask.Ended...)
		out := api.ReachEnd{End: []api.ReachOver{}}
		if w.end {
			for _, p := range ask.Permits {
				out.End = append(out.End, api.ReachOver{Permit: p, Why: "the key was removed"})
			}
		}
		answer(http.StatusOK, out)
	default:
		answer(http.StatusNotFound, "no")
	}
}

// Dial implements road.Dialer.
func (w *world) Dial(ctx context.Context, device string, port int) (net.Conn, error) {
	w.mu.Lock()
	at, ok := w.devices[device]
	w.mu.Unlock()
	if !ok || port != api.PortSSH {
		return nil, road.ErrOffline
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", at)
}

// lenient is a server for whom everybody may be in a device.
type lenient struct{}

func (lenient) SSHKey(context.Context, string, api.SSHKeyAsk) (api.SSHKeyAnswer, error) {
	return api.SSHKeyAnswer{}, api.ErrNotFound
}

func (lenient) SSHBegin(_ context.Context, _ string, ask api.SSHBegin) (api.SSHBegun, error) {
	if ask.Grant != "g1" {
		return api.SSHBegun{}, api.ErrNotFound
	}
	return api.SSHBegun{Session: time.Now().UnixNano(), Token: "t", User: "ann"}, nil
}

func (lenient) SSHStill(context.Context, string, api.SSHStill) (api.SSHStill, error) {
	return api.SSHStill{}, nil
}
func (lenient) SSHEnd(context.Context, api.SSHProgress) error             { return nil }
func (lenient) SSHRecording(context.Context, int64, string, []byte) error { return nil }

// device starts a device's own SSH server.
func (w *world) device(name string, by ssh.Signer) {
	w.Helper()
	docker, err := engine.New("unix:///nonexistent/docker.sock")
	w.must(err)
	s, err := shell.New(shell.Config{
		StateDir: w.TempDir(), RunDir: w.TempDir(), UUID: api.DeviceUUID(name), Key: func() string { return "" }, Server: lenient{}, Engine: docker,
		Log: slog.New(slog.DiscardHandler),
	})
	w.must(err)
	w.must(s.Trust(sshtest.Line(w.users.PublicKey()), w.certify(by, ssh.HostCert, s.HostKey(), "device", name)))
	w.devices[name] = w.serve(s.Serve)
}

func (w *world) serve(f func(context.Context, net.Listener) error) (addr string) {
	w.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx, ln) }()
	w.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.Errorf("serve: %v", err)
			}
		case <-time.After(time.Minute):
			w.Error("it does not end")
		}
	})
	return ln.Addr().String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), devices: map[string]string{}}
	w.users, _ = sshtest.Signer(t)
	w.hosts, _ = sshtest.Signer(t)
	w.other, _ = sshtest.Signer(t)
	srv := httptest.NewServer(http.HandlerFunc(w.apiRole))
	t.Cleanup(srv.Close)
	peer := &pki.Peer{URL: srv.URL, HTTP: srv.Client()}
	permits := permit.New(permit.Config{API: peer, Log: slog.New(slog.DiscardHandler), Every: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = permits.Run(ctx) })
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	w.device(uuid, w.hosts)
	w.device(false2, w.other)
	w.must(sshgate.Prepare(w.dir))
	gate, err := sshgate.New(sshgate.Config{Dir: w.dir, Permits: permits, API: peer, Dial: w, Log: slog.New(slog.DiscardHandler), Every: 100 * time.Millisecond})
	w.must(err)
	w.addr = w.serve(gate.Serve)
	key := sshtest.KeyFile(t, filepath.Join(w.dir, "id"))
	w.mu.Lock()
	w.mine = ssh.FingerprintSHA256(key.PublicKey())
	w.mu.Unlock()
	w.must(os.WriteFile(filepath.Join(w.dir, "known"), []byte("@cert-authority ssh.devices.roadstead.test "+sshtest.Line(w.hosts.PublicKey())+"\n"), 0o600))
	return w
}

// client is OpenSSH's as the balena CLI starts it, but for that it looks at the host key.
func (w *world) client() sshtest.Client {
	return sshtest.Client{Address: w.addr, Key: filepath.Join(w.dir, "id"), Known: filepath.Join(w.dir, "known"), Alias: "ssh.devices.roadstead.test"}
}

func (w *world) command(args ...string) *exec.Cmd {
	return exec.CommandContext(w.Context(), "ssh", append(w.client().Options(), args...)...)
}

func (w *world) ssh(input string, args ...string) (out, errs string, code int) {
	w.Helper()
	r := w.client().Run(w, "ssh", input, args...)
	return r.Out, r.Err, r.Code
}

// ask is a question for a permit, by its number.
func (w *world) ask(n int) api.ReachRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[n]
}

func (w *world) eventually(what string, f func() bool) {
	w.Helper()
	sshtest.Eventually(w, &w.mu, what, f)
}

// Plain ssh, and the balena CLI's ways of calling it, reach a device through the gateway; who may not learns why, as plain text.
func TestGateway(t *testing.T) {
	w := newWorld(t)
	if out, errs, code := w.ssh("", "ann@127.0.0.1", "host", uuid, "echo in; echo oh >&2; exit 9"); code != 9 || out != "in\n" || errs != "oh\n" {
		t.Errorf("a command: %q %q %d", out, errs, code)
	}
	if out, errs, code := w.ssh("stty size; echo $((6*7)); exit 4\n", "-tt", "ann@127.0.0.1", "host "+uuid); code != 4 || !strings.Contains(out, "42") || !strings.Contains(out, "24 80") {
		t.Errorf("a shell: %q %q %d", out, errs, code)
	}
	balena := `host ` + uuid + ` "$(if [ -f /nonexistent ]; then echo balena; else echo echo; fi)" ps --format "{{.ID}} {{.Names}}"`
	if out, errs, code := w.ssh("", "-n", "-T", "ann@127.0.0.1", balena); code != 0 || out != "ps --format {{.ID}} {{.Names}}\n" {
		t.Errorf("as the balena CLI asks for containers: %q %q %d", out, errs, code)
	}
	if _, errs, code := w.ssh("", "-tt", "ann@127.0.0.1", "enter "+uuid+" 0123456789ab"); code != 1 {
		t.Errorf("as the balena CLI enters one: %q %d", errs, code)
	}
	w.eventually("the end is told", func() bool {
		return len(w.ended) == 4 && w.ended[0].BytesOut == int64(len("in\noh\n")) && w.ended[0].Why == permit.WhyClosed
	})
	if a := w.ask(3); a.Kind != api.ReachSSH || a.Fingerprint != w.mine || a.Port != api.PortSSH || a.From != "127.0.0.1" || a.Detail["enters"] != "0123456789ab" {
		t.Errorf("asked: %+v", a)
	}
	for name, tt := range map[string]struct{ command, says string }{
		"nothing":               {"", "Say which device"},
		"rubbish":               {"rm -rf /", "Say which device"},
		"no uuid":               {"host 0123", "whole uuid"},
		"an address":            {"host 127.0.0.1", "whole uuid"},
		"a container's options": {"enter " + uuid + " -it", "name the service"},
		"offline":               {"host " + offline + " id", "is not connected"},
		"not theirs":            {"host " + hidden + " id", "there is no device " + hidden},
		"forbidden":             {"host " + strings.Repeat("c", 32) + " id", "not ?[31myou?]52;c;aWQ=?"},
		"another device's host": {"host " + false2 + " id", "not one that this server vouches for"},
	} {
		out, errs, code := w.ssh("", "ann@127.0.0.1", tt.command)
		if tt.command == "" {
			out, errs, code = w.ssh("", "ann@127.0.0.1")
		}
		if code != 255 || out != "" || !strings.Contains(errs, tt.says) || strings.ContainsAny(errs, "\x1b\a") {
			t.Errorf("%s: %q %q %d", name, out, errs, code)
		}
	}
	if _, errs, code := w.ssh("", "-W", "127.0.0.1:22", "ann@127.0.0.1"); code != 255 || !strings.Contains(errs, "forwarding failed") {
		t.Errorf("a forwarded port: %q %d", errs, code)
	}
}

// Files come and go by scp, where the device is named in the place of the user; anybody else's name leads nowhere.
func TestFilesThroughTheGateway(t *testing.T) {
	w := newWorld(t)
	there := filepath.Join(t.TempDir(), "there")
	here := filepath.Join(w.dir, "here")
	w.must(os.WriteFile(here, []byte("content"), 0o600))
	if out, code := w.scp(here, uuid+"@127.0.0.1:"+there); code != 0 {
		t.Fatalf("to the device: %d %s", code, out)
	}
	if data, err := os.ReadFile(there); err != nil || string(data) != "content" {
		t.Errorf("on the device: %q %v", data, err)
	}
	if out, code := w.scp(uuid+"@127.0.0.1:"+there, here+"2"); code != 0 {
		t.Errorf("from the device: %d %s", code, out)
	}
	if a := w.ask(0); a.UUID != uuid || a.Kind != api.ReachSSH || a.Detail["enters"] != "files of the host" {
		t.Errorf("asked: %+v", a)
	}
	for user, says := range map[string]string{
		"ann": "in the place of the user", offline: "is not connected", hidden: "there is no device " + hidden, uuid + "+..": "in the place of the user",
		uuid + "+web": "", // there is no engine
	} {
		if out, code := w.scp(user+"@127.0.0.1:"+there, here+"3"); code == 0 || !strings.Contains(out, says) {
			t.Errorf("%s: %d %s", user, code, out)
		}
	}
}

func (w *world) scp(args ...string) (out string, code int) {
	w.Helper()
	r := w.client().Run(w, "scp", "", args...)
	return r.Out + r.Err, r.Code
}

// A permit that ends ends the session; a key that is nobody's, and a password, do not get in at all.
func TestGatewayCuts(t *testing.T) {
	w := newWorld(t)
	cmd := w.command("-tt", "ann@127.0.0.1", "host "+uuid+" echo here; sleep 3000.1")
	pipe, err := cmd.StdoutPipe()
	w.must(err)
	in, err := cmd.StdinPipe() // an open end, so that nothing else ends it
	w.must(err)
	defer func() { _ = in.Close() }()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	w.must(cmd.Start())
	buf := make([]byte, 4)
	if _, err := io.ReadFull(pipe, buf); err != nil || string(buf) != "here" {
		t.Fatalf("%q %v", buf, err)
	}
	w.mu.Lock()
	w.end = true
	w.mu.Unlock()
	began := time.Now()
	rest := new(bytes.Buffer)
	_, _ = rest.ReadFrom(pipe)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 255 || !strings.Contains(rest.String()+errs.String(), "the key was removed") {
		t.Errorf("%d after %s: %q %q", code, time.Since(began), rest, errs.String())
	}
	w.mu.Lock()
	w.mine = "SHA256:another"
	w.mu.Unlock()
	if _, errs, code := w.ssh("", "ann@127.0.0.1", "host "+uuid+" id"); code != 255 || !strings.Contains(errs, "Permission denied (publickey)") {
		t.Errorf("a key of nobody's: %q %d", errs, code)
	}
	_, err = ssh.Dial("tcp", w.addr, &ssh.ClientConfig{User: "root", Auth: []ssh.AuthMethod{ssh.Password("")}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // it must not come to that
	if err == nil || !strings.Contains(err.Error(), "attempted methods [none]") {
		t.Errorf("a password: %v", err)
	}
	site, err := sshgate.Public(w.dir, api.Site{Domain: "roadstead.test"}, "0.0.0.0:2223")
	if err != nil || site.Address != "ssh.devices.roadstead.test:2223" || !strings.HasPrefix(site.KnownHosts, "[ssh.devices.roadstead.test]:2223 ssh-ed25519 ") {
		t.Errorf("%+v %v", site, err)
	}
}
