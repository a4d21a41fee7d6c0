// Package tunnel is the service behind tunnel.DOMAIN: who asks it to CONNECT to a port of a device, and may, gets a connection to that
// port and to nothing else. It resolves no name and dials no address: a device is known by its uuid, to whoever holds the road to it.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
)

const (
	headTime = 10 * time.Second // for the handshake and the request, unless it is said otherwise
	dialTime = 8 * time.Second  // shorter than the ten seconds for which the command lines wait
)

// Config is what the service works with.
type Config struct {
	Permits  *permit.Permits
	Dial     road.Dialer
	TLS      *tls.Config // of tunnel.DOMAIN
	Log      *slog.Logger
	Limits   permit.Limits
	Patience time.Duration // with who says nothing; 0: 10 s
}

// Service is the service.
type Service struct{ cfg Config }

// New makes it; it starts nothing.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Patience <= 0 {
		cfg.Patience = headTime
	}
	cfg.Limits.Defaults()
	return &Service{cfg}
}

// Serve takes connections, which are not encrypted yet, until the context ends; then it ends those that it has.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	return permit.Serve(ctx, ln, s.cfg.Limits.Waiting, s.cfg.Limits.WaitingPerAddress, s.serve)
}

// serve is one connection. admitted is called once it is known whose it is.
func (s *Service) serve(ctx context.Context, raw net.Conn, admitted func()) {
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(s.cfg.Patience))
	conn := tls.Server(raw, s.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return
	}
	from, _, _ := net.SplitHostPort(raw.RemoteAddr().String())
	s.answer(ctx, conn, func(*request) string { return from }, admitted)
}

// Roles is what an HTTP server for other roles does on connections that speak [api.TunnelProtocol]: the dashboard asks for a visitor, and says from
// where that is. Others have nobody to ask for. A connection is served until its tunnel, or the context, ends.
func (s *Service) Roles(ctx context.Context) map[string]func(*http.Server, *tls.Conn, http.Handler) {
	return map[string]func(*http.Server, *tls.Conn, http.Handler){api.TunnelProtocol: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
		state := conn.ConnectionState()
		if role := pki.PeerRole(&http.Request{TLS: &state}); role != api.RoleDashboard {
			s.cfg.Log.WarnContext(ctx, "refused a tunnel", "peer", role)
			_ = conn.Close()
			return
		}
		s.serveRole(ctx, conn)
	}}
}

func (s *Service) serveRole(ctx context.Context, conn *tls.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(s.cfg.Patience))
	s.answer(ctx, conn, func(q *request) string { return q.from }, func() {})
}

// answer reads a request and does it; from says where it comes from.
func (s *Service) answer(ctx context.Context, conn *tls.Conn, from func(*request) string, admitted func()) {
	q, rest, err := readRequest(conn)
	if err == nil {
		err = s.connect(ctx, conn, q, rest, from(&q), admitted)
	}
	if err == nil || errors.Is(err, errNoRequest) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(s.cfg.Patience))
	s.refused(ctx, conn, q, from(&q), err)
}

func readRequest(conn net.Conn) (q request, rest []byte, err error) {
	head, rest, err := readHead(conn)
	if err != nil {
		return q, nil, err
	}
	q, err = parse(head)
	return q, rest, err
}

// connect opens the tunnel and carries its bytes until it ends; an error is one from before that.
func (s *Service) connect(ctx context.Context, conn *tls.Conn, q request, rest []byte, from string, admitted func()) error {
	if q.token == "" {
		return refuse(http.StatusProxyAuthRequired, "")
	}
	leave, err := s.cfg.Permits.Ask(ctx, api.ReachRequest{
		Kind: api.ReachTunnel, Credential: q.token, UUID: q.uuid, Port: q.port, From: from,
		PerUser: s.cfg.Limits.PerUser, PerDevice: s.cfg.Limits.PerDevice,
	})
	if err != nil {
		return err
	}
	admitted()
	dialing, cancel := context.WithTimeout(leave.Context(), dialTime)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	device, err := s.cfg.Dial.Dial(dialing, string(q.uuid), q.port)
	if err != nil {
		if !errors.Is(err, road.ErrOffline) && !errors.Is(err, road.ErrRefused) {
			s.cfg.Log.WarnContext(ctx, "tunnel", "uuid", q.uuid, "port", q.port, "error", err)
			err = refuse(http.StatusInternalServerError, "The device does not answer")
		}
		leave.End(err.Error())
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(s.cfg.Patience))
	// In a write of its own: the command line of balena throws away what comes with it.
	if _, err := conn.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err == nil && len(rest) > 0 {
		_ = device.SetWriteDeadline(time.Now().Add(s.cfg.Patience))
		if _, err = device.Write(rest); err == nil {
			leave.Count(int64(len(rest)), 0)
		}
	}
	_, _ = conn.SetDeadline(time.Time{}), device.SetDeadline(time.Time{})
	end := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer end()
	leave.Join(conn, device, s.cfg.Limits.Idle())
	return nil
}

// refused answers with why there is no tunnel. Who is nobody, may not see the device, or asks for one that is not there, reads the same.
func (s *Service) refused(ctx context.Context, conn net.Conn, q request, from string, err error) {
	status, text, body := http.StatusInternalServerError, "", ""
	var r *refusal
	e := api.AsError(err)
	switch {
	case errors.As(err, &r):
		status, text = r.status, r.text
	case errors.Is(err, road.ErrOffline):
		status, text = http.StatusServiceUnavailable, "The device is offline"
	case errors.Is(err, road.ErrRefused):
		text = fmt.Sprintf("Nothing listens on port %d of the device", q.port)
	case e.Code == api.Unauthorized || e.Code == api.NotFound || e.Code == api.Invalid:
		status = http.StatusProxyAuthRequired
	case e.Code == api.Forbidden:
		status, body = http.StatusProxyAuthRequired, e.Text
	case e.Code == api.RateLimited:
		status, body = http.StatusTooManyRequests, e.Text
	case e.Code == api.Unavailable:
		text = "The server is starting; try again"
	}
	if status == http.StatusInternalServerError && text == "" {
		s.cfg.Log.ErrorContext(ctx, "tunnel", "uuid", q.uuid, "port", q.port, "from", from, "error", err)
	}
	if text == "" {
		text = http.StatusText(status)
	}
	if body != "" {
		body += "\n"
	}
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n", status, text, len(body))
	if status == http.StatusProxyAuthRequired {
		head.WriteString("Proxy-Authenticate: Basic realm=\"roadstead\"\r\n")
	}
	_, _ = conn.Write([]byte(head.String() + "\r\n" + body))
	_ = conn.Close()
}
