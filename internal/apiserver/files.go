package apiserver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release"
)

const (
	// sweepAge is how old a file must be before it goes because no row names it. Requests end long before.
	sweepAge   = time.Hour
	sweepEvery = 10 * time.Minute
)

// openBlobs opens the store of uploaded files. Its addresses are signed with a key that every process of the role derives from
// the pepper, and the folder is the same for all.
func (s *Server) openBlobs(pepper []byte) (err error) {
	h := hmac.New(sha256.New, pepper)
	h.Write([]byte("addresses of blobs"))
	s.blobs, err = blob.Open(blob.Config{
		Dir: s.cfg.folder(s.cfg.Blobs, "blobs"), Secret: h.Sum(nil), Base: s.cfg.Site.URL("api") + "/blobs/", Max: s.cfg.MaxBlob,
	})
	if err != nil {
		return err
	}
	s.tasks = append(s.tasks, s.sweepBlobs)
	return nil
}

// folder is a configured folder, or the one of a name in the role's own.
func (c *Config) folder(configured, name string) string {
	if configured != "" {
		return configured
	}
	return filepath.Join(c.Dir, name)
}

// files keeps what the file columns of the model hold.
func (s *Server) files() blob.Files {
	rules := release.FileRules()
	maps.Copy(rules, account.FileRules())
	return blob.Files{Store: s.blobs, Rules: rules}
}

// forget is told of bytes that no row names any more.
func (s *Server) forget(ref string) {
	if err := s.blobs.Remove(ref); err != nil {
		s.log.Warn("a file could not be removed; it is swept later", "error", err)
	}
}

// fileRoutes need no token: an address that this server signed, and that ends, is what lets in.
func (s *Server) fileRoutes() []route.Route {
	return []route.Route{
		{Method: "GET", Path: "/blobs/{id}", Handle: s.serveBlob, Who: route.Anybody, Stream: true},
		{Method: "PUT", Path: "/blobs/uploads/{upload}/{part}", Handle: s.receiveBlob, Who: route.Anybody, Stream: true},
	}
}

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request) error { return s.blobs.Serve(w, r) }

func (s *Server) receiveBlob(w http.ResponseWriter, r *http.Request) error {
	return s.blobs.Receive(w, r)
}

// sweepBlobs removes what nobody finished or wants, until the context ends.
func (s *Server) sweepBlobs(ctx context.Context) error {
	sweep := s.leases.Only("uploaded files", 2*sweepEvery, s.sweepOnce)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery + rand.N(sweepEvery)):
		}
		if err := sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the sweep of uploaded files failed", "error", err)
		}
	}
}

func (s *Server) sweepOnce(ctx context.Context) error {
	var wanted map[string]bool
	// What is old enough now had its row written long ago, so rows are read after the time is set and before files are looked at.
	if err := s.db.Read(ctx, func(tx *db.Tx) (err error) {
		wanted, err = s.engine.FileRefs(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	n, err := s.blobs.Sweep(ctx, sweepAge, func(id string) bool { return wanted[id] })
	if n > 0 {
		s.log.InfoContext(ctx, "files that no row names were removed", "files", n)
	}
	return err
}

// ownContracts is the folder of the operator's own device types; nil when there is none.
func (s *Server) ownContracts() (fs.FS, error) {
	dir := s.cfg.folder(s.cfg.Contracts, "contracts")
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.cfg.Contracts == "":
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("contracts: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("contracts: %s is no folder", dir)
	}
	return os.DirFS(dir), nil
}
