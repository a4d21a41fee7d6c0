package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

// Bounds of the public side. Bodies and answers have no time limit: builds, logs and pulls last as long as they last.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	stopGrace      = 2 * time.Second
)

// served says which role serves a name, by its first label.
var served = map[string]string{
	"api": api.RoleAPI, "registry2": api.RoleRegistry, "builder": api.RoleBuilder, "dashboard": api.RoleDashboard,
	"git": api.RoleGit, "tunnel": api.RoleVPN, "devices": api.RoleVPN,
}

// Config is the edge role's configuration.
type Config struct {
	// Dir is the role's own directory: its identity (cert.pem, key.pem, ca.pem) and the public certificate (tls.pem, tls.key).
	Dir string `json:"dir"`
	// Site is the public name and port.
	Site api.Site `json:"site"`
	// Peers says where the other roles listen: role → "127.0.0.1:port". A role that is not there has no public name.
	Peers map[string]string `json:"peers"`
	// SecurityContact is whom to tell of a vulnerability: mailto:…, https://… or tel:…. Empty: mailto:security@ the domain.
	SecurityContact string `json:"security_contact,omitempty"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	if err := pki.CheckConfig(c.Dir, c.Site, nil); err != nil {
		return err
	}
	return securitytxt.Check(c.SecurityContact)
}

// Server is the edge.
type Server struct {
	cfg    Config
	log    *slog.Logger
	id     *pki.Identity
	public *pki.KeyPair
	hosts  map[string]http.Handler    // by the first label of the host name; "" is the domain itself
	known  string                     // the names, for people who ask for another
	report http.Handler               // whom to tell of a vulnerability, at every name
	givers map[string]*handover.Giver // of connections, by the first label of the name that they are for; other names' requests are forwarded
}

// New makes the edge; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	public, err := pki.LoadKeyPair(filepath.Join(cfg.Dir, "tls.pem"), filepath.Join(cfg.Dir, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("edge: public certificate: %w", err)
	}
	s := &Server{cfg: cfg, log: log, id: id, public: public, givers: map[string]*handover.Giver{}}
	s.hosts = map[string]http.Handler{
		"": http.RedirectHandler(cfg.Site.URL("dashboard")+"/", http.StatusTemporaryRedirect),
	}
	for label, role := range served {
		if cfg.Peers[role] != "" {
			s.hosts[label] = s.proxy(role)
		}
	}
	var names []string
	for label := range s.hosts {
		if label != "" {
			names = append(names, cfg.Site.Host(label))
		}
	}
	s.report = securitytxt.Handler(cfg.Site, cfg.SecurityContact, slices.Sorted(maps.Keys(s.hosts)))
	sort.Strings(names)
	s.known = strings.Join(names, ", ")
	return s, nil
}

// Handler is the public side.
func (s *Server) Handler() http.Handler {
	never := func(*http.Request) bool { return false } // a request id from outside is not ours
	return web.Logged(s.log, never, http.HandlerFunc(s.route))
}

// route sends a request to the host it names.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Strict-Transport-Security", web.StrictTransport)
	label := s.label(r.Host)
	if s.givers[label] != nil { // on a connection made for another name, as browsers do where a certificate allows it
		_ = web.WriteText(w, http.StatusMisdirectedRequest, "Ask this name on a connection of its own.\n")
		return
	}
	h, ok := s.hosts[label]
	if !ok {
		_ = web.WriteText(w, http.StatusNotFound, "There is no such name here. This server answers at "+s.known+".\n")
		return
	}
	// What roles say to each other is not for the public. The roles check the caller's certificate; this is the first wall.
	if p := path.Clean("/" + strings.ToLower(r.URL.Path)); p == "/internal" || strings.HasPrefix(p, "/internal/") || p == "/healthz" {
		web.WriteError(w, &api.Error{Code: api.NotFound})
		return
	}
	if r.URL.Path == securitytxt.Path {
		h = s.report
	}
	h.ServeHTTP(w, r)
}

// label is the part of a host name before the domain; "?" when it is under another domain or deeper.
func (s *Server) label(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == s.cfg.Site.Domain {
		return ""
	}
	label, ok := strings.CutSuffix(host, "."+s.cfg.Site.Domain)
	if !ok || label == "" || label == labelOpenVPN {
		return "?"
	}
	if strings.HasSuffix(label, ".devices") { // every device has a name of its own there
		return "devices"
	}
	return label
}

// health answers the parent, on the internal listener.
func (s *Server) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if pki.PeerRole(r) == "" {
			web.WriteError(w, api.Errorf(api.Forbidden, "only roles may ask"))
			return
		}
		if leaf := s.public.Get().Leaf; time.Now().After(leaf.NotAfter) {
			web.WriteError(w, api.Errorf(api.Unavailable, "the public certificate ended on %s; nobody trusts it any more",
				leaf.NotAfter.Format(time.DateOnly)))
			return
		}
		_ = web.WriteJSON(w, http.StatusOK, "ok")
	})
	return mux
}

// publicTLS is what the world meets.
func (s *Server) publicTLS() *tls.Config { return s.public.PublicTLS("h2", "http/1.1") }

// Run serves the public on one listener and the parent on the other, until the context ends or one of them fails.
func (s *Server) Run(ctx context.Context, public, internal net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug) // handshakes that strangers break off
	group.Go(func() error {
		srv := &http.Server{
			Handler: s.Handler(), TLSConfig: s.publicTLS(), ErrorLog: errorLog,
			ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		}
		if len(s.givers) == 0 {
			return web.Serve(ctx, srv, func() error { return srv.ServeTLS(public, "", "") }, stopGrace)
		}
		own := newInside(public.Addr())
		group.Go(func() error { return (&door{Server: s, public: public, own: own}).run(ctx) })
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(own, "", "") }, stopGrace)
	})
	group.Go(func() error {
		srv := &http.Server{
			Handler: s.health(), ErrorLog: errorLog, TLSConfig: s.id.ServerTLS(),
			ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		}
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(internal, "", "") }, stopGrace)
	})
	return group.Wait()
}
