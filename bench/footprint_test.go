package bench_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// used is what a process and all its descendants hold and have spent.
type used struct {
	resident     float64 // MiB of memory, a page that several processes share counted once (PSS)
	summed       float64 // MiB, every process' resident size added up, shared pages counted again and again (RSS)
	cpu          time.Duration
	roles        map[string]time.Duration // CPU time by role; "up" is the parent
	shares       map[string]float64       // MiB by role: its own pages (private), and of those that it shares its part
	participants int
}

// footprint looks at a process and its descendants.
func footprint(tb testing.TB, pid int) used {
	tb.Helper()
	shares := map[string]float64{}
	u := spent(tb, pid, func(u *used, id int) {
		u.resident += rollup(id, "Pss:")
		name := roleOf(id)
		if name == "" {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id))
			name = strings.TrimSpace(string(comm))
		}
		shares[name] += rollup(id, "Pss:")
		u.summed += rollup(id, "Rss:")
	})
	u.shares = shares
	return u
}

// spent is the CPU time alone, which is quick to learn. More may be asked about each process.
func spent(tb testing.TB, pid int, more ...func(*used, int)) used {
	tb.Helper()
	children := map[int][]int{}
	ticks := map[int]int64{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		children[parent] = append(children[parent], id)
		ticks[id] = user + system
	}
	u := used{roles: map[string]time.Duration{}}
	todo := []int{pid}
	for len(todo) > 0 {
		id := todo[0]
		todo = append(todo[1:], children[id]...)
		took := time.Duration(ticks[id]) * 10 * time.Millisecond
		u.cpu += took
		u.roles[roleOf(id)] += took
		u.participants++
		for _, f := range more {
			f(&u, id)
		}
	}
	return u
}

// roleOf names the role that a process of the server has: `roadsteadd role NAME …` or `roadsteadd up …`.
func roleOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "" // it ended
	}
	args := strings.Split(string(data), "\x00")
	switch {
	case len(args) > 2 && args[1] == "role":
		return args[2]
	case len(args) > 1 && args[1] == "up":
		return "up"
	}
	return ""
}

// rollup reads one figure of a process' memory, in MiB.
func rollup(pid int, field string) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0 // it ended, or is not ours to look at
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}
