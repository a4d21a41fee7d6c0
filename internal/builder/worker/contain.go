package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Contain puts the process around all builds into a control group, as root: what the watch over steps is too slow for (a burst of
// processes, of memory) then ends at a bound of all builds together, and the server gets the processor first. It returns without
// error when at least one controller was to be had; Enforced says which.
func Contain(pid int, limits Limits) (undo func(), err error) {
	limits = limits.withDefaults()
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("contain builds: %w", err)
	}
	memory := strconv.FormatInt(int64(info.Totalram)*int64(info.Unit)/4*3, 10)
	most := 8*limits.Processes + 8192
	if text, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			most = min(most, n/4*3) // the server needs some too
		}
	}
	pids := strconv.Itoa(most)
	own, err := ownGroups("self")
	if err != nil {
		return nil, fmt.Errorf("contain builds: %w", err)
	}
	mounts, err := groupMounts()
	if err != nil {
		return nil, fmt.Errorf("contain builds: %w", err)
	}
	var made []string
	var errs []error
	done := 0
	for controller, values := range map[string]map[string]string{
		"pids": {"pids.max": pids}, "memory": {"memory.limit_in_bytes": memory}, "cpu": {"cpu.shares": "512"},
	} {
		path, ok := own[controller]
		if !ok || mounts[controller] == "" {
			continue
		}
		dir := filepath.Join(mounts[controller], path, groupName)
		made = append(made, dir)
		if err := joinGroup(dir, pid, values); err != nil {
			errs = append(errs, err)
			continue
		}
		done++
	}
	if path, ok := own[""]; ok && done < 3 && mounts[""] != "" {
		n, err := joinUnified(filepath.Join(mounts[""], path), pid, map[string]map[string]string{
			"pids": {"pids.max": pids}, "memory": {"memory.max": memory}, "cpu": {"cpu.weight": "50"},
		})
		done += n
		made = append(made, filepath.Join(mounts[""], path, groupName))
		if err != nil {
			errs = append(errs, err)
		}
	}
	if done == 0 {
		return nil, fmt.Errorf("contain builds: this machine offers no control group (with systemd: Delegate=yes in the unit): %w", errors.Join(errs...))
	}
	return func() { removeGroups(made) }, nil
}

// removeGroups removes groups whose last processes may still be ending.
func removeGroups(dirs []string) {
	for range 20 {
		left := 0
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				left++
			}
		}
		if left == 0 {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// groupName is the last part of our control group's path; serverGroup that of the group where the server goes in the hierarchy of version 2.
const (
	groupName   = "roadstead-builds"
	serverGroup = "roadstead-server"
)

// joinUnified makes the group in the hierarchy of version 2, where controllers are given to children only by a group that holds
// no process itself: the server's move into a group beside first.
func joinUnified(base string, pid int, controllers map[string]map[string]string) (int, error) {
	data, err := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
	if err != nil {
		return 0, err
	}
	var want []string
	values := map[string]string{}
	for _, c := range strings.Fields(string(data)) {
		if v, ok := controllers[c]; ok {
			want = append(want, "+"+c)
			for file, text := range v {
				values[file] = text
			}
		}
	}
	if len(want) == 0 {
		return 0, nil
	}
	slices.Sort(want)
	enable := func() error {
		return os.WriteFile(filepath.Join(base, "cgroup.subtree_control"), []byte(strings.Join(want, " ")), 0)
	}
	err = enable()
	for try := 0; errors.Is(err, syscall.EBUSY) && try < 10; try++ { // a role may have been started before we moved
		if err := moveBeside(base); err != nil {
			return 0, err
		}
		err = enable()
	}
	if err != nil {
		return 0, err
	}
	return len(want), joinGroup(filepath.Join(base, groupName), pid, values)
}

// moveBeside moves this process, and then all that descend from it, out of a group into one below it. What else is in the group stays.
func moveBeside(base string) error {
	beside := filepath.Join(base, serverGroup)
	if err := joinGroup(beside, os.Getpid(), nil); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(base, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, text := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(text)
		if err != nil || !descends(pid, os.Getpid()) {
			continue
		}
		if err := joinGroup(beside, pid, nil); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// descends reports whether a process was started by another, or by one that descends from it.
func descends(pid, from int) bool {
	for range 64 {
		if pid == from {
			return true
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(data), ") ") // the name before may hold anything, but is our own programs'
		f := strings.Fields(rest)
		if len(f) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(f[1]); err != nil || pid <= 1 {
			return false
		}
	}
	return false
}

func joinGroup(dir string, pid int, values map[string]string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for file, text := range values {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// ownGroups gives a process's path in each hierarchy: by controller, and "" for version 2.
func ownGroups(pid string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for c := range strings.SplitSeq(f[1], ",") {
				// A server that was started again by one that was contained stays beside it, not below it.
				groups[c] = strings.TrimSuffix(strings.TrimSuffix(f[2], "/"+serverGroup), "/"+groupName)
			}
		}
	}
	return groups, nil
}

// groupMounts says where each hierarchy can be seen.
func groupMounts() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts := map[string]string{}
	for line := range strings.Lines(string(data)) {
		head, tail, _ := strings.Cut(strings.TrimSpace(line), " - ")
		at, kind := strings.Fields(head), strings.Fields(tail)
		if len(at) < 5 || len(kind) < 3 || at[3] != "/" {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			mounts[""] = at[4]
		case "cgroup":
			for c := range strings.SplitSeq(kind[2], ",") {
				mounts[c] = at[4]
			}
		}
	}
	return mounts, nil
}

// Enforced says in words what of a build's use of this machine is bounded, and by what.
func (m *Manager) Enforced() string {
	data, err := os.ReadFile("/proc/self/cgroup")
	var groups []string
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if err != nil || len(f) != 3 || filepath.Base(f[2]) != groupName {
			continue
		}
		if f[1] == "" { // version 2 has all that it has in one place
			have, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", f[2], "cgroup.controllers"))
			f[1] = strings.Join(strings.Fields(string(have)), ",")
		}
		for _, c := range []string{"cpu", "memory", "pids"} {
			if slices.Contains(strings.Split(f[1], ","), c) {
				groups = append(groups, c)
			}
		}
	}
	slices.Sort(groups)
	group := "no control group bounds all builds together (start the server as root; with systemd, Delegate=yes)"
	if len(groups) > 0 {
		group = "a control group bounds " + strings.Join(groups, ", ") + " of all builds together"
	}
	l := m.cfg.Limits
	return fmt.Sprintf("each step: %s of memory, %d processes; each organization: %s of disk; watched and ended; %s",
		size(l.Memory), l.Processes, size(m.cfg.CacheBytes/2+l.Disk), group)
}
