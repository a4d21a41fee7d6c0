package signer

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// TokenLife is how long a token lives. The registry refuses one that claims to live longer.
const TokenLife = 5 * time.Minute

// clockSkew is how far another machine's clock may be behind ours.
const clockSkew = 10 * time.Second

// Bounds on what is asked for.
const (
	maxSubject = 128
	askTimeout = 10 * time.Second
	stopGrace  = 2 * time.Second
)

var repositoryName = pattern.New(`^v2/[0-9a-f]{32}(-[0-9]{1,3})?$`)

// Config is the signer role's configuration.
type Config struct {
	// Dir is the role's own directory: its identity and token.key.
	Dir string `json:"dir"`
	// Site is the public name; tokens are for its registry alone.
	Site api.Site `json:"site"`
	// Peers says where the api role listens, which knows whether a build runs.
	Peers map[string]string `json:"peers"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	return pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI)
}

// Claims is what a registry token says.
type Claims struct {
	jwt.Claims
	Access []api.Grant `json:"access"`
}

// Server is the signer.
type Server struct {
	cfg Config
	log *slog.Logger
	id  *pki.Identity
	api *pki.Peer
	key *tokenKey

	audit *auditor

	statements ed25519.PrivateKey // signs statements of where releases come from
	devices    *pki.Authority     // certifies what devices show on the control channel

	ssh sshAuthorities // sign who may enter a device, and which key is a device's

	trust *truster // signs metadata of fleets
}

// New makes the signer; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	key, err := loadKey(filepath.Join(cfg.Dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	audit, err := newAuditor(cfg.Dir, cfg.Site.Domain)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	statements, err := loadEd25519Key(filepath.Join(cfg.Dir, StatementKeyFile), "statement key")
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	authorities, err := openSSHAuthorities(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	devices, err := pki.LoadAuthority(filepath.Join(cfg.Dir, ChannelCAFile), filepath.Join(cfg.Dir, ChannelKeyFile))
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	trust, err := openTruster(cfg.Dir, cfg.Site, statements)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	return &Server{cfg: cfg, log: log, id: id, api: id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI]), key: key, audit: audit,
		statements: statements, ssh: authorities, devices: devices, trust: trust}, nil
}

// Handler is the whole list of what the signer does.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.only(s.health))
	mux.Handle("POST /v1/pull-tokens", s.only(s.pullTokens, api.RoleAPI))
	mux.Handle("POST /v1/channel-certificate", s.only(s.channelCertificate, api.RoleAPI))
	mux.Handle("POST /v1/audit-checkpoint", s.only(s.auditCheckpoint, api.RoleAPI))
	mux.Handle("GET /v1/ssh-authorities", s.only(s.sshPublicKeys, api.RoleAPI))
	mux.Handle("POST /v1/ssh-user-certificate", s.only(s.userCertificate, api.RoleAPI))
	mux.Handle("POST /v1/ssh-host-certificate", s.only(s.hostCertificate, api.RoleAPI))
	mux.Handle("POST /v1/trust/keys", s.only(s.trustKeys, api.RoleAPI))
	mux.Handle("POST /v1/trust/sign", s.only(s.trustSign, api.RoleAPI))
	mux.Handle("POST /v1/trust/director", s.only(s.trustDirector, api.RoleAPI))
	mux.Handle("POST /v1/trust/command", s.only(s.trustCommand, api.RoleAPI))
	mux.Handle("POST /v1/trust/log", s.only(s.trustLog, api.RoleAPI))
	mux.Handle("POST /v1/trust/log-leaves", s.only(s.trustLeaves, api.RoleAPI))
	mux.Handle("POST /v1/push-token", s.only(s.pushToken, api.RoleBuilder))
	mux.Handle("POST /v1/statement", s.only(s.statement, api.RoleBuilder))
	known := func(r *http.Request) bool { return pki.PeerRole(r) != "" }
	return web.Logged(s.log, known, mux)
}

func (s *Server) only(h web.HandlerFunc, roles ...string) http.Handler {
	return pki.Only(s.log, "the signer", h, roles...)
}

// Run serves until the context ends.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadTimeout: 30 * time.Second, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// pullTokens signs what the api role has decided: which repositories devices or people may pull.
func (s *Server) pullTokens(w http.ResponseWriter, r *http.Request) error {
	var list []api.PullTokenRequest
	if err := web.Decode(r, &list); err != nil {
		return err
	}
	if len(list) > api.MaxPullTokens {
		return api.Errorf(api.Invalid, "at most %d tokens are signed at once", api.MaxPullTokens)
	}
	signed := make([]api.SignedToken, len(list))
	for i, ask := range list {
		err := checkPull(ask)
		if err == nil {
			signed[i], err = s.sign(r, ask.Subject, ask.Access)
		}
		if err != nil {
			s.log.WarnContext(r.Context(), "a pull is not signed", "subject", ask.Subject, "request", web.RequestID(r.Context()), "error", err)
			signed[i] = api.SignedToken{Refused: api.AsError(err).Text}
		}
	}
	return web.WriteJSON(w, http.StatusOK, signed)
}

func checkPull(ask api.PullTokenRequest) error {
	if len(ask.Access) > api.MaxGrants {
		return api.Errorf(api.Invalid, "a token holds at most %d grants", api.MaxGrants)
	}
	if len(ask.Subject) > maxSubject {
		return api.Errorf(api.Invalid, "subject is longer than %d bytes", maxSubject)
	}
	for _, g := range ask.Access {
		if err := checkGrant(g); err != nil {
			return err
		}
		// What is pushed into quarantine is no release's: it lies in a store of its own, see package registry.
		if slices.ContainsFunc(g.Actions, func(a string) bool { return a != "pull" && (a != "push" || !g.Quarantine) }) {
			return api.Errorf(api.Forbidden, "only pulls are signed here, not %q", g.Actions)
		}
	}
	return nil
}

// pushToken signs a push into one repository of a build that runs right now, as the api role confirms; or, that the builder reads and
// empties a place in quarantine of a build, whether that has ended or not.
func (s *Server) pushToken(w http.ResponseWriter, r *http.Request) error {
	var req api.PushTokenRequest
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	grant := api.Grant{Type: "repository", Name: req.Repository, Actions: []string{"pull", "push"}}
	if err := checkGrant(grant); err != nil {
		return err
	}
	if req.Quarantine {
		return s.quarantineToken(w, r, req.Build, req.Repository)
	}
	build, err := s.running(r.Context(), req.Build)
	if err != nil {
		return err
	}
	if !slices.Contains(build.Repositories, req.Repository) {
		return api.Errorf(api.Forbidden, "build %d has no repository %s", req.Build, req.Repository)
	}
	signed, err := s.sign(r, "build:"+strconv.FormatInt(req.Build, 10), []api.Grant{grant})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, signed)
}

func (s *Server) quarantineToken(w http.ResponseWriter, r *http.Request, id int64, repository string) error {
	build, err := s.build(r.Context(), id)
	if err != nil {
		return err
	}
	if !slices.Contains(build.Quarantine, repository) {
		return api.Errorf(api.Forbidden, "build %d has no quarantine %s", build.ID, repository)
	}
	grant := api.Grant{Type: "repository", Name: repository, Actions: []string{"pull", "delete"}, Quarantine: true}
	signed, err := s.sign(r, "build:"+strconv.FormatInt(build.ID, 10), []api.Grant{grant})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, signed)
}

func checkGrant(g api.Grant) error {
	if g.Type != "repository" || !repositoryName.MatchString(g.Name) {
		return api.Errorf(api.Invalid, "%q %q is not a repository of this server", g.Type, g.Name)
	}
	return nil
}

// running asks the api role about a build, which must not have ended.
func (s *Server) running(ctx context.Context, id int64) (api.Build, error) {
	build, err := s.build(ctx, id)
	if err == nil && build.Status != api.StatusRunning {
		err = api.Errorf(api.Forbidden, "build %d is not running: %s", id, build.Status)
	}
	return build, err
}

// build asks the api role about one build.
func (s *Server) build(ctx context.Context, id int64) (api.Build, error) {
	var build api.Build
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/internal/v1/builds/%d", s.api.URL, id), nil)
	if err != nil {
		return build, fmt.Errorf("ask for build %d: %w", id, err)
	}
	res, err := s.api.HTTP.Do(req)
	if err != nil {
		s.log.WarnContext(ctx, "the api role did not answer", "request", web.RequestID(ctx), "error", err)
		return build, api.Errorf(api.Unavailable, "the api role did not say whether build %d runs", id)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, web.MaxBody))
	switch {
	case err != nil:
		return build, fmt.Errorf("read build %d: %w", id, err)
	case res.StatusCode == http.StatusNotFound:
		return build, api.Errorf(api.Forbidden, "there is no build %d", id)
	case res.StatusCode != http.StatusOK:
		return build, api.Errorf(api.Unavailable, "the api role did not say whether build %d runs: %s", id, res.Status)
	}
	if err := json.Unmarshal(body, &build); err != nil {
		return build, fmt.Errorf("decode build %d: %w", id, err)
	}
	if build.ID != id {
		return build, fmt.Errorf("asked for build %d, was told of %d", id, build.ID)
	}
	return build, nil
}

// sign makes the token and leaves a line about it in the log.
func (s *Server) sign(r *http.Request, subject string, access []api.Grant) (api.SignedToken, error) {
	now := time.Now()
	claims := Claims{Access: access, Claims: jwt.Claims{
		Issuer: api.TokenIssuer, Subject: subject, Audience: jwt.Audience{s.cfg.Site.Host("registry2")}, ID: newID(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-clockSkew)),
		Expiry: jwt.NewNumericDate(now.Add(TokenLife)),
	}}
	token, err := s.key.sign(claims)
	if err != nil {
		return api.SignedToken{}, err
	}
	s.log.InfoContext(r.Context(), "signed", "for", pki.PeerRole(r), "subject", subject, "access", describe(access),
		"token", claims.ID, "request", web.RequestID(r.Context()))
	return api.SignedToken{Token: token, ExpiresAt: claims.Expiry.Time().UTC()}, nil
}

func describe(access []api.Grant) []string {
	out := make([]string, 0, len(access))
	for _, g := range access {
		where := ""
		if g.Quarantine {
			where = "quarantine "
		}
		out = append(out, fmt.Sprintf("%s%s:%v", where, g.Name, g.Actions))
	}
	return out
}
