package fleettest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// Times that a start and a stop may take before the test fails. Test machines are slow and shared.
const (
	startTime = 60 * time.Second
	stopTime  = 15 * time.Second
)

// Options changes how a server is started; the zero value is what most tests want.
type Options struct {
	PollInterval  time.Duration // of devices; 0: two seconds
	Listen        string        // address of the public port, without the port; "": 127.0.0.1
	Args          []string      // more flags of `roadsteadd up`
	SQL           string        // address of a PostgreSQL database; "": that of ROADSTEAD_TEST_SQL, else SQLite
	NotStarted    bool          // the test calls Start itself
	Builds        bool          // skip the test unless buildkitd and the base image are there, and give them to the server
	VPN           bool          // run the control channel; it needs root, openvpn and nft
	LogEverything bool          // copy the server's log to the test's, also when the test passes
}

// Admin is the first user, as DIR/admin.json names it.
type Admin struct {
	Email    string `json:"email"`
	Username string `json:"username"`
	Password string `json:"password"`
	APIKey   string `json:"api_key"`
	URL      string `json:"url"`
}

// Server is a running roadsteadd.
type Server struct {
	Domain string
	URL    string // of the API
	Dir    string // the data directory
	CA     string // file with the public root certificate
	Addr   string // 127.0.0.1:PORT
	Git    string // the same, of git over SSH
	Admin  Admin

	t     testing.TB
	based bool // the base image is imported
	opt   Options
	log   *os.File
	mu    sync.Mutex // guards proc
	proc  *process
}

// process is one start of the server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // valid after done
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server { return NewServerWith(t, Options{}) }

// NewServerWith is NewServer with options.
func NewServerWith(t testing.TB, opt Options) *Server {
	t.Helper()
	if opt.PollInterval == 0 {
		opt.PollInterval = 2 * time.Second
	}
	if opt.Listen == "" {
		opt.Listen = "127.0.0.1"
	}
	if opt.Builds && !CanBuild() {
		t.Skip("buildkitd or the base image is missing: `make bin/buildkitd .cache/base/busybox.tar` makes them")
	}
	// Not t.TempDir: its long names do not leave room for the paths of sockets, and the roles' users must be able to enter.
	dir, err := os.MkdirTemp("", "rsd-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t, opt.Listen)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Domain: "t" + random(4) + ".roadstead.test", Dir: filepath.Join(dir, "data"), Addr: addr, Git: freePort(t, opt.Listen), t: t, opt: opt}
	s.URL = "https://api." + s.Domain + ":" + port
	s.CA = filepath.Join(s.Dir, "ca.pem")
	if s.log, err = os.Create(filepath.Join(dir, "server.log")); err != nil {
		t.Fatal(err)
	}
	if s.opt.SQL == "" {
		s.opt.SQL = dbtest.Config(t).DSN
	}
	forget := addHosts(t, opt.Listen, s.Domain)
	t.Cleanup(func() {
		s.Stop()
		forget()
		s.report()
		_ = s.log.Close() // written by others; nothing is buffered here
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the server's directory: %v", err)
		}
	})
	if !opt.NotStarted {
		s.Start()
	}
	return s
}

// Start starts the server and waits until it says that it is ready. Started again it continues on the same directory.
func (s *Server) Start() {
	s.t.Helper()
	args := append([]string{"up", "--data", s.Dir, "--domain", s.Domain, "--listen", s.Addr, "--git-listen", s.Git,
		"--poll-interval", s.opt.PollInterval.String(), "--vpn", onOff(s.opt.VPN), "--ssh-listen", "127.0.0.1:0"}, s.opt.Args...)
	if file := Buildkitd(); file != "" {
		args = append(args, "--buildkitd", file)
	}
	// It outlives the test's context, which ends before the clean-up that stops it.
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), Program(s.t, "roadsteadd"), args...)
	cmd.Stderr = s.log
	cmd.Env = append(os.Environ(), "ROADSTEAD_TOKEN=", "ROADSTEAD_URL=", "ROADSTEAD_SQL="+s.opt.SQL)
	// A test that is killed takes its server along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	ready := make(chan string, 1)
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready ") {
				select {
				case ready <- lines.Text():
				default:
				}
			}
		}
		p.err = cmd.Wait()
	}()
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	select {
	case <-ready:
	case <-p.done:
		s.t.Fatalf("roadsteadd ended before it was ready: %v", p.err)
	case <-time.After(startTime):
		s.t.Fatalf("roadsteadd was not ready after %s", startTime)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, "admin.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &s.Admin); err != nil {
		s.t.Fatalf("admin.json: %v", err)
	}
	if s.opt.Builds && !s.based {
		s.RunAdmin("base", "import", "base/busybox", made("ROADSTEAD_BASE_BUSYBOX", ".cache/base/busybox.tar"))
		s.based = true
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// RunAdmin runs `roadsteadd admin` on the server's directory and gives back what it prints.
func (s *Server) RunAdmin(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), Program(s.t, "roadsteadd"), append(append([]string{"admin"}, args...), "--data", s.Dir)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("roadsteadd admin %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Stop ends the server as an operator would, and waits for it.
func (s *Server) Stop() {
	s.t.Helper()
	if p := s.running(); p != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-p.done:
		case <-time.After(stopTime):
			s.t.Errorf("roadsteadd did not stop within %s of SIGTERM", stopTime)
			s.Kill()
		}
	}
}

// Restart stops the server and starts it with more flags.
func (s *Server) Restart(args ...string) {
	s.t.Helper()
	s.Stop()
	s.opt.Args = append(s.opt.Args, args...)
	s.Start()
}

// Kill ends the server as a power failure would: at once. Its children notice and end by themselves.
func (s *Server) Kill() {
	s.t.Helper()
	if p := s.running(); p != nil {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		<-p.done
	}
}

// PID is the process id of the parent; 0 when it does not run.
func (s *Server) PID() int {
	if p := s.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	select {
	case <-s.proc.done:
		return nil
	default:
		return s.proc
	}
}

// Env is what both command lines need to find the server, without who to be.
func (s *Server) Env() map[string]string {
	return map[string]string{
		"ROADSTEAD_URL": s.URL, "SSL_CERT_FILE": s.CA,
		"BALENARC_BALENA_URL": strings.TrimPrefix(s.URL, "https://api."), "NODE_EXTRA_CA_CERTS": s.CA,
	}
}

// Client is the first user's client.
func (s *Server) Client() *client.Client { return s.ClientAs(s.Admin.APIKey) }

// ClientAs is a client with another token.
func (s *Server) ClientAs(token string) *client.Client {
	s.t.Helper()
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		s.t.Fatalf("%s holds no certificate", s.CA)
	}
	at, err := url.Parse(s.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	// Within five seconds of its last look a process does not look into /etc/hosts again, and the server's names may be newer.
	Eventually(s.t, 20*time.Second, func() error {
		_, err := net.DefaultResolver.LookupHost(s.t.Context(), at.Hostname())
		return err
	})
	c, err := client.New(client.Config{URL: s.URL, Token: token, CA: pool, UserAgent: "fleettest"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// Log is what the server has logged so far.
func (s *Server) Log() string {
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Error(err)
	}
	return string(data)
}

// report shows the end of the log of a test that failed.
func (s *Server) report() {
	if !s.t.Failed() && !s.opt.LogEverything {
		return
	}
	log := []byte(s.Log())
	const most = 6 << 10
	if len(log) > most && !s.opt.LogEverything {
		log = log[len(log)-most:]
		log = append([]byte("…"), log[bytes.IndexByte(log, '\n')+1:]...)
	}
	s.t.Logf("the server's log:\n%s", log)
}

// freePort finds a port that is free now. Somebody may take it before the server does; then the test fails and says so.
func freePort(t testing.TB, host string) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// Eventually polls a condition until it holds; the error says what is missing. It fails the test after the deadline.
func Eventually(t testing.TB, deadline time.Duration, condition func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(fmt.Errorf("not after %s: %w", deadline, err))
		}
		<-time.After(50 * time.Millisecond)
	}
}
