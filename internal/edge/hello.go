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
//
// A first message of OpenVPN is told from one of TLS before, by [isOpenVPN].
func readHello(conn net.Conn) (name string, read []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	if err := conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return "", nil, err
	}
	heard := &listening{Conn: conn}
	seen := false
	for first := make([]byte, 512); len(heard.read) < 3 && (len(heard.read) == 0 || heard.read[0] != recordHandshake); {
		if _, err := heard.Read(first); err != nil {
			return "", nil, err
		}
	}
	if isOpenVPN(heard.read) {
		return nameOpenVPN, heard.read, conn.SetReadDeadline(time.Time{})
	}
	heard.again = heard.read
	err = tls.Server(heard, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, seen = hello.ServerName, true
		return nil, errSeen // it goes no further here
	}}).HandshakeContext(ctx)
	if !seen && heard.failed != nil {
		return "", nil, errors.Join(err, heard.failed)
	}
	return name, heard.read, conn.SetReadDeadline(time.Time{})
}

// nameOpenVPN is the name of a connection that speaks OpenVPN. No host is called so.
const nameOpenVPN = "openvpn:"

// recordHandshake is the first byte of every connection of TLS.
const recordHandshake = 0x16

// isOpenVPN reports whether a connection begins as OpenVPN does over TCP: the length of a packet in two bytes, and a packet by which a client
// resets (version 2, or 3 of those that bring a key), with key number 0.
func isOpenVPN(read []byte) bool {
	const (
		resetV2, resetV3  = 7 << 3, 10 << 3
		shortest, longest = 14, 2 << 10
	)
	if len(read) < 3 {
		return false
	}
	length := int(read[0])<<8 | int(read[1])
	return (read[2] == resetV2 || read[2] == resetV3) && length >= shortest && length <= longest
}

// listening remembers what is read and says nothing.
type listening struct {
	net.Conn
	read   []byte
	again  []byte // what was read before and comes once more
	failed error  // of the connection, not of what came over it
}

func (l *listening) Read(p []byte) (int, error) {
	if len(l.again) > 0 {
		n := copy(p, l.again)
		l.again = l.again[n:]
		return n, nil
	}
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
