// Package dashboard is the role behind dashboard.DOMAIN: small pages made on the server, with which people sign in, authorize command
// lines, and look after their account. It opens no database and knows no secret of the server's: everything it does for somebody it
// asks of the api role, with that person's own session token, which the browser keeps sealed in a cookie.
package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
	"github.com/roadstead-io/roadstead/internal/dashboard/fleets"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/seal"
	"github.com/roadstead-io/roadstead/internal/web"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// KeyFile is the name of the role's own key, under which cookies are sealed.
const KeyFile = "cookie.key"

// NewKey makes it.
func NewKey(file string) error {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return durable.WriteFile(file, b, 0o600)
}

// Config is the role's role.json.
type Config struct {
	// Dir is the role's own directory: its identity (cert.pem, key.pem, ca.pem), its key and, where it serves browsers itself, the public
	// certificate (tls.pem, tls.key).
	Dir string `json:"dir"`
	// Site is the public name and port.
	Site api.Site `json:"site"`
	// Peers says where the api role listens, and the vpn role, where there is one.
	Peers map[string]string `json:"peers"`
	// SecurityContact is whom to tell of a vulnerability: mailto:…, https://… or tel:…. Empty: mailto:security@ the domain.
	SecurityContact string `json:"security_contact,omitempty"`
	// Terminals bounds those that people open in devices.
	Terminals devices.Limits `json:"terminals"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	if err := pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI); err != nil {
		return err
	}
	if err := c.Terminals.Validate(); err != nil {
		return err
	}
	return securitytxt.Check(c.SecurityContact)
}

// Server is the role.
type Server struct {
	cfg   Config
	log   *slog.Logger
	id    *pki.Identity
	api   *pki.Peer
	seal  seal.Key // of cookies
	forms []byte   // the key of forms' tokens
	pages map[string]*template.Template
	cross *http.CrossOriginProtection

	devices *devices.Part

	public      net.Listener // of connections that the edge hands over; nil: it forwards their requests
	certificate *pki.KeyPair // of the public name, with public
}

// New makes the role; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(cfg.Dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("dashboard: %s has %d bytes, not 32", KeyFile, len(key))
	}
	s := &Server{cfg: cfg, log: log, id: id, api: id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI]), cross: http.NewCrossOriginProtection()}
	if s.seal, err = seal.New(derive(key, "cookies")); err != nil {
		return nil, err
	}
	s.forms = derive(key, "forms")
	s.devices = devices.New(devices.Config{Origin: cfg.Site.URL("dashboard"), Tunnel: cfg.Peers[api.RoleVPN] != "", Terminals: cfg.Terminals})
	s.pages, err = parsePages()
	return s, err
}

// Bounds of the role.
const (
	maxForm   = 64 << 10
	apiTime   = 30 * time.Second
	stopGrace = 2 * time.Second
)

// Run serves until the context ends: other roles, and browsers where the edge hands their connections over.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { // a WebSocket is no request that a server waits for
		<-ctx.Done()
		s.devices.Close()
		return nil
	})
	group.Go(func() error {
		srv := s.server(s.Handler(), s.id.ServerTLS())
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
	})
	if s.public != nil {
		group.Go(func() error { return s.servePublic(ctx) })
	}
	return group.Wait()
}

func (s *Server) server(h http.Handler, conf *tls.Config) *http.Server {
	return &http.Server{
		Handler: h, TLSConfig: conf, ReadTimeout: 30 * time.Second, ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout: apiTime + 10*time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Handler is what other roles meet: the parent asks how this one is, and the edge brings browsers' requests where it cannot hand their
// connections over.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", web.Handle(s.log, func(w http.ResponseWriter, r *http.Request) error {
		if pki.PeerRole(r) == "" {
			return api.Errorf(api.Forbidden, "only roles may ask")
		}
		return web.WriteJSON(w, http.StatusOK, "ok")
	}))
	pages := s.site()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if pki.PeerRole(r) != api.RoleEdge {
			web.WriteError(w, api.Errorf(api.Forbidden, "the pages are reached through the edge"))
			return
		}
		pages.ServeHTTP(w, r)
	})
	known := func(r *http.Request) bool { return pki.PeerRole(r) != "" }
	return web.Logged(s.log, known, mux)
}

// site is every page.
func (s *Server) site() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]page{
		"GET /login": loginPage, "POST /login": login, "POST /logout": logout,
		"GET /login/factor": factorPage, "POST /login/factor": factor,
		"POST /login/factor/passkey": passkeyPage, "POST /login/factor/passkey/verify": passkeyVerify,
		"POST /login/with/{provider}": startLogin, "GET /login/callback/{provider}": callback,
		"GET /login/cli/{callback}": member(cliPage), "POST /login/cli": member(cliAuthorize),
		"GET /confirm": member(confirmPage), "POST /confirm": member(confirm),
		"GET /device-url/{uuid}": member(deviceURL),
		"GET /device":            member(devicePage), "POST /device": member(deviceAnswer),
		"GET /forgot": forgotPage, "POST /forgot": forgot, "GET /reset": resetPage, "POST /reset": reset,
		"GET /invite/{where}": invitePage, "POST /invite/{where}": invite,

		"GET /account": member(accountPage), "POST /account/password": member(changePassword),
		"POST /account/sessions/others/end": member(endOthers), "POST /account/sessions/{id}/end": member(endSession),
		"POST /account/identities/{provider}/link": member(startLink), "POST /account/identities/{id}/unlink": member(unlink),
		"GET /account/totp": enrolling(totpPage), "POST /account/totp": enrolling(totpEnable), "POST /account/totp/disable": member(totpDisable),
		"POST /account/totp/recovery-codes": member(newRecoveryCodes),
		"POST /account/passkeys":            member(newPasskey), "POST /account/passkeys/register": member(registerPasskey),
		"POST /account/passkeys/{id}/remove": member(removePasskey),
	} {
		mux.Handle(pattern, s.serve(h))
	}
	routes := s.devices.Routes()
	maps.Copy(routes, fleets.Routes())
	for pattern, h := range routes {
		mux.Handle(pattern, s.serve(member(func(v *visit) error { return h(v.toDevices()) })))
	}
	static, err := fs.Sub(staticFiles, "static")
	if err != nil {
		panic(err) // the embedded folder is there or the program does not build
	}
	mux.Handle("GET /static/", strict(http.StripPrefix("/static/", http.FileServerFS(static))))
	mux.Handle("/", s.serve(func(*visit) error { return api.Errorf(api.NotFound, "There is no such page.") }))
	return mux
}

// strict gives every answer the headers that keep a browser from doing more than it is told.
func strict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy("'self'"))
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), publickey-credentials-get=(self), publickey-credentials-create=(self)")
		if r.URL.Path == "/" || len(r.URL.Path) < 8 || r.URL.Path[:8] != "/static/" {
			h.Set("Cache-Control", "no-store")
		} else {
			h.Set("Cache-Control", "max-age=300")
		}
		next.ServeHTTP(w, r)
	})
}

// policy says what a page may load and where its forms may lead.
func policy(formAction string) string {
	return "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; form-action " + formAction +
		"; base-uri 'none'; frame-ancestors 'none'"
}
