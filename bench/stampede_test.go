package bench_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How many devices come back at once in BenchmarkStampede.
var stampedeDevices = setting("ROADSTEAD_BENCH_STAMPEDE", "2000")

// BenchmarkStampede has all devices of a server come back at the same moment, each on a new connection, poll and report, while
// somebody looks at pages; with the server's bounds on what it works on at once, and without. The devices honour Retry-After. They
// run at the lowest priority, for they have processors of their own in the world.
func BenchmarkStampede(b *testing.B) {
	devices, err := strconv.Atoi(stampedeDevices)
	if err != nil {
		b.Fatal(err)
	}
	open := strconv.Itoa(1 << 20)
	fmt.Printf("\n%s\n\n| %d devices come back at once | pages | page p50 ms | p99 ms | slowest ms | all back after s | told to come later |\n|---|---|---|---|---|---|---|\n",
		machine(), devices)
	for _, way := range []struct {
		name string
		args []string
	}{
		{"bounded", nil},
		{"unbounded", []string{"--device-requests", open, "--user-requests", open, "--caller-requests", open, "--handshakes", open}},
	} {
		b.Run(way.name, func(b *testing.B) {
			for range b.N {
				stampede(b, way.name, devices, way.args)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func stampede(b *testing.B, name string, devices int, args []string) {
	b.Helper()
	s, _ := start(b, publicDir(b), args...)
	w := s.newWorld(b, devices)
	calm := s.readPages(b, w, func() { <-time.After(2 * time.Second) })
	w.must(priority(19))
	h := &herd{server: s, world: w}
	pages := s.readPages(b, w, func() { h.run() })
	for _, p := range []struct {
		name  string
		pages pageTimes
		back  string
	}{{"before", calm, "| |"}, {name, pages, fmt.Sprintf("| %.1f | %d |", h.took.Seconds(), h.later.Load())}} {
		fmt.Printf("| %s | %d | %.0f | %.0f | %.0f %s\n", p.name, len(p.pages), p.pages.at(50), p.pages.at(99), p.pages.at(100), p.back)
	}
	if err := h.failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(pages.at(99), "ms-page-p99")
	b.ReportMetric(h.took.Seconds(), "s-all-back")
}

// priority gives every thread of this process a priority: 19 is the lowest, at which it leaves the processors to the server.
func priority(nice int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if id, err := strconv.Atoi(task.Name()); err == nil {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice) // a thread that has just ended needs none
		}
	}
	return nil
}

// herd is all devices of a world.
type herd struct {
	*server
	world  *world
	later  atomic.Int64 // answers 503
	failed atomic.Pointer[error]
	took   time.Duration
}

func (h *herd) run() {
	began := time.Now()
	var all sync.WaitGroup
	for n := range h.world.size {
		all.Go(func() {
			if err := h.comeBack(n); err != nil {
				h.failed.Store(&err)
			}
		})
	}
	all.Wait()
	h.took = time.Since(began)
}

// comeBack connects one device, polls its whole target and reports. A connection that is not taken is made again.
func (h *herd) comeBack(n int) error {
	d := h.world.devices[n]
	poll := ask("GET", "/device/v3/"+string(d.UUID)+"/state", d.APIKey, nil)
	todo := []request{poll, h.world.reportMetrics(n)}
	for try := 0; try < 20; try++ {
		conn, err := tls.Dial("tcp", h.address, &tls.Config{RootCAs: h.roots, ServerName: "api." + benchDomain, NextProtos: []string{"http/1.1"}})
		if err != nil {
			h.later.Add(1)
			<-time.After(2 * time.Second)
			continue
		}
		c := newWire(conn, "api."+benchDomain)
		for len(todo) > 0 {
			status, err := c.do(todo[0])
			if err != nil {
				break
			}
			if status == http.StatusServiceUnavailable {
				h.later.Add(1)
				<-time.After(5*time.Second + time.Duration(n%20)*time.Second) // what the server says, between 5 and 30 s
				continue
			}
			if status != http.StatusOK {
				_ = conn.Close()
				return fmt.Errorf("%s %s: %d", todo[0].method, todo[0].path, status)
			}
			todo = todo[1:]
		}
		_ = conn.Close()
		if len(todo) == 0 {
			return nil
		}
	}
	return fmt.Errorf("device %d did not get through", n)
}

// pageTimes are how long pages took, in milliseconds.
type pageTimes []float64

// at is the p-th percentile.
func (t pageTimes) at(p int) float64 {
	if len(t) == 0 {
		return 0
	}
	return t[min(len(t)-1, len(t)*p/100)]
}

// pageEnv makes a process of ours read pages: the address, the file of the root certificate and a token.
const pageEnv = "ROADSTEAD_BENCH_PAGES"

// readPages reads pages in a process of its own while f runs.
func (s *server) readPages(b *testing.B, w *world, f func()) pageTimes {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPageReader$")
	cmd.Env = append(os.Environ(), pageEnv+"="+strings.Join([]string{s.address, filepath.Join(s.dir, "ca.pem"), w.admin.APIKey}, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	w.must(err)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "reading\n" {
		b.Fatalf("the reader of pages said %q, %v", line, err)
	}
	f()
	_ = in.Close()
	var times pageTimes
	w.must(json.NewDecoder(lines).Decode(&times))
	_, _ = io.Copy(io.Discard, lines)
	_ = cmd.Wait() // what it measured is here
	slices.Sort(times)
	return times
}

// TestPageReader is the process that reads pages, one after the other on one connection and every tenth on a new one, until its
// standard input ends.
func TestPageReader(t *testing.T) {
	words := strings.Fields(os.Getenv(pageEnv))
	if len(words) != 3 {
		return
	}
	pem, err := os.ReadFile(words[1])
	if err := errors.Join(err, priority(0)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	var over atomic.Bool
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); over.Store(true) }() // ends with the process
	page := ask("GET", "/v7/device?$select=id,uuid,device_name,status,is_online&$top=50&$orderby=id%20asc", words[2], nil)
	var times pageTimes
	var c *wire
	var conn net.Conn
	fmt.Println("reading")
	for n := 0; !over.Load() || n == 0; n++ {
		began := time.Now()
		if n%10 == 0 {
			if conn != nil {
				_ = conn.Close()
			}
			dialed, err := tls.Dial("tcp", words[0], &tls.Config{RootCAs: pool, ServerName: "api." + benchDomain, NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			conn, c = dialed, newWire(dialed, "api."+benchDomain)
		}
		status, err := c.do(page)
		if err == nil && status != http.StatusOK {
			err = errors.New(strconv.Itoa(status))
		}
		if err != nil {
			t.Fatalf("page: %v", err)
		}
		times = append(times, float64(time.Since(began).Microseconds())/1000)
		<-time.After(20 * time.Millisecond)
	}
	if err := json.NewEncoder(os.Stdout).Encode(times); err != nil {
		t.Fatal(err)
	}
}
