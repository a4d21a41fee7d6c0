package bench_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// reached is a virtual device with the real agent on the control channel of a whole server.
type reached struct {
	*device
	c    *client.Client
	uuid api.DeviceUUID
}

func newReached(b *testing.B) *reached {
	b.Helper()
	d := &reached{device: newBerth(b, fleettest.Options{VPN: true})}
	d.c = d.srv.Client()
	d.boot()
	d.wait("the device is on the channel", func() bool {
		var config struct {
			UUID string `json:"uuid"`
		}
		data, err := os.ReadFile(filepath.Join(d.dir, "boot", "config.json"))
		if err != nil || json.Unmarshal(data, &config) != nil || config.UUID == "" {
			return false
		}
		d.uuid = api.DeviceUUID(config.UUID)
		return d.status().Connected
	})
	return d
}

// status is what the API says of the device's channel; nothing while the device is not known.
func (d *reached) status() (s api.ChannelStatus) {
	_ = d.c.Do(d.b.Context(), "GET", "/channel/v1/device/"+string(d.uuid), nil, &s)
	return s
}

func (d *reached) must(err error) {
	d.b.Helper()
	if err != nil {
		d.b.Fatal(err)
	}
}

// wait asks again and again, with little pause: its own time is in the figures.
func (d *reached) wait(what string, is func() bool) {
	d.b.Helper()
	late := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-late:
			d.b.Fatalf("not in two minutes: %s\n%s", what, d.agentLog(4000))
		case <-tick.C:
		}
	}
}

// agentLog is the end of what the agent has logged.
func (d *reached) agentLog(most int) string {
	log, _ := os.ReadFile(filepath.Join(d.dir, "log", "agent.log"))
	return string(log[max(0, len(log)-most):])
}

// inNetwork runs a function in a network namespace. What it opens stays there. The thread goes back: with its end the kernel would end the
// processes that it has started.
func inNetwork(b *testing.B, namespace string, f func() error) {
	b.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open(namespace)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = there.Close() }()
	if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			b.Fatal(back) // the thread stays with this goroutine and ends with it
		}
	}
	runtime.UnlockOSThread()
	if err != nil {
		b.Fatalf("in %s: %v", namespace, err)
	}
}

// sink swallows what it is sent on a port of a namespace, and counts it.
func sink(b *testing.B, namespace string) (port int, got *atomic.Int64) {
	b.Helper()
	var ln net.Listener
	inNetwork(b, namespace, func() (err error) {
		ln, err = net.Listen("tcp4", "0.0.0.0:0") //nolint:gosec // the namespace is ours
		return err
	})
	b.Cleanup(func() { _ = ln.Close() })
	got = &atomic.Int64{}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for buf := make([]byte, 64<<10); ; {
					n, err := conn.Read(buf)
					got.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port, got
}

// sink is one on the device. Its agent lets nothing through the tunnel but what belongs to services, so it is let in by hand.
func (d *reached) sink() (port int, got *atomic.Int64) {
	d.b.Helper()
	port, got = sink(d.b, "/run/netns/rsd-"+d.name)
	run(d.b, "ip", "netns", "exec", "rsd-"+d.name, "nft", "insert", "rule", "inet", "roadstead_channel", "arriving", "tcp", "dport", strconv.Itoa(port), "accept")
	return port, got
}

// stream writes for a while, and gives how many MB arrived a second once it was going.
func stream(b *testing.B, conn net.Conn, got *atomic.Int64) float64 {
	b.Helper()
	const warm, window = 500 * time.Millisecond, 3 * time.Second
	done := make(chan struct{})
	go func() {
		defer close(done)
		for data := make([]byte, 64<<10); ; {
			if _, err := conn.Write(data); err != nil {
				return
			}
		}
	}()
	<-time.After(warm)
	from, began := got.Load(), time.Now()
	<-time.After(window)
	rate := float64(got.Load()-from) / time.Since(began).Seconds() / 1e6
	_ = conn.Close()
	<-done
	return rate
}

// plainVPN is openvpn as it comes, between two namespaces on a cable: the same version, transport and ciphers as the channel's, and nothing of ours.
func plainVPN(b *testing.B) (server, device, address string) {
	b.Helper()
	dir, tag := b.TempDir(), strconv.Itoa(os.Getpid()%10000)
	ends := [2]string{"rso-a" + tag, "rso-b" + tag}
	for _, line := range []string{
		"netns add " + ends[0], "netns add " + ends[1], "link add eth0 netns " + ends[0] + " type veth peer name eth0 netns " + ends[1],
		"-n " + ends[0] + " addr add 10.66.0.1/30 dev eth0", "-n " + ends[1] + " addr add 10.66.0.2/30 dev eth0",
		"-n " + ends[0] + " link set eth0 up", "-n " + ends[1] + " link set eth0 up", "-n " + ends[0] + " link set lo up", "-n " + ends[1] + " link set lo up",
	} {
		run(b, "ip", strings.Fields(line)...)
	}
	b.Cleanup(func() {
		for _, end := range ends {
			_ = exec.Command("ip", "netns", "del", end).Run()
		}
	})
	ca, err := pki.NewAuthority("bench", "roadstead.test")
	leaf, err1 := ca.IssueServer("cloudlink.roadstead.test")
	people, err2 := pki.NewAuthority("devices")
	if err != nil || err1 != nil || err2 != nil {
		b.Fatal(err, err1, err2)
	}
	own, err := people.IssueClient("0123456789abcdef0123456789abcdef")
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string][]byte{"ca": ca.PEM(), "people": people.PEM(), "cert": leaf.Cert, "key": leaf.Key, "own": slices.Concat(own.Cert, own.Key)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	both := []string{"--dev", "tun0", "--dev-type", "tun", "--cd", dir, "--data-ciphers", "AES-256-GCM", "--socket-flags", "TCP_NODELAY", "--disable-dco", "--verb", "3"}
	for end, args := range [2][]string{
		{"--mode", "server", "--tls-server", "--proto", "tcp4-server", "--local", "10.66.0.1", "--port", "1194", "--topology", "p2p", "--ifconfig", "10.67.0.1", "10.67.0.2",
			"--ifconfig-pool", "10.67.0.2", "10.67.0.3", "--push", "topology p2p", "--ca", "people", "--cert", "cert", "--key", "key", "--dh", "none"},
		{"--client", "--proto", "tcp4-client", "--remote", "10.66.0.1", "1194", "--nobind", "--connect-retry", "1", "1", "--ca", "ca", "--cert", "own", "--key", "own", "--remote-cert-tls", "server"},
	} {
		cmd := exec.Command("ip", slices.Concat([]string{"netns", "exec", ends[end], "openvpn"}, both, args)...)
		log, err := os.Create(filepath.Join(dir, "log"+strconv.Itoa(end)))
		if err != nil {
			b.Fatal(err)
		}
		cmd.Stdout = log
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = log.Close() })
	}
	for began := time.Now(); ; {
		text, _ := os.ReadFile(filepath.Join(dir, "log1"))
		if bytes.Contains(text, []byte("Initialization Sequence Completed")) {
			break
		}
		if time.Since(began) > time.Minute {
			other, _ := os.ReadFile(filepath.Join(dir, "log0"))
			b.Fatalf("openvpn by itself: %s\n%s", other, text)
		}
		<-time.After(50 * time.Millisecond)
	}
	return "/run/netns/" + ends[0], "/run/netns/" + ends[1], "10.67.0.2"
}

// BenchmarkTunnelBesideOpenVPN is how much one connection carries to a device: through a tunnel of `device tunnel` and its whole way (TLS, the edge, the
// vpn role, the namespace, openvpn), and through openvpn by itself. The two take turns; medians of five stretches.
func BenchmarkTunnelBesideOpenVPN(b *testing.B) {
	d := newReached(b)
	port, got := d.sink()
	server, plain, address := plainVPN(b)
	plainPort, plainGot := sink(b, plain)
	var ours, theirs, shares []float64
	for range 5 {
		conn, err := d.c.Tunnel(b.Context(), d.uuid, port)
		d.must(err)
		ours = append(ours, stream(b, conn, got))
		inNetwork(b, server, func() (err error) {
			conn, err = net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(plainPort)))
			return err
		})
		theirs = append(theirs, stream(b, conn, plainGot))
		shares = append(shares, 100*ours[len(ours)-1]/theirs[len(theirs)-1])
	}
	fmt.Printf("\n%s\n| MB/s | through a tunnel | openvpn by itself | share %% |\n|---|---|---|---|\n", machine())
	for i := range ours {
		fmt.Printf("| | %.1f | %.1f | %.0f |\n", ours[i], theirs[i], shares[i])
	}
	slices.Sort(shares)
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(ours[2], "MB/s-tunnel")
	b.ReportMetric(theirs[2], "MB/s-openvpn")
	b.ReportMetric(shares[2], "%-of-openvpn")
	b.ReportMetric(0, "ns/op")
}

// typist is a program that gives back each byte that it is given.
type typist struct {
	in  io.WriteCloser
	out io.Reader
	cmd *exec.Cmd
}

func newTypist(b *testing.B, cmd *exec.Cmd) *typist {
	b.Helper()
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	var words bytes.Buffer
	cmd.Stderr = &words
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	t := &typist{in, out, cmd}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := t.key(); err != nil {
		b.Fatalf("%s: %v: %s", cmd, err, words.String())
	}
	return t
}

func (t *typist) key() error {
	if _, err := t.in.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(t.out, make([]byte, 1))
	return err
}

// BenchmarkSSHKeystroke is how long a key takes to a device and back, in a session of `device ssh` and in one of the same ssh, with the same key and
// certificate, straight from openvpn's namespace over the same openvpn: 500 keys of each, in turns. Budget: 5 ms more.
func BenchmarkSSHKeystroke(b *testing.B) {
	d := newReached(b)
	ours := d.roadsteadCommand("device", "ssh", string(d.uuid), "--", "cat")
	through := newTypist(b, ours)
	args := d.sshOf(ours.Process.Pid)
	at := d.status().Address
	var with []string
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; {
		case i+1 < len(args) && arg == "-o" && strings.HasPrefix(args[i+1], "ProxyCommand"):
			with = append(with, "-o", "ProxyCommand=none", "-o", "HostName="+at, "-o", "Port=22222")
			i++
		default:
			with = append(with, arg)
		}
	}
	straight := newTypist(b, exec.Command("nsenter", slices.Concat([]string{"-n", "-t", strconv.Itoa(d.openvpn()), "ssh"}, with)...))
	var took [2][]time.Duration
	for range 500 {
		for i, t := range []*typist{through, straight} {
			began := time.Now()
			d.must(t.key())
			took[i] = append(took[i], time.Since(began))
		}
	}
	fmt.Printf("\n%s\n| a key, ms | p50 | p99 |\n|---|---|---|\n", machine())
	var p [2][2]float64
	for i, name := range []string{"device ssh", "ssh over the same openvpn"} {
		p[i] = [2]float64{percentile(took[i], 50), percentile(took[i], 99)}
		fmt.Printf("| %s | %.2f | %.2f |\n", name, p[i][0], p[i][1])
	}
	b.ReportMetric(p[0][0]-p[1][0], "ms-more-p50")
	b.ReportMetric(p[0][1]-p[1][1], "ms-more-p99")
	b.ReportMetric(0, "ns/op")
}

// percentile sorts, and gives milliseconds; of few tries the 99th per cent is the slowest.
func percentile(took []time.Duration, p int) float64 {
	slices.Sort(took)
	return float64(took[max(0, (len(took)*p+99)/100-1)].Microseconds()) / 1000
}

// sshOf finds the ssh that a process of our command line runs, and how it was called.
func (d *reached) sshOf(parent int) (args []string) {
	d.b.Helper()
	out := run(d.b, "pgrep", "-P", strconv.Itoa(parent), "-x", "ssh")
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	d.must(err)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	d.must(err)
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// openvpn is the process of the server's that is in the namespace of the channel.
func (d *reached) openvpn() int {
	d.b.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(run(d.b, "pgrep", "-f", "role openvpn --dir "+d.srv.Dir)))
	d.must(err)
	return pid
}

// BenchmarkOnline is how long a device needs to be online in the API: from when its agent has heard that the channel was switched on, and from when its
// agent starts. Budget: 2 s, p99. A device without a channel hears of it with its next poll, which is not in the figure.
func BenchmarkOnline(b *testing.B) {
	tries, err := strconv.Atoi(revokeTries)
	if err != nil {
		b.Fatal(err)
	}
	d := newReached(b)
	flip := func(mode string) {
		d.must(d.c.Do(b.Context(), "PUT", "/channel/v1/device/"+string(d.uuid), api.ChannelSwitch{Mode: mode}, nil))
	}
	fmt.Printf("\n%s\n| online after | p50 ms | p99 ms | slowest ms |\n|---|---|---|---|\n", machine())
	for _, way := range []struct {
		name string
		off  func() // takes the device off, and waits until it is
		on   func() // puts it on again, and waits until its agent knows
	}{
		{"the agent has heard of `vpn on`", func() {
			flip("off")
			d.wait("the channel is off", func() bool { return !d.status().Connected && d.lastState() == "off" })
		}, func() {
			flip("on")
			d.wait("the agent has heard it", func() bool { return d.lastState() != "off" })
		}},
		{"the agent's start", func() {
			run(b, filepath.Join(fleettest.Root(), "scripts", "device.sh"), "exec", d.name, "sh", "-c", "kill -9 $(cat /run/agent.pid)")
			d.wait("the device is gone", func() bool { return !d.status().Connected })
		}, func() {
			size := len(d.agentLog(1 << 30))
			d.wait("the agent starts", func() bool { return len(d.agentLog(1<<30)) > size })
		}},
	} {
		var took []time.Duration
		for range tries {
			way.off()
			way.on()
			began := time.Now()
			d.wait("it is online", func() bool { return d.status().Connected })
			took = append(took, time.Since(began))
		}
		fmt.Printf("| %s | %.0f | %.0f | %.0f |\n", way.name, percentile(took, 50), percentile(took, 99), percentile(took, 100))
	}
	b.ReportMetric(0, "ns/op")
}

// lastState is the last state of the channel that the agent has logged.
func (d *reached) lastState() string {
	log := d.agentLog(64 << 10)
	at := strings.LastIndex(log, `msg="control channel" state=`)
	if at < 0 {
		return ""
	}
	return strings.Trim(strings.Fields(log[at+len(`msg="control channel" state=`):])[0], `"`)
}
