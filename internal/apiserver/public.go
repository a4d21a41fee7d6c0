package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/internal/admission"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxPublicConns bounds how many connections of the public one process holds. The next one waits until another ends; the edge
// turns it away when that takes long.
const maxPublicConns = 32768

// TakePublic makes Run serve the public too, on the connections that the edge hands over, with the certificate in tls.pem and
// tls.key. Without it the public's requests come through the edge's hands. Call it before Run.
func (s *Server) TakePublic(ln net.Listener) error {
	pair, err := pki.LoadKeyPair(filepath.Join(s.cfg.Dir, "tls.pem"), filepath.Join(s.cfg.Dir, "tls.key"))
	if err != nil {
		return fmt.Errorf("api: public certificate: %w", err)
	}
	s.public, s.certificate = admission.Limited(ln, maxPublicConns), pair
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

// door is the first wall on the public's own connections; requests of roles pass it by.
func (s *Server) door(next http.Handler) http.Handler {
	outside := web.Door(s.name, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isDirect(r) {
			outside.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
