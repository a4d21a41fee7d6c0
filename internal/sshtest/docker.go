package sshtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Docker is an engine of the test's own, with one service, "main".
type Docker struct {
	t         testing.TB
	Host      string // its address, unix:///…
	Engine    *engine.Client
	Container string // id of the service's container, which is called main_1_2
}

// NewDocker starts one; without what it takes the test is skipped.
func NewDocker(t testing.TB) *Docker {
	t.Helper()
	image := os.Getenv("ROADSTEAD_BASE_BUSYBOX")
	if os.Getenv("ROADSTEAD_DOCKER_TESTS") != "1" || image == "" {
		t.Skip("ROADSTEAD_DOCKER_TESTS=1 and ROADSTEAD_BASE_BUSYBOX run this on a real engine; it needs root")
	}
	dir, err := os.MkdirTemp("", "rssh") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	d := &Docker{t: t, Host: "unix://" + dir + "/s"}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dockerd", "--host", d.Host, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--bridge=none",
		"--iptables=false", "--ip6tables=false", "--exec-opt", "native.cgroupdriver=cgroupfs", "--userland-proxy=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = d.try("rm", "-f", "main_1_2")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
		mounts, _ := os.ReadFile("/proc/self/mounts")
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
				_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
			}
		}
		_ = log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(3 * time.Minute); ; {
		if _, err := d.try("version"); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-late:
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("the engine does not answer: %s", text[max(0, len(text)-2000):])
		}
	}
	if d.Engine, err = engine.New(d.Host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Engine.Close() })
	d.Run("import", image, "busybox")
	d.Container = d.Run("run", "-d", "--name", "main_1_2", "--network", "none", "--label", "io.balena.supervised=true", "--label", "io.balena.service-name=main", "busybox", "sleep", "100000")
	return d
}

func (d *Docker) try(args ...string) (string, error) {
	out, err := exec.Command("docker", append([]string{"--host", d.Host}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Run runs a command of it.
func (d *Docker) Run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatalf("docker %v: %v: %s", args, err, out)
	}
	return out
}
