package worker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits bound what builds take of this machine. A zero value means the default.
type Limits struct {
	Memory    int64 `json:"memory_bytes,omitempty"` // of one step, with its tmpfs: half of the machine's
	Processes int   `json:"processes,omitempty"`    // and threads of one step: 4096
	Disk      int64 `json:"disk_bytes,omitempty"`   // of one organization's builds, besides its cache: 20 GiB
}

const (
	defaultProcesses = 4096
	defaultDisk      = 20 << 30
	watchEvery       = 250 * time.Millisecond
	keepKills        = 20
	killWindow       = time.Hour
)

func (l Limits) withDefaults() Limits {
	if l.Memory == 0 {
		l.Memory = 2 << 30
		var info syscall.Sysinfo_t
		if syscall.Sysinfo(&info) == nil {
			l.Memory = int64(info.Totalram) * int64(info.Unit) / 2
		}
	}
	if l.Processes == 0 {
		l.Processes = defaultProcesses
	}
	if l.Disk == 0 {
		l.Disk = defaultDisk
	}
	return l
}

// Kill is a step that was ended because it went beyond a limit.
type Kill struct {
	At    time.Time `json:"at"`
	Limit string    `json:"limit"` // memory, processes or disk
	Words string    `json:"words"` // for whoever waits for the build
}

// used is what a step uses now.
type used struct {
	space     string
	init      int // the first process of its namespace; with it ends everything in it
	processes int
	memory    int64
	members   []int
}

// watch ends steps that go beyond a limit, for as long as the context lives. It does not depend on control groups, which many
// machines keep to themselves: a step is known by its process namespace, which none of its processes can leave.
func (m *Manager) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		daemons := m.building()
		if len(daemons) == 0 {
			continue
		}
		m.watchSteps(daemons)
		for _, d := range daemons {
			m.watchDisk(ctx, d)
		}
	}
}

// building lists the daemons that are in use.
func (m *Manager) building() (list []*daemon) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.running {
		if d.users > 0 && d.pid.Load() != 0 {
			list = append(list, d)
		}
	}
	return list
}

func (m *Manager) watchSteps(daemons []*daemon) {
	all := processes()
	byPID := map[int]*daemon{}
	for _, d := range daemons {
		if d.killed == nil {
			d.killed = map[string]bool{}
		}
		d.steps = map[string]*used{}
		byPID[int(d.pid.Load())] = d
	}
	steps := map[string]*used{}
	owner := map[string]*daemon{}
	for pid, p := range all {
		if !p.nested {
			continue
		}
		space, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
		if err != nil {
			continue // it ended, or is no child of ours
		}
		u := steps[space]
		if u == nil {
			u = &used{space: space}
			steps[space] = u
		}
		if p.first {
			u.init = pid
			for up, n := p, 0; n < 64; n++ { // to the daemon that it descends from
				if d := byPID[up.parent]; d != nil {
					owner[space] = d
					break
				}
				if up = all[up.parent]; up == nil {
					break
				}
			}
		}
		u.processes += p.threads
		u.memory += p.memory
		u.members = append(u.members, pid)
	}
	for _, d := range daemons { // the kernel may give the number of a namespace again
		maps.DeleteFunc(d.killed, func(space string, _ bool) bool { return steps[space] == nil })
	}
	for space, u := range steps {
		d := owner[space]
		if d == nil {
			continue
		}
		d.steps[space] = u
		lim := m.cfg.Limits
		switch {
		case u.processes > lim.Processes:
			m.kill(d, u, "processes", fmt.Sprintf("it had more than %d processes, the limit for one step", lim.Processes))
		case u.memory > lim.Memory && exact(u) > lim.Memory, tmpfs(u.init)+u.memory > lim.Memory && tmpfs(u.init)+exact(u) > lim.Memory:
			m.kill(d, u, "memory", fmt.Sprintf("it used more than %s of memory, the limit for one step", size(lim.Memory)))
		}
	}
}

// kill ends a step, and notes why.
func (m *Manager) kill(d *daemon, u *used, limit, words string) {
	p, err := os.FindProcess(u.init) // holds on to the process, whatever becomes of its number
	if err != nil {
		return
	}
	defer func() { _ = p.Release() }()
	if now := process(u.init); now == nil || !now.first {
		return
	}
	err = p.Kill()
	if d.killed[u.space] {
		return // it was told already; a namespace full of processes takes a while to end
	}
	d.killed[u.space] = true
	m.note(d.domain, Kill{At: time.Now(), Limit: limit, Words: words})
	m.log.Warn("a build step was ended", "domain", d.domain, "limit", limit, "why", words, "processes", u.processes, "memory", u.memory, "error", err)
}

func (m *Manager) note(domain string, k Kill) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := append(m.kills[domain], k)
	if len(list) > keepKills {
		list = list[len(list)-keepKills:]
	}
	m.kills[domain] = list
}

// Kills lists the steps of a domain that were ended since a time.
func (m *Manager) Kills(domain string, since time.Time) []Kill {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Kill{}
	for _, k := range m.kills[domain] {
		if !k.At.Before(since) && time.Since(k.At) < killWindow {
			list = append(list, k)
		}
	}
	return list
}

// proc is what the kernel says of a process to everybody.
type proc struct {
	parent  int
	threads int
	memory  int64
	nested  bool // in a process namespace within a daemon's
	first   bool // of that namespace
}

func processes() map[int]*proc {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	all := make(map[int]*proc, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p := process(pid); p != nil {
			all[pid] = p
		}
	}
	return all
}

func process(pid int) *proc {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return nil
	}
	p := &proc{}
	for line := range bytes.Lines(status) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		fields := strings.Fields(string(rest))
		if len(fields) == 0 {
			continue
		}
		switch string(name) {
		case "PPid":
			p.parent, _ = strconv.Atoi(fields[0])
		case "Threads":
			p.threads, _ = strconv.Atoi(fields[0])
		case "NSpid": // here, in the daemon's namespace, in the step's
			p.nested = len(fields) >= 3
			p.first = len(fields) == 3 && fields[2] == "1"
		case "RssAnon", "RssShmem":
			n, _ := strconv.ParseInt(fields[0], 10, 64)
			p.memory += n << 10
		}
	}
	return p
}

// exact counts what the processes of a step share only once. It costs more than the sum.
func exact(u *used) (sum int64) {
	for _, pid := range u.members {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			name, rest, _ := bytes.Cut(line, []byte(":"))
			if n := string(name); n != "Pss_Anon" && n != "Pss_Shmem" {
				continue
			}
			if f := strings.Fields(string(rest)); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += n << 10
			}
		}
	}
	return sum
}

// tmpfs is what lies in the memory file systems of a step.
func tmpfs(init int) (sum int64) {
	base := filepath.Join("/proc", strconv.Itoa(init))
	data, err := os.ReadFile(filepath.Join(base, "mountinfo"))
	if err != nil {
		return 0
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(data) {
		head, tail, ok := strings.Cut(string(line), " - ")
		f := strings.Fields(head)
		if !ok || !strings.HasPrefix(tail, "tmpfs ") || len(f) < 5 || seen[f[2]] {
			continue
		}
		seen[f[2]] = true
		var st syscall.Statfs_t
		if syscall.Statfs(filepath.Join(base, "root", f[4]), &st) == nil && st.Type == tmpfsMagic {
			sum += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return sum
}

const tmpfsMagic = 0x01021994

// size is a number of bytes as people say it.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
