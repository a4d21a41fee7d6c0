package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxPublicConns bounds how many connections of the public one process holds. The next one waits until another ends; the edge
// turns it away when that takes long.
const maxPublicConns = 32768

// strictTransport tells browsers never to come without TLS.
const strictTransport = "max-age=31536000; includeSubDomains"

// TakePublic makes Run serve the public too, on the connections that the edge hands over, with the certificate in tls.pem and
// tls.key. Without it the public's requests come through the edge's hands. Call it before Run.
func (s *Server) TakePublic(ln net.Listener) error {
	pair, err := pki.LoadKeyPair(filepath.Join(s.cfg.Dir, "tls.pem"), filepath.Join(s.cfg.Dir, "tls.key"))
	if err != nil {
		return fmt.Errorf("api: public certificate: %w", err)
	}
	s.public, s.certificate = limited(ln, maxPublicConns), pair
	return nil
}

// servePublic serves the public until the context ends; failed is called when it ends before.
func (s *Server) servePublic(ctx context.Context, failed func()) error {
	if s.public == nil {
		return nil
	}
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.gates.handshakes.Config(s.certificate.PublicTLS("http/1.1")), // which costs less than HTTP/2, and no client of ours gains by that
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ConnState:         s.gates.idle.State,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes that strangers break off
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, publicKey{}, true)
		},
	}
	srv.RegisterOnShutdown(s.endStreams)
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(s.gates.handshakes.Listener(s.public), "", "") }, grace)
	failed()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type publicKey struct{}

// isPublic reports whether a request is from outside: straight from a client, forwarded by the edge, or made by the dashboard for
// somebody, with that person's token.
func isPublic(r *http.Request) bool { return isDirect(r) || route.Forwards(pki.PeerRole(r)) }

// isDirect reports whether a request came on a connection that a client made.
func isDirect(r *http.Request) bool { return r.Context().Value(publicKey{}) != nil }

// door is the first wall on the public's own connections. What roles say to each other is not for them; the routes check the
// caller's certificate too.
func (s *Server) door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isDirect(r) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Strict-Transport-Security", strictTransport)
		if !s.isOurs(r.Host) {
			_ = web.WriteText(w, http.StatusMisdirectedRequest, "Ask this name on a connection of its own.\n")
			return
		}
		if hidden(r.URL.Path) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs reports whether a Host header names the api role.
func (s *Server) isOurs(host string) bool {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), s.name)
}

// hidden reports whether a path is one of those that roles use among themselves, however it is written.
func hidden(p string) bool {
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") && !isInternal(p) {
		return false
	}
	return isInternal(path.Clean("/" + p))
}

func isInternal(p string) bool {
	const internal = "/internal"
	if len(p) >= len(internal) && strings.EqualFold(p[:len(internal)], internal) {
		return len(p) == len(internal) || p[len(internal)] == '/'
	}
	return strings.EqualFold(p, "/healthz")
}

// limited bounds how many connections of a listener are open at once.
func limited(ln net.Listener, most int) net.Listener {
	return &limitedListener{Listener: ln, places: make(chan struct{}, most), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close implements net.Listener.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
