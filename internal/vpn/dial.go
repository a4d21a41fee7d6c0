package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/roadstead-io/roadstead/internal/vpn/line"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
)

// Dial implements [road.Dialer].
func (s *Server) Dial(ctx context.Context, device string, port int) (net.Conn, error) {
	s.mu.Lock()
	one := s.devices[device]
	s.mu.Unlock()
	if one == nil {
		return nil, road.ErrOffline
	}
	conn, err := s.line.Dial(ctx, one.instance.number, one.address, port)
	switch {
	case errors.Is(err, line.ErrRefused):
		return nil, road.ErrRefused
	case err != nil:
		return nil, fmt.Errorf("connect to device %s: %w", device, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.ended { // the address may be another's already
		_ = conn.Close()
		return nil, road.ErrOffline
	}
	c := &deviceConn{Conn: conn, server: s, session: one}
	one.conns[c] = true
	return c, nil
}

// deviceConn is a connection to a device. It ends when the device's session does.
type deviceConn struct {
	net.Conn
	server  *Server
	session *session
}

// Close implements net.Conn.
func (c *deviceConn) Close() error {
	c.server.mu.Lock()
	delete(c.session.conns, c)
	c.server.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite ends one direction.
func (c *deviceConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
