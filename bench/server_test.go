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
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/pki"
)

const benchDomain = "bench.roadstead.test"

// server is a running `roadsteadd up` on a fresh data directory, reached by address: no name needs to resolve.
type server struct {
	cmd     *exec.Cmd
	dir     string
	address string
	base    string // URL of the public API
	http    *http.Client
	roots   *x509.CertPool
	peers   map[string]*pki.Peer // the api role, as other roles reach it
}

// start runs the server until it says ready and gives the time that took.
func start(tb testing.TB, dir string, args ...string) (*server, time.Duration) {
	tb.Helper()
	probe := listen(tb)
	address := probe.Addr().String()
	probe.Close()
	logFile, err := os.Create(filepath.Join(dir, "server.log")) // as an operator would: a log that nobody writes costs nothing
	if err != nil {
		tb.Fatal(err)
	}
	defer logFile.Close()
	data := filepath.Join(dir, "data")
	args = append([]string{"up", "--data", data, "--domain", benchDomain, "--listen", address}, args...)
	cmd := exec.Command(fleettest.Program(tb, "roadsteadd"), args...)
	cmd.Stderr = logFile
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	s := &server{cmd: cmd, dir: data, address: address, base: "https://api." + benchDomain + ":" + port}
	tb.Cleanup(s.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	took := time.Since(began)
	if err != nil || !strings.HasPrefix(line, "ready ") {
		log, _ := os.ReadFile(logFile.Name())
		tb.Fatalf("the server said %q (%v): %s", line, err, log)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s, took
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// newWorld fills a running server. Builds come from us in the builder's place, with its certificate, which needs its rights.
func (s *server) newWorld(tb testing.TB, devices int) *world {
	tb.Helper()
	w := &world{tb: tb, size: devices, send: s.send, dir: s.dir}
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	w.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.roots = pool
	s.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.address)
		},
	}}
	var config struct {
		Peers map[string]string `json:"peers"`
	}
	builder := filepath.Join(s.dir, "roles", api.RoleBuilder)
	for _, f := range []struct {
		path string
		into any
	}{{filepath.Join(s.dir, "admin.json"), &w.admin}, {filepath.Join(builder, "role.json"), &config}} {
		data, err := os.ReadFile(f.path)
		w.must(err)
		w.must(json.Unmarshal(data, f.into))
	}
	id, err := pki.LoadIdentity(builder)
	w.must(err)
	s.peers = map[string]*pki.Peer{api.RoleBuilder: id.Client(api.RoleAPI, config.Peers[api.RoleAPI])}
	w.fill()
	return w
}

// send makes one request: as the edge's public client, or as a role straight to the api role.
func (s *server) send(role string, r request) (answer, error) {
	client, base := s.http, s.base
	if peer := s.peers[role]; peer != nil {
		client, base = peer.HTTP, peer.URL
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequest(r.method, base+strings.ReplaceAll(r.path, " ", "%20"), body)
	if err != nil {
		return answer{}, err
	}
	req.Header = r.header
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, data}, err
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
func BenchmarkIdleServer(b *testing.B) {
	s, _ := start(b, publicDir(b))
	s.newWorld(b, 1000)
	const window = 20 * time.Second
	for range b.N {
		<-time.After(5 * time.Second) // let the last request's work settle
		from := spent(b, s.cmd.Process.Pid)
		<-time.After(window)
		to := footprint(b, s.cmd.Process.Pid)
		for _, role := range slices.Sorted(maps.Keys(to.shares)) {
			b.Logf("%-12s %5.1f MiB", role, to.shares[role])
		}
		b.ReportMetric(to.resident, "MiB-resident")
		b.ReportMetric(to.summed, "MiB-RSS-summed")
		b.ReportMetric(float64(to.participants), "processes")
		b.ReportMetric(100*(to.cpu-from.cpu).Seconds()/window.Seconds(), "%-of-a-core")
	}
	b.ReportMetric(0, "ns/op")
}

// publicDir is a directory that the users of the roles may enter.
func publicDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "roadstead-bench-")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the roles must pass; each folder below guards itself
		tb.Fatal(fmt.Errorf("publicDir: %w", err))
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
