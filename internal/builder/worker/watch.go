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
	glanceEvery      = 50 * time.Millisecond
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
	tick := time.NewTicker(glanceEvery)
	defer tick.Stop()
	known := map[int]bool{} // the processes of the last look
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		daemons := m.building()
		if len(daemons) == 0 {
			continue
		}
		if n%(int(watchEvery/glanceEvery)) != 0 && !m.glance(daemons, known) {
			continue
		}
		known = m.watchSteps(daemons)
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

// glance looks only whether there are many processes more than at the last look, because a step that starts them without end has
// thousands before the next. It ends one whose new processes alone are beyond the limit; true asks for a look now.
func (m *Manager) glance(daemons []*daemon, known map[int]bool) bool {
	pids := pids()
	if len(pids)-len(known) < min(m.cfg.Limits.Processes/2, 256) {
		return false
	}
	type step struct {
		*used
		daemon *daemon
	}
	steps := map[string]step{}
	for _, d := range daemons {
		for space, u := range d.steps {
			steps[space] = step{u, d}
		}
	}
	for _, pid := range pids {
		if known[pid] {
			continue
		}
		space, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
		s, ok := steps[space]
		if err != nil || !ok {
			continue
		}
		if s.processes++; s.processes > m.cfg.Limits.Processes { // the rest may be tens of thousands, and each takes time
			m.kill(s.daemon, s.used, "processes", m.tooMany())
			return false
		}
	}
	return true
}

func (m *Manager) tooMany() string {
	return fmt.Sprintf("it had more than %d processes, the limit for one step", m.cfg.Limits.Processes)
}

// watchSteps looks at every process, and gives those that there are.
func (m *Manager) watchSteps(daemons []*daemon) (known map[int]bool) {
	all := processes()
	byPID := map[int]*daemon{}
	for _, d := range daemons {
		if d.killed == nil {
			d.killed = map[string]bool{}
		}
		d.steps, d.tmpfs = map[string]*used{}, nil
		byPID[int(d.pid.Load())] = d
	}
	steps := map[string]*used{}
	owner := map[string]*daemon{}
	// of gives the daemon that a process descends from.
	of := func(p *proc) *daemon {
		for n := 0; p != nil && n < 64; n++ {
			if d := byPID[p.parent]; d != nil {
				return d
			}
			p = all[p.parent]
		}
		return nil
	}
	for pid, p := range all {
		if p.depth == 2 {
			if d := of(p); d != nil && d.tmpfs == nil {
				d.tmpfs = memoryMounts(pid)
			}
		}
		if p.depth < 3 {
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
			owner[space] = of(p)
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
			m.kill(d, u, "processes", m.tooMany())
		case d.files(u)+u.memory > lim.Memory && d.files(u)+exact(u) > lim.Memory:
			m.kill(d, u, "memory", fmt.Sprintf("it used more than %s of memory, the limit for one step", size(lim.Memory)))
		}
	}
	known = make(map[int]bool, len(all))
	for pid := range all {
		known[pid] = true
	}
	return known
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
	depth   int  // of its process namespace: 1 is ours, 2 may be a daemon's, 3 a step's
	first   bool // of a step's namespace
}

func processes() map[int]*proc {
	list := pids()
	all := make(map[int]*proc, len(list))
	for _, pid := range list {
		if p := process(pid); p != nil {
			all[pid] = p
		}
	}
	return all
}

// pids lists every process.
func pids() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	list := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list
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
			p.depth = len(fields)
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

// files is what lies in the memory file systems that are the step's alone. While it is being started its first process still sees
// the daemon's, and the machine's.
func (d *daemon) files(u *used) (sum int64) {
	if d.tmpfs == nil {
		return 0
	}
	for device, at := range memoryMounts(u.init) {
		if _, shared := d.tmpfs[device]; shared {
			continue
		}
		var st syscall.Statfs_t
		if syscall.Statfs(filepath.Join("/proc", strconv.Itoa(u.init), "root", at), &st) == nil && st.Type == tmpfsMagic {
			sum += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return sum
}

// memoryMounts gives where a process sees each memory file system.
func memoryMounts(pid int) map[string]string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	if err != nil {
		return nil
	}
	mounts := map[string]string{}
	for line := range bytes.Lines(data) {
		head, tail, ok := strings.Cut(string(line), " - ")
		if f := strings.Fields(head); ok && strings.HasPrefix(tail, "tmpfs ") && len(f) >= 5 {
			mounts[f[2]] = f[4]
		}
	}
	return mounts
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
