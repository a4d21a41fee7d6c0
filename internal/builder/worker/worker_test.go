package worker_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

const testUser = "roadstead-buildkit"

// config makes the settings of a worker in a directory of its own; it skips where buildkitd is not built.
func config(t *testing.T) worker.Config {
	t.Helper()
	buildkitd := os.Getenv("ROADSTEAD_BUILDKITD")
	if buildkitd == "" {
		t.Skip("ROADSTEAD_BUILDKITD does not name a buildkitd; `make test` builds one and sets it")
	}
	dir, err := os.MkdirTemp("", "worker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := worker.Config{Dir: filepath.Join(dir, "w"), Buildkitd: buildkitd}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if exec.Command("id", testUser).Run() != nil {
			if out, err := exec.Command("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin",
				testUser).CombinedOutput(); err != nil {
				t.Fatalf("useradd: %v: %s", err, out)
			}
		}
		if err := worker.Prepare(testUser); err != nil {
			t.Fatal(err)
		}
		cfg.User = testUser
	}
	return cfg
}

// start runs a worker until the test ends and waits until it is healthy.
func start(t *testing.T, cfg worker.Config) context.CancelFunc {
	t.Helper()
	w, err := worker.New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop := func() {
		cancel()
		if err, ok := <-done; ok && err != nil {
			t.Errorf("Run: %v", err)
		}
		close(done)
	}
	stopped := false
	once := func() {
		if !stopped {
			stopped = true
			stop()
		}
	}
	t.Cleanup(once)
	await(t, "the service is healthy", func() bool { return w.Healthy(t.Context()) == nil })
	return once
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s in vain until %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestTheServiceRunsUnprivilegedAndLeavesNothing(t *testing.T) {
	cfg := config(t)
	stop := start(t, cfg)
	c, err := client.New(t.Context(), cfg.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	workers, err := c.ListWorkers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(workers) != 1 {
		t.Errorf("%d workers, want 1", len(workers))
	}
	pids := processes(t, cfg.Dir)
	if len(pids) == 0 {
		t.Fatal("no process of the service found")
	}
	for _, pid := range pids {
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); f[0] == "Uid:" && f[1] == "0" {
				t.Errorf("process %s of the service runs as root on the host", pid)
			}
		}
	}
	info, err := os.Stat(cfg.Socket())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		t.Errorf("everybody may open the socket: %v", info.Mode())
	}
	stop()
	await(t, "every process of the service ended", func() bool { return len(processes(t, cfg.Dir)) == 0 })
}

func TestTheServiceComesBackAfterItWasKilled(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	before := processes(t, cfg.Dir)
	for _, pid := range before {
		if out, err := exec.Command("kill", "-9", pid).CombinedOutput(); err != nil {
			t.Logf("kill %s: %s", pid, out) // an earlier one took it along
		}
	}
	await(t, "other processes run", func() bool {
		now := processes(t, cfg.Dir)
		return len(now) >= len(before) && now[0] != before[0]
	})
	await(t, "the service answers again", func() bool {
		c, err := client.New(t.Context(), cfg.Address())
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.ListWorkers(t.Context())
		return err == nil
	})
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	w, err := worker.New(worker.Config{Dir: filepath.Join(t.TempDir(), "w"), Buildkitd: "/nonexistent/buildkitd", User: "nobody"},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	await(t, "the worker says what is missing", func() bool {
		err := w.Healthy(ctx)
		return err != nil && strings.Contains(err.Error(), "buildkitd is missing")
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	for want, cfg := range map[string]worker.Config{
		"dir: must be an absolute": {Dir: "relative"},
		"too long for a Unix":      {Dir: "/" + strings.Repeat("x", 100)},
		"cache_bytes":              {Dir: "/x", CacheBytes: -1},
		"parallel":                 {Dir: "/x", Parallel: -1},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate(%+v): %v, want it to speak of %q", cfg, err, want)
		}
	}
}

// processes lists the processes whose command line names a directory, oldest first.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", dir+"/").Output()
	if err != nil {
		return nil // pgrep exits 1 when it finds none
	}
	return strings.Fields(string(out))
}
