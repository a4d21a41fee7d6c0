package vpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
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
	boot string       // of this process, for the api role

	calls chan struct{} // holds a token for each request to a device
	work  sync.WaitGroup
	life  context.Context // of what outlives the event that it comes from; ends with the role
	stop  context.CancelFunc

	mu        sync.Mutex // covers what follows, and the instances
	instances []*instance
	devices   map[string]*session // who is in, by uuid
	buckets   map[string]*bucket  // connections by address
	away      error               // the process around openvpn
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
	s := &Server{
		cfg: cfg, log: log, id: id, api: id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI]), line: client, tls: pair, boot: newID(),
		calls: make(chan struct{}, callsAtOnce), devices: map[string]*session{}, buckets: map[string]*bucket{},
		away: errors.New("the process around openvpn has not answered yet"),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Handler is the whole list of what the role answers to other roles.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.only(s.health))
	mux.Handle("POST /device/call", s.only(s.deviceCall, api.RoleAPI))
	return web.Logged(s.log, func(r *http.Request) bool { return pki.PeerRole(r) != "" }, mux)
}

func (s *Server) only(h web.HandlerFunc, roles ...string) http.Handler {
	return pki.Only(s.log, "the vpn role", h, roles...)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return api.Errorf(api.Unavailable, "%v", s.away)
	}
	for _, i := range s.instances {
		if !i.known {
			return api.Errorf(api.Unavailable, "openvpn %d is away", i.number)
		}
	}
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// Run serves other roles on internal and the public on the listeners of the labels, until the context ends.
func (s *Server) Run(ctx context.Context, internal net.Listener, public map[string]net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	tunnels, err := s.serve(ctx, group, public)
	if err != nil {
		group.Go(func() error { return fmt.Errorf("vpn: %w", err) }) // ends the rest
	}
	group.Go(func() error {
		conf := s.id.ServerTLS()
		conf.NextProtos = append([]string{api.TunnelProtocol}, conf.NextProtos...)
		srv := &http.Server{
			Handler: s.Handler(), TLSConfig: conf, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		if tunnels != nil {
			srv.TLSNextProto = tunnels.Roles(ctx)
		}
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(internal, "", "") }, stopGrace)
	})
	group.Go(func() error { return s.line.Run(ctx) })
	group.Go(func() error { s.meet(ctx); return nil })
	if ln := public[LabelOpenVPN]; ln != nil {
		group.Go(func() error { return s.handOn(ctx, ln) })
	}
	err = group.Wait()
	s.stop()
	s.work.Wait()
	return err
}

// meet waits for the process around openvpn, and then attends to each of its instances.
func (s *Server) meet(ctx context.Context) {
	var hello line.Hello
	for {
		var err error
		if hello, err = s.line.Hello(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.away = err
		s.mu.Unlock()
		pause(ctx, again)
	}
	var attending sync.WaitGroup
	defer attending.Wait()
	for _, of := range hello.Instances {
		i, err := newInstance(s, of)
		if err != nil {
			s.log.ErrorContext(ctx, "an instance is of no use", "instance", of.Number, "error", err)
			continue
		}
		s.mu.Lock()
		s.instances, s.away = append(s.instances, i), nil
		s.mu.Unlock()
		attending.Go(func() { i.attend(ctx) })
		attending.Go(func() { i.reports(ctx) })
	}
}
