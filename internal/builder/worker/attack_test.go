package worker_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// The attack: a step asks for what only the machine's owner may give.
func TestNoPrivilegeCanBeAskedFor(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	for name, opt := range map[string]llb.RunOption{
		"--security=insecure": llb.Security(llb.SecurityModeInsecure), "--network=host": llb.Network(pb.NetMode_HOST),
		"--device": llb.AddCDIDevice(llb.CDIDeviceName("vendor.example.com/all=all")),
	} {
		if out, err := step(t, c, "echo ran", opt); err == nil || strings.Contains(out, "ran") {
			t.Errorf("%s was not refused: %s", name, out)
		}
		// Nor when whoever talks to the daemon says that it is fine.
		state := root().Run(llb.Args([]string{"/bin/sh", "-c", "echo ran"}), llb.IgnoreCache, opt).Root()
		if out, err := solve(t.Context(), t, c, state, func(o *client.SolveOpt) {
			o.AllowedEntitlements = []string{"security.insecure", "network.host", "device"}
		}); err == nil || strings.Contains(out, "ran") {
			t.Errorf("%s was not refused with its entitlement: %s", name, out)
		}
	}
}

// The attack: a step looks for what is not its own: the machine's files, its devices, sockets of the build service, other
// builds' processes.
func TestAStepSeesOnlyItsOwn(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	c := connect(t, cfg, "org-1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := make(chan struct{})
	go func() { defer close(other); _, _ = stepCtx(ctx, t, c, "echo mine >/only-mine; sleep 77") }()
	await(t, "the other step runs", func() bool { return len(pgrep(t, "^sleep 77")) > 0 })
	out, err := step(t, c, strings.Join([]string{
		"exec 2>&1", // two streams could come in one another's lines
		"echo sockets; find / -xdev -type s 2>/dev/null; find /dev -type s",
		"ls -d /var/run/docker.sock /run/docker.sock /run/buildkit /run/containerd " + cfg.Dir + " " + cfg.Socket() + " 2>/dev/null",
		"echo others; ps | grep 'sleep 7[7]'; find / -xdev -name only-mine 2>/dev/null",
		"echo devices; for d in /dev/*; do [ -b $d ] && echo block $d; done; ls -d /dev/mem /dev/kmsg /dev/kvm /dev/fuse /dev/net /dev/sd* /dev/vd* 2>/dev/null",
		"echo make; mknod /disk b 254 0 && cat /disk >/dev/null && echo opened",
		"echo mount; mkdir -p /m; mount -t proc proc /m && echo mounted; mount -t tmpfs tmpfs /m && echo mounted; mount -o remount,rw /sys && echo mounted",
		"echo kernel; echo 1 >/proc/sys/kernel/panic && echo written; echo b >/proc/sysrq-trigger && echo written; cat /proc/kcore >/dev/null && echo kcore",
		"echo groups; (find /sys/fs/cgroup -name cgroup.procs -writable; find /sys/fs/cgroup -name tasks -writable) 2>/dev/null | head -n 3",
		"grep -q '^NoNewPrivs' /proc/self/status; grep CapEff /proc/self/status",
		"echo uid; cat /proc/self/uid_map; true",
	}, "; "))
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	var heading string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch line {
		case "sockets", "others", "devices", "make", "mount", "kernel", "groups", "uid":
			heading = line
			continue
		}
		switch {
		case strings.HasPrefix(line, "CapEff:"):
			caps := strings.TrimSpace(strings.TrimPrefix(line, "CapEff:"))
			if caps != "00000000a80425fb" {
				t.Errorf("a step has the capabilities %s in its namespace", caps)
			}
		case strings.Contains(line, "ermission denied"), strings.Contains(line, "not permitted"), strings.Contains(line, "an't create"),
			strings.Contains(line, "ead-only"), strings.Contains(line, "No such"), strings.Contains(line, "an't find"), heading == "uid", line == "":
		default:
			t.Errorf("%s: %s", heading, line)
		}
	}
	if !strings.Contains(out, " 65536\n") && !strings.Contains(out, "65535") {
		t.Errorf("the step's users are not mapped:\n%s", out)
	}
	cancel()
	<-other
}

// The attack: an organization asks for a layer, a cache mount, a local directory that another one's builds left.
func TestNothingIsTakenFromAnotherOrganization(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	one, two := connect(t, cfg, "org-1"), connect(t, cfg, "org-2")
	fill := func() llb.State {
		files := llb.Scratch().File(llb.Copy(root(), "/", "/")) // known by its content
		return files.Run(llb.Args([]string{"/bin/sh", "-c", "cat /proc/sys/kernel/random/uuid | tee /made; ls /cache; echo secret >/cache/secret"}),
			llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir("shared", llb.CacheMountShared))).Root()
	}
	ran := func(c *client.Client) string {
		t.Helper()
		out, err := solve(t.Context(), t, c, fill())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := ran(one); !strings.Contains(out, "-") {
		t.Fatalf("the step did not run: %q", out)
	}
	if out := ran(one); out != "" {
		t.Errorf("an organization's own step was not taken from its cache: %q", out)
	}
	if out := ran(two); !strings.Contains(out, "-") || strings.Contains(out, "secret") {
		t.Errorf("another organization was given the step or the cache mount: %q", out)
	}
	mine, err := one.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := two.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range mine {
		seen[r.ID] = true
	}
	for _, r := range theirs {
		if seen[r.ID] {
			t.Errorf("record %s is in both caches", r.ID)
		}
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, "caches"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the caches can be entered by others: %v", info.Mode())
	}
}

// SIGKILL of the whole role in the middle of a step: nothing is left running.
func TestNothingOutlivesTheRole(t *testing.T) {
	if os.Getenv("ROADSTEAD_TEST_ROLE") != "" {
		role(t)
		return
	}
	cfg := config(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingOutlivesTheRole$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "ROADSTEAD_TEST_ROLE="+cfg.Dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	await(t, "the role answers", func() bool { _, err := worker.Ask(t.Context(), cfg.Address()); return err == nil })
	c := connect(t, cfg, "org-1")
	failed := make(chan error, 1)
	go func() { _, err := step(t, c, "sleep 78"); failed <- err }()
	await(t, "the step runs", func() bool { return len(pgrep(t, "^sleep 78")) > 0 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := <-failed; err == nil {
		t.Error("the step did not fail")
	}
	await(t, "nothing runs any more", func() bool { return len(processes(t, cfg.Dir))+len(pgrep(t, "^sleep 78")) == 0 })
	start(t, cfg)
	if out, err := step(t, connect(t, cfg, "org-1"), "echo again"); err != nil || !strings.Contains(out, "again") {
		t.Errorf("the role that came after: %v: %s", err, out)
	}
}

// role is the process of the test above that is killed.
func role(t *testing.T) {
	cfg := worker.Config{Dir: os.Getenv("ROADSTEAD_TEST_ROLE"), Buildkitd: os.Getenv("ROADSTEAD_BUILDKITD")}
	if os.Geteuid() == 0 {
		cfg.User = testUser
	}
	start(t, cfg)
	<-time.After(time.Minute)
}
