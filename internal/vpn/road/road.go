// Package road is the way to devices through the control channel, as those see it who use it.
package road

import (
	"context"
	"errors"
	"net"
)

// Dialer opens connections to devices. A device is named by its uuid alone: no name and no address is ever asked for.
type Dialer interface {
	// Dial connects to a port on the tunnel address of the device. The error is ErrOffline when the device has no session, and
	// ErrRefused when nothing listens there.
	Dial(ctx context.Context, device string, port int) (net.Conn, error)
}

// What keeps a connection from being made.
var (
	ErrOffline = errors.New("the device is not connected")
	ErrRefused = errors.New("nothing listens on that port of the device")
)
