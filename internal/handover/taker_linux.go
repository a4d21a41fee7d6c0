package handover

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Taker is the end of a channel that takes connections: a listener whose connections somebody else accepted. They have the
// addresses that they had there, and begin with the bytes that were read there.
type Taker struct{ conn *net.UnixConn }

// NewTaker uses an end made by [Pair].
func NewTaker(end *os.File) (*Taker, error) {
	conn, err := open(end)
	if err != nil {
		return nil, err
	}
	return &Taker{conn: conn}, nil
}

// Accept implements net.Listener.
func (t *Taker) Accept() (net.Conn, error) {
	msg, oob := make([]byte, headerSize+MaxRead), make([]byte, unix.CmsgSpace(4*8))
	for {
		n, on, flags, _, err := t.conn.ReadMsgUnix(msg, oob)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, net.ErrClosed // every giver's end is closed
		}
		fds := descriptors(oob[:on])
		if n < headerSize || len(fds) != 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			closeAll(fds)
			continue // not from a giver of ours
		}
		conn, err := t.take(fds[0], msg[:n])
		if err != nil {
			continue // it ended meanwhile, or is stale: the giver has it
		}
		return conn, nil
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

var errStale = errors.New("handover: it has waited too long")

func (t *Taker) take(fd int, msg []byte) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if now()-time.Duration(binary.BigEndian.Uint64(msg[8:])) > stale {
		return nil, errors.Join(errStale, conn.Close())
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := t.conn.Write(msg[:8]); err != nil { // the giver would use it too
		return nil, errors.Join(err, conn.Close())
	}
	return Replayed(conn, append([]byte(nil), msg[headerSize:]...)), nil
}

// Close implements net.Listener.
func (t *Taker) Close() error { return t.conn.Close() }

// Addr implements net.Listener.
func (t *Taker) Addr() net.Addr { return t.conn.LocalAddr() }
