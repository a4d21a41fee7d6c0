package bench_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// What BenchmarkTable measures is chosen by the environment; these are the defaults.
var (
	tableDevices = setting("ROADSTEAD_BENCH_DEVICES", "1000")     // sizes of the world: 1000,10000,50000
	tableSQL     = setting("ROADSTEAD_BENCH_SQL", "sqlite")       // databases: sqlite,postgres
	tableWays    = setting("ROADSTEAD_BENCH_WAYS", "role,server") // straight to the api role; through the public port
	tableRows    = setting("ROADSTEAD_BENCH_ROWS", "")            // names of requests; none means all
	tableSeconds = setting("ROADSTEAD_BENCH_SECONDS", "1.5")      // of load a stretch
	tableRounds  = setting("ROADSTEAD_BENCH_ROUNDS", "3")         // stretches of each request; the figure is their median
	tableClients = setting("ROADSTEAD_BENCH_CLIENTS", "32")       // connections
)

func setting(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// target is a server under load.
type target struct {
	world *world
	pids  []int // whose CPU time counts, with that of their descendants
	dial  func() (net.Conn, error)
	host  string

	role     int // process that plays the api role, if one does
	postgres int // the database's process, if it has one
}

// BenchmarkTable prints the figures of docs/benchmarks.md as a table in Markdown: what each hot request costs in CPU time of all
// processes of the server, the database's among them, and how many a second are answered, while as many come as the machine
// can take. The clients are another process and do not count.
func BenchmarkTable(b *testing.B) {
	fmt.Printf("\n%s; %s s × %s, %s connections\n", machine(), tableSeconds, tableRounds, tableClients)
	for sql := range strings.SplitSeq(tableSQL, ",") {
		for size := range strings.SplitSeq(tableDevices, ",") {
			devices, err := strconv.Atoi(size)
			if err != nil {
				b.Fatal(err)
			}
			for way := range strings.SplitSeq(tableWays, ",") {
				b.Run(sql+"/"+size+"/"+way, func(b *testing.B) { table(b, sql, devices, way) })
			}
		}
	}
}

func open(b *testing.B, sql string, devices int, way string) *target {
	b.Helper()
	t := &target{host: "api." + benchDomain}
	dsn, args := "", []string(nil)
	switch sql {
	case "sqlite":
	case "postgres":
		pg := startPostgres(b)
		t.pids, t.postgres, dsn = []int{pg.pid}, pg.pid, pg.database(b)
		args = []string{"--sql", dsn}
	default:
		b.Fatalf("ROADSTEAD_BENCH_SQL: %q is not known", sql)
	}
	switch way {
	case "role":
		p := startRole(b, dsn)
		t.role, t.pids, t.world = p.cmd.Process.Pid, append(t.pids, p.cmd.Process.Pid), p.newWorld(b, devices)
		t.dial = func() (net.Conn, error) { return net.Dial("tcp", p.addr) }
	case "server":
		s, _ := start(b, publicDir(b), args...)
		t.pids, t.world = append(t.pids, s.cmd.Process.Pid), s.newWorld(b, devices)
		t.dial = func() (net.Conn, error) {
			return tls.Dial("tcp", s.address, &tls.Config{RootCAs: s.roots, ServerName: t.host, NextProtos: []string{"http/1.1"}})
		}
	default:
		b.Fatalf("ROADSTEAD_BENCH_WAYS: %q is not known", way)
	}
	return t
}

func table(b *testing.B, sql string, devices int, way string) {
	t := open(b, sql, devices, way)
	rows := t.world.hotPaths()
	if os.Getenv(profileEnv) != "" && way == "role" {
		_ = syscall.Kill(t.role, syscall.SIGUSR1)
	}
	count, err := strconv.Atoi(tableClients)
	t.world.must(err)
	clients := make([]*wire, count)
	for i := range clients {
		conn, err := t.dial()
		t.world.must(err)
		defer conn.Close()
		clients[i] = newWire(conn, t.host)
	}
	fmt.Printf("\n%s, %d devices, %s\n\n| request | budget | CPU ms | of them | req/s | slowest ms | reference ms |\n|---|---|---|---|---|---|---|\n",
		sql, devices, map[string]string{"role": "api role straight (plain HTTP)", "server": "whole server through the public TLS port"}[way])
	for _, h := range rows {
		if tableRows == "" || slices.Contains(strings.Split(tableRows, ","), h.name) {
			fmt.Println(t.row(b, h, clients))
		}
	}
	t.hold(b, rows[0], devices/5) // as many as poll within a connection's idle time, when all do every ten minutes
	t.hold(b, rows[0], devices)
	fmt.Printf("\n%s\n", machine())
	b.ReportMetric(0, "ns/op")
}

// hold lets some devices poll once, each on a connection of its own, keeps all of them, and prints what the api role holds then.
func (t *target) hold(b *testing.B, poll hot, devices int) {
	b.Helper()
	conns := make([]net.Conn, devices)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range 4 * fillers {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < devices && failed.Load() == nil; n = int(next.Add(1)) - 1 {
				conn, err := t.dial()
				if err == nil {
					conns[n] = conn
					_, err = newWire(conn, t.host).do(poll.ask(n))
				}
				if err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		b.Log("connections of all devices at once:", *err)
		return
	}
	for _, pid := range t.pids {
		spent(b, pid, func(_ *used, id int) {
			if roleOf(id) == api.RoleAPI || id == t.role {
				fmt.Printf("\napi role: %.0f MiB resident with %d connections of devices\n", rollup(id, "Rss:"), devices)
			}
		})
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// row measures one request several times and gives its line of the table.
func (t *target) row(b *testing.B, h hot, clients []*wire) string {
	b.Helper()
	seconds, err := strconv.ParseFloat(tableSeconds, 64)
	t.world.must(err)
	rounds, err := strconv.Atoi(tableRounds)
	t.world.must(err)
	var next atomic.Int64
	known := 0
	if h.each {
		known = t.world.size // each device has asked once before, as those of a fleet have
	}
	for warm := true; warm; warm = int(next.Load()) < known {
		if _, err := saturate(clients, h, &next, 300*time.Millisecond); err != nil { // caches, statements, the heap's size
			b.Fatal(err)
		}
	}
	var costs, rates, references []float64
	var slowest time.Duration
	parts := map[string]time.Duration{}
	requests := 0
	for range rounds {
		at := reference(b)
		before := t.spent(b)
		o, err := saturate(clients, h, &next, time.Duration(seconds*float64(time.Second)))
		if err != nil {
			b.Fatal(err)
		}
		after := t.spent(b)
		references = append(references, (at+reference(b))/2)
		costs = append(costs, (after.cpu-before.cpu).Seconds()*1000/float64(o.requests))
		rates = append(rates, o.perSecond())
		slowest = max(slowest, o.slowest)
		requests += o.requests
		for name, d := range after.roles {
			parts[name] += d - before.roles[name]
		}
	}
	slices.Sort(costs)
	slices.Sort(rates)
	slices.Sort(references)
	budget := "–"
	if h.budget > 0 {
		budget = strconv.FormatFloat(h.budget, 'g', -1, 64)
	}
	return fmt.Sprintf("| %s | %s | %.3f (%.3f–%.3f) | %s | %.0f | %.0f | %.2f |", h.what, budget, costs[rounds/2], costs[0], costs[rounds-1],
		shares(parts, requests), rates[rounds/2], slowest.Seconds()*1000, references[rounds/2])
}

// shares names what each role spent on a request, the largest first; what is next to nothing is left out.
func shares(parts map[string]time.Duration, requests int) string {
	names := make([]string, 0, len(parts))
	for name := range parts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return int(parts[y] - parts[x]) })
	var out []string
	for _, name := range names {
		if ms := parts[name].Seconds() * 1000 / float64(requests); ms >= 0.002 {
			out = append(out, fmt.Sprintf("%s %.3f", name, ms))
		}
	}
	return strings.Join(out, ", ")
}

func (t *target) spent(b *testing.B) used {
	b.Helper()
	sum := used{roles: map[string]time.Duration{}}
	for _, pid := range t.pids {
		u := spent(b, pid)
		sum.cpu += u.cpu
		for name, d := range u.roles {
			switch {
			case name == "" && pid == t.postgres:
				name = "postgres"
			case name == "":
				name = api.RoleAPI // ours that plays it
			}
			sum.roles[name] += d
		}
	}
	return sum
}
