package fleettest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// elsewhere is another machine: a network namespace from which this one is reached by one wire.
type elsewhere struct {
	t       *testing.T
	name    string
	machine string // our address on the wire
	dir     string // of the worker there

	mu  sync.Mutex // covers what follows
	out bytes.Buffer
	cmd *exec.Cmd
	end chan struct{}
}

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	n := os.Getpid() % 200
	e := &elsewhere{t: t, name: fmt.Sprintf("rsw%d", os.Getpid()), machine: fmt.Sprintf("10.97.%d.1", n)}
	var err error
	if e.dir, err = os.MkdirTemp("", "rsw-"); err != nil { // not t.TempDir, whose names leave sockets no room
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(e.dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wire := fmt.Sprintf("rsw%d", os.Getpid()%1_000_000)
	e.ip("netns", "add", e.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", e.name).Run() })
	e.ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", e.name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", wire).Run() })
	e.ip("addr", "add", e.machine+"/24", "dev", wire)
	e.ip("link", "set", wire, "up")
	e.ip("-n", e.name, "addr", "add", fmt.Sprintf("10.97.%d.2/24", n), "dev", "eth0")
	e.ip("-n", e.name, "link", "set", "eth0", "up")
	e.ip("-n", e.name, "link", "set", "lo", "up")
	return e
}

func (e *elsewhere) ip(args ...string) {
	e.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		e.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// worker is the command that runs one there.
func (e *elsewhere) worker(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + e.name, fleettest.Program(e.t, "roadsteadd"), "role", "builder-worker",
		"--dir", dir, "--buildkitd", fleettest.Buildkitd()}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// start starts the worker and waits until it is ready.
func (e *elsewhere) start(args ...string) {
	e.t.Helper()
	cmd := e.worker(e.dir, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	cmd.Stderr = &locked{&e.mu, &e.out}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ready, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(end)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() == "ready build worker" {
				close(ready)
			}
		}
		_ = cmd.Wait()
	}()
	e.cmd, e.end = cmd, end
	e.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-end
	})
	select {
	case <-ready:
	case <-end:
		e.t.Fatalf("the worker ended:\n%s", e.log())
	case <-time.After(time.Minute):
		e.t.Fatalf("the worker is not ready:\n%s", e.log())
	}
}

func (e *elsewhere) log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.out.String()
}

type locked struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// pushed is a build that is followed.
type pushed struct {
	said   string
	status string
	err    error
	took   time.Duration // from the words that were waited for to the end
}

// push builds a Dockerfile and calls then when the build says certain words.
func push(t *testing.T, c *client.Client, slug, dockerfile, words string, then func()) pushed {
	t.Helper()
	return pushFiles(t, c, slug, map[string]string{"Dockerfile": dockerfile}, words, then)
}

func pushFiles(t *testing.T, c *client.Client, slug string, files map[string]string, words string, then func()) (p pushed) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	src, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	contents, err := src.Contents(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := c.OpenBuild(t.Context(), client.BuildOptions{Slug: slug}, contents.Entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendContents(t.Context(), opened, contents, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	var at time.Time
	p.status, p.err = c.FollowBuild(t.Context(), opened.ID, client.FollowOptions{Stay: true}, func(l api.BuildLine) error {
		p.said += l.Message + "\n"
		if then != nil && at.IsZero() && strings.Contains(l.Message, words) {
			at = time.Now()
			then()
		}
		return nil
	})
	if !at.IsZero() {
		p.took = time.Since(at)
	}
	return p
}

// workers is what the operator sees.
func workers(t *testing.T, srv *fleettest.Server) map[string]api.Worker {
	t.Helper()
	var list []api.Worker
	if err := json.Unmarshal([]byte(srv.RunAdmin("worker", "list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]api.Worker{}
	for _, w := range list {
		all[w.Name] = w
	}
	return all
}

// A machine elsewhere, from which the server is reached and which is reached by nobody, builds for the server: with a base image and a source
// that come over its connection. It comes back after it was killed and after the builder was, and is cut off when it is removed; what it was
// building then is built by another. Workers are chosen by name when nothing else tells them apart, and its name comes before the server's own.
func TestAWorkerOnAnotherMachineBuilds(t *testing.T) {
	if os.Geteuid() != 0 || !fleettest.CanBuild() {
		t.Skip("only root makes network namespaces, and buildkitd and the base image must be there")
	}
	e := newElsewhere(t)
	ln, err := net.Listen("tcp", e.machine+":0") // a port that is free there
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().String()
	_ = ln.Close()
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true, Args: []string{"--workers-listen", at}})
	c := srv.Client()
	slug, _ := newFleet(t, c, "elsewhere")

	var invited struct{ Token string }
	if err := json.Unmarshal([]byte(srv.RunAdmin("worker", "add", "elsewhere", "-o", "json")), &invited); err != nil {
		t.Fatal(err)
	}
	e.start("--join", invited.Token)
	second := e.worker(filepath.Join(e.dir, "second"), "--join", invited.Token)
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "was used already, for worker elsewhere") {
		t.Errorf("the token a second time: %v: %s", err, out)
	}
	awaitWorker(t, srv, api.WorkerConnected)
	here := func() int { return strings.Count(e.log(), "domain=org-") } // daemons of organizations that have started there
	p := push(t, c, slug, "FROM base/busybox\nCOPY Dockerfile /\nRUN echo built; nc -w 2 "+strings.Replace(at, ":", " ", 1)+" </dev/null && echo the server is reached; echo done\n", "", nil)
	if p.err != nil || p.status != api.StatusSuccess || !strings.Contains(p.said, "  built") || strings.Contains(p.said, "  the server is reached") || !strings.Contains(p.said, "  done") || here() == 0 {
		t.Fatalf("%s, %v, %d daemons:\n%s\nthe worker:\n%s", p.status, p.err, here(), p.said, e.log())
	}

	p = push(t, c, slug, "FROM base/busybox\nRUN echo sleeping now; sleep 3\n", "  sleeping now", func() { _ = e.cmd.Process.Kill() })
	<-e.end
	if p.err != nil || p.status != api.StatusSuccess || !strings.Contains(p.said, "once more") {
		t.Errorf("it was killed: %s after %s, %v:\n%s", p.status, p.took, p.err, p.said)
	}
	awaitWorker(t, srv, api.WorkerAway)
	e.start() // without a token
	awaitWorker(t, srv, api.WorkerConnected)

	times := strings.Count(e.log(), "connected to the server")
	kill(t, srv, "builder")
	await(t, "it has connected anew", func() bool { return strings.Count(e.log(), "msg=\"connected to the server") > times })
	awaitWorker(t, srv, api.WorkerConnected)
	before := here()
	p = push(t, c, slug, "FROM base/busybox\nRUN echo dozing now; sleep 5\n", "  dozing now", func() { srv.RunAdmin("worker", "remove", "elsewhere") })
	if p.err != nil || p.status != api.StatusSuccess || !strings.Contains(p.said, "once more") || here() == before {
		t.Errorf("it was removed: %s after %s, %v:\n%s", p.status, p.took, p.err, p.said)
	}
	await(t, "it is told why", func() bool { return strings.Contains(e.log(), "the worker was removed") })
	if w := workers(t, srv); len(w) != 0 {
		t.Errorf("there is still %+v", w)
	}
}

func awaitWorker(t *testing.T, srv *fleettest.Server, state string) {
	t.Helper()
	await(t, "the worker is "+state, func() bool { w := workers(t, srv)["elsewhere"]; return w.State == state && w.Why == "" })
}

// await waits until something is so.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-late:
			t.Fatalf("%s: not within 30 s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
