package bench_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/tunnel"
)

// road is the way to one device on this machine.
type road struct{ addr string }

func (r road) Dial(ctx context.Context, _ string, _ int) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
}

// tunnels is the tunnel service before a device that answers every message, or swallows all of them. open gives a connection to the device
// itself, one to it with TLS, and one through the service.
type tunnels struct{ plain, encrypted, through func() net.Conn }

func newTunnels(b *testing.B, device func(net.Conn)) (t tunnels) {
	b.Helper()
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	listen := func(serve func(net.Conn)) net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		b.Cleanup(func() { _ = ln.Close() })
		if serve != nil {
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					go serve(conn)
				}
			}()
		}
		return ln
	}
	ca, err := pki.NewAuthority("bench", "roadstead.test")
	must(err)
	leaf, err := ca.IssueServer("tunnel.roadstead.test")
	must(err)
	pair, err := tls.X509KeyPair(leaf.Cert, leaf.Key)
	must(err)
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	there := listen(device)
	sealed := listen(func(conn net.Conn) { device(tls.Server(conn, conf)) })
	role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/internal/reach/permit" {
			_ = json.NewEncoder(w).Encode(api.ReachPermit{Permit: fmt.Sprint(time.Now().UnixNano())})
			return
		}
		_ = json.NewEncoder(w).Encode(api.ReachEnd{})
	}))
	permits := permit.New(permit.Config{API: &pki.Peer{URL: role.URL, HTTP: role.Client()}})
	service := tunnel.New(tunnel.Config{Permits: permits, Dial: road{there.Addr().String()}, TLS: conf})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	door := listen(nil)
	go func() { done <- permits.Run(ctx) }()
	go func() { done <- service.Serve(ctx, door) }()
	b.Cleanup(func() { cancel(); <-done; <-done; role.Close() })
	dial := func(addr string, over bool) net.Conn {
		conn, err := net.Dial("tcp", addr)
		must(err)
		b.Cleanup(func() { _ = conn.Close() })
		if over {
			return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "tunnel.roadstead.test", MinVersion: tls.VersionTLS13})
		}
		return conn
	}
	t.plain = func() net.Conn { return dial(there.Addr().String(), false) }
	t.encrypted = func() net.Conn { return dial(sealed.Addr().String(), true) }
	t.through = func() net.Conn {
		conn := dial(door.Addr().String(), true)
		_, err := io.WriteString(conn, "CONNECT 0123456789abcdef0123456789abcdef.roadstead:80 HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n")
		must(err)
		_, err = io.ReadFull(conn, make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n")))
		must(err)
		return conn
	}
	return t
}

// BenchmarkTunnelBytes is how much a connection carries: to the device itself, to it with TLS, and through the tunnel service.
func BenchmarkTunnelBytes(b *testing.B) {
	t := newTunnels(b, func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		_, _ = io.Copy(io.Discard, conn)
	})
	data := make([]byte, 256<<10)
	for _, way := range []struct {
		name string
		open func() net.Conn
	}{{"plain", t.plain}, {"TLS", t.encrypted}, {"tunnel", t.through}} {
		b.Run(way.name, func(b *testing.B) {
			conn := way.open()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := conn.Write(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTunnelKeystroke is how long a byte takes to the device and back.
func BenchmarkTunnelKeystroke(b *testing.B) {
	t := newTunnels(b, func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		_, _ = io.Copy(conn, conn)
	})
	for _, way := range []struct {
		name string
		open func() net.Conn
	}{{"plain", t.plain}, {"TLS", t.encrypted}, {"tunnel", t.through}} {
		b.Run(way.name, func(b *testing.B) {
			conn, key := way.open(), make([]byte, 1)
			for b.Loop() {
				if _, err := conn.Write(key); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
