package pki

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Dial makes a connection to one role for a protocol other than HTTP, which both ends name in the handshake (ALPN). Like
// [Identity.Client], it accepts only a server that proves to be that role.
func (id *Identity) Dial(ctx context.Context, role, addr, protocol string) (net.Conn, error) {
	d := tls.Dialer{
		NetDialer: &net.Dialer{KeepAlive: 30 * time.Second},
		Config: &tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    id.pool,
			ServerName: roleName(role),
			NextProtos: []string{protocol},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return id.leaf.Get(), nil
			},
		},
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", role, err)
	}
	return conn, nil
}
