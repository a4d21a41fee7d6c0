package vpn

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/line"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/web"
)

const stopGrace = 2 * time.Second

// Server is the vpn role.
type Server struct {
	cfg  Config
	log  *slog.Logger
	id   *pki.Identity
	api  *pki.Peer
	line *line.Client
	tls  *pki.KeyPair // of the public names
}

var _ road.Dialer = (*Server)(nil)

// New makes the role; end is its end of the line to the process around openvpn. It starts nothing.
func New(cfg Config, end *os.File, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("vpn: %w", err)
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("vpn: %w", err)
	}
	pair, err := pki.LoadKeyPair(filepath.Join(cfg.Dir, "tls.pem"), filepath.Join(cfg.Dir, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("vpn: certificate of the public names: %w", err)
	}
	client, err := line.NewClient(end)
	if err != nil {
		return nil, fmt.Errorf("vpn: %w", err)
	}
	return &Server{cfg: cfg, log: log, id: id, api: id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI]), line: client, tls: pair}, nil
}

// Handler is the whole list of what the role answers to other roles.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.only(s.health))
	return web.Logged(s.log, func(r *http.Request) bool { return pki.PeerRole(r) != "" }, mux)
}

// only admits the named roles, or any role when none is named.
func (s *Server) only(h web.HandlerFunc, roles ...string) http.Handler {
	return web.Handle(s.log, func(w http.ResponseWriter, r *http.Request) error {
		peer := pki.PeerRole(r)
		if peer == "" || (len(roles) > 0 && !slices.Contains(roles, peer)) {
			return api.Errorf(api.Forbidden, "the vpn role does not do this for %q", peer)
		}
		return h(w, r)
	})
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// Run serves other roles on internal and the public on the listeners of the labels, until the context ends.
func (s *Server) Run(ctx context.Context, internal net.Listener, public map[string]net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		srv := &http.Server{
			Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(internal, "", "") }, stopGrace)
	})
	if err := s.serve(ctx, group, public); err != nil {
		group.Go(func() error { return fmt.Errorf("vpn: %w", err) }) // ends the rest
	}
	return group.Wait()
}

// Dial implements [road.Dialer].
func (s *Server) Dial(context.Context, string, int) (net.Conn, error) { return nil, road.ErrOffline }
