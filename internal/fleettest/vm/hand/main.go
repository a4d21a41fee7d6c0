//go:build linux

// Command hand does in a test's virtual machine what the test tells it, over a connection to the address that it is given: it runs programs, and plugs
// HID devices in.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

func main() {
	if err := work(os.Args[1]); err != nil {
		fmt.Println("hand:", err)
		os.Exit(1)
	}
}

func work(address string) error {
	if err := os.MkdirAll("/dev/pts", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", 0, ""); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil { // as every system has it
		return err
	}
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var order guest.Order
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			return err
		}
		all.Go(func() {
			if err := obey(address, order); err != nil {
				fmt.Printf("hand: order %d: %v\n", order.ID, err)
			}
		})
	}
	return lines.Err()
}

func obey(address string, order guest.Order) error {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, order.ID); err != nil {
		return err
	}
	if order.Plug != nil {
		return plug(conn.(*net.TCPConn), order.Plug)
	}
	return run(conn, order.Run)
}

// teller tells the test what a program says.
type teller struct {
	mu sync.Mutex // covers writing
	to *json.Encoder
}

func (t *teller) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(p), t.to.Encode(guest.Said{Text: p})
}

func run(conn net.Conn, order *guest.Run) error {
	out := &teller{to: json.NewEncoder(conn)}
	cmd := exec.Command(order.Args[0], order.Args[1:]...) //nolint:gosec // the test says what
	cmd.Env = append(os.Environ(), order.Env...)
	cmd.Stdin = strings.NewReader(order.Input)
	err := start(conn, cmd, out, order.Terminal)
	said := guest.Said{Ended: "ok"}
	if err != nil {
		said.Ended = err.Error()
	}
	return out.to.Encode(said)
}

// start runs a program to its end. When the connection ends, it is interrupted.
func start(conn net.Conn, cmd *exec.Cmd, out io.Writer, terminal bool) error {
	typed := io.Discard
	said := make(chan struct{})
	if terminal {
		ours, theirs, err := openTerminal()
		if err != nil {
			return err
		}
		defer ours.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		typed = ours
		err = cmd.Start()
		_ = theirs.Close() // the program has it
		if err != nil {
			return err
		}
		go func() {
			defer close(said)
			_, _ = io.Copy(out, ours) // it ends with an error when nobody has the other end
		}()
	} else {
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			return err
		}
		close(said)
	}
	go func() {
		_, _ = io.Copy(typed, conn)
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
	}()
	err := cmd.Wait()
	<-said
	return err
}

// openTerminal makes a terminal; theirs is the program's end.
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(ours.Fd())
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	return ours, theirs, nil
}
