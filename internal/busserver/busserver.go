// Package busserver is the bus role: the middle of the message bus when there are several api processes. It has one listener,
// over mutually authenticated TLS, on which the api role speaks the bus' protocol and every role may ask how it is. It holds the
// last lines of devices' logs and nothing else, and no key but its own.
package busserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is the bus role's role.json.
type Config struct {
	// Dir is the role's own directory: its identity, and the rings in the folder "bus".
	Dir string `json:"dir"`
	// MaxBytes is what all rings together may take on the disk; 0 means 8 GiB.
	MaxBytes int64 `json:"max_bytes"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("dir: is empty")
	case c.MaxBytes < 0:
		return fmt.Errorf("max_bytes: %d is negative", c.MaxBytes)
	}
	return nil
}

// Store is the folder of a role's directory in which a bus keeps its rings. The api role has one of the same name when it is a
// single process; see supervise for how one becomes the other.
const Store = "bus"

// stopGrace is how long health checks may take to finish when the role stops.
const stopGrace = time.Second

// Server is the bus role.
type Server struct {
	log *slog.Logger
	id  *pki.Identity
	bus *bus.Server
}

// New opens the rings. Whoever does not call Run calls Close.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("bus: config: %w", err)
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	b, err := bus.NewServer(bus.ServerConfig{Dir: filepath.Join(cfg.Dir, Store), MaxBytes: cfg.MaxBytes, Log: log})
	if err != nil {
		return nil, err
	}
	return &Server{log: log, id: id, bus: b}, nil
}

// Close stops the bus.
func (s *Server) Close() { s.bus.Close() }

// Run serves on a listener until the context ends, and stops the bus.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	defer s.bus.Close()
	conf := s.id.ServerTLS()
	conf.NextProtos = append([]string{bus.Protocol}, conf.NextProtos...)
	srv := &http.Server{
		Handler: s.handler(), TLSConfig: conf, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog:     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){bus.Protocol: s.connected},
	}
	srv.RegisterOnShutdown(s.bus.Close) // its connections are open until then, and the shutdown waits for them
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", web.Handle(s.log, func(w http.ResponseWriter, _ *http.Request) error {
		if err := s.bus.Healthy(); err != nil {
			return web.WriteJSON(w, http.StatusServiceUnavailable, err.Error())
		}
		return web.WriteJSON(w, http.StatusOK, "ok")
	}))
	return web.Logged(s.log, func(r *http.Request) bool { return pki.PeerRole(r) != "" }, mux)
}

// connected lets an api process use the bus for as long as it likes; other roles have no business there.
func (s *Server) connected(_ *http.Server, conn *tls.Conn, _ http.Handler) {
	state := conn.ConnectionState()
	role := pki.PeerRole(&http.Request{TLS: &state})
	if role != api.RoleAPI {
		s.log.Warn("refused on the bus", "peer", role)
		_ = conn.Close()
		return
	}
	if err := s.bus.Serve(conn); err != nil {
		s.log.Warn("a connection to the bus failed", "error", err)
	}
}
