// Package channel keeps the device's control channel: an OpenVPN connection to the server over which the server reaches the
// device's own services. It runs the real openvpn program as a child, only while the channel is wanted; off means that there is
// neither a process nor a socket.
package channel

import (
	"context"
	"net"
)

// Service is something that the device offers on its tunnel address, and nowhere else.
type Service struct {
	Port  int
	Serve func(ctx context.Context, ln net.Listener) error
}
