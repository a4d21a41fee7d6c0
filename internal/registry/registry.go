package registry

import (
	"cmp"
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
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry/quarantine"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Files in the role's directory.
const (
	PublicKeysFile = "token.pub.json" // the signer's public keys, a JSON Web Key Set
	StorageDir     = "storage"        // blobs and manifests
	secretFile     = "upload.secret"  // seals the state of uploads, so that one goes on after a restart
)

const stopGrace = 2 * time.Second

// Config is the registry role's configuration.
type Config struct {
	// Dir is the role's own directory: its identity, token.pub.json and, unless Storage says otherwise, the storage.
	Dir string `json:"dir"`
	// Site is the public name; it stands in challenges and in the audience of tokens.
	Site api.Site `json:"site"`
	// Peers says where the api role listens, whose rows say what is kept. Without it everything is kept, for tests.
	Peers map[string]string `json:"peers"`
	// Storage is where the bytes are: s3://BUCKET/PREFIX?endpoint=URL&region=NAME, with the keys in storage.credentials; empty:
	// in files below Dir.
	Storage string `json:"storage,omitempty"`
	// MinFree is how many bytes must be free on the disk for an upload to begin; 0 means 64 MiB.
	MinFree int64 `json:"min_free,omitempty"`
	// MaxBlob bounds one blob, MaxManifest one manifest, in bytes; 0 means 10 GiB, 4 MiB.
	MaxBlob     int64 `json:"max_blob,omitempty"`
	MaxManifest int64 `json:"max_manifest,omitempty"`
	// MaxUploads is how many uploads may be open in one repository; 0 means 64.
	MaxUploads int `json:"max_uploads,omitempty"`
	// UploadLife is how long an upload may last until it is thrown away; 0 means 6 hours.
	UploadLife time.Duration `json:"upload_life,omitempty"`
	// Grace is how long what nobody needs any more is kept, CollectEvery how often it is looked for; 0 means an hour each.
	Grace        time.Duration `json:"grace,omitempty"`
	CollectEvery time.Duration `json:"collect_every,omitempty"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"min_free", c.MinFree}, {"max_blob", c.MaxBlob}, {"max_manifest", c.MaxManifest}, {"max_uploads", int64(c.MaxUploads)},
		{"upload_life", int64(c.UploadLife)}, {"grace", int64(c.Grace)}, {"collect_every", int64(c.CollectEvery)},
	} {
		if f.value < 0 {
			return fmt.Errorf("%s: is negative", f.name)
		}
	}
	if c.MaxManifest > 4<<20 {
		return errors.New("max_manifest: is more than 4 MiB")
	}
	if err := CheckStorage(c.Storage); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return pki.CheckConfig(c.Dir, c.Site, nil)
}

// filled is the configuration with what it leaves out.
func (c Config) filled() Config {
	c.MinFree = cmp.Or(c.MinFree, 64<<20)
	c.MaxBlob = cmp.Or(c.MaxBlob, 10<<30)
	c.MaxManifest = cmp.Or(c.MaxManifest, 4<<20)
	c.MaxUploads = cmp.Or(c.MaxUploads, 64)
	c.UploadLife = cmp.Or(c.UploadLife, 6*time.Hour)
	c.Grace = cmp.Or(c.Grace, time.Hour)
	c.CollectEvery = cmp.Or(c.CollectEvery, time.Hour)
	return c
}

// Server is the registry.
type Server struct {
	cfg     Config
	log     *slog.Logger
	id      *pki.Identity
	app     *handlers.App
	tokens  *verifier
	ledger  *ledger // nil: there is no api role
	storage *storage
	damage  *damage
	beliefs beliefs
	locks   [64]sync.Mutex
	collect sync.Mutex // held by the one collection
	count   counters
	last    last

	quarantine *quarantine.Store // of what people push themselves, see quarantine.go
}

// New makes the registry; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	cfg = cfg.filled()
	id, err := pki.LoadIdentity(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	tokens, err := newVerifier(filepath.Join(cfg.Dir, PublicKeysFile), cfg.Site)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	secret, err := uploadSecret(filepath.Join(cfg.Dir, secretFile))
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	quiet(log)
	s := &Server{cfg: cfg, log: log, id: id, tokens: tokens, ledger: newLedger(id, cfg.Peers[api.RoleAPI])}
	if s.damage, err = loadDamage(damagePath(cfg.Dir)); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if s.storage, err = openStorage(context.Background(), cfg); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s.quarantine, err = quarantine.Open(quarantine.Config{Dir: filepath.Join(cfg.Dir, QuarantineDir), Log: log, Room: func(n int64) bool {
		free, err := freeBytes(cfg.Dir)
		return err != nil || free >= s.cfg.MinFree+n
	}})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s.app = handlers.NewApp(context.Background(), s.distribution(secret))
	return s, nil
}

// distribution is the library's configuration. Deletion stays off; the walls in wall.go come before it. It has no memory of what
// there is: that would outlive what is collected.
func (s *Server) distribution(secret string) *configuration.Configuration {
	cfg := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			s.storage.kind: s.storage.params,
			"redirect":     {"disable": true},
			"maintenance":  {"uploadpurging": map[any]any{"enabled": false}}, // see purge
		},
	}
	cfg.HTTP.Secret = secret
	return cfg
}

// Handler is the registry behind its walls.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", web.Handle(s.log, s.health))
	mux.Handle("GET /internal/v1/status", s.operator(s.status))
	mux.Handle("POST /internal/v1/collect", s.operator(s.collectNow))
	mux.Handle("POST /internal/v1/check", s.operator(s.checkNow))
	mux.Handle("/v2/", s.wall(s.app))
	known := func(r *http.Request) bool { return pki.PeerRole(r) != "" }
	return web.Logged(s.log, known, mux)
}

// Run serves until the context ends.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	if err := s.storage.claim(ctx, s.cfg.Site.Domain); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	background, cancel := context.WithCancel(ctx)
	var chores sync.WaitGroup
	if s.ledger != nil {
		chores.Go(func() { s.collecting(background) })
	}
	chores.Go(func() { _ = s.quarantine.Run(background) }) // it logs what goes wrong, and ends with its context
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
	cancel()
	chores.Wait()
	return errors.Join(err, s.app.Shutdown())
}

func uploadSecret(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err == nil && len(data) == 64 {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("upload secret: %w", err)
	}
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	secret := hex.EncodeToString(b)
	return secret, durable.WriteFile(file, []byte(secret), 0o600)
}
