package worker_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// In the hierarchy of version 2, where a group with processes has no children with controllers, the server moves beside before it makes the
// group of the builds. Tried with the real kernel and whichever controller it has there.
func TestTheGroupOfVersionTwo(t *testing.T) {
	root := unified(t)
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		t.Fatal(err)
	}
	var controller, file, value string
	for _, c := range []struct{ name, file, value string }{
		{"pids", "pids.max", "1000"}, {"memory", "memory.max", "1073741824"}, {"cpu", "cpu.weight", "50"}, {"hugetlb", "hugetlb.2MB.max", "0"},
	} {
		if strings.Contains(" "+string(have)+" ", c.name) {
			controller, file, value = c.name, c.file, c.value
			break
		}
	}
	if controller == "" {
		t.Skipf("%s has no controller: they are in the hierarchies of version 1", root)
	}
	own := ownGroup(t, "self")
	parent := filepath.Join(root, filepath.Dir(strings.TrimSuffix(own, "/")+"/x"))
	control := filepath.Join(parent, "cgroup.subtree_control")
	before, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control, []byte("+"+controller), 0); err != nil {
		t.Skipf("controllers cannot be given on: %v", err)
	}
	if !strings.Contains(string(before), controller) {
		t.Cleanup(func() { _ = os.WriteFile(control, []byte("-"+controller), 0) })
	}
	base := filepath.Join(parent, fmt.Sprintf("rs-test-%d", os.Getpid()))
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(dir string, pid int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("sleep", "60")
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = build.Process.Kill()
		_ = build.Wait()
		move(parent, os.Getpid())
		for _, dir := range []string{"roadstead-builds", "roadstead-server", "."} {
			if err := os.Remove(filepath.Join(base, dir)); err != nil && !os.IsNotExist(err) {
				t.Errorf("the group is left behind: %v", err)
			}
		}
	})
	move(base, os.Getpid()) // as systemd does with a service
	move(base, build.Process.Pid)

	// The build, like roles that were started before, is in the group still: all of them have to leave it before controllers are given on.
	if n, err := worker.JoinUnified(base, build.Process.Pid, map[string]map[string]string{controller: {file: value}, "nonesuch": {"nonesuch.max": "1"}}); err != nil || n != 1 {
		t.Fatalf("%d, %v", n, err)
	}
	if got := ownGroup(t, strconv.Itoa(build.Process.Pid)); filepath.Base(got) != "roadstead-builds" {
		t.Errorf("the build is in %s", got)
	}
	if got := ownGroup(t, "self"); filepath.Base(got) != "roadstead-server" {
		t.Errorf("the server is in %s", got)
	}
	if got, err := os.ReadFile(filepath.Join(base, "roadstead-builds", file)); err != nil || strings.TrimSpace(string(got)) != value {
		t.Errorf("%s is %q, %v", file, got, err)
	}
}

// unified is where the hierarchy of version 2 is mounted.
func unified(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes control groups")
	}
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("there is no hierarchy of version 2")
	return ""
}

// ownGroup is a process's path in it.
func ownGroup(t *testing.T, pid string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	t.Skip("no group of version 2")
	return ""
}
