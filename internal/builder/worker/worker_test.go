package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
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

// start runs a manager until the test ends and waits until it is healthy.
func start(t *testing.T, cfg worker.Config) (m *worker.Manager, stop func()) {
	t.Helper()
	m, err := worker.NewManager(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.Run(ctx) })
	group.Go(func() error { return m.Serve(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	await(t, "the service is healthy", func() bool { return m.Healthy(t.Context()) == nil })
	return m, stop
}

// connect opens a client to a domain's daemon, which then runs.
func connect(t *testing.T, cfg worker.Config, domain string) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return worker.Dial(ctx, cfg.Address(), domain)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.ListWorkers(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
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
	_, stop := start(t, cfg)
	if pids := processes(t, cfg.Dir); len(pids) > 0 {
		t.Errorf("before anybody builds, %d processes run", len(pids))
	}
	connect(t, cfg, "org-1")
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

func TestADaemonComesBackAfterItWasKilled(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	for _, pid := range processes(t, cfg.Dir) {
		if out, err := exec.Command("kill", "-9", pid).CombinedOutput(); err != nil {
			t.Logf("kill %s: %s", pid, out) // an earlier one took it along
		}
	}
	await(t, "the service answers again", func() bool {
		_, err := c.ListWorkers(t.Context())
		return err == nil
	})
}

// Each domain has a daemon, a cache and a namespace of its own. Of more domains than may run at a time, one that is not used
// makes place, and one that is used does not.
func TestDomainsShareNothing(t *testing.T) {
	cfg := config(t)
	cfg.Daemons = 2
	m, _ := start(t, cfg)
	one, two := connect(t, cfg, "org-1"), connect(t, cfg, "org-2")
	if n := m.Status().Domains; n != 2 {
		t.Errorf("%d daemons run, want 2", n)
	}
	for _, domain := range []string{"org-1", "org-2"} {
		if _, err := os.Stat(filepath.Join(cfg.Dir, "caches", domain, "runc-overlayfs")); err != nil {
			if _, err := os.Stat(filepath.Join(cfg.Dir, "caches", domain, "runc-native")); err != nil {
				t.Errorf("%s has no cache of its own: %v", domain, err)
			}
		}
	}
	spaces := map[string]bool{}
	for _, pid := range pgrep(t, "buildkitd --config "+cfg.Dir+"/d") {
		for _, kind := range []string{"user", "net", "pid", "mnt", "ipc", "uts"} {
			space, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
			if err != nil {
				continue // the wrapper, which has ended
			}
			spaces[space] = true
		}
	}
	for _, kind := range []string{"user", "net", "pid", "mnt", "ipc", "uts"} {
		n := 0
		for space := range spaces {
			if strings.HasPrefix(space, kind+":") {
				n++
			}
		}
		if n < 2 {
			t.Errorf("two daemons have %d %s namespaces", n, kind)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := m.Connect(ctx, "org-3"); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "2 organizations are building") {
		t.Errorf("with both daemons in use, a third domain gets %v", err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	connect(t, cfg, "org-3")
	if _, err := two.ListWorkers(t.Context()); err != nil {
		t.Errorf("the daemon that was in use: %v", err)
	}
	if n := m.Status().Domains; n != 2 {
		t.Errorf("%d daemons run, want 2", n)
	}
}

func TestADaemonThatNobodyUsesEnds(t *testing.T) {
	cfg := config(t)
	cfg.Idle = 1
	m, _ := start(t, cfg)
	c := connect(t, cfg, "org-1")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "the daemon ended", func() bool { return m.Status().Domains == 0 && len(processes(t, cfg.Dir)) == 0 })
	connect(t, cfg, "org-1")
}

func TestBadDomainsAreRefused(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	for _, domain := range []string{"", "..", "../x", "a/b", "Org-1", "trial", "-x", strings.Repeat("x", 64), "org\x001"} {
		conn, err := worker.Dial(t.Context(), cfg.Address(), domain)
		if err == nil {
			_ = conn.Close()
			t.Errorf("domain %q got a connection", domain)
			continue
		}
		if !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrUnsupported) && domain != ".." && domain != "" {
			t.Errorf("domain %q: %v", domain, err)
		}
	}
	s, err := worker.Ask(t.Context(), cfg.Address())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Platforms) == 0 || s.Platforms[0].Platform != "linux/"+runtime.GOARCH || !s.Platforms[0].Native || s.Domains != 0 {
		t.Errorf("status: %+v", s)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	m, err := worker.NewManager(worker.Config{Dir: filepath.Join(t.TempDir(), "w"), Buildkitd: "/nonexistent/buildkitd", User: "nobody"},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	await(t, "the worker says what is missing", func() bool {
		err := m.Healthy(ctx)
		return err != nil && strings.Contains(err.Error(), "buildkitd is missing")
	})
	if _, err := m.Connect(ctx, "org-1"); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "buildkitd is missing") {
		t.Errorf("Connect: %v", err)
	}
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
		"idle_seconds":             {Dir: "/x", Idle: -1},
		"daemons: must not":        {Dir: "/x", Daemons: -1},
		"daemons: at most":         {Dir: "/x", Daemons: 65},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate(%+v): %v, want it to speak of %q", cfg, err, want)
		}
	}
}

// processes lists the processes whose command line names a directory, oldest first.
func processes(t *testing.T, dir string) []string { t.Helper(); return pgrep(t, dir+"/") }

func pgrep(t *testing.T, words string) []string {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", words).Output()
	if err != nil {
		return nil // pgrep exits 1 when it finds none
	}
	return strings.Fields(string(out))
}
