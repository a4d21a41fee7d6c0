package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/bus"
)

// serveBus is what a child process of TestBusOfItsOwn does: it serves a bus on an inherited socket until it is killed.
func serveBus(dir string) error {
	f := os.NewFile(3, "socket")
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	srv, err := bus.NewServer(bus.ServerConfig{Dir: dir})
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() { _ = srv.Serve(conn) }() // ends with the process
	}
}

// busProcess is a bus in a process of its own; its socket outlives it.
type busProcess struct {
	t      *testing.T
	dir    string
	socket string
	file   *os.File
	cmd    *exec.Cmd
}

func startBus(t *testing.T) *busProcess {
	t.Helper()
	p := &busProcess{t: t, dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "bus.sock")}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket})
	if err != nil {
		t.Fatal(err)
	}
	if p.file, err = ln.File(); err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	p.start()
	t.Cleanup(func() {
		p.kill()
		_ = p.file.Close()
	})
	return p
}

func (p *busProcess) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestBusOfItsOwn$")
	p.cmd.Env = append(os.Environ(), "BUS_TEST_SERVE="+p.dir)
	p.cmd.Stderr = os.Stderr
	p.cmd.ExtraFiles = []*os.File{p.file}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *busProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *busProcess) connect(node int) (*bus.Bus, *bus.Ring) {
	p.t.Helper()
	b, err := bus.Connect(bus.ConnectConfig{Node: node, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = b.Close() })
	r, err := b.Ring(p.t.Context(), bus.RingConfig{Name: "logs", PerKey: 1000, MaxAge: time.Hour})
	if err != nil {
		p.t.Fatal(err)
	}
	return b, r
}

// TestBusOfItsOwn has two clients of a bus that is killed twice while both write and one follows: nothing that was acknowledged
// is lost, nothing is there twice, and the follower gets all of it.
func TestBusOfItsOwn(t *testing.T) {
	if dir := os.Getenv("BUS_TEST_SERVE"); dir != "" {
		t.Fatal(serveBus(dir))
	}
	p := startBus(t)
	b1, one := p.connect(1)
	b2, two := p.connect(2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	heard := make(chan string, 1)
	stop, err := b2.Subscribe("revoked.>", func(subject string, _ []byte) { heard <- subject })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := b1.Publish("revoked.key.7", nil); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "revoked.key.7" {
		t.Fatalf("heard %q", got)
	}

	follower, err := two.Follow(ctx, "a", 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	const each = 300
	got, followed := map[string]int{}, make(chan error, 1)
	go func() {
		for len(got) < 2*each {
			e, skipped, err := follower.Next(ctx)
			if err == nil && skipped != 0 {
				err = fmt.Errorf("%d entries were left out", skipped)
			}
			if err != nil {
				followed <- err
				return
			}
			got[string(e.Data)]++
		}
		followed <- nil
	}()
	var writers sync.WaitGroup
	var written atomic.Int64
	for node, ring := range map[int]*bus.Ring{1: one, 2: two} {
		writers.Go(func() {
			for i := range each {
				if err := ring.Append(ctx, "a", fmt.Appendf(nil, "%d/%d", node, i)); err != nil {
					t.Errorf("node %d, entry %d: %v", node, i, err)
					return
				}
				written.Add(1)
			}
		})
	}
	for _, at := range []int64{100, 300} {
		for written.Load() < at && ctx.Err() == nil {
			if err := one.Append(ctx, "b", []byte("x")); err != nil { // something to wait for
				t.Fatal(err)
			}
		}
		p.kill()
		p.start()
	}
	writers.Wait()

	if err := <-followed; err != nil {
		t.Fatalf("the follower got %d of %d: %v", len(got), 2*each, err)
	}
	all, err := one.Last(ctx, "a", 1000, time.Time{})
	if err != nil || len(all) != 2*each {
		t.Fatalf("stored: %d, %v; want %d", len(all), err, 2*each)
	}
	next := map[byte]int{}
	for _, e := range all {
		text := string(e.Data)
		if got[text] != 1 {
			t.Errorf("the follower got %q %d times", text, got[text])
		}
		if want := fmt.Sprintf("%c/%d", text[0], next[text[0]]); text != want {
			t.Fatalf("stored %q where %q belongs", text, want)
		}
		next[text[0]]++
	}

	// Words are heard again, too: the subscription was made anew with the connection.
	if err := b1.Publish("revoked.key.8", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-heard:
		if got != "revoked.key.8" {
			t.Errorf("heard %q", got)
		}
	case <-ctx.Done():
		t.Error("nothing is heard after the bus came back")
	}
}

// TestBusIsAway says that an Append waits for a bus that went away only as long as it may.
func TestBusIsAway(t *testing.T) {
	p := startBus(t)
	b, r := p.connect(0)
	if err := r.Append(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := r.Append(ctx, "a", []byte("y")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Append without a bus: %v, want a deadline exceeded", err)
	}
	if err := b.Healthy(ctx); err == nil {
		t.Error("a bus that is away is called healthy")
	}
	p.start()
	if err := r.Append(t.Context(), "a", []byte("z")); err != nil {
		t.Errorf("Append after the bus came back: %v", err)
	}
}

func TestConnectRefusesWrongNodes(t *testing.T) {
	dial := func(context.Context) (net.Conn, error) { return nil, errors.New("not reached") }
	for _, node := range []int{-1, 16} {
		if _, err := bus.Connect(bus.ConnectConfig{Dial: dial, Node: node}); err == nil {
			t.Errorf("node %d: no error", node)
		}
	}
	if _, err := bus.Connect(bus.ConnectConfig{}); err == nil {
		t.Error("no way to the bus: no error")
	}
}
