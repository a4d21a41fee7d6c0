package gitserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver/upstream"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/sshhost"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Server is the git role.
type Server struct {
	cfg     Config
	log     *slog.Logger
	id      *pki.Identity
	api     *pki.Peer
	builder *pki.Peer
	key     ssh.Signer
	repos   repositories
	ways    *upstream.Ways // to repositories elsewhere
	fetches chan struct{}  // holds a token for each fetch of a source

	life context.Context // of every session; ends when the role stops
	end  context.CancelCauseFunc
	work sync.WaitGroup // what goes on after a session

	mu       sync.Mutex // covers what follows
	sessions map[*session]bool
}

const stopGrace = 2 * time.Second

var (
	errStopped = errors.New("the git server was stopped; try again in a moment")
	errRevoked = errors.New("your right to use this repository has ended")
	errSlow    = errors.New("it took too long (limit minutes)")
	errGone    = errors.New("the client is gone")
)

// New makes the role and removes what an earlier run left half done. It starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Git == "" {
		cfg.Git = "/usr/bin/git"
	}
	if _, err := os.Stat(cfg.Git); err != nil {
		return nil, fmt.Errorf("git: the program git is missing: %w", err)
	}
	if cfg.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("git: %w", err)
		}
		cfg.Exe = exe
	}
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	key, err := sshhost.Load(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	life, end := context.WithCancelCause(context.Background())
	s := &Server{
		cfg: cfg, log: log, id: id, key: key, life: life, end: end, sessions: map[*session]bool{},
		api: id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI]), builder: id.Client(api.RoleBuilder, cfg.Peers[api.RoleBuilder]),
		repos: repositories{dir: filepath.Join(cfg.Dir, reposDir), used: map[int64]*repository{}},
	}
	s.fetches = make(chan struct{}, max(1, cfg.Limits.Fetches/2))
	if err := os.MkdirAll(s.repos.dir, 0o700); err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	if s.ways, err = cfg.Sources.ways(cfg.Limits.PushBytes); err != nil {
		return nil, fmt.Errorf("git: sources: %w", err)
	}
	if err := errors.Join(s.setUp(), s.clear(), s.clearSources()); err != nil {
		return nil, fmt.Errorf("git: %w", err)
	}
	return s, nil
}

// Handler is the whole list of what the role answers to other roles; the public's requests come through the edge.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.only(s.health))
	mux.Handle("GET /{organization}/{repository}/info/refs", web.FullDuplex(s.only(s.advertise, api.RoleEdge)))
	mux.Handle("POST /{organization}/{repository}/git-receive-pack", web.FullDuplex(s.only(s.rpc(push), api.RoleEdge)))
	mux.Handle("POST /{organization}/{repository}/git-upload-pack", web.FullDuplex(s.only(s.rpc(fetch), api.RoleEdge)))
	mux.Handle("/", s.only(func(w http.ResponseWriter, _ *http.Request) error {
		return web.WriteText(w, http.StatusNotFound, onlyGit+"\n")
	}))
	return web.Logged(s.log, func(r *http.Request) bool { return pki.PeerRole(r) != "" }, mux)
}

func (s *Server) only(h web.HandlerFunc, roles ...string) http.Handler {
	return pki.Only(s.log, "the git role", h, roles...)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// Run serves the other roles on internal, and SSH on public if there is one, until the context ends. It waits for every session.
func (s *Server) Run(ctx context.Context, internal, public net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { s.end(errStopped) })
	defer stop()
	group.Go(func() error {
		srv := &http.Server{
			Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		return web.Serve(ctx, srv, func() error { return srv.ServeTLS(internal, "", "") }, stopGrace)
	})
	if public != nil {
		group.Go(func() error { return s.serveSSH(ctx, public) })
	}
	group.Go(func() error { return s.every(ctx, time.Duration(s.cfg.Limits.RenewMilli)*time.Millisecond, s.renew) })
	group.Go(func() error { return s.every(ctx, time.Duration(s.cfg.Limits.SweepSecs)*time.Second, s.sweep) })
	group.Go(func() error { return s.every(ctx, claimPause, s.renewClaims) })
	group.Go(func() error { return s.buildSources(ctx) })
	err := group.Wait()
	s.end(errStopped)
	s.work.Wait()
	s.ways.Close()
	return err
}

// soon is when chores are done for the first time: what they are about may have been waiting while the role did not run.
const soon = 2 * time.Second

// every repeats a chore; one that fails is tried again.
func (s *Server) every(ctx context.Context, pause time.Duration, chore func(context.Context) error) error {
	next := time.NewTimer(min(soon, pause))
	defer next.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(pause)
		}
		err := chore(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.WarnContext(ctx, "git", "error", err)
		}
		failing = err != nil
	}
}

// sweep removes the repositories of fleets that are no more.
func (s *Server) sweep(ctx context.Context) error {
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for part := range slices.Chunk(ids, 1000) {
		there, err := ask[api.GitFleets](ctx, s.api, "/internal/v1/git/fleets", credentials{}, api.GitFleets{IDs: part})
		if err != nil {
			return fmt.Errorf("which fleets are there: %w", err)
		}
		for _, id := range part {
			if slices.Contains(there.IDs, id) {
				continue
			}
			if err := s.remove(id); err != nil {
				return fmt.Errorf("remove the repository of fleet %d: %w", id, err)
			}
			s.log.InfoContext(ctx, "removed the repository of a fleet that is no more", "fleet", id)
		}
	}
	return nil
}

// session is somebody at work on a repository.
type session struct {
	api.GitOpen
	id      string
	what    verb
	address string
	claim   string // on a delivery of a source; "" when somebody is connected
	repo    *repository
	ctx     context.Context // ends with the client, with their right, and with the role
	cancel  context.CancelCauseFunc

	mu     sync.Mutex // covers what follows
	ticket string
}

func (x *session) holds() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ticket
}

// open lets somebody into a repository. The session ends with the context; the caller must call leave.
func (s *Server) open(ctx context.Context, what verb, by credentials, who api.GitOpenRequest) (x *session, err error) {
	opened, err := ask[api.GitOpen](ctx, s.api, "/internal/v1/git/open", by, who)
	if err != nil {
		return nil, err
	}
	if opened.Fleet.ID <= 0 || opened.Ticket == "" {
		return nil, errors.New("open a repository: the api role's answer names no fleet")
	}
	x = &session{GitOpen: opened, id: newID(), what: what, address: who.Address, ticket: opened.Ticket}
	x.ctx, x.cancel = context.WithCancelCause(web.WithRequestID(ctx, x.id))
	if err := s.enter(x); err != nil {
		x.cancel(errGone)
		return nil, err
	}
	stop := context.AfterFunc(s.life, func() { x.cancel(errStopped) })
	context.AfterFunc(x.ctx, func() { stop() })
	if x.repo, err = s.repository(x.ctx, x.Fleet.ID); err != nil {
		s.leave(x)
		return nil, err
	}
	if bytes, _ := size(x.repo.path); what == push && bytes > s.cfg.Limits.RepoBytes {
		s.leave(x)
		return nil, api.Errorf(api.TooLarge, "The repository of %s is full: its newest commit alone takes more than %s (limit repository_bytes).", x.Fleet.Slug, amount(s.cfg.Limits.RepoBytes))
	}
	if what == push {
		// Whether workers are silent for a moment is the build's own matter.
		_, err := ask[struct{}](x.ctx, s.builder, "/internal/v1/platforms/check", credentials{}, x.Fleet)
		if errors.Is(err, api.ErrInvalid) {
			s.leave(x)
			return nil, err
		}
	}
	return x, nil
}

// enter counts a session in.
func (s *Server) enter(x *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := 0
	for other := range s.sessions {
		if other.User == x.User {
			own++
		}
	}
	switch {
	case len(s.sessions) >= s.cfg.Limits.Sessions:
		return api.Errorf(api.RateLimited, "The git server is busy with %d pushes and fetches (limit sessions); try again in a minute.", len(s.sessions))
	case own >= s.cfg.Limits.OfUser:
		return api.Errorf(api.RateLimited, "You have %d pushes and fetches under way; wait until one has ended (limit user_sessions).", own)
	}
	s.sessions[x] = true
	return nil
}

func (s *Server) leave(x *session) {
	s.mu.Lock()
	delete(s.sessions, x)
	s.mu.Unlock()
	x.cancel(errGone)
}

// renew asks whether all who are at work still may be, and ends the sessions of those who may not.
func (s *Server) renew(ctx context.Context) error {
	s.mu.Lock()
	open := make([]*session, 0, len(s.sessions))
	for x := range s.sessions {
		open = append(open, x)
	}
	s.mu.Unlock()
	if len(open) == 0 {
		return nil
	}
	var list api.GitTickets
	for _, x := range open {
		list.Tickets = append(list.Tickets, x.holds())
	}
	fresh, err := ask[api.GitTickets](ctx, s.api, "/internal/v1/git/tickets", credentials{}, list)
	if err != nil {
		return fmt.Errorf("who may still push: %w", err)
	}
	if len(fresh.Tickets) != len(open) {
		return errors.New("who may still push: the api role's answer has another length than the question")
	}
	for i, x := range open {
		if fresh.Tickets[i] == "" {
			s.log.InfoContext(ctx, "a right ended in the middle of a session", "user", x.User, "fleet", x.Fleet.Slug, "session", x.id)
			x.cancel(errRevoked)
			continue
		}
		x.mu.Lock()
		x.ticket = fresh.Tickets[i]
		x.mu.Unlock()
	}
	return nil
}

// newID names a session in the log and in what it asks other roles.
func newID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}
