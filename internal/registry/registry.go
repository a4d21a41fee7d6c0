package registry

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
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the driver registers itself by name

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
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
	// Dir is the role's own directory: its identity, token.pub.json and the storage.
	Dir string `json:"dir"`
	// Site is the public name; it stands in challenges and in the audience of tokens.
	Site api.Site `json:"site"`
	// Peers is unused: the registry calls nobody.
	Peers map[string]string `json:"peers"`
	// MinFree is how many bytes must be free on the disk for an upload to begin; 0 means 64 MiB.
	MinFree int64 `json:"min_free,omitempty"`
}

// Validate names the first field that is wrong.
func (c Config) Validate() error {
	if c.MinFree < 0 {
		return errors.New("min_free: is negative")
	}
	return pki.CheckConfig(c.Dir, c.Site, nil)
}

// Server is the registry.
type Server struct {
	cfg     Config
	log     *slog.Logger
	id      *pki.Identity
	app     *handlers.App
	tokens  *verifier
	storage string
}

// New makes the registry. The library starts its purge of abandoned uploads here; the end of Run stops it.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 64 << 20
	}
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
	s := &Server{cfg: cfg, log: log, id: id, tokens: tokens, storage: filepath.Join(cfg.Dir, StorageDir)}
	if err := os.MkdirAll(s.storage, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	quiet(log)
	s.app = handlers.NewApp(context.Background(), s.distribution(secret))
	return s, nil
}

// distribution is the library's configuration. Deletion stays off; the walls in wall.go come before it.
func (s *Server) distribution(secret string) *configuration.Configuration {
	cfg := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": s.storage},
			"cache":      {"blobdescriptor": "inmemory"},
			"redirect":   {"disable": true},
			"maintenance": {"uploadpurging": map[any]any{
				"enabled": true, "age": "24h", "interval": "6h", "dryrun": false,
			}},
		},
	}
	cfg.HTTP.Secret = secret
	return cfg
}

// Handler is the registry behind its walls.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.Handle("/v2/", s.wall(s.app))
	known := func(r *http.Request) bool { return pki.PeerRole(r) != "" }
	return web.Logged(s.log, known, mux)
}

// Run serves until the context ends.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: s.id.ServerTLS(), ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	err := web.Serve(ctx, srv, func() error { return srv.ServeTLS(ln, "", "") }, stopGrace)
	return errors.Join(err, s.app.Shutdown())
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if pki.PeerRole(r) == "" {
		web.WriteError(w, api.Errorf(api.Forbidden, "only roles may ask"))
		return
	}
	free, err := freeBytes(s.storage)
	switch {
	case err != nil:
		web.WriteError(w, api.Errorf(api.Unavailable, "the storage cannot be read: %v", err))
	case free < s.cfg.MinFree:
		web.WriteError(w, api.Errorf(api.Unavailable, "the disk is full: %d MiB free, %d needed; pulls still work",
			free>>20, s.cfg.MinFree>>20))
	default:
		_ = web.WriteJSON(w, http.StatusOK, "ok")
	}
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
