package worker_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/tonistiigi/fsutil"
)

// busybox unpacks the base image once for every test that runs steps.
var busybox = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "busybox")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	out, err := exec.Command("tar", "-xf", os.Getenv("ROADSTEAD_BASE_BUSYBOX"), "-C", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := busybox(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// step runs a shell script as a build step and gives what it printed.
func step(t *testing.T, c *client.Client, script string, opts ...llb.RunOption) (string, error) {
	t.Helper()
	return stepCtx(t.Context(), t, c, script, opts...)
}

func stepCtx(ctx context.Context, t *testing.T, c *client.Client, script string, opts ...llb.RunOption) (string, error) {
	t.Helper()
	state := root().Run(append([]llb.RunOption{llb.Args([]string{"/bin/sh", "-c", script}), llb.IgnoreCache}, opts...)...).Root()
	return solve(ctx, t, c, state)
}

func root() llb.State { return llb.Local("root", llb.SharedKeyHint("busybox")) }

// solve has a daemon make a state and gives what its steps printed.
func solve(ctx context.Context, t *testing.T, c *client.Client, state llb.State, opts ...func(*client.SolveOpt)) (string, error) {
	t.Helper()
	if os.Getenv("ROADSTEAD_BASE_BUSYBOX") == "" {
		t.Skip("ROADSTEAD_BASE_BUSYBOX does not name a base image; `make test` makes one and sets it")
	}
	dir, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	def, err := state.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	opt := client.SolveOpt{LocalMounts: map[string]fsutil.FS{"root": fs}}
	for _, o := range opts {
		o(&opt)
	}
	reports := make(chan *client.SolveStatus)
	var printed strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for r := range reports {
			for _, l := range r.Logs {
				printed.Write(l.Data)
			}
		}
	}()
	_, err = c.Solve(ctx, def, opt, reports)
	<-read
	return printed.String(), err
}

// lanNumber keeps the networks of test runs beside each other apart.
var lanNumber = 1 + os.Getpid()%250

// The addresses in lan.
var (
	lanNetwork   = fmt.Sprintf("10.99.%d.0/24", lanNumber)
	lanMachine   = fmt.Sprintf("10.99.%d.1", lanNumber)
	lanMachine6  = fmt.Sprintf("fd99:%x::1", lanNumber)
	lanNeighbour = fmt.Sprintf("10.99.%d.2", lanNumber)
)

// lan makes a network namespace beside this machine, lanNeighbour, in which a web server answers on port 80. The machine itself is
// lanMachine there, and answers too.
func lan(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	name := fmt.Sprintf("rs%d", os.Getpid())
	wire := fmt.Sprintf("rsv%d", os.Getpid()%100000)
	run("ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
	run("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", wire).Run() })
	run("ip", "addr", "add", lanMachine+"/24", "dev", wire)
	run("ip", "addr", "add", lanMachine6+"/64", "dev", wire, "nodad")
	run("ip", "link", "set", wire, "up")
	run("ip", "-n", name, "addr", "add", lanNeighbour+"/24", "dev", "eth0")
	run("ip", "-n", name, "link", "set", "eth0", "up")
	run("ip", "-n", name, "link", "set", "lo", "up")
	dir, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	www := t.TempDir()
	if err := os.WriteFile(filepath.Join(www, "index.html"), []byte("private\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := exec.Command("ip", "netns", "exec", name, filepath.Join(dir, "usr/bin/busybox"), "httpd", "-f", "-p", "80", "-h", www)
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Process.Kill(); _ = srv.Wait() })
	await(t, "the private server answers this machine", func() bool {
		conn, err := net.Dial("tcp", lanNeighbour+":80")
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// listen answers on an address of this machine until the test ends, and tells how often it was reached.
func listen(t *testing.T, addr string) (port int, reached chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	reached = make(chan string, 100)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			reached <- conn.RemoteAddr().String()
			_ = conn.Close()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port, reached
}

func tmpfs(at string) llb.RunOption { return llb.AddMount(at, llb.Scratch(), llb.Tmpfs()) }
