package builder

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
)

// baseStore is the name by which BuildKit asks for base images over the session.
const baseStore = "base"

// enterStore counts a build in that uses the image store. The first one in finds a store that is not too large.
func (s *Server) enterStore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == 0 {
		s.tidyStore()
	}
	s.active++
}

func (s *Server) leaveStore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
}

// tidyStore empties a store that has grown beyond its limit. Nobody uses it meanwhile. What is lost is only a copy of what
// BuildKit and the registry hold.
func (s *Server) tidyStore() {
	blobs := filepath.Join(s.cfg.Dir, storeDir, "blobs", "sha256")
	var size int64
	_ = filepath.WalkDir(blobs, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if size <= s.cfg.Limits.StoreBytes {
		return
	}
	entries, err := os.ReadDir(blobs)
	if err != nil {
		s.log.Error("the image store cannot be tidied", "error", err)
		return
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(blobs, e.Name())); err != nil {
			s.log.Error("the image store cannot be tidied", "error", err)
		}
	}
	clear(s.views) // nobody holds one
	s.log.Info("emptied the image store", "bytes", size)
}

// store is what the build's organization has of the image store. It is all that the build service is given, and all that is taken from it.
func (b *build) store() *imagestore.View {
	s, owner := b.s, b.domain()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[owner]
	if v == nil {
		v = imagestore.NewView(s.store, owner)
		s.views[owner] = v
	}
	return v
}

// offerBases makes the base images that the Dockerfile names available to its build, under these names.
func (m *making) offerBases(ctx context.Context, attrs map[string]string) error {
	s := m.build.s
	if s.cfg.Bases == "" {
		return nil
	}
	bases, err := base.List(s.cfg.Bases)
	if err != nil {
		return err
	}
	for _, note := range base.Lacking(bases, m.target.Platform, m.dockerfile) {
		m.say("Note: %s", note)
	}
	for name, image := range base.Named(bases, m.target.Platform, m.dockerfile) {
		if err := imagestore.Copy(ctx, m.build.store(), image.Path, image.Hash); err != nil {
			return fmt.Errorf("base image %s: %w", name, err)
		}
		attrs["context:"+name] = "oci-layout://" + baseStore + "@" + image.Hash.String()
	}
	return nil
}
