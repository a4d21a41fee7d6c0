//go:build linux

package vpn_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

func uuid(n int) string { return fmt.Sprintf("%032x", 0xabc000+n) }

// TestControlChannel is one world with real openvpn on both ends.
func TestControlChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 0)
	w.start("openvpn")
	w.start(api.RoleVPN)
	a, b := w.device(uuid(1)), w.device(uuid(2))
	a.certify(w.people, a.uuid)
	// As a balenaOS device: user name and password alone, and the framing of compression.
	clientA, clientB := a.connect(), b.connect("--comp-lzo", "--allow-compression", "asym")
	upA, upB := clientA.online(), clientB.online()

	// A device that loses its cable says nothing. It is found out while the rest is tested.
	gone := w.device(uuid(3))
	upGone := gone.connect().online()
	sh(t, "ip", "-n", gone.name, "link", "set", "eth0", "down")
	unplugged := time.Now()

	t.Run("who came in", func(t *testing.T) {
		if upA.From != a.address || upB.From != b.address {
			t.Errorf("the devices come from %s and %s, want %s and %s", upA.From, upB.From, a.address, b.address)
		}
		if upA.Identity != api.IdentityCertificate || upB.Identity != api.IdentityKey {
			t.Errorf("identities: %s with a certificate, %s without", upA.Identity, upB.Identity)
		}
		for d, up := range map[*device]api.ChannelUp{a: upA, b: upB} {
			if out := sh(t, "ip", "-n", d.name, "addr", "show", "tun9"); !strings.Contains(out, up.Address) {
				t.Errorf("the device has not the address %s: %s", up.Address, out)
			}
		}
		if log := clientA.log.String(); !strings.Contains(log, "AES-256-GCM") || !strings.Contains(log, "TLSv1.3") {
			t.Error("the cipher is not AES-256-GCM in TLS 1.3")
		}
	})
	t.Run("a device is asked", func(t *testing.T) { testCalls(t, w, b) })
	t.Run("nothing else passes", func(t *testing.T) { testIsolation(t, w, a, b, upA, upB) })
	t.Run("who stays outside", func(t *testing.T) { testOutside(t, w) })
	t.Run("ciphers and compression", func(t *testing.T) { testCiphers(t, w) })
	t.Run("management", func(t *testing.T) { testManagement(t, w) })
	t.Run("the newest session wins", func(t *testing.T) { testNewest(t, w) })
	t.Run("whichever instance it comes to", func(t *testing.T) { testMoves(t, w) })
	t.Run("cut", func(t *testing.T) { testCut(t, w) })
	t.Run("a flood of those who never come in", func(t *testing.T) { testFlood(t, w) })
	t.Run("who is silent is gone", func(t *testing.T) {
		roletest.Eventually(t, "the session is still there", func() bool { _, ok := w.api.of(gone.uuid); return !ok })
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		for _, down := range w.api.downs {
			if at, _ := time.Parse(time.RFC3339Nano, down.At); down.Session == upGone.Session {
				t.Logf("that took %s", at.Sub(unplugged))
			}
		}
	})
	t.Run("whatever dies", func(t *testing.T) { testDeaths(t, w, clientA, clientB) })
}

// A device that answers an HTTP request may do so in any way: it leads nowhere, and takes neither the server's memory nor its time.
func testCalls(t *testing.T, w *world, d *device) {
	_, out := d.inside("serve", "0.0.0.0:48484")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("%q, %v", line, err)
	}
	ask := api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 48484, Method: http.MethodPost, Path: "/ok?apikey=x;y", Headers: map[string]string{"X-Say": "hi"}, Body: []byte("body"), Timeout: 30_000}
	if code, got, text := w.call(ask); code != http.StatusOK || got.Status != http.StatusAccepted || string(got.Body) != "POST apikey=x;y body" || got.Headers["X-Said"] != "hi" {
		t.Errorf("POST: %d %+v %s", code, got, text)
	}
	get := func(path string, timeout int64) (int, api.DeviceCalled, string) {
		return w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 48484, Method: http.MethodGet, Path: path, Timeout: timeout})
	}
	if code, got, _ := get("/redirect", 0); code != http.StatusOK || got.Status != http.StatusFound {
		t.Errorf("a redirect: %d %d, want it as it is", code, got.Status)
	}
	for path, want := range map[string]int{"/headers": http.StatusBadGateway, "/endless": http.StatusBadGateway, "/slow": http.StatusGatewayTimeout, "//other.test/": http.StatusBadRequest, "http://x/": http.StatusBadRequest} {
		began, limit := time.Now(), int64(30_000)
		if path == "/slow" {
			limit = 1500
		}
		if code, _, text := get(path, limit); code != want || len(text) > 1000 {
			t.Errorf("%s: %d %.100s, want %d", path, code, text, want)
		}
		t.Logf("%s took %s", path, time.Since(began))
	}
	if code, _, text := w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 81, Method: "GET", Path: "/"}); code != http.StatusBadGateway || !strings.Contains(text, "nothing listens") {
		t.Errorf("a port where nothing listens: %d %s", code, text)
	}
	if code, _, _ := w.call(api.DeviceCall{UUID: api.DeviceUUID(uuid(99)), Port: 80, Method: "GET", Path: "/"}); code != http.StatusNotFound {
		t.Errorf("a device that is not there: %d", code)
	}
	// Only the api role may ask.
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge))
	must(t, err)
	res, err := id.Client(api.RoleVPN, w.vpnAt).HTTP.Post("https://"+w.vpnAt+"/device/call", "application/json", strings.NewReader("{}"))
	must(t, err)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("another role asks: %d", res.StatusCode)
	}
}

// Root on one device tries everything; the other one sees no packet, and each way's counter has counted.
func testIsolation(t *testing.T, w *world, a, b *device, upA, upB api.ChannelUp) {
	ways := map[string]int{"neighbour": 20, "server": 20, "internet": 60, "multicast": 20, "fragments": 40}
	before := map[string]int{}
	for way := range ways {
		before[way] = w.counter("netdev", way)
	}
	connects, other := w.counter("inet", "connect"), w.counter("netdev", "other")
	sniffing, heard := b.inside("sniff")
	lines := bufio.NewReader(heard)
	if line, err := lines.ReadString('\n'); line != "listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	sh(t, "ip", "-n", a.name, "route", "add", "10.208.0.0/12", "dev", "tun9")
	_, out := a.inside("attack", upA.Address, a.tunnelEnd(), upB.Address)
	said, err := io.ReadAll(out)
	must(t, err)
	if string(said) != "sent\n" {
		t.Errorf("the attack: %s", said)
	}
	for way, want := range ways {
		roletest.Eventually(t, "the packets are not counted: "+way, func() bool { return w.counter("netdev", way) >= before[way]+want })
	}
	if now := w.counter("inet", "connect"); now < connects+6 {
		t.Errorf("connections to the server: %d were counted, want 6 and more", now-connects)
	}
	// What does get through comes after all that could have.
	if code, _, text := w.call(api.DeviceCall{UUID: api.DeviceUUID(b.uuid), Port: 48484, Method: "GET", Path: "/ok"}); code != http.StatusOK {
		t.Errorf("the device is not reached any more: %d %s", code, text)
	}
	_ = syscall.Kill(-sniffing.cmd.Process.Pid, syscall.SIGKILL)
	rest, _ := io.ReadAll(lines)
	if text := string(rest); strings.Contains(text, fmt.Sprintf("%x", "hostile!")) || text == "" {
		t.Errorf("the other device sees\n%s", text)
	}
	if now := w.counter("netdev", "other"); now != other { // openvpn lets nothing through that is not IP: that wall is behind another one
		t.Errorf("%d packets that are not IP came as far as the firewall", now-other)
	}
	for _, way := range []string{"forward"} {
		if n := w.counter("inet", way); n != 0 {
			t.Errorf("%d packets came as far as the last wall", n)
		}
	}
}

func testOutside(t *testing.T, w *world) {
	d := w.device(uuid(10))
	good := d.key
	foreign, err := pki.NewAuthority("somebody else")
	must(t, err)
	type attempt struct {
		name, uuid, key string
		cert            func()
		want            string
	}
	none := func() { d.cert = nil }
	for _, a := range []attempt{
		{"a wrong key", d.uuid, "wrong", none, "AUTH_FAILED"},
		{"another device's key", d.uuid, "key-of-" + uuid(1), none, "AUTH_FAILED"},
		{"a device that was deleted", uuid(98), good, none, "AUTH_FAILED"},
		{"quotes and slashes", `a"b'c\d/../e$(id)` + "`", `"';\"`, none, "AUTH_FAILED"},
		{"line breaks", "x\\n>CLIENT:ENV,END", "y\r>CLIENT:ENV,END", none, "AUTH_FAILED"},
		{"the certificate of one device with the key of another", d.uuid, good, func() { d.certify(w.people, uuid(1)) }, "AUTH_FAILED"},
		{"a certificate of somebody else", d.uuid, good, func() { d.certify(foreign, d.uuid) }, "TLS"},
	} {
		d.uuid, d.key = a.uuid, a.key
		a.cert()
		c := d.connect("--connect-retry-max", "1", "--connect-timeout", "10", "--hand-window", "8")
		if log := c.ended(); !strings.Contains(log, a.want) || strings.Contains(log, "Initialization Sequence Completed") {
			t.Errorf("%s: not %s:\n%s", a.name, a.want, log)
		}
		if _, ok := w.api.of(a.uuid); ok {
			t.Errorf("%s: there is a session", a.name)
		}
	}
	d.uuid, d.key, d.cert = strings.Repeat("u", 10<<10), strings.Repeat("p", 10<<10), nil
	c := d.connect("--connect-retry-max", "1", "--connect-timeout", "5", "--hand-window", "5")
	if log := c.ended(); strings.Contains(log, "Initialization Sequence Completed") {
		t.Errorf("10 KB of name and password:\n%s", log)
	}
	w.api.mu.Lock()
	for _, l := range w.api.logins {
		if !api.DeviceUUID(l.UUID).Valid() {
			t.Errorf("the api role was asked about %q", l.UUID)
		}
	}
	w.api.mu.Unlock()
}

func testCiphers(t *testing.T, w *world) {
	d := w.device(uuid(11))
	for name, settings := range map[string][]string{
		"a cipher without authentication": {"--data-ciphers", "AES-256-CBC", "--cipher", "AES-256-CBC"},
		"TLS 1.1":                         {"--tls-version-min", "1.0", "--tls-version-max", "1.1", "--tls-cert-profile", "insecure"},
	} {
		c := d.connect(append(settings, "--connect-retry-max", "1", "--connect-timeout", "5", "--hand-window", "5", "--ping-exit", "6")...)
		if log := c.ended(); strings.Contains(log, "Initialization Sequence Completed") {
			t.Errorf("%s gets in:\n%s", name, log)
		}
	}
	c := d.connect("--compress", "lz4", "--allow-compression", "asym")
	c.online()
	if log := c.log.String(); !strings.Contains(log, "compress stub-v2") && !strings.Contains(log, "comp-lzo no") {
		t.Errorf("compression was not switched off:\n%s", log)
	}
	_, out := d.inside("serve", "0.0.0.0:48484")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if code, got, text := w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 48484, Method: "GET", Path: "/ok"}); code != http.StatusOK || got.Status != http.StatusAccepted {
		t.Errorf("a client set up for compression: %d %s", code, text)
	}
	c.kill()
}

// The management interface is the process' own: no other user gets to it, not even the vpn role by itself.
func testManagement(t *testing.T, w *world) {
	socket := filepath.Join(w.dir, "openvpn", "management-0.sock")
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{w.uid + 1, 65534} {
		cmd := exec.Command("/usr/bin/test", "-S", socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		if cmd.Run() == nil {
			t.Errorf("user %d gets to it", uid)
		}
	}
	// Neither process has a privilege left, and openvpn cannot get out of its namespace.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.openvpnPID(0)))
	must(t, err)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t" + strconv.Itoa(w.uid)} {
		if !strings.Contains(string(status), want) {
			t.Errorf("openvpn: no %q in\n%s", want, status)
		}
	}
	links := sh(t, "nsenter", "-t", strconv.Itoa(w.openvpnPID(0)), "-n", "ip", "-br", "link")
	for line := range strings.Lines(links) {
		if name := strings.Fields(line)[0]; name != "lo" && !strings.HasPrefix(name, "tun") && !strings.HasPrefix(name, "probe") {
			t.Errorf("the namespace has a way out: %s", line)
		}
	}
}

// A device is in once, though there are two openvpn that do not know of each other.
func testNewest(t *testing.T, w *world) {
	d, twin := w.device(uuid(12)), w.device(uuid(12))
	first := d.connect("--connect-retry", "60", "60")
	old := first.online()
	second := twin.connect()
	roletest.Eventually(t, "the second session is not the device's", func() bool {
		up, ok := w.api.of(d.uuid)
		return ok && up.Session != old.Session && up.From == twin.address
	})
	roletest.Eventually(t, "the first session is still reported", func() bool {
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		_, there := w.api.up[old.Session]
		return !there
	})
	up, _ := w.api.of(d.uuid)
	t.Logf("the sessions were of %s and %s", w.api.instanceOf(old), w.api.instanceOf(up))
	_, _ = first, second
	first.kill()
	second.kill()
	roletest.Eventually(t, "the end is not reported", func() bool { _, ok := w.api.of(d.uuid); return !ok })
}

// A device has the same address in whichever instance it is, also while its last session is still there in another one, and is reached through the one
// that has it now.
func testMoves(t *testing.T, w *world) {
	d, elsewhere := w.device(uuid(30)), w.device(uuid(30))
	_, out := elsewhere.inside("serve", "0.0.0.0:48484")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, out = d.inside("serve", "0.0.0.0:48484")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("%q, %v", line, err)
	}
	reached := func(when string) {
		t.Helper()
		if code, _, text := w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 48484, Method: "GET", Path: "/ok", Timeout: 60_000}); code != http.StatusOK {
			t.Errorf("%s the device is not reached: %d %s", when, code, text)
		}
	}
	for n := range 8 { // connections go where there are the fewest
		client := d.connect("--connect-retry", "60", "60")
		first := client.online()
		reached("at first")
		sh(t, "ip", "-n", d.name, "link", "set", "eth0", "down") // the session stays for a while: nobody says that it is over
		other := elsewhere.connect("--connect-retry", "60", "60")
		var up api.ChannelUp
		roletest.Eventually(t, "it is in from elsewhere", func() bool {
			var ok bool
			up, ok = w.api.of(d.uuid)
			return ok && up.From == elsewhere.address && strings.Contains(other.log.String(), "Initialization Sequence Completed")
		})
		if up.Address != first.Address {
			t.Errorf("it has the address %s at %s, and had %s at %s", up.Address, w.api.instanceOf(up), first.Address, w.api.instanceOf(first))
		}
		reached("from elsewhere")
		moved := w.api.instanceOf(up) != w.api.instanceOf(first)
		if was, is := d.tunnelEnd(), elsewhere.tunnelEnd(); moved == (was == is) {
			t.Errorf("the other end is %s at %s, and was %s at %s", is, w.api.instanceOf(up), was, w.api.instanceOf(first))
		}
		client.kill()
		other.kill()
		roletest.Eventually(t, "the end is reported", func() bool { _, ok := w.api.of(d.uuid); return !ok })
		if moved {
			return
		}
		sh(t, "ip", "-n", d.name, "link", "set", "eth0", "up")
		w.device(uuid(40 + n)).connect().online() // who stays
	}
	t.Fatal("it came to the same instance always")
}

func testCut(t *testing.T, w *world) {
	d := w.device(uuid(13))
	c := d.connect()
	up := c.online()
	w.api.add(d.uuid, "") // it is deleted
	w.api.mu.Lock()
	w.api.cut = []string{up.Session}
	w.api.mu.Unlock()
	began := time.Now()
	roletest.Eventually(t, "the session is not cut", func() bool { _, ok := w.api.of(d.uuid); return !ok })
	if code, _, _ := w.call(api.DeviceCall{UUID: api.DeviceUUID(d.uuid), Port: 80, Method: "GET", Path: "/"}); code != http.StatusNotFound {
		t.Errorf("the device can still be asked: %d", code)
	}
	t.Logf("cut after %s", time.Since(began).Round(time.Millisecond))
	if log := c.ended(); !strings.Contains(log, "AUTH_FAILED") { // it came again and stayed outside
		t.Errorf("the device came in again:\n%s", log)
	}
}

// Connections that begin as OpenVPN and go no further, more than there may be: a device gets in all the same.
func testFlood(t *testing.T, w *world) {
	reset := []byte{0, 14, 0x38, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0}
	before := w.open()
	var flood []net.Conn
	defer func() {
		for _, c := range flood {
			_ = c.Close()
		}
		roletest.Eventually(t, "the flood has left files open", func() bool { return w.open() <= before+10 })
	}()
	for range 2200 {
		c, err := net.Dial("tcp", "127.0.0.1:"+w.addr)
		must(t, err)
		flood = append(flood, c)
		_, err = c.Write(reset)
		must(t, err)
	}
	d := w.device(uuid(14))
	c := d.connect()
	c.online()
	c.kill()
	if _, ok := w.api.of(uuid(2)); !ok {
		t.Error("a device that was there is gone")
	}
}

// Each process in turn dies of SIGKILL. Sessions that were there are there again, and the api role is told the truth.
func testDeaths(t *testing.T, w *world, a, b *client) {
	before, _ := w.api.of(a.d.uuid)
	w.api.mu.Lock()
	fulls := w.api.fulls
	w.api.mu.Unlock()

	// The vpn role: openvpn goes on, and the device does not notice.
	w.role[api.RoleVPN].kill()
	w.start(api.RoleVPN)
	roletest.Eventually(t, "no full report", func() bool {
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		return w.api.fulls > fulls
	})
	if up, ok := w.api.of(a.d.uuid); !ok || up.Session != before.Session || up.From != before.From || up.Address != before.Address || up.Since != before.Since {
		t.Errorf("after the vpn role's death the session is %+v, was %+v", up, before)
	}
	reached := func() bool {
		code, _, _ := w.call(api.DeviceCall{UUID: api.DeviceUUID(b.d.uuid), Port: 48484, Method: "GET", Path: "/ok"})
		return code == http.StatusOK
	}
	roletest.Eventually(t, "the device is not reached", reached)
	if n := strings.Count(a.log.String(), "Initialization Sequence Completed"); n != 1 {
		t.Errorf("the device has connected %d times", n)
	}

	// openvpn: devices come again.
	for i := range 2 {
		must(t, syscall.Kill(w.openvpnPID(i), syscall.SIGKILL))
	}
	for _, c := range []*client{a, b} {
		roletest.Eventually(t, c.d.name+" does not come again", func() bool {
			up, ok := w.api.of(c.d.uuid)
			return ok && up.Session != before.Session && strings.Count(c.log.String(), "Initialization Sequence Completed") == 2
		})
	}

	// The process around it, with openvpn.
	again, _ := w.api.of(a.d.uuid)
	w.role["openvpn"].kill()
	w.start("openvpn")
	for _, c := range []*client{a, b} {
		roletest.Eventually(t, c.d.name+" does not come again", func() bool {
			up, ok := w.api.of(c.d.uuid)
			return ok && up.Session != again.Session && strings.Count(c.log.String(), "Initialization Sequence Completed") == 3
		})
	}

	// The api role: whoever comes meanwhile waits.
	must(t, w.api.srv.Close())
	d := w.device(uuid(15))
	c := d.connect()
	roletest.Eventually(t, "the device does not knock", func() bool {
		return strings.Contains(c.log.String(), "PUSH_REQUEST") || strings.Contains(c.log.String(), "Peer Connection Initiated")
	})
	ln, err := net.Listen("tcp", w.api.addr)
	must(t, err)
	w.api.serve(ln)
	c.online()
	roletest.Eventually(t, "the device is not reached", reached)
}

// The process ends when one of its walls is open, and does not begin without them.
func TestWatcher(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, 150)
	ways := []string{"neighbour", "server", "internet", "spoofed", "multicast", "fragments", "ipv6"}
	var gone []string
	for _, way := range ways {
		gone = append(gone, "flush chain netdev arriving refuse_"+way)
	}
	for nft, words := range map[string][]string{
		strings.Join(append(gone, "flush chain inet namespace input"), "; "): append(ways, "connect", "no rule closes"),
		"flush ruleset": {"a packet passes that must not"},
		"insert rule netdev arriving arriving accept; insert rule inet namespace forward accept": {"a packet passes that must not"},
	} {
		p := w.start("openvpn")
		w.openvpnPID(1)
		sh(t, "nsenter", "-t", strconv.Itoa(p.cmd.Process.Pid), "-n", "nft", nft)
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("after %q the process goes on", nft)
		}
		for _, word := range append(words, "does not hold") {
			if log := p.log.String(); !strings.Contains(log, word) {
				t.Errorf("after %q it says nothing of %q\n%s", nft, word, log)
			}
		}
		if out, err := exec.Command("pgrep", "-u", strconv.Itoa(w.uid)).Output(); err == nil {
			t.Errorf("after %q something still runs: %s", nft, out)
		}
	}
}
