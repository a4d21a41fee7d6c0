package bench_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/heap"
)

// The names of what a process of ours is told.
const (
	roleEnv = "ROADSTEAD_BENCH_ROLE" // be an api role instead of a benchmark
	asRole  = "X-Bench-Role"         // who is asking; without it, the edge

	profileEnv = "ROADSTEAD_BENCH_PROFILE" // a file for the CPU profile of that process, from when its world is filled
)

// TestMain plays an api role when it is told to: its CPU time must not be that of the clients.
func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(roleEnv); !ok {
		os.Exit(m.Run())
	}
	testing.Init()
	if err := flag.Set("test.benchtime", "1x"); err != nil { // once is all
		panic(err)
	}
	result := testing.Benchmark(func(b *testing.B) { playRole(b, os.Getenv(roleEnv)) })
	if result.N == 0 {
		os.Exit(1)
	}
}

// playRole serves the api role and the signer behind plain HTTP on loopback, as the peer's API was measured: no TLS, no edge.
// It says its address on standard output and ends when standard input does.
func playRole(b *testing.B, sql string) {
	ballast := heap.Steady(heap.Ballast)
	defer runtime.KeepAlive(ballast)
	handler, chain := openAPIRole(b, sql)
	if file := os.Getenv(profileEnv); file != "" {
		defer profile(b, file)()
	}
	ln := listen(b)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role := r.Header.Get(asRole)
		if role == "" {
			role = api.RoleEdge
		}
		r.TLS = chain[role]
		handler.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	fmt.Println(ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = srv.Close()
	<-done
}

// profile begins with the first signal that the benchmark sends.
func profile(b *testing.B, file string) (end func()) {
	b.Helper()
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	begin := make(chan os.Signal, 1)
	signal.Notify(begin, syscall.SIGUSR1)
	stopped := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		select {
		case <-begin:
			done <- pprof.StartCPUProfile(f)
		case <-stopped:
			done <- nil
		}
	}()
	return func() {
		close(stopped)
		if err := <-done; err != nil {
			b.Error(err)
		}
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}

// role is a process that plays the api role.
type role struct {
	cmd  *exec.Cmd
	addr string
	http *http.Client
}

func startRole(tb testing.TB, sql string) *role {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+sql)
	var words bytes.Buffer
	cmd.Stderr = &words
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	addr := strings.TrimSpace(line)
	if _, _, splitErr := net.SplitHostPort(addr); err != nil || splitErr != nil {
		tb.Fatalf("the api role said %q: %v %s", line, err, words.String())
	}
	return &role{cmd: cmd, addr: addr, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * fillers}}}
}

// newWorld fills it.
func (p *role) newWorld(tb testing.TB, devices int) *world {
	tb.Helper()
	w := &world{tb: tb, size: devices, send: p.send}
	w.into(w.do(api.RoleParent, "POST", "/internal/v1/bootstrap", "", nil, 200), &w.admin)
	w.fill()
	return w
}

func (p *role) send(role string, r request) (answer, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequest(r.method, "http://"+p.addr+strings.ReplaceAll(r.path, " ", "%20"), body)
	if err != nil {
		return answer{}, err
	}
	req.Header = r.header.Clone()
	req.Header.Set(asRole, role)
	res, err := p.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, data}, err
}
