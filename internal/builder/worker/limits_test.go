package worker_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// beyond runs a step that goes beyond a limit while others run, and checks that it alone is ended, and said why.
func beyond(t *testing.T, cfg worker.Config, limit, script string) {
	t.Helper()
	start(t, cfg)
	one, two := connect(t, cfg, "org-1"), connect(t, cfg, "org-2")
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type end struct {
		out string
		err error
	}
	neighbour := func(c *client.Client) chan end {
		done := make(chan end, 1)
		go func() {
			out, err := stepCtx(ctx, t, c, "for n in 1 2 3 4 5 6 7 8; do sleep 1; true | cat; done; echo unharmed")
			done <- end{out, err}
		}()
		return done
	}
	same, other := neighbour(one), neighbour(two)
	out, err := stepCtx(ctx, t, one, script)
	if err == nil || strings.Contains(out, "survived") {
		t.Errorf("the step was not ended (%v):\n%s", err, out)
	}
	kills, askErr := worker.Killed(t.Context(), cfg.Address(), "org-1", began)
	if askErr != nil {
		t.Fatal(askErr)
	}
	if len(kills) == 0 || kills[0].Limit != limit || !strings.Contains(kills[0].Words, "limit") {
		t.Errorf("the step failed with %v, and the service says %+v", err, kills)
	}
	if kills, _ := worker.Killed(t.Context(), cfg.Address(), "org-2", began); len(kills) > 0 {
		t.Errorf("another organization is told of it: %+v", kills)
	}
	// The disk is counted for an organization; and until the watch sees it, a fork bomb takes what processes the organization may have.
	if limit == "memory" {
		if e := <-same; e.err != nil || !strings.Contains(e.out, "unharmed") {
			t.Errorf("another step of the organization: %v:\n%s", e.err, e.out)
		}
	}
	if e := <-other; e.err != nil || !strings.Contains(e.out, "unharmed") {
		t.Errorf("a step of another organization: %v:\n%s", e.err, e.out)
	}
	if out, err := step(t, one, "echo again"); err != nil || !strings.Contains(out, "again") {
		t.Errorf("the next step of the organization: %v:\n%s", err, out)
	}
}

func TestAForkBombIsEnded(t *testing.T) {
	cfg := config(t)
	cfg.Limits.Processes = 300
	// Each process starts two and stays; 2,047 in all, for one without an end takes all numbers for processes that the machine has, and then
	// goes out by itself.
	beyond(t, cfg, "processes", "mkfifo /tmp/p; b() { if [ $1 -lt 10 ]; then b $(($1+1)) & b $(($1+1)) & fi; until read x </tmp/p; do :; done; }; b 0; echo survived")
}

func TestAHungryStepIsEnded(t *testing.T) {
	cfg := config(t)
	cfg.Limits.Memory = 200 << 20
	beyond(t, cfg, "memory", "head -c 600000000 /dev/zero | tail -c 500000000 | (sleep 30; wc -c); sleep 30; echo survived")
}

// Files in memory belong to no process.
func TestAFullTmpfsIsMemory(t *testing.T) {
	cfg := config(t)
	cfg.Limits.Memory = 100 << 20
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	began := time.Now()
	out, err := step(t, c, "head -c 300000000 /dev/zero >/tmp/x; sleep 20; echo survived", tmpfs("/tmp"))
	kills, askErr := worker.Killed(t.Context(), cfg.Address(), "org-1", began)
	if err == nil || askErr != nil || len(kills) == 0 || kills[0].Limit != "memory" {
		t.Errorf("%v, %+v, %v:\n%s", err, kills, askErr, out)
	}
}

func TestAStepThatFillsTheDiskIsEnded(t *testing.T) {
	cfg := config(t)
	cfg.CacheBytes, cfg.Limits.Disk = 200<<20, 200<<20
	beyond(t, cfg, "disk", "head -c 1000000000 /dev/zero >/x; sleep 60; echo survived")
}

// All builds together are in a control group, where the machine has them and root started the server.
func TestBuildsAreContained(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes control groups")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	undo, err := worker.Contain(cmd.Process.Pid, worker.Limits{Processes: 100})
	if err != nil {
		_ = cmd.Process.Kill()
		t.Skipf("this machine offers no control group: %v", err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(groups), "/roadstead-builds\n") {
		t.Errorf("the process's groups: %v\n%s", err, groups)
	}
	if own, _ := os.ReadFile("/proc/self/cgroup"); strings.Contains(string(own), "/roadstead-builds\n") {
		t.Errorf("the server itself is contained:\n%s", own)
	}
	t.Logf("%s", groups)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	undo()
	for line := range strings.Lines(string(groups)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); strings.HasSuffix(f[2], "/roadstead-builds") {
			// Another server beside this one would be in it too.
			if members, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", f[1], f[2], "cgroup.procs")); err == nil && len(members) == 0 {
				t.Errorf("the group of %s is left", f[1])
			}
		}
	}
}

func TestBoundsAreNamed(t *testing.T) {
	var cfg worker.Config
	if err := cfg.Parse("memory=512,processes=100,disk=1024,cache=2048,organizations=2,steps=3,idle=60"); err != nil {
		t.Fatal(err)
	}
	want := worker.Config{CacheBytes: 2 << 30, Parallel: 3, Daemons: 2, Idle: 60,
		Limits: worker.Limits{Memory: 512 << 20, Processes: 100, Disk: 1 << 30}}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("%+v, want %+v", cfg, want)
	}
	for _, bad := range []string{"", "memory", "memory=0", "memory=-1", "memory=x", "colour=3", "disk=99999999999999"} {
		if err := (&worker.Config{}).Parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
