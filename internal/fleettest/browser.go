package fleettest

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
)

// Browser is a real Chromium.
type Browser struct {
	testing.TB
	in  io.Writer
	out *bufio.Scanner
}

// Page is what a browser shows.
type Page struct {
	URL, Text, Error string
	Cookies          []struct {
		Name, Value, SameSite string
		Domain                string // of a host alone when no dot is before it
		HTTPOnly              bool   `json:"httpOnly"`
		Secure                bool
	}
	Wrong []string // what the browser complained of
}

// NewBrowser starts one, and skips the test where there is none.
func NewBrowser(t testing.TB) *Browser {
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
	b := &Browser{TB: t, in: in, out: bufio.NewScanner(out)}
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

// Do gives one command. What goes wrong fails the test.
func (b *Browser) Do(command string, with ...string) Page {
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
	var p Page
	if err := json.Unmarshal(b.out.Bytes(), &p); err != nil {
		b.Fatal(err)
	}
	if p.Error != "" {
		b.Fatalf("%s %v: %s\nat %s:\n%s", command, with, p.Error, p.URL, p.Text)
	}
	return p
}

// Open goes to a page.
func (b *Browser) Open(url string) Page { b.Helper(); return b.Do("goto", "url", url) }

// Fill writes into a field.
func (b *Browser) Fill(at, value string) {
	b.Helper()
	b.Do("fill", "at", at, "value", value)
}

// Click clicks on something.
func (b *Browser) Click(at string) { b.Helper(); b.Do("click", "at", at) }

// Shows waits until the browser is at an address and shows a text.
func (b *Browser) Shows(url, text string) Page {
	b.Helper()
	var p Page
	Eventually(b, 3*time.Minute, func() error {
		p = b.Do("state")
		if !strings.Contains(p.URL, url) || !strings.Contains(p.Text, text) {
			return fmt.Errorf("the browser is at %s:\n%s\n%v\nwant %s with %q", p.URL, p.Text, p.Wrong, url, text)
		}
		return nil
	})
	return p
}
