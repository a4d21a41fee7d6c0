package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// A project of 500 MB in 5,000 files that do not compress.
const (
	projectFiles = 5000
	projectBytes = 500 << 20
)

// BenchmarkPushAfterAChange pushes a project of 500 MB, changes one line and pushes again: what goes over the wire, both ways, and how
// long the command takes until the builder has the source (--detach).
func BenchmarkPushAfterAChange(b *testing.B) {
	s, _ := start(b, b.TempDir())
	wire := newMeter(b, s.address)
	dir := largeProject(b, projectFiles, projectBytes)
	user := newUser(b, s, wire)
	run := func(args ...string) time.Duration {
		b.Helper()
		began := time.Now()
		user.run(args...)
		return time.Since(began)
	}
	run("fleet", "create", "large", "--type", "generic-amd64")
	wire.reset()
	first := run("push", "large", dir, "--detach")
	b.Logf("first push: %s, %.1f MB on the wire", first.Round(time.Millisecond), wire.megabytes())
	<-time.After(3 * time.Second) // the files are settled, and their hashes kept by the next push
	run("push", "large", dir, "--detach")
	var took time.Duration
	var sent float64
	for b.Loop() {
		b.StopTimer()
		f, err := os.OpenFile(filepath.Join(dir, "d7", "f4007"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(f, "one line more")
		_ = f.Close()
		wire.reset()
		b.StartTimer()
		took += run("push", "large", dir, "--detach")
		sent += wire.megabytes()
	}
	b.ReportMetric(took.Seconds()/float64(b.N), "s/push")
	b.ReportMetric(sent/float64(b.N), "MB/push")
}

// cliUser is somebody at the command line, the administrator.
type cliUser struct {
	b     *testing.B
	home  string
	admin api.Admin
	env   []string
}

func newUser(b *testing.B, s *server, wire *meter) *cliUser {
	b.Helper()
	u := &cliUser{b: b, home: b.TempDir()}
	text, err := os.ReadFile(filepath.Join(s.dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(text, &u.admin)
	}
	if err != nil {
		b.Fatal(err)
	}
	u.env = append(os.Environ(), "HOME="+u.home, "XDG_CONFIG_HOME="+u.home, "XDG_CACHE_HOME="+u.home, "ROADSTEAD_URL="+s.base,
		"ROADSTEAD_TOKEN="+u.admin.APIKey, "SSL_CERT_FILE="+filepath.Join(s.dir, "ca.pem"), "HTTPS_PROXY=http://"+wire.address)
	return u
}

// run runs roadstead and gives what it printed.
func (u *cliUser) run(args ...string) string {
	u.b.Helper()
	cmd := exec.Command(fleettest.Program(u.b, "roadstead"), args...)
	cmd.Env = u.env
	cmd.Stdin = strings.NewReader(u.admin.Password + "\n") // for who asks
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		u.b.Fatalf("%v: %v: %s%s", args, err, out, errs.String())
	}
	return string(out)
}

// largeProject is one whose image comes along, so that no build service is needed.
func largeProject(b *testing.B, files int, size int) string {
	b.Helper()
	dir := b.TempDir()
	noise := rand.NewChaCha8([32]byte{1})
	text := make([]byte, size/files)
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%50))
		if i < 50 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		_, _ = noise.Read(text) // never fails
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	images := filepath.Join(dir, ".roadstead", "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		b.Fatal(err)
	}
	img, err := random.Image(1000, 1)
	if err != nil {
		b.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		b.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		b.Fatal(err)
	}
	tag, err := name.NewTag("example.com/some/image:latest")
	if err != nil {
		b.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(images, "main.tar"), tag, img); err != nil {
		b.Fatal(err)
	}
	return dir
}

// meter is an HTTP proxy that counts, and takes every name for the server's.
type meter struct {
	address string
	bytes   atomic.Int64
}

func newMeter(b *testing.B, server string) *meter {
	b.Helper()
	ln := listen(b)
	m := &meter{address: ln.Addr().String()}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go m.pass(c, server)
		}
	})
	b.Cleanup(func() { _ = ln.Close(); wait.Wait() })
	return m
}

func (m *meter) reset()             { m.bytes.Store(0) }
func (m *meter) megabytes() float64 { return float64(m.bytes.Load()) / 1e6 }

func (m *meter) pass(client net.Conn, server string) {
	defer client.Close()
	in := bufio.NewReader(client)
	if _, err := http.ReadRequest(in); err != nil {
		return
	}
	up, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer up.Close()
	if _, err := io.Copy(client, bytes.NewReader([]byte("HTTP/1.1 200 OK\r\n\r\n"))); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(counted{client, m}, up)
		_ = client.Close()
	}()
	_, _ = io.Copy(counted{up, m}, in)
}

type counted struct {
	io.Writer
	m *meter
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.m.bytes.Add(int64(n))
	return n, err
}
