package seal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The devices of a TPM, the one that several programs can share first.
var devices = []string{"/dev/tpmrm0", "/dev/tpm0"}

const (
	commandTime = 30 * time.Second // of one command; making a key takes a slow TPM some seconds
	maxResponse = 4096
)

// ErrAbsent says that the device has no TPM, or that its driver is not there yet.
var ErrAbsent = errors.New("this device has no TPM 2.0")

// Present reports whether there is a TPM to talk to. The path is that of a device or of a Unix socket; empty means the system's own.
func Present(path string) bool {
	_, err := find(path)
	return err == nil
}

func find(path string) (string, error) {
	paths := devices
	if path != "" {
		paths = []string{path}
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if info.Mode()&(fs.ModeCharDevice|fs.ModeSocket) == 0 {
			return "", fmt.Errorf("%s is no TPM: it is neither a device nor a socket", p)
		}
		return p, nil
	}
	return "", fmt.Errorf("%w: there is no %s", ErrAbsent, paths[0])
}

// link is a way to a TPM that answers each command in bounded time.
type link interface {
	Send(command []byte) (response []byte, err error)
	Close() error
}

func dial(path string) (link, error) {
	path, err := find(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		conn, err := (&net.Dialer{Timeout: commandTime}).DialContext(context.Background(), "unix", path)
		if err != nil {
			return nil, fmt.Errorf("TPM: %w", err)
		}
		return socket{conn}, nil
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("TPM: open %s: %w", path, err)
	}
	return chip(fd), nil
}

// chip is the kernel's device: a command is written as a whole, and its response read as a whole once the device is ready. Go's own files
// would read too early: before a response is there a read finds the end of the file.
type chip int

func (c chip) Send(command []byte) ([]byte, error) {
	if _, err := unix.Write(int(c), command); err != nil {
		return nil, fmt.Errorf("TPM: write: %w", err)
	}
	for end := time.Now().Add(commandTime); ; {
		wait := time.Until(end)
		if wait <= 0 {
			return nil, fmt.Errorf("TPM: no answer within %v", commandTime)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}, int(wait.Milliseconds())+1) //nolint:gosec // a descriptor is small
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("TPM: wait: %w", err)
		}
		response := make([]byte, maxResponse)
		if n, err = unix.Read(int(c), response); err != nil {
			return nil, fmt.Errorf("TPM: read: %w", err)
		}
		return response[:n], nil
	}
}

func (c chip) Close() error { return unix.Close(int(c)) }

// socket is a TPM in software.
type socket struct{ conn net.Conn }

func (s socket) Send(command []byte) ([]byte, error) {
	if err := s.conn.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, err
	}
	if _, err := s.conn.Write(command); err != nil {
		return nil, fmt.Errorf("TPM: write: %w", err)
	}
	response := make([]byte, maxResponse)
	n, err := s.conn.Read(response)
	if err != nil {
		return nil, fmt.Errorf("TPM: read: %w", err)
	}
	return response[:n], nil
}

func (s socket) Close() error { return s.conn.Close() }
