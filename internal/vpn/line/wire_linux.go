package line

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message, which carries at most MaxRead bytes in base64.
const maxMessage = 64 << 10

// sendTime is how long a full channel is waited for.
const sendTime = 2 * time.Second

// end is one end of the channel.
type end struct {
	conn    *net.UnixConn
	writing sync.Mutex // one message at a time
}

func open(f *os.File) (*end, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("line: the file is a %T, not an end of a channel", c), c.Close())
	}
	return &end{conn: u}, nil
}

// now is a clock that all processes of the machine read alike and nobody sets.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(t.Nano())
}

// send sends a message, with an open connection beside it if there is one. The connection stays the caller's.
func (e *end) send(message any, beside syscall.Conn) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("line: %w", err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("line: a message of %d bytes is too long", len(text))
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	_ = e.conn.SetWriteDeadline(time.Now().Add(sendTime))
	if beside == nil {
		_, err = e.conn.Write(text)
		return err
	}
	raw, err := beside.SyscallConn()
	if err != nil {
		return fmt.Errorf("line: %w", err)
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = e.conn.WriteMsgUnix(text, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// receive waits for a message. A message that is none of ours is passed over; the file is nil when none came.
func (e *end) receive(message any) (*os.File, error) {
	text, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, on, flags, _, err := e.conn.ReadMsgUnix(text, oob)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, net.ErrClosed
		}
		fds := files(oob[:on])
		if len(fds) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || json.Unmarshal(text[:n], message) != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			continue
		}
		if len(fds) == 0 {
			return nil, nil //nolint:nilnil // a message without a file is an answer
		}
		return os.NewFile(uintptr(fds[0]), "connection"), nil
	}
}

func files(oob []byte) (fds []int) {
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
