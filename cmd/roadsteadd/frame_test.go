package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

const domain = "frame.roadstead.test"

// program builds roadsteadd once, the way it is shipped.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "roadsteadd-test-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "roadsteadd")
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

func binary(t *testing.T) string {
	t.Helper()
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// run runs the program to its end.
func run(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.Env = append(os.Environ(), env...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// server is a running `roadsteadd up`.
type server struct {
	t     *testing.T
	dir   string
	addr  string // of the public port
	cmd   *exec.Cmd
	log   *roletest.Log
	out   chan string // lines of standard output
	ended chan error
}

// openDir is a data directory's path that every user can pass through, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rsd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

// up starts a server and waits until it is ready.
func up(t *testing.T, dir, listen string, args ...string) *server {
	t.Helper()
	return upAs(t, nil, dir, listen, args...)
}

func upAs(t *testing.T, user *syscall.Credential, dir, listen string, args ...string) *server {
	t.Helper()
	s := begin(t, user, dir, listen, args...)
	select {
	case line := <-s.out:
		port, ok := strings.CutPrefix(line, "ready https://dashboard."+domain+":")
		if !ok {
			t.Fatalf("standard output: %q", line)
		}
		s.addr = "127.0.0.1:" + port
	case err := <-s.ended:
		t.Fatalf("the server ended: %v: %s", err, s.log)
	case <-time.After(30 * time.Second):
		t.Fatalf("not ready: %s", s.log)
	}
	return s
}

func begin(t *testing.T, user *syscall.Credential, dir, listen string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: dir, log: &roletest.Log{}, out: make(chan string, 10), ended: make(chan error, 1)}
	s.cmd = exec.Command(binary(t), append([]string{"up", "--data", dir, "--domain", domain, "--listen", listen}, args...)...)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		sc := bufio.NewScanner(stdout)
		for sc.Scan() {
			s.out <- sc.Text()
		}
		s.ended <- s.cmd.Wait()
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
		}
	})
	return s
}

// stop ends the server as an operator does, and gives the time that took.
func (s *server) stop() time.Duration {
	s.t.Helper()
	began := time.Now()
	select {
	case err := <-s.ended: // killed by the test
		s.ended <- err
		return 0
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		s.ended <- err
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		s.t.Error("the server did not stop within 20 s")
	}
	return time.Since(began)
}

func (s *server) status() supervise.Status {
	s.t.Helper()
	out, errText, _ := run(s.t, nil, "status", "--data", s.dir, "-o", "json")
	var st supervise.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		s.t.Fatalf("status: %v: %s %s", err, out, errText)
	}
	return st
}

func (s *server) role(name string) supervise.RoleStatus {
	s.t.Helper()
	for _, r := range s.status().Roles {
		if r.Role == name {
			return r
		}
	}
	s.t.Fatalf("status: there is no role %s", name)
	return supervise.RoleStatus{}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, limit time.Duration, f func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}

func (s *server) client() *http.Client {
	s.t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.addr)
		},
	}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func (s *server) admin() api.Admin {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "admin.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var a api.Admin
	if err := json.Unmarshal(data, &a); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// whoami asks through the edge; it proves that the door, the api role and the database are there.
func (s *server) whoami(token string) int {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://api."+domain+"/actor/v1/whoami", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := s.client().Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func (s *server) login(user, password string) int {
	s.t.Helper()
	body, err := json.Marshal(api.Login{Username: user, Password: password})
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := s.client().Post("https://api."+domain+"/login_", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// alive reports whether a process is there and has not ended.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndex(string(data), ") ")
	return i > 0 && data[i+2] != 'Z'
}
