package dashboard

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"time"

	"github.com/roadstead-io/roadstead/internal/admission"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

// Bounds of the public side. A connection beyond them waits, or takes the place of the one that was idle for longest.
const (
	maxPublicConns = 4096
	maxIdleConns   = 500
	handshakeWait  = 10 * time.Second
)

// TakePublic makes Run serve browsers on the connections that the edge hands over, with the certificate in tls.pem and tls.key: what people
// type is read here and nowhere before. Without it their requests come through the edge's hands. Call it before Run.
func (s *Server) TakePublic(ln net.Listener) error {
	pair, err := pki.LoadKeyPair(filepath.Join(s.cfg.Dir, "tls.pem"), filepath.Join(s.cfg.Dir, "tls.key"))
	if err != nil {
		return fmt.Errorf("dashboard: public certificate: %w", err)
	}
	s.public, s.certificate = admission.Limited(ln, maxPublicConns), pair
	return nil
}

// servePublic serves browsers until the context ends.
func (s *Server) servePublic(ctx context.Context) error {
	handshakes := admission.NewHandshakes(2*runtime.GOMAXPROCS(0), handshakeWait)
	srv := s.server(s.publicHandler(), handshakes.Config(s.certificate.PublicTLS("h2", "http/1.1")))
	srv.ConnState = admission.NewIdle(maxIdleConns).State
	return web.Serve(ctx, srv, func() error { return srv.ServeTLS(handshakes.Listener(s.public), "", "") }, stopGrace)
}

// publicHandler is every page, for browsers that are connected to this role itself.
func (s *Server) publicHandler() http.Handler {
	pages := s.site()
	report := securitytxt.Handler(s.cfg.Site, s.cfg.SecurityContact, []string{"dashboard"})
	never := func(*http.Request) bool { return false } // a request id from outside is not ours
	return web.Logged(s.log, never, web.Door("dashboard."+s.cfg.Site.Domain, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = ""
		}
		r.Header.Set("X-Forwarded-For", host) // where somebody is, the connection says and no header
		if r.URL.Path == securitytxt.Path {
			report.ServeHTTP(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})))
}
