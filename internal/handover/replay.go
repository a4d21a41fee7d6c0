package handover

import (
	"errors"
	"net"
)

// MaxRead is how many bytes of a connection may have been read before it is handed over.
const MaxRead = 16 << 10

// ErrNotTaken says that nobody took a connection in time. It is the giver's again, as it was.
var ErrNotTaken = errors.New("handover: nobody took the connection")

// Replayed is a connection whose first bytes were read already; they are read again first.
func Replayed(conn net.Conn, read []byte) net.Conn { return &replayed{Conn: conn, read: read} }

type replayed struct {
	net.Conn
	read []byte // one goroutine at a time reads from a connection
}

func (c *replayed) Read(p []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.read)
	if c.read = c.read[n:]; len(c.read) == 0 {
		c.read = nil
	}
	return n, nil
}

// Split gives a connection that was handed over as it is, and the bytes that were read from it before; nobody else reads them then.
func Split(conn net.Conn) (raw net.Conn, read []byte) {
	if r, ok := conn.(*replayed); ok {
		return r.Conn, r.read
	}
	return conn, nil
}
