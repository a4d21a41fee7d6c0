package channel_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
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

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/pki"
)

const (
	uuid      = "0123456789abcdef0123456789abcdef"
	deviceKey = `a "key" with \ and 'quotes'`
	address   = "10.240.0.9"
)

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// server is a real OpenVPN server in a network of its own, and the part of the api role that a device asks for a certificate.
type server struct {
	t      *testing.T
	dir    string
	ca     *pki.Authority
	cmd    *exec.Cmd
	mu     sync.Mutex // covers what follows
	away   bool
	root   string // who it says vouches for it
	name   string // what it says it is called
	asked  int
	expiry time.Duration
}

// newServer lays the cables: the server is 192.168.77.2, somebody on the device's LAN 192.168.88.2; the device is .1 of both and forwards.
func newServer(t *testing.T) *server {
	t.Helper()
	sh(t, `mount -t tmpfs none /run; mkdir /run/netns
		ip link set lo up
		for n in srv:77 lan:88; do
			ns=${n%:*} net=192.168.${n#*:}
			ip netns add $ns; ip -n $ns link set lo up
			ip link add to-$ns type veth peer name eth0 netns $ns
			ip address add $net.1/24 dev to-$ns; ip link set to-$ns up
			ip -n $ns address add $net.2/24 dev eth0; ip -n $ns link set eth0 up
			ip -n $ns route add default via $net.1
		done
		echo 1 >/proc/sys/net/ipv4/ip_forward
		iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -P INPUT DROP`)
	s := &server{t: t, dir: t.TempDir(), name: "cloudlink.device.test", expiry: time.Hour}
	s.ca = authority(t)
	s.root = string(s.ca.PEM())
	leaf, err := s.ca.IssueServer(s.name)
	if err != nil {
		t.Fatal(err)
	}
	s.write("ca.pem", s.root)
	s.write("server.pem", string(leaf.Cert))
	s.write("server.key", string(leaf.Key))
	s.write("password", deviceKey+"\n")
	s.write("verify", fmt.Sprintf("#!/bin/sh\n{ read -r user; read -r password; } <$1\nread -r want <%s/password\n[ \"$user\" = %s ] && [ \"$password\" = \"$want\" ]\n", s.dir, uuid))
	s.write("connect", fmt.Sprintf("#!/bin/sh\necho 'ifconfig-push %s 10.240.0.1' >$1\n", address))
	s.start()
	t.Cleanup(s.stop)
	return s
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (s *server) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// start runs a server that also pushes what a device must not take.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("ip", "netns", "exec", "srv", "openvpn", "--mode", "server", "--tls-server", "--dev", "tun0", "--topology", "p2p",
		"--ifconfig", "10.240.0.1", "10.240.0.2", "--ifconfig-pool", "10.240.0.4", "10.240.0.250", "--route", "10.240.0.0", "255.255.0.0",
		"--proto", "tcp4-server", "--port", "443", "--ca", "ca.pem", "--cert", "server.pem", "--key", "server.key", "--dh", "none", "--data-ciphers", "AES-256-GCM",
		"--username-as-common-name", "--auth-user-pass-verify", s.dir+"/verify", "via-file", "--client-connect", s.dir+"/connect", "--script-security", "2",
		"--push", "route 8.8.8.0 255.255.255.0", "--push", "redirect-gateway def1", "--push", "dhcp-option DNS 10.240.0.1", "--push", "route-gateway 10.240.0.1",
		"--push", "setenv-safe HELLO 1", "--push", "ifconfig-ipv6 fd00::2/64 fd00::1", "--keepalive", "5", "20", "--verb", "1")
	s.cmd.Dir = s.dir
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("server: %s", out.String())
		}
	})
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// live is how long certificates live from now on.
func (s *server) live(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiry = d
}

// times is how often a certificate was asked for.
func (s *server) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// call gives the server another name.
func (s *server) call(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = name
}

// vouch lets another authority vouch for it, and answers the one before.
func (s *server) vouch(pem string) (before string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.root = s.root, pem
	return before
}

// certify is POST /device/v3/channel.
func (s *server) certify(_ context.Context, ask api.ChannelCertify) (api.ChannelIdentity, error) {
	s.mu.Lock()
	away, name, root, life := s.away, s.name, s.root, s.expiry
	s.asked++
	s.mu.Unlock()
	if away {
		return api.ChannelIdentity{}, fmt.Errorf("the server is away")
	}
	block, _ := pem.Decode([]byte(ask.PublicKey))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return api.ChannelIdentity{}, err
	}
	cert, _, err := s.ca.CertifyClient(uuid, public, life)
	return api.ChannelIdentity{Certificate: string(cert), CA: root, Host: name, Port: 443}, err
}

// reaches asks for a page from one of the networks, "srv" or "lan", and answers what it says.
func reaches(from, url string) string {
	out, _ := exec.Command("ip", "netns", "exec", from, "curl", "-sS", "--noproxy", "*", "--max-time", "2", url).Output()
	return string(out)
}

// page is a service that says one word.
func page(port int, word string) channel.Service {
	return channel.Service{Port: port, Serve: func(ctx context.Context, ln net.Listener) error {
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, word) })}
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stop()
		return srv.Serve(ln)
	}}
}

// device is the channel of a device, running.
type device struct {
	*channel.Channel
	cfg  channel.Config
	stop func()
}

func (s *server) device(t *testing.T, dir string, change func(*channel.Config)) *device {
	t.Helper()
	level := slog.LevelInfo
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	cfg := channel.Config{
		StateDir: dir, RunDir: filepath.Join("/run", fmt.Sprint(time.Now().UnixNano())), UUID: uuid, Key: deviceKey, Certify: s.certify, Host: "192.168.77.2",
		OwnerLock: filepath.Join(dir, "no-channel"), Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Timing: channel.Timing{Retry: remote.Backoff{Min: 200 * time.Millisecond, Max: time.Second}, Refused: remote.Backoff{Min: 200 * time.Millisecond, Max: time.Second},
			Look: 100 * time.Millisecond, Locked: 100 * time.Millisecond},
	}
	if change != nil {
		change(&cfg)
	}
	d := &device{Channel: channel.New(cfg, page(48484, "device API"), page(22222, "shell")), cfg: cfg}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	d.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(d.stop)
	return d
}

func (d *device) state(state string) func() bool {
	return func() bool { return d.Status().State == state }
}

// openvpns are the processes of the device, with their command lines.
func openvpns(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range dirs {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "--management-client") {
			out[filepath.Base(filepath.Dir(path))] = string(text)
		}
	}
	return out
}
