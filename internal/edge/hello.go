package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/roadstead-io/roadstead/internal/handover"
)

// helloTimeout is how long a client may take for its first message.
const helloTimeout = 10 * time.Second

var (
	errSeen    = errors.New("the name is known")
	errTooLong = errors.New("the first message is too long")
)

// readHello reads a client's first message, the TLS ClientHello, and gives the name that it asks for with all that was read.
// The name is "" when the client gives none or speaks no TLS at all; an error means that nothing more is to be had from it.
func readHello(conn net.Conn) (name string, read []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	if err := conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return "", nil, err
	}
	heard := &listening{Conn: conn}
	seen := false
	err = tls.Server(heard, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, seen = hello.ServerName, true
		return nil, errSeen // it goes no further here
	}}).HandshakeContext(ctx)
	if !seen && heard.failed != nil {
		return "", nil, errors.Join(err, heard.failed)
	}
	return name, heard.read, conn.SetReadDeadline(time.Time{})
}

// listening remembers what is read and says nothing.
type listening struct {
	net.Conn
	read   []byte
	failed error // of the connection, not of what came over it
}

func (l *listening) Read(p []byte) (int, error) {
	left := handover.MaxRead - len(l.read)
	if left == 0 {
		l.failed = errTooLong
		return 0, errTooLong
	}
	n, err := l.Conn.Read(p[:min(len(p), left)])
	l.read = append(l.read, p[:n]...)
	if err != nil {
		l.failed = err
	}
	return n, err
}

func (l *listening) Write(p []byte) (int, error) { return len(p), nil }

// Close leaves the connection open: the handshake ends here, not the conversation.
func (l *listening) Close() error { return nil }
