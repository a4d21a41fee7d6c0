package enginetest

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Daemon is a real engine of a test's own, without networks.
type Daemon struct {
	Client *engine.Client
	Socket string
	Dir    string // of its data

	t       *testing.T
	dir     string
	process *os.Process
	ended   chan struct{} // closed when the process has ended
}

// NewDaemon starts a dockerd, which ends with the test. It needs root and ROADSTEAD_DOCKER_TESTS=1.
func NewDaemon(t *testing.T) *Daemon {
	t.Helper()
	if os.Getenv("ROADSTEAD_DOCKER_TESTS") != "1" {
		t.Skip("ROADSTEAD_DOCKER_TESTS=1 runs this on a real engine; it needs root")
	}
	dir, err := os.MkdirTemp("", "rd") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{t: t, dir: dir, Socket: dir + "/s", Dir: dir + "/data"}
	if d.Client, err = engine.New("unix://" + d.Socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.Client.Close()
		d.end()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("engine:\n%s", text[max(0, len(text)-4000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d.Start()
	return d
}

// Start starts it, the first time or after Kill, and waits until it answers. Like an init system it starts one that ends again: after
// Kill the first containerd may be late.
func (d *Daemon) Start() {
	d.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	d.run()
	for d.Client.Ping(context.Background()) != nil {
		select {
		case <-tick.C:
		case <-d.ended:
			d.run()
		case <-late:
			d.t.Fatal("the engine does not answer")
		}
	}
}

func (d *Daemon) run() {
	d.t.Helper()
	_ = os.Remove(d.dir + "/pid")
	out, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("dockerd", "--host", "unix://"+d.Socket, "--data-root", d.Dir, "--exec-root", d.dir+"/exec", "--pidfile", d.dir+"/pid", "--bridge=none",
		"--iptables=false", "--ip6tables=false", "--exec-opt", "native.cgroupdriver=cgroupfs", "--userland-proxy=false")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	d.process, d.ended = cmd.Process, ended
}

// Kill kills the daemon alone, in whatever it does: containers and their shims go on.
func (d *Daemon) Kill() {
	_ = d.process.Kill()
	<-d.ended
}

// end stops it and what it started, and takes its mounts away.
func (d *Daemon) end() {
	_ = d.process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(30*time.Second, func() { _ = d.process.Kill() })
	<-d.ended
	late.Stop()
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		d.t.Error(err)
		return
	}
	defer mounts.Close()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 1 && strings.HasPrefix(f[1], d.dir+"/") {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
