package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// server is a running `roadsteadd up` on a fresh data directory, reached by address: no name needs to resolve.
type server struct {
	cmd     *exec.Cmd
	dir     string
	address string
	http    *http.Client
	token   string
}

// program finds a built program; `make bench` builds them first.
func program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("%s is not built: run make build", name)
	}
	return path
}

// start runs the server until it says ready and gives the time that took.
func start(tb testing.TB, dir string) (*server, time.Duration) {
	tb.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	var stderr bytes.Buffer
	cmd := exec.Command(program(tb, "roadsteadd"), "up", "--data", dir, "--domain", "bench.roadstead.test", "--listen", address)
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	s := &server{cmd: cmd, dir: dir, address: address}
	tb.Cleanup(s.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	took := time.Since(began)
	if err != nil || !strings.HasPrefix(line, "ready ") {
		tb.Fatalf("the server said %q (%v): %s", line, err, stderr.String())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s, took
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// connect prepares an authenticated client.
func (s *server) connect(tb testing.TB) {
	tb.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.address)
		},
	}}
	data, err := os.ReadFile(filepath.Join(s.dir, "admin.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var admin struct {
		APIKey string `json:"api_key"`
	}
	if err := json.Unmarshal(data, &admin); err != nil {
		tb.Fatal(err)
	}
	s.token = admin.APIKey
}

// call makes one request and decodes the answer into out, if there is one.
func (s *server) call(tb testing.TB, method, path, token string, in, out any) int {
	tb.Helper()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			tb.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	_, port, _ := net.SplitHostPort(s.address)
	req, err := http.NewRequest(method, "https://api.bench.roadstead.test:"+port+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := s.http.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if out != nil && res.StatusCode < 300 {
		if err := json.Unmarshal(data, out); err != nil {
			tb.Fatalf("%s %s: %v: %s", method, path, err, data)
		}
	}
	return res.StatusCode
}

// fleet makes a fleet and a provisioning key for it, and gives the fleet's id.
func (s *server) fleet(tb testing.TB, name string) (int64, string) {
	tb.Helper()
	type row struct {
		ID int64 `json:"id"`
	}
	type list struct {
		D []row `json:"d"`
	}
	var organizations, types list
	s.call(tb, "GET", "/v7/organization?$select=id", s.token, nil, &organizations)
	s.call(tb, "GET", "/v7/device_type?$select=id&$filter="+url.QueryEscape("slug eq 'generic-amd64'"), s.token, nil, &types)
	if len(organizations.D) == 0 || len(types.D) == 0 {
		tb.Fatal("the server has no organization or no device type")
	}
	var made row
	if code := s.call(tb, "POST", "/v7/application", s.token, map[string]any{
		"app_name": name, "organization": organizations.D[0].ID, "is_for__device_type": types.D[0].ID,
	}, &made); code != http.StatusCreated {
		tb.Fatalf("making a fleet: status %d", code)
	}
	var key string
	if code := s.call(tb, "POST", "/api-key/v2/", s.token, api.NewKey{
		ActorType: "application", ActorTypeID: made.ID, Roles: []string{"provisioning-api-key"},
	}, &key); code != http.StatusOK {
		// A named key may not make keys: log in for a session.
		data, err := os.ReadFile(filepath.Join(s.dir, "admin.json"))
		if err != nil {
			tb.Fatal(err)
		}
		var admin struct{ Email, Password string }
		if err := json.Unmarshal(data, &admin); err != nil {
			tb.Fatal(err)
		}
		session := s.login(tb, admin.Email, admin.Password)
		if code := s.call(tb, "POST", "/api-key/v2/", session, api.NewKey{
			ActorType: "application", ActorTypeID: made.ID, Roles: []string{"provisioning-api-key"},
		}, &key); code != http.StatusOK {
			tb.Fatalf("making a provisioning key: status %d", code)
		}
	}
	return made.ID, key
}

func (s *server) login(tb testing.TB, email, password string) string {
	tb.Helper()
	data, err := json.Marshal(api.Login{Username: email, Password: password})
	if err != nil {
		tb.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.address)
	res, err := s.http.Post("https://api.bench.roadstead.test:"+port+"/login_", "application/json", bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	token, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		tb.Fatalf("login: status %d: %v", res.StatusCode, err)
	}
	return string(token)
}

// used is what a process and all its descendants hold and have spent.
type used struct {
	resident     float64 // MiB of memory, a page that several processes share counted once (PSS)
	summed       float64 // MiB, every process' resident size added up, shared pages counted again and again (RSS)
	cpu          time.Duration
	participants int
}

// footprint looks at a process and its descendants.
func footprint(tb testing.TB, pid int) used {
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
	var u used
	todo := []int{pid}
	var total int64
	for len(todo) > 0 {
		id := todo[0]
		todo = append(todo[1:], children[id]...)
		total += ticks[id]
		u.participants++
		u.resident += rollup(id, "Pss:")
		u.summed += rollup(id, "Rss:")
	}
	u.cpu = time.Duration(total) * 10 * time.Millisecond
	return u
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

// BenchmarkUpOnEmptyDirectory is the time from `roadsteadd up` on an empty directory to its line `ready`. Budget: 3 s.
func BenchmarkUpOnEmptyDirectory(b *testing.B) {
	var total time.Duration
	for range b.N {
		s, took := start(b, publicDir(b))
		total += took
		s.stop()
	}
	b.ReportMetric(total.Seconds()/float64(b.N), "s/up")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdleServer is what all roles use while nothing happens, with 1,000 devices registered. Budget: 256 MiB, 2 % of a core.
// Run it with -benchtime 1x.
func BenchmarkIdleServer(b *testing.B) {
	s, _ := start(b, publicDir(b))
	s.connect(b)
	fleet, key := s.fleet(b, "benchmark")
	before := footprint(b, s.cmd.Process.Pid)
	const devices = 1000
	for i := range devices {
		if code := s.call(b, "POST", "/device/register", key, api.Register{
			Application: fleet, UUID: api.DeviceUUID(fmt.Sprintf("%032x", i+1)), DeviceType: "generic-amd64",
			APIKey: fmt.Sprintf("%032x", 1<<32+i),
		}, nil); code != http.StatusCreated {
			b.Fatalf("registration %d: status %d", i, code)
		}
	}
	after := footprint(b, s.cmd.Process.Pid)
	b.ReportMetric((after.cpu-before.cpu).Seconds()*1000/devices, "CPU-ms/register")
	const window = 20 * time.Second
	<-time.After(5 * time.Second) // let the last request's work settle
	from := footprint(b, s.cmd.Process.Pid)
	<-time.After(window)
	to := footprint(b, s.cmd.Process.Pid)
	b.ReportMetric(to.resident, "MiB-resident")
	b.ReportMetric(to.summed, "MiB-RSS-summed")
	b.ReportMetric(float64(to.participants), "processes")
	b.ReportMetric(100*(to.cpu-from.cpu).Seconds()/window.Seconds(), "%-of-a-core")
	b.ReportMetric(0, "ns/op")
}

// publicDir is a data directory that the users of the roles may enter.
func publicDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "roadstead-bench-")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the roles must pass; each folder below guards itself
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
