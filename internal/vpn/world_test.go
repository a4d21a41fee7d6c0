//go:build linux

package vpn_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/edge"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/sandbox"
	"github.com/roadstead-io/roadstead/internal/vpn"
	"github.com/roadstead-io/roadstead/internal/vpn/cage"
)

const (
	domain   = "vpn.test"
	pool     = "10.208.0.0/12"
	patience = 3 * time.Minute
)

// users of the roles: nobody else's on a test machine, and each world has its own.
var users atomic.Int32

// world is an edge, the two processes of the control channel, and an api role that the test plays.
type world struct {
	t      *testing.T
	dir    string
	addr   string // of the public port, reachable from the devices' namespaces
	api    *fakeAPI
	ca     string // file: who vouches for the server
	people *pki.Authority
	lines  [2]*os.File
	taker  *os.File
	ln     *os.File // the vpn role's
	hold   *os.File
	alive  *os.File
	vpnAt  string
	role   map[string]*process
	all    []*process
	uid    int // of the process around openvpn; the vpn role has the next one
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  *roletest.Log
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newWorld starts one; with alone, the process around openvpn only.
func newWorld(t *testing.T, instances, watch int) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	if err := cage.Available(cage.Config{}); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "rsv-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // the roles' users go through
	w := &world{t: t, dir: dir, role: map[string]*process{}, uid: 64700 + 2*int(users.Add(1))}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range w.all {
				t.Logf("%s:\n%s", p.cmd.Args[2], p.log)
			}
		}
		_ = os.RemoveAll(dir)
	})
	must(t, pki.NewTestIdentities(dir, api.RoleVPN, api.RoleAPI, api.RoleEdge, "openvpn"))
	outside, err := pki.NewAuthority("outside", domain)
	must(t, err)
	w.people, err = pki.NewAuthority("devices")
	must(t, err)
	w.ca = w.file("ca.pem", outside.PEM())
	for role, names := range map[string][]string{
		"openvpn": {"cloudlink." + domain}, api.RoleVPN: {"tunnel." + domain, "devices." + domain}, api.RoleEdge: {"*." + domain},
	} {
		leaf, err := outside.IssueServer(names...)
		must(t, err)
		w.file(role+"/tls.pem", leaf.Cert)
		w.file(role+"/tls.key", leaf.Key)
	}
	w.file("channel.pem", w.people.PEM())
	must(t, cage.Prepare(filepath.Join(dir, "openvpn"), filepath.Join(dir, "channel.pem")))
	w.config("openvpn", cage.Config{Dir: filepath.Join(dir, "openvpn"), Instances: instances, Network: pool, Watch: watch})

	apiLn := roletest.Listen(t)
	w.api = newFakeAPI(t, dir, apiLn)
	w.config(api.RoleVPN, vpn.Config{Dir: filepath.Join(dir, api.RoleVPN), Site: api.Site{Domain: domain}, Peers: map[string]string{api.RoleAPI: apiLn.Addr().String()}})
	for role, uid := range map[string]int{"openvpn": w.uid, api.RoleVPN: w.uid + 1} {
		sh(t, "chown", "-R", fmt.Sprintf("%d:%d", uid, uid), filepath.Join(dir, role))
	}
	w.lines[0], w.lines[1], err = handover.Pair()
	must(t, err)
	giver, taker, err := handover.Pair()
	must(t, err)
	w.taker = taker
	w.alive, w.hold, err = os.Pipe()
	must(t, err)
	ln := roletest.Listen(t)
	w.vpnAt = ln.Addr().String()
	w.ln, err = ln.(*net.TCPListener).File()
	must(t, err)
	must(t, ln.Close())

	e, err := edge.New(edge.Config{Dir: filepath.Join(dir, api.RoleEdge), Site: api.Site{Domain: domain}}, slog.New(slog.DiscardHandler))
	must(t, err)
	g, err := handover.NewGiver(giver)
	must(t, err)
	e.HandOver(vpn.LabelOpenVPN, g)
	public, err := net.Listen("tcp", "0.0.0.0:0") //nolint:gosec // devices come from other namespaces
	must(t, err)
	_, w.addr, _ = net.SplitHostPort(public.Addr().String())
	roletest.Run(t, func(ctx context.Context) error { return e.Run(ctx, public, roletest.Listen(t)) })
	return w
}

func (w *world) file(name string, data []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755)) //nolint:gosec // as above
	must(w.t, os.WriteFile(path, data, 0o600))
	return path
}

func (w *world) config(role string, cfg any) {
	w.t.Helper()
	data, err := json.Marshal(cfg)
	must(w.t, err)
	w.file(role+"/role.json", data)
}

// start starts a role as the parent does.
func (w *world) start(role string) *process {
	w.t.Helper()
	uid, files, more := w.uid, []*os.File{nil, w.alive, w.lines[0]}, "line"
	if role == api.RoleVPN {
		uid, files, more = w.uid+1, []*os.File{w.ln, w.alive, w.lines[1], w.taker}, "line,taker:"+vpn.LabelOpenVPN
	}
	if files[0] == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		must(w.t, err)
		defer func() { _ = null.Close() }()
		files[0] = null
	}
	program := fleettest.Program(w.t, "roadsteadd")
	cmd := exec.Command(program, "role", role, "--dir", filepath.Join(w.dir, role), "--more", more)
	cmd.ExtraFiles, cmd.Dir = files, "/"
	plan := sandbox.Plan{UID: uid, GID: uid, Show: []string{program}}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GORACE=halt_on_error=1", plan.Env()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	p := &process{cmd: cmd, done: make(chan struct{}), log: &roletest.Log{}}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	must(w.t, cmd.Start())
	go func() { defer close(p.done); _ = cmd.Wait() }()
	w.role[role], w.all = p, append(w.all, p)
	w.t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// openvpnPID is the openvpn process of an instance.
func (w *world) openvpnPID(instance int) int {
	w.t.Helper()
	var pid int
	roletest.Eventually(w.t, "there is no openvpn", func() bool {
		out, err := exec.Command("pgrep", "-P", strconv.Itoa(w.role["openvpn"].cmd.Process.Pid), "-f", "--", fmt.Sprintf("--config openvpn-%d.conf", instance)).Output()
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
		}
		return err == nil && pid > 1
	})
	return pid
}

// open counts the files that both processes have open.
func (w *world) open() (n int) {
	for _, p := range w.role {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		must(w.t, err)
		n += len(entries)
	}
	return n
}

// counter reads what the firewall has counted.
func (w *world) counter(table, name string) int {
	w.t.Helper()
	out := sh(w.t, "nsenter", "-t", strconv.Itoa(w.role["openvpn"].cmd.Process.Pid), "-n", "nft", "list", "counter", table, tableName(table), name)
	fields := strings.Fields(out[strings.Index(out, "packets"):])
	n, err := strconv.Atoi(fields[1])
	must(w.t, err)
	return n
}

func tableName(family string) string {
	if family == "netdev" {
		return "arriving"
	}
	return "namespace"
}

// fakeAPI is the api role as far as the vpn role calls it.
type fakeAPI struct {
	t    *testing.T
	dir  string
	addr string

	mu      sync.Mutex // covers what follows
	srv     *http.Server
	keys    map[string]string // of devices, by uuid
	numbers map[string]int
	logins  []api.ChannelLogin
	up      map[string]api.ChannelUp // by session
	at      map[string]string        // the instance that has it
	downs   []api.ChannelDown
	fulls   int
	cut     []string
}

func newFakeAPI(t *testing.T, dir string, ln net.Listener) *fakeAPI {
	f := &fakeAPI{t: t, dir: filepath.Join(dir, api.RoleAPI), addr: ln.Addr().String(), keys: map[string]string{}, numbers: map[string]int{}, up: map[string]api.ChannelUp{}, at: map[string]string{}}
	f.serve(ln)
	return f
}

func (f *fakeAPI) serve(ln net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/channel/login", f.login)
	mux.HandleFunc("POST /internal/channel/sessions", f.sessions)
	f.srv = roletest.Play(f.t, f.dir, ln, mux)
}

func (f *fakeAPI) login(w http.ResponseWriter, r *http.Request) {
	var l api.ChannelLogin
	_ = json.NewDecoder(r.Body).Decode(&l)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins = append(f.logins, l)
	if f.keys[l.UUID] == "" || f.keys[l.UUID] != l.Key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if f.numbers[l.UUID] == 0 {
		f.numbers[l.UUID] = len(f.numbers) + 2
	}
	_, network, _ := net.ParseCIDR(l.Network)
	ip := network.IP.To4()
	n := f.numbers[l.UUID]
	ip[2], ip[3] = ip[2]+byte(n>>8), ip[3]+byte(n)
	identity := api.IdentityKey
	if l.Certificate != "" {
		identity = api.IdentityCertificate
	}
	_ = json.NewEncoder(w).Encode(api.ChannelDevice{Device: 1, UUID: l.UUID, Key: 7, Address: ip.String(), Identity: identity})
}

func (f *fakeAPI) sessions(w http.ResponseWriter, r *http.Request) {
	var rep api.ChannelReport
	_ = json.NewDecoder(r.Body).Decode(&rep)
	f.mu.Lock()
	defer f.mu.Unlock()
	if rep.Full {
		f.fulls++
		for id, up := range f.up {
			if up.From != "" && f.at[id] == rep.Instance {
				delete(f.up, id)
			}
		}
	}
	for _, up := range rep.Up {
		f.up[up.Session], f.at[up.Session] = up, rep.Instance
	}
	for _, down := range rep.Down {
		delete(f.up, down.Session)
		f.downs = append(f.downs, down)
	}
	_ = json.NewEncoder(w).Encode(api.ChannelAnswer{Cut: f.cut})
	f.cut = nil
}

// instanceOf is the instance that has a session, or had it.
func (f *fakeAPI) instanceOf(up api.ChannelUp) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at[up.Session]
}

// tunnelEnd is the server's end of a device's tunnel, as the device was told.
func (d *device) tunnelEnd() string {
	d.w.t.Helper()
	out := sh(d.w.t, "ip", "-n", d.name, "-4", "-o", "addr", "show", "tun9")
	_, end, ok := strings.Cut(out, " peer ")
	if !ok {
		d.w.t.Fatalf("the tunnel has no other end: %s", out)
	}
	return strings.Split(strings.Fields(end)[0], "/")[0]
}

// of gives the session of a device.
func (f *fakeAPI) of(uuid string) (api.ChannelUp, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, up := range f.up {
		if up.UUID == uuid {
			return up, true
		}
	}
	return api.ChannelUp{}, false
}

func (f *fakeAPI) add(uuid, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key == "" {
		delete(f.keys, uuid)
		return
	}
	f.keys[uuid] = key
}

// device is a network namespace with a cable to this machine.
type device struct {
	w       *world
	name    string // of the namespace
	address string
	gateway string
	uuid    string
	key     string
	cert    []byte // PEM of certificate and key
}

var devices struct {
	sync.Mutex
	n int
}

func (w *world) device(uuid string) *device {
	w.t.Helper()
	devices.Lock()
	devices.n++
	n := devices.n
	devices.Unlock()
	d := &device{w: w, name: fmt.Sprintf("rsv%d-%d", os.Getpid()%10000, n), uuid: uuid, key: "key-of-" + uuid}
	net4 := fmt.Sprintf("10.%d.%d.", 64+os.Getpid()%64, n)
	d.address, d.gateway = net4+"2", net4+"1"
	cable := fmt.Sprintf("rv%d-%d", os.Getpid()%10000, n)
	_ = exec.Command("ip", "link", "del", cable).Run()
	sh(w.t, "ip", "netns", "add", d.name)
	w.t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", d.name).Run()
		_ = exec.Command("ip", "link", "del", cable).Run()
	})
	sh(w.t, "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", d.name)
	sh(w.t, "ip", "addr", "add", d.gateway+"/30", "dev", cable)
	sh(w.t, "ip", "link", "set", cable, "up")
	sh(w.t, "ip", "-n", d.name, "addr", "add", d.address+"/30", "dev", "eth0")
	sh(w.t, "ip", "-n", d.name, "link", "set", "eth0", "up")
	sh(w.t, "ip", "-n", d.name, "link", "set", "lo", "up")
	w.api.add(uuid, d.key)
	return d
}

// client is a real openvpn that a device runs.
type client struct {
	*process
	d *device
}

// connect starts openvpn in the namespace, as a balenaOS device does or as our agent does.
func (d *device) connect(extra ...string) *client {
	t := d.w.t
	t.Helper()
	dir, err := os.MkdirTemp(d.w.dir, "client-")
	must(t, err)
	auth := filepath.Join(dir, "auth")
	must(t, os.WriteFile(auth, []byte(d.uuid+"\n"+d.key+"\n"), 0o600))
	args := []string{
		"netns", "exec", d.name, "openvpn", "--client", "--dev", "tun9", "--dev-type", "tun", "--proto", "tcp", "--remote", d.gateway, d.w.addr,
		"--nobind", "--remote-cert-tls", "server", "--ca", d.w.ca, "--verify-x509-name", "cloudlink." + domain, "name",
		"--auth-user-pass", auth, "--auth-retry", "none", "--connect-retry", "1", "2", "--verb", "3", "--tls-version-min", "1.2", "--reneg-sec", "0",
	}
	if d.cert != nil {
		file := filepath.Join(dir, "cert.pem")
		must(t, os.WriteFile(file, d.cert, 0o600))
		args = append(args, "--cert", file, "--key", file)
	}
	cmd := exec.Command("ip", append(args, extra...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c := &client{process: &process{cmd: cmd, done: make(chan struct{}), log: &roletest.Log{}}, d: d}
	cmd.Stdout, cmd.Stderr = c.log, c.log
	must(t, cmd.Start())
	go func() { defer close(c.done); _ = cmd.Wait() }()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			log := c.log.String()
			t.Logf("client of %s:\n%s", d.name, log[max(0, len(log)-3000):])
		}
	})
	return c
}

// online waits until the api role knows of the device's session and the device has its address.
func (c *client) online() api.ChannelUp {
	t := c.d.w.t
	t.Helper()
	var up api.ChannelUp
	roletest.Eventually(t, c.d.name+" is not online", func() bool {
		var ok bool
		up, ok = c.d.w.api.of(c.d.uuid)
		return ok && strings.Contains(c.log.String(), "Initialization Sequence Completed")
	})
	return up
}

// ended waits for the end of openvpn, and reports whether it ended for a refused login.
func (c *client) ended() string {
	t := c.d.w.t
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("%s goes on", c.d.name)
	}
	return c.log.String()
}

// certify gives the device a certificate of one name.
func (d *device) certify(by *pki.Authority, name string) {
	leaf, err := by.IssueClient(name)
	must(d.w.t, err)
	d.cert = bytes.Join([][]byte{leaf.Cert, leaf.Key}, nil)
	if b, _ := pem.Decode(d.cert); b == nil {
		d.w.t.Fatal("no certificate")
	}
}

// call asks the vpn role, as the api role, to ask a device.
func (w *world) call(c api.DeviceCall) (int, api.DeviceCalled, string) {
	w.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI))
	must(w.t, err)
	peer := id.Client(api.RoleVPN, w.vpnAt)
	defer peer.HTTP.CloseIdleConnections()
	body, err := json.Marshal(c)
	must(w.t, err)
	res, err := peer.HTTP.Post(peer.URL+"/device/call", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, api.DeviceCalled{}, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(w.t, err)
	var called api.DeviceCalled
	_ = json.Unmarshal(text, &called)
	return res.StatusCode, called, string(text)
}

// inside runs this test program as a process of the device.
func (d *device) inside(what string, args ...string) (*process, io.ReadCloser) {
	t := d.w.t
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command("ip", append([]string{"netns", "exec", d.name, exe}, args...)...)
	cmd.Env = append(os.Environ(), "VPN_TEST_CHILD="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, done: make(chan struct{}), log: &roletest.Log{}}
	cmd.Stderr = p.log
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	return p, out
}
