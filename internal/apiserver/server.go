// Package apiserver is the api role: the only one that opens the database. It puts the domain packages together, gives every
// route to a handler after it found out who is asking, and serves the whole over mutually authenticated TLS to the edge
// (for the public) and to the other roles (for its internal routes).
package apiserver

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
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/account/invite"
	"github.com/roadstead-io/roadstead/internal/account/operator"
	"github.com/roadstead-io/roadstead/internal/account/reset"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/callers"
	"github.com/roadstead-io/roadstead/internal/apiserver/gitdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/mailroom"
	"github.com/roadstead-io/roadstead/internal/apiserver/record"
	"github.com/roadstead-io/roadstead/internal/apiserver/sshdoor"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/gitsource"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/reach"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/release/workers"
	"github.com/roadstead-io/roadstead/internal/signin"
	"github.com/roadstead-io/roadstead/internal/trust"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Server is the api role.
type Server struct {
	cfg      Config
	log      *slog.Logger
	identity *pki.Identity
	signer   *pki.Peer     // nil: there is none
	tokens   *tokens       // for the registry
	caller   action.Caller // carries requests to devices; nil without a control channel

	db            *db.DB
	bus           *bus.Bus
	blobs         *blob.Store
	engine        *odata.Engine
	mail          *mailroom.Room
	accounts      *account.Accounts
	invites       *invite.Invites
	resets        *reset.Resets
	services      *service.Services
	sshKeys       *sshkey.Keys
	operator      *operator.Desk
	factors       *factor.Factors
	signin        *signin.SignIn
	fleets        *fleet.Fleets
	releases      *release.Releases
	stored        *stored.Rows
	workers       *workers.Rows
	statementKeys []api.StatementKey
	devices       *device.Devices
	audit         *audit.Log
	notes         *watch.Notes
	actions       *action.Actions
	leases        *job.Leases // of the chores that one process of the role does
	git           *gitdoor.Door
	channel       *channel.Channel
	rootCA        []byte // PEM: who vouches for the public names
	deviceSSH     *devicessh.SSH
	ssh           *sshdoor.Door
	sources       *gitsource.Sources
	reach         *reach.Reach
	trust         *trust.Trust

	handler     http.Handler
	name        string       // the public one
	public      net.Listener // of connections that the edge hands over; nil: it forwards their requests
	certificate *pki.KeyPair // of the public name, with public
	zips        gzips
	callers     *callers.Memory
	writes      map[string]access.Verbs // what a write needs: "PATCH device" → verbs
	gates       *gates
	stopping    chan struct{} // closed when the server begins to stop: streams end then
	stop        sync.Once
	closing     sync.Once

	// tasks run beside the server, from before the first request until after the last one.
	tasks []func(ctx context.Context) error
}

// grace is how long requests may take to finish when the server stops.
const grace = 5 * time.Second

// New opens the database, brings it to the newest schema, and puts the parts together. A route or a resource without a rule
// makes it fail. It starts nothing; whoever does not call Run calls Close.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("api: config: %w", err)
	}
	identity, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	pepper, err := os.ReadFile(filepath.Join(cfg.Dir, "pepper"))
	if err != nil {
		return nil, fmt.Errorf("api: pepper: %w", err)
	}
	database, err := openDatabase(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Server{cfg: cfg, log: log, identity: identity, db: database, name: "api." + cfg.Site.Domain, callers: callers.New(database, log),
		gates: newGates(cfg.Admission), leases: job.NewLeases(database), stopping: make(chan struct{})}
	var signer *pki.Peer
	if addr := cfg.Peers[api.RoleSigner]; addr != "" {
		signer = identity.Client(api.RoleSigner, addr)
	}
	s.tokens, s.signer = newTokens(signer, log), signer
	s.notes = watch.NewNotes(database, log)
	s.audit = audit.New(audit.Config{
		DB: database, Log: log, Only: s.leases.Only, Sign: record.Signer(signer), Site: cfg.Site.Domain, Keep: cfg.auditRetention(),
	})
	if err := s.assemble(pepper); err != nil {
		return nil, errors.Join(fmt.Errorf("api: %w", err), s.Close())
	}
	return s, nil
}

// Handler is the whole role behind one handler.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves on a listener, and on more when this is one of several processes, until the context ends, lets requests finish,
// ends the background work and closes the database.
func (s *Server) Run(ctx context.Context, ln net.Listener, more ...net.Listener) error {
	defer func() { _ = s.Close() }()
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	tasks, taskCtx := errgroup.WithContext(background)
	for _, task := range append(s.tasks, s.watchGates) {
		tasks.Go(func() error { return task(taskCtx) })
	}
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.identity.ServerTLS(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.endStreams)
	serveCtx, serveCancel := context.WithCancel(ctx)
	defer serveCancel()
	stopWatch := context.AfterFunc(taskCtx, serveCancel) // a task that failed ends the role; the parent starts it again
	defer stopWatch()
	public := make(chan error, 1)
	go func() { public <- s.servePublic(serveCtx, serveCancel) }()
	err := web.Serve(serveCtx, srv, func() error {
		var all errgroup.Group
		for _, ln := range append([]net.Listener{ln}, more...) {
			all.Go(func() error {
				err := srv.ServeTLS(ln, "", "")
				if !errors.Is(err, http.ErrServerClosed) {
					_ = srv.Close() // one that fails ends all
				}
				return err
			})
		}
		return all.Wait()
	}, grace)
	serveCancel()
	err = errors.Join(err, <-public)
	cancel()
	taskErr := tasks.Wait()
	s.releaseLeases(ctx)
	if taskErr != nil && !errors.Is(taskErr, context.Canceled) {
		err = errors.Join(err, taskErr)
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

// releaseLeases lets another process do the chores of this one at once. Without it they would wait until the leases end.
func (s *Server) releaseLeases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.leases.Release(ctx); err != nil {
		s.log.WarnContext(ctx, "leases could not be released", "error", err)
	}
}

func (s *Server) endStreams() { s.stop.Do(func() { close(s.stopping) }) }

// Close ends streams and closes the bus and the database.
func (s *Server) Close() (err error) {
	s.endStreams()
	s.closing.Do(func() {
		if s.bus != nil {
			err = s.bus.Close()
		}
		if s.blobs != nil {
			err = errors.Join(err, s.blobs.Close())
		}
		err = errors.Join(err, s.db.Close())
	})
	return err
}
