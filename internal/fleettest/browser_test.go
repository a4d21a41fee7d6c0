package fleettest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// browser is a real Chromium.
type browser struct {
	testing.TB
	in  io.Writer
	out *bufio.Scanner
}

// page is what a browser shows.
type page struct {
	URL, Text, Error string
	Cookies          []struct {
		Name, Value, SameSite string
		HTTPOnly              bool `json:"httpOnly"`
		Secure                bool
	}
	Wrong []string // what the browser complained of
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	path := os.Getenv("ROADSTEAD_BROWSER")
	if path == "" {
		t.Skip("ROADSTEAD_BROWSER names no browser; make test installs it")
	}
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{TB: t, in: in, out: bufio.NewScanner(out)}
	b.out.Buffer(nil, 8<<20)
	t.Cleanup(func() {
		_ = in.Close()
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
	})
	return b
}

// do gives one command. What goes wrong fails the test.
func (b *browser) do(command string, with ...string) page {
	b.Helper()
	m := map[string]string{"do": command}
	for i := 0; i < len(with); i += 2 {
		m[with[i]] = with[i+1]
	}
	data, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fprintf(b.in, "%s\n", data); err != nil {
		b.Fatal(err)
	}
	if !b.out.Scan() {
		b.Fatalf("the browser ended: %v", b.out.Err())
	}
	var p page
	if err := json.Unmarshal(b.out.Bytes(), &p); err != nil {
		b.Fatal(err)
	}
	if p.Error != "" {
		b.Fatalf("%s %v: %s\nat %s:\n%s", command, with, p.Error, p.URL, p.Text)
	}
	return p
}

func (b *browser) open(url string) page { b.Helper(); return b.do("goto", "url", url) }
func (b *browser) fill(at, value string) {
	b.Helper()
	b.do("fill", "at", at, "value", value)
}
func (b *browser) click(at string) { b.Helper(); b.do("click", "at", at) }

// shows waits until the browser is at an address and shows a text.
func (b *browser) shows(url, text string) page {
	b.Helper()
	var p page
	fleettest.Eventually(b, 20*time.Second, func() error {
		p = b.do("state")
		if !strings.Contains(p.URL, url) || !strings.Contains(p.Text, text) {
			return fmt.Errorf("the browser is at %s:\n%s\n%v\nwant %s with %q", p.URL, p.Text, p.Wrong, url, text)
		}
		return nil
	})
	return p
}
