package channel_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

var (
	on  = map[string]string{when.Control: "true"}
	off = map[string]string{when.Control: "false"}
)

// The channel stands when it is wanted, and nothing but the services' ports is reached by it; otherwise there is neither a process nor a
// socket, an interface or a rule.
func TestChannel(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	s := newServer(t)
	dir := t.TempDir()
	d := s.device(t, dir, nil)
	d.Set(on)
	roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
	if got := d.Status().Address.String(); got != address {
		t.Errorf("address: got %s, want %s", got, address)
	}
	base := "http://" + address

	t.Run("the services are reached, though the device lets nothing in", func(t *testing.T) {
		roletest.Eventually(t, "the device API through the tunnel", func() bool { return reaches("srv", base+":48484") == "device API" })
		if got := reaches("srv", base+":22222"); got != "shell" {
			t.Errorf("22222 says %q", got)
		}
	})
	t.Run("nothing else is", func(t *testing.T) { nothingElse(t, base) })
	t.Run("nothing that the server pushes is taken but the address", func(t *testing.T) {
		routes := sh(t, "ip route; ip -6 address show dev "+channel.Interface)
		for _, bad := range []string{"8.8.8.0", "0.0.0.0/1", "128.0.0.0/1", "default via", "fd00:", "10.240.0.0/"} {
			if strings.Contains(routes, bad) {
				t.Errorf("the device has taken %s:\n%s", bad, routes)
			}
		}
	})
	t.Run("a published port of a container is reached", func(t *testing.T) { published(t, base) })
	t.Run("the key is on no command line, and in no file that others may read", func(t *testing.T) {
		for pid, line := range openvpns(t) {
			env, _ := os.ReadFile("/proc/" + pid + "/environ")
			status, _ := os.ReadFile("/proc/" + pid + "/status")
			if strings.Contains(line+string(env), "quotes") {
				t.Error("openvpn's command line or environment has the key")
			}
			if strings.Contains(string(status), "Uid:\t0") {
				t.Error("openvpn runs as root")
			}
		}
		_ = filepath.Walk(dir, func(path string, info os.FileInfo, _ error) error {
			if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return nil
		})
	})
	t.Run("a killed openvpn comes back", func(t *testing.T) {
		for pid := range openvpns(t) {
			sh(t, "kill -9 "+pid)
		}
		roletest.Eventually(t, "noticed", func() bool { return !d.state(api.ChannelStateOn)() })
		roletest.Eventually(t, "connected again", d.state(api.ChannelStateOn))
	})
	t.Run("the owner's lock is stronger than the server", func(t *testing.T) {
		if err := os.WriteFile(d.cfg.OwnerLock, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		roletest.Eventually(t, "locked", d.state(api.ChannelStateLocked))
		d.Set(map[string]string{when.Control: "true", when.Until: time.Now().Add(time.Hour).Format(time.RFC3339)})
		nothing(t)
		if err := os.Remove(d.cfg.OwnerLock); err != nil {
			t.Fatal(err)
		}
		roletest.Eventually(t, "connected again", d.state(api.ChannelStateOn))
	})
	t.Run("off", func(t *testing.T) {
		d.Set(off)
		roletest.Eventually(t, "off", d.state(api.ChannelStateOff))
		nothing(t)
		d.Set(map[string]string{when.Control: "perhaps"})
		roletest.Eventually(t, "a reason", func() bool { return strings.Contains(d.Status().Reason, "perhaps") })
		nothing(t)
	})
	s.mu.Lock()
	if s.asked != 1 {
		t.Errorf("it asked %d times for a certificate that holds for an hour", s.asked)
	}
	s.mu.Unlock()
}

// nothing says that there is no trace of a channel.
func nothing(t *testing.T) {
	t.Helper()
	roletest.Eventually(t, "no process", func() bool { return len(openvpns(t)) == 0 })
	if out := sh(t, "ip -o link; nft list tables; iptables-save; ss -Hxlp; ss -Htanp"); strings.Contains(out, channel.Interface) || strings.Contains(out, "roadstead") ||
		strings.Contains(out, "ROADSTEAD") || strings.Contains(out, "openvpn.sock") || strings.Contains(out, "48484") {
		t.Errorf("something is left of the channel:\n%s", out)
	}
}

// Where there is no nft, iptables do the same; where there is neither, there is no channel.
func TestChannelWithIptables(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	s := newServer(t)
	sh(t, "mount --bind /dev/null $(readlink -f $(command -v nft || echo /usr/sbin/nft))")
	d := s.device(t, t.TempDir(), nil)
	d.Set(on)
	roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
	if !strings.Contains(sh(t, "iptables-save -t mangle"), "ROADSTEAD-PASSING") {
		t.Fatal("the rules are not those of iptables")
	}
	base := "http://" + address
	roletest.Eventually(t, "the device API through the tunnel", func() bool { return reaches("srv", base+":48484") == "device API" })
	nothingElse(t, base)
	published(t, base)
	d.stop()
	if left := sh(t, "iptables-save; ip6tables-save"); strings.Contains(left, "ROADSTEAD") {
		t.Errorf("left behind: %s", left)
	}
	sh(t, "for p in iptables; do mount --bind /dev/null $(readlink -f $(command -v $p)); done")
	d = s.device(t, t.TempDir(), nil)
	d.Set(on)
	roletest.Eventually(t, "it says why there is no channel", func() bool { return strings.Contains(d.Status().Reason, "neither nft nor iptables") })
	if len(openvpns(t)) > 0 {
		t.Error("openvpn runs without a firewall")
	}
}

// A channel for a limited time ends by itself while the server is away, and setting the clock back does not open it again, not even for an
// agent that starts anew.
func TestLimitedTime(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	s := newServer(t)
	dir := t.TempDir()
	var back atomic.Int64
	clock := func(cfg *channel.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	}
	d := s.device(t, dir, clock)
	d.Set(off)
	roletest.Eventually(t, "off", d.state(api.ChannelStateOff))
	end := time.Now().Add(time.Hour)
	limited := map[string]string{when.Control: "false", when.Until: end.Format(time.RFC3339Nano)}
	d.Set(limited)
	roletest.Eventually(t, "on", d.state(api.ChannelStateOn))
	s.mu.Lock()
	s.away = true
	s.mu.Unlock()
	back.Store(-int64(59 * time.Minute))
	if !d.state(api.ChannelStateOn)() {
		t.Error("it ended too early")
	}
	back.Store(-int64(2 * time.Hour))
	roletest.Eventually(t, "off again", d.state(api.ChannelStateOff))
	nothing(t)
	back.Store(int64(24 * time.Hour))
	d.Set(limited)
	d.stop()
	again := s.device(t, dir, clock)
	again.Set(limited)
	roletest.Eventually(t, "decided", func() bool { return strings.Contains(again.Status().Reason, "switched off") })
	nothing(t)
}

// What is not the right server is not talked to; a proxy is gone through; the process ends with the agent, however that ends.
func TestWrongServerProxyAndKill(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	s := newServer(t)
	t.Run("a server of another name", func(t *testing.T) {
		s.call("other.device.test")
		d := s.device(t, t.TempDir(), nil)
		d.Set(on)
		roletest.Eventually(t, "refused", func() bool { return strings.Contains(d.Status().Reason, "openvpn ended") })
		if d.Status().State == api.ChannelStateOn {
			t.Error("connected")
		}
		d.stop()
		s.call("cloudlink.device.test")
	})
	t.Run("a server that another authority vouches for", func(t *testing.T) {
		right := s.vouch(string(authority(t).PEM()))
		d := s.device(t, t.TempDir(), nil)
		d.Set(on)
		roletest.Eventually(t, "refused", func() bool { return strings.Contains(d.Status().Reason, "openvpn ended") })
		d.stop()
		s.vouch(right)
	})
	t.Run("a wrong key", func(t *testing.T) {
		d := s.device(t, t.TempDir(), func(c *channel.Config) { c.Key = "wrong" })
		d.Set(on)
		roletest.Eventually(t, "refused", func() bool {
			return d.Status().State == api.ChannelStateFailed && strings.Contains(d.Status().Reason, "refuses")
		})
		d.stop()
	})
	t.Run("through a proxy", func(t *testing.T) {
		through := &proxy{}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go through.serve(ln)
		defer ln.Close()
		d := s.device(t, t.TempDir(), func(c *channel.Config) {
			c.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://user:secret@" + ln.Addr().String()) }
		})
		d.Set(on)
		roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
		if through.used.Load() == 0 {
			t.Error("not through the proxy")
		}
		for _, line := range openvpns(t) {
			if strings.Contains(line, "secret") {
				t.Error("the proxy's password is on the command line")
			}
		}
		d.stop()
		nothing(t)
	})
	t.Run("through a SOCKS proxy", func(t *testing.T) {
		through := &proxy{}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go through.serveSOCKS(ln)
		defer ln.Close()
		d := s.device(t, t.TempDir(), func(c *channel.Config) {
			c.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("socks5://" + ln.Addr().String()) }
		})
		d.Set(on)
		roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
		if through.used.Load() == 0 {
			t.Error("not through the proxy")
		}
		d.stop()
	})
	t.Run("a SOCKS proxy with a password", func(t *testing.T) {
		d := s.device(t, t.TempDir(), func(c *channel.Config) {
			c.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("socks5://user:secret@127.0.0.1:1") }
		})
		d.Set(on)
		roletest.Eventually(t, "said", func() bool { return strings.Contains(d.Status().Reason, "SOCKS proxy with a user and password") })
		d.stop()
	})
	t.Run("a killed agent", func(t *testing.T) {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestAgentToKill$", "-test.v")
		cmd.Env = append(os.Environ(), "ROADSTEAD_TEST_STATE="+s.seed(t))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		roletest.Eventually(t, "connected", func() bool { return reaches("srv", "http://"+address+":48484") == "device API" })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		roletest.Eventually(t, "openvpn ends too", func() bool { return len(openvpns(t)) == 0 })
		nothing := sh(t, "ip -o link")
		if strings.Contains(nothing, channel.Interface) {
			t.Errorf("the interface stays: %s", nothing)
		}
	})
}

// seed makes the state of a device that has its certificate, for an agent in another process.
func (s *server) seed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	d := s.device(t, dir, nil)
	d.Set(on)
	roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
	d.stop()
	return dir
}

// TestAgentToKill is the agent of another test.
func TestAgentToKill(t *testing.T) {
	dir := os.Getenv("ROADSTEAD_TEST_STATE")
	if dir == "" {
		return
	}
	s := &server{t: t, away: true}
	d := s.device(t, dir, nil)
	d.Set(on)
	select {} // until it is killed
}

// proxy is an HTTP proxy that asks for a password.
type proxy struct{ used atomic.Int64 }

func (p *proxy) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go p.one(conn)
	}
}

func (p *proxy) one(conn net.Conn) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	if req.Header.Get("Proxy-Authorization") != "Basic dXNlcjpzZWNyZXQ=" {
		fmt.Fprint(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
		return
	}
	to, err := net.Dial("tcp", req.Host)
	if err != nil {
		return
	}
	defer to.Close()
	p.used.Add(1)
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(to, conn); _ = to.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(conn, to)
}

// serveSOCKS is a SOCKS proxy of version 5 without passwords.
func (p *proxy) serveSOCKS(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go p.oneSOCKS(conn)
	}
}

func (p *proxy) oneSOCKS(conn net.Conn) {
	defer conn.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil || head[0] != 5 {
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, head[1])); err != nil {
		return
	}
	_, _ = conn.Write([]byte{5, 0})
	ask := make([]byte, 4)
	if _, err := io.ReadFull(conn, ask); err != nil {
		return
	}
	var host string
	switch ask[3] {
	case 1:
		ip := make([]byte, 4)
		_, _ = io.ReadFull(conn, ip)
		host = net.IP(ip).String()
	case 3:
		n := make([]byte, 1)
		_, _ = io.ReadFull(conn, n)
		name := make([]byte, n[0])
		_, _ = io.ReadFull(conn, name)
		host = string(name)
	default:
		return
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(conn, port); err != nil {
		return
	}
	to, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))))
	if err != nil {
		return
	}
	defer to.Close()
	p.used.Add(1)
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	go func() { _, _ = io.Copy(to, conn); _ = to.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(conn, to)
}

func nothingElse(t *testing.T, base string) {
	t.Helper()
	sh(t, "iptables -P INPUT ACCEPT; ip -n srv route add 192.168.88.0/24 dev tun0")
	defer sh(t, "iptables -P INPUT DROP; ip -n srv route delete 192.168.88.0/24 dev tun0")
	own, err := net.Listen("tcp4", "0.0.0.0:9999")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(own, http.NotFoundHandler()) }() //nolint:gosec // a test's
	defer own.Close()
	lan := exec.Command("ip", "netns", "exec", "lan", "busybox", "httpd", "-f", "-p", "9999", "-h", "/")
	if _, err := exec.LookPath("busybox"); err != nil {
		lan = exec.Command("ip", "netns", "exec", "lan", "python3", "-m", "http.server", "9999")
	}
	if err := lan.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lan.Process.Kill(); _ = lan.Wait() }()
	if got := reaches("lan", "http://192.168.88.1:9999"); got == "" {
		t.Error("the LAN does not reach the device's own server: the rest proves nothing")
	}
	roletest.Eventually(t, "the LAN's server answers the device", func() bool {
		return exec.Command("curl", "-s", "--max-time", "2", "-o", "/dev/null", "http://192.168.88.2:9999").Run() == nil
	})
	var asking sync.WaitGroup
	for from, targets := range map[string][]string{
		"srv": {base + ":9999", "http://192.168.88.2:9999", "http://192.168.88.1:48484"},
		"lan": {base + ":48484", base + ":22222", base + ":9999", "http://192.168.88.1:48484", "http://192.168.88.1:22222"},
	} {
		for _, target := range targets {
			asking.Go(func() {
				if got := reaches(from, target); got != "" {
					t.Errorf("from %s, %s answers %q", from, target, got)
				}
			})
		}
	}
	asking.Wait()
	refuses(t, base)
}

// refuses: to the server, and to nobody else, a port that is not open says so at once, whether or not something listens on it.
func refuses(t *testing.T, base string) {
	t.Helper()
	const refused, silent = 7, 28 // what curl's exit code says
	ask := func(from, url string, more ...string) int {
		cmd := exec.Command("ip", append([]string{"netns", "exec", from, "curl", "-s", "--noproxy", "*", "-o", "/dev/null", url}, more...)...)
		_ = cmd.Run() // the code says it
		return cmd.ProcessState.ExitCode()
	}
	for _, port := range []string{":9999", ":9998", ":22"} {
		if code := ask("srv", base+port, "--max-time", "60"); code != refused {
			t.Errorf("the server at %s: curl's code is %d", port, code)
		}
	}
	sh(t, "ip -n srv address add 10.240.0.77/32 dev tun0")
	defer sh(t, "ip -n srv address delete 10.240.0.77/32 dev tun0")
	// What comes from elsewhere gets no answer at all; neither does the LAN.
	for name, code := range map[string]int{
		"another address in the tunnel": ask("srv", base+":9998", "--max-time", "2", "--interface", "10.240.0.77"),
		"the LAN":                       ask("lan", base+":9998", "--max-time", "2"),
	} {
		if code != silent {
			t.Errorf("%s: curl's code is %d", name, code)
		}
	}
}

func published(t *testing.T, base string) {
	t.Helper()
	// As a container engine publishes it: what asks for port 8080 of any address of the device is sent on to the container.
	sh(t, `ip netns add box; ip link add to-box type veth peer name eth0 netns box; ip address add 172.30.0.1/24 dev to-box; ip link set to-box up
		ip -n box address add 172.30.0.2/24 dev eth0; ip -n box link set eth0 up; ip -n box link set lo up; ip -n box route add default via 172.30.0.1
		iptables -t nat -A PREROUTING -p tcp --dport 8080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 172.30.0.2:80`)
	box := exec.Command("ip", "netns", "exec", "box", "python3", "-c", "import http.server as h\nclass P(h.BaseHTTPRequestHandler):\n  def do_GET(s): s.send_response(200); s.end_headers(); s.wfile.write(b'box')\nh.HTTPServer(('',80),P).serve_forever()")
	if err := box.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = box.Process.Kill(); _ = box.Wait() }()
	roletest.Eventually(t, "the container's page through the tunnel", func() bool { return reaches("srv", base+":8080") == "box" })
	if out, err := exec.Command("ip", "netns", "exec", "box", "ping", "-c1", "-W1", "10.240.0.1").CombinedOutput(); err == nil {
		t.Errorf("a container reaches the server through the tunnel: %s", out)
	}
}
