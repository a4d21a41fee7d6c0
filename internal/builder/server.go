package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/fromurl"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
	"github.com/roadstead-io/roadstead/internal/builder/limits"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/builder/pullcache"
	"github.com/roadstead-io/roadstead/internal/builder/queue"
	"github.com/roadstead-io/roadstead/internal/builder/remote"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/upload"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/sbom/inventory"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is the builder role's configuration.
type Config struct {
	// Dir is the role's own directory: its identity, the source of running builds, and finished images on their way out.
	Dir string `json:"dir"`
	// Site is the public name of the server; images are named after its registry.
	Site api.Site `json:"site"`
	// Peers says where the api, signer and registry roles listen.
	Peers map[string]string `json:"peers"`
	// Bases is the directory of base images; "" means there are none.
	Bases string `json:"bases,omitempty"`
	// BuildKit is the address of the build service, "unix:///path/to/worker.sock".
	BuildKit string `json:"buildkit"`
	// Workers is the address at which build workers of other machines connect; "" means that there are none. The parent opens it.
	Workers string `json:"workers,omitempty"`
	// Limits bounds what people can ask for.
	Limits Limits `json:"limits,omitzero"`
	// Pulls says how images of other registries are fetched.
	Pulls Pulls `json:"pulls,omitzero"`
	// Sources says where archives that people name by URL may be fetched from.
	Sources fromurl.Config `json:"sources,omitzero"`
}

// Limits bounds builds.
type Limits = limits.Limits

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if err := pki.CheckConfig(c.Dir, c.Site, c.Peers, api.RoleAPI, api.RoleSigner, api.RoleRegistry); err != nil {
		return err
	}
	if !strings.HasPrefix(c.BuildKit, "unix://") {
		return fmt.Errorf("buildkit: must be a unix:// address, not %q", c.BuildKit)
	}
	return c.Limits.Validate()
}

// Server is the builder role.
type Server struct {
	cfg      Config
	log      *slog.Logger
	id       *pki.Identity
	api      role
	signer   role
	registry *pki.Peer
	store    content.Store      // finished images, by digest
	scanner  *inventory.Scanner // reads them for their packages
	queue    *queue.Queue
	pool     *pool.Pool
	remote   *remote.Server   // workers of other machines; nil when there can be none
	live     live             // what is being built, for those who follow it
	uploads  *upload.Store    // files of pushed sources
	pulls    *pullcache.Cache // images of other registries; nil when it is off

	life context.Context // of every build; ends when the role stops
	end  context.CancelCauseFunc

	mu      sync.Mutex                  // covers what follows
	active  int                         // builds that use the store
	views   map[string]*imagestore.View // of the store, by the domain
	stopped bool                        // no build begins any more
	builds  sync.WaitGroup              // those with a ticket
}

const (
	stopGrace    = 5 * time.Second
	workDir      = "work"
	storeDir     = "content"
	uploadsDir   = "uploads"
	dialPatience = 40 * time.Second // for a build daemon that is being started
	// checkPatience is how long somebody who wants to send a source waits for a worker that may be on its way back.
	checkPatience = 10 * time.Second
)

// errStopped is why builds end when the role does.
var errStopped = errors.New("the builder was stopped; push again")

// New makes the builder and removes what an earlier run left half done. It starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	cfg.Limits = cfg.Limits.WithDefaults()
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	work := filepath.Join(cfg.Dir, workDir)
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(work, 0o700), os.MkdirAll(filepath.Join(cfg.Dir, jobsDir), 0o700)); err != nil {
		return nil, fmt.Errorf("builder: clear the work directory: %w", err)
	}
	// Copies that were under way when the role was killed are of no use.
	if err := os.RemoveAll(filepath.Join(cfg.Dir, storeDir, "ingest")); err != nil {
		return nil, fmt.Errorf("builder: clear the image store: %w", err)
	}
	quiet(log)
	store, err := contentlocal.NewStore(filepath.Join(cfg.Dir, storeDir))
	if err != nil {
		return nil, fmt.Errorf("builder: open the image store: %w", err)
	}
	uploads, err := upload.Open(filepath.Join(cfg.Dir, uploadsDir),
		upload.Limits{Organization: cfg.Limits.UploadBytes, All: cfg.Limits.AllUploadBytes}, log)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	pulls, err := cfg.openPulls(log)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	life, end := context.WithCancelCause(context.Background())
	s := &Server{
		cfg: cfg, pulls: pulls, log: log, id: id, store: store, uploads: uploads, life: life, end: end, scanner: inventory.New(inventory.Limits{}),
		api:      role{api.RoleAPI, id.Client(api.RoleAPI, cfg.Peers[api.RoleAPI])},
		signer:   role{api.RoleSigner, id.Client(api.RoleSigner, cfg.Peers[api.RoleSigner])},
		registry: id.Client(api.RoleRegistry, cfg.Peers[api.RoleRegistry]),
		queue: queue.New(queue.Limits{
			Running: cfg.Limits.Builds, RunningOfOne: cfg.Limits.OrganizationBuilds,
			Open: cfg.Limits.Queue, OpenOfOne: cfg.Limits.OrganizationQueue,
		}, nil),
		pool: pool.New(), views: map[string]*imagestore.View{},
	}
	s.pool.Set(pool.Local, worker.Local(cfg.BuildKit))
	if s.remote, err = s.elsewhere(); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	return s, nil
}

// elsewhere lets workers of other machines into the pool. A role without their key, in tests, has none.
func (s *Server) elsewhere() (*remote.Server, error) {
	if _, err := os.Stat(filepath.Join(s.cfg.Dir, remote.KeyFile)); errors.Is(err, fs.ErrNotExist) && s.cfg.Workers == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	return remote.NewServer(remote.Config{Dir: s.cfg.Dir, Pool: s.pool, Log: s.log, Call: func(ctx context.Context, path string, in, out any) error {
		return s.api.call(ctx, path, behalf{}, in, out)
	}})
}

// Handler is the whole list of what the builder answers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", s.only(s.health))
	for pattern, h := range map[string]web.HandlerFunc{
		"POST /build/v1/builds":             s.openSending,
		"GET /build/v1/platforms":           s.platforms,
		"GET /build/v1/builds/{id}":         s.state,
		"GET /build/v1/builds/{id}/missing": s.missing,
		"POST /build/v1/builds/{id}/blobs":  s.blobs,
		"GET /build/v1/builds/{id}/events":  s.events,
	} {
		mux.Handle(pattern, web.FullDuplex(s.only(h, api.RoleEdge)))
	}
	mux.Handle("GET /internal/v1/pull-cache", s.only(s.pullStatus, api.RoleAdmin))
	mux.Handle("POST /internal/v1/pull-cache/purge", s.only(s.purgePulls, api.RoleAdmin))
	mux.Handle("POST /internal/v1/platforms/check", s.only(s.checkPlatforms, api.RoleGit))
	mux.Handle("POST /v3/buildFromUrl", web.FullDuplex(s.only(fromurl.Handler(s.build), api.RoleEdge)))
	mux.Handle("POST /v3/build", web.FullDuplex(s.only(s.build, api.RoleEdge, api.RoleGit)))
	return web.Logged(s.log, func(r *http.Request) bool { return pki.PeerRole(r) != "" }, mux)
}

func (s *Server) only(h web.HandlerFunc, roles ...string) http.Handler {
	return pki.Only(s.log, "the builder", h, roles...)
}

// health is about this role alone: the build service has a health of its own.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// Run serves until the context ends, then ends the running builds and waits for them. Workers of other machines connect on the listener
// workers, if there is one.
func (s *Server) Run(ctx context.Context, ln, workers net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	s.resume(ctx)
	var chores sync.WaitGroup
	chores.Go(func() { s.chores().Run(s.life) })
	if s.remote != nil {
		chores.Go(func() {
			if err := s.remote.Run(s.life, workers); err != nil {
				s.log.Error("workers of other machines cannot connect any more", "error", err)
			}
		})
	}
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
	s.Stop()
	chores.Wait()
	s.builds.Wait()
	if s.pulls != nil {
		s.pulls.Close()
	}
	return errors.Join(err, s.uploads.Close())
}

// Stop ends every build, and lets none begin.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.end(errStopped)
}

// enter takes a place for a build; the caller must call leave once when it got no error.
func (s *Server) enter() (*queue.Ticket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, api.Errorf(api.Unavailable, "the builder is stopping; try again in a moment")
	}
	t, err := s.queue.Enter()
	if err != nil {
		return nil, api.Errorf(api.RateLimited, "%d builds are waiting or at work already (limit queue=%d); try again later",
			s.cfg.Limits.Queue, s.cfg.Limits.Queue)
	}
	s.builds.Add(1)
	return t, nil
}

func (s *Server) leave(t *queue.Ticket) {
	t.Leave()
	s.builds.Done()
}

func (s *Server) sourceLimits() source.Limits {
	return source.Limits{Bytes: s.cfg.Limits.SourceBytes, Entries: s.cfg.Limits.SourceEntries}
}
