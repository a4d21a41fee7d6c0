//go:build linux

package handover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/handover"
)

// channel is a giver that runs until the test ends, and the other end for takers.
func channel(t *testing.T) (*handover.Giver, *os.File) {
	t.Helper()
	a, b, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	g, err := handover.NewGiver(a)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g, b
}

// taker uses one more copy of an end, as another process would.
func taker(t *testing.T, end *os.File) *handover.Taker {
	t.Helper()
	fd, err := syscall.Dup(int(end.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	k, err := handover.NewTaker(os.NewFile(uintptr(fd), "taker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// connect gives both sides of a TCP connection: the client's, and the one that was accepted.
func connect(t *testing.T) (client net.Conn, accepted *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), conn.Close() })
	return client, conn.(*net.TCPConn)
}

func TestAConnectionIsHandedOverWithWhatWasRead(t *testing.T) {
	g, end := channel(t)
	k := taker(t, end)
	client, accepted := connect(t)
	if _, err := io.WriteString(client, "hello, world"); err != nil {
		t.Fatal(err)
	}
	read := make([]byte, 5)
	if _, err := io.ReadFull(accepted, read); err != nil {
		t.Fatal(err)
	}
	got := make(chan net.Conn, 1)
	go func() {
		c, err := k.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	if err := g.Give(t.Context(), accepted, read); err != nil {
		t.Fatal(err)
	}
	c := <-got
	if c == nil {
		t.FailNow()
	}
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("the taker sees %s, the client is %s", c.RemoteAddr(), client.LocalAddr())
	}
	text := make([]byte, len("hello, world"))
	if _, err := io.ReadFull(c, text); err != nil || string(text) != "hello, world" {
		t.Errorf("the taker reads %q, %v", text, err)
	}
	if _, err := io.WriteString(c, "bye"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	// The giver's copy is closed: the end of the taker's is the end of the connection.
	if rest, err := io.ReadAll(client); err != nil || string(rest) != "bye" {
		t.Errorf("the client reads %q, %v", rest, err)
	}
}

func TestAConnectionWaitsForTheNextTaker(t *testing.T) {
	g, end := channel(t)
	client, accepted := connect(t)
	given := make(chan error, 1)
	go func() { given <- g.Give(t.Context(), accepted, []byte("x")) }()
	select {
	case err := <-given:
		t.Fatalf("nobody is there to take it, but Give returned %v", err)
	case <-time.After(300 * time.Millisecond): // the taker is being started meanwhile
	}
	c, err := taker(t, end).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := <-given; err != nil {
		t.Error(err)
	}
	_ = client.Close()
	if text, err := io.ReadAll(c); err != nil || string(text) != "x" {
		t.Errorf("read %q, %v", text, err)
	}
}

func TestAConnectionThatNobodyTakesStaysTheGivers(t *testing.T) {
	g, end := channel(t)
	client, accepted := connect(t)
	began := time.Now()
	if err := g.Give(t.Context(), accepted, []byte("x")); !errors.Is(err, handover.ErrNotTaken) {
		t.Fatalf("Give: %v, want %v", err, handover.ErrNotTaken)
	}
	if took := time.Since(began); took < 4*time.Second || took > 7*time.Second {
		t.Errorf("that took %s, want 5 s", took)
	}
	// A taker that comes too late leaves it alone and waits for the next.
	k := taker(t, end)
	late := make(chan net.Conn, 1)
	go func() {
		if c, err := k.Accept(); err == nil {
			late <- c
		}
	}()
	client2, accepted2 := connect(t)
	if err := g.Give(t.Context(), accepted2, nil); err != nil {
		t.Fatal(err)
	}
	c := <-late
	defer func() { _ = c.Close() }()
	if c.RemoteAddr().String() != client2.LocalAddr().String() {
		t.Error("the taker took the connection that had waited too long")
	}
	if _, err := io.WriteString(accepted, "still here"); err != nil {
		t.Fatal(err)
	}
	_ = accepted.Close()
	if text, err := io.ReadAll(client); err != nil || string(text) != "still here" {
		t.Errorf("the client reads %q, %v", text, err)
	}
}

func TestManyConnectionsAndTwoTakers(t *testing.T) {
	const connections = 200
	g, end := channel(t)
	var takers sync.WaitGroup
	for range 2 {
		k := taker(t, end)
		takers.Go(func() {
			for {
				c, err := k.Accept()
				if err != nil {
					return
				}
				text := make([]byte, 8)
				if _, err := io.ReadFull(c, text); err != nil {
					t.Error(err)
				}
				_, _ = c.Write(text)
				_ = c.Close()
			}
		})
		defer func() { _ = k.Close() }()
	}
	var all sync.WaitGroup
	for n := range connections {
		client, accepted := connect(t)
		all.Go(func() {
			word := fmt.Sprintf("%08d", n)
			if err := g.Give(t.Context(), accepted, []byte(word)); err != nil {
				t.Errorf("connection %d: %v", n, err)
				return
			}
			if text, err := io.ReadAll(client); err != nil || string(text) != word {
				t.Errorf("connection %d: %q, %v", n, text, err)
			}
		})
	}
	all.Wait()
}

// What else comes through the channel is nobody's connection, and does no harm.
func TestRubbishInTheChannel(t *testing.T) {
	a, b, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	k, err := handover.NewTaker(b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	client, accepted := connect(t)
	f, err := accepted.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	fd, long := int(f.Fd()), []byte(strings.Repeat("y", 2*handover.MaxRead))
	for _, m := range []struct {
		msg []byte
		fds []int
	}{{[]byte("short"), []int{fd}}, {make([]byte, 20), nil}, {make([]byte, 20), []int{fd, fd}}, {long, []int{fd}}, {make([]byte, 20), []int{fd}}} {
		if err := syscall.Sendmsg(int(a.Fd()), m.msg, syscall.UnixRights(m.fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	accepting := make(chan error, 1)
	go func() { _, err := k.Accept(); accepting <- err }()
	_ = client.Close()
	// Closing the giver's end ends the taker's wait; were a message above taken, Accept would have returned it.
	_ = a.Close()
	if err := <-accepting; err == nil {
		t.Error("a connection was made of rubbish")
	}
}

func TestTooMuchReadIsRefused(t *testing.T) {
	g, _ := channel(t)
	_, accepted := connect(t)
	if err := g.Give(t.Context(), accepted, make([]byte, handover.MaxRead+1)); err == nil || errors.Is(err, handover.ErrNotTaken) {
		t.Errorf("Give: %v", err)
	}
}
