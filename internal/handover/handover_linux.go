package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long a connection may wait for a taker. The giver has it back at patience; a taker leaves it from stale on, so that
// never both have it.
const (
	patience = 5 * time.Second
	stale    = 4 * time.Second
)

// A message is a number that the taker repeats to say that the connection is now its own, the time at which the connection was
// given, and the bytes that were read. The connection itself travels beside it.
const headerSize = 16

// Pair makes the two ends of a channel.
func Pair() (giver, taker *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("handover: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "giver"), os.NewFile(uintptr(fds[1]), "taker"), nil
}

// open makes a connection of an end; the file is closed.
func open(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("handover: the file is a %T, not an end of a channel", c), c.Close())
	}
	return u, nil
}

// now is a clock that all processes of the machine read alike and nobody sets.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(t.Nano())
}

func pack(id uint64, given time.Duration, read []byte) []byte {
	msg := make([]byte, 0, headerSize+len(read))
	msg = binary.BigEndian.AppendUint64(msg, id)
	msg = binary.BigEndian.AppendUint64(msg, uint64(given))
	return append(msg, read...)
}

// descriptors are the files that came with a message.
func descriptors(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if rights, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, rights...)
		}
	}
	return fds
}
