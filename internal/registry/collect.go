package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	collectBatch = 200
	foundBatch   = 500
	firstCollect = 30 * time.Second // after the start: what was begun before it is finished soon
)

var repositoryForm = pattern.New(`^v2/[0-9a-f]{32}(-[0-9]{1,3})?$`)

// collecting collects now and then until the context ends.
func (s *Server) collecting(ctx context.Context) {
	wait := firstCollect
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if _, err := s.Collect(ctx, api.RegistryAsk{}); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "collection of garbage failed", "error", err)
		}
		wait = s.cfg.CollectEvery + rand.N(s.cfg.CollectEvery/10+1) //nolint:gosec // only spreads the times
	}
}

// Collect deletes what the api role says nobody needs, and uploads that were given up. Pushes and pulls go on meanwhile: what is
// named cannot be pushed to until the api role has heard that it is deleted. Killed at any moment, the next one goes on.
func (s *Server) Collect(ctx context.Context, ask api.RegistryAsk) (done api.RegistryCollected, err error) {
	if s.ledger == nil {
		return done, api.Errorf(api.Unavailable, "there is no api role that says what is needed")
	}
	if !s.collect.TryLock() {
		return done, api.Errorf(api.Conflict, "a collection is at work; try again when it is done")
	}
	defer s.collect.Unlock()
	defer func() { s.collected(done, err) }()
	grace := int64(s.cfg.Grace / time.Second)
	if ask.Grace != nil {
		grace = *ask.Grace
	}
	if done.Uploads, err = s.purge(ctx); err != nil {
		return done, err
	}
	scan, err := s.sweep(ctx, grace, &done)
	if err != nil || !scan && !ask.Scan {
		return done, err
	}
	if err := s.scan(ctx); err != nil {
		return done, err
	}
	done.Scanned = true
	_, err = s.sweep(ctx, grace, &done)
	return done, err
}

// sweep deletes until there is nothing left to delete.
func (s *Server) sweep(ctx context.Context, grace int64, done *api.RegistryCollected) (scan bool, err error) {
	said := api.RegistryCollect{Grace: grace, Limit: collectBatch}
	for {
		var next api.RegistryGarbage
		err := patiently(ctx, func() error { return s.ledger.call(ctx, "collect", said, &next) })
		if err != nil {
			return false, fmt.Errorf("registry: collect: %w", err)
		}
		if len(next.Repositories)+len(next.Blobs) == 0 {
			return next.Scan, nil
		}
		said.Repositories, said.Blobs = nil, nil
		var problems []error
		for _, name := range next.Repositories {
			if err := s.removeRepository(ctx, name); err != nil {
				problems = append(problems, err)
				continue
			}
			said.Repositories = append(said.Repositories, name)
			done.Repositories++
		}
		for _, digest := range next.Blobs {
			n, err := s.removeBlob(ctx, digest)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			said.Blobs = append(said.Blobs, digest)
			done.Blobs++
			done.Bytes += n
		}
		if len(problems) > 0 {
			return false, errors.Join(append(problems, s.ledger.call(ctx, "collect", said, nil))...)
		}
	}
}

func (s *Server) removeRepository(ctx context.Context, name string) error {
	if !repositoryForm.MatchString(name) {
		return fmt.Errorf("registry: collect: %q is not the name of a repository", name)
	}
	if err := s.storage.remove(ctx, repositoryDir(name)); err != nil {
		return fmt.Errorf("registry: remove %s: %w", name, err)
	}
	return nil
}

func (s *Server) removeBlob(ctx context.Context, digest string) (int64, error) {
	if !digestForm.MatchString(digest) {
		return 0, fmt.Errorf("registry: collect: %q is not the digest of a blob", digest)
	}
	n, _, err := s.storage.size(ctx, digest)
	if err == nil {
		err = s.storage.remove(ctx, blobDir(digest))
	}
	if err != nil {
		return 0, fmt.Errorf("registry: delete %s: %w", digest, err)
	}
	s.damage.gone(digest)
	return n, nil
}

// purge removes uploads that began long ago. No build lasts as long.
func (s *Server) purge(ctx context.Context) (n int64, err error) {
	late := time.Now().Add(-s.cfg.UploadLife)
	names, err := s.storage.list(ctx, path.Join(repositoriesDir, "v2"))
	if err != nil {
		return 0, fmt.Errorf("registry: uploads: %w", err)
	}
	for _, name := range names {
		dir := path.Join(repositoriesDir, "v2", name, "_uploads")
		uploads, err := s.storage.list(ctx, dir)
		if err != nil {
			return n, fmt.Errorf("registry: uploads: %w", err)
		}
		for _, id := range uploads {
			began, err := s.began(ctx, path.Join(dir, id))
			if err != nil {
				return n, fmt.Errorf("registry: upload %s: %w", id, err)
			}
			if !began.Before(late) {
				continue
			}
			if err := s.storage.remove(ctx, path.Join(dir, id)); err != nil {
				return n, fmt.Errorf("registry: upload %s: %w", id, err)
			}
			n++
		}
	}
	return n, nil
}

// began is when an upload began. One that does not say is as old as its directory.
func (s *Server) began(ctx context.Context, dir string) (time.Time, error) {
	data, err := s.storage.GetContent(ctx, path.Join(dir, "startedat"))
	if err == nil {
		if at, err := time.Parse(time.RFC3339, string(data)); err == nil {
			return at, nil
		}
	} else if !missing(err) {
		return time.Time{}, err
	}
	info, err := s.storage.Stat(ctx, dir)
	if missing(err) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if info.ModTime().IsZero() { // a bucket has no directories
		return time.Now(), nil
	}
	return info.ModTime(), nil
}

// scan tells the api role of everything that is stored: links that have no rows yet get some, blobs without any are swept.
func (s *Server) scan(ctx context.Context) error {
	names, err := s.storage.list(ctx, path.Join(repositoriesDir, "v2"))
	if err != nil {
		return fmt.Errorf("registry: scan: %w", err)
	}
	for _, name := range names {
		if repository := "v2/" + name; repositoryForm.MatchString(repository) {
			if err := s.scanRepository(ctx, repository); err != nil {
				return fmt.Errorf("registry: scan %s: %w", repository, err)
			}
		}
	}
	found := api.RegistryFound{}
	err = s.storage.eachBlob(ctx, func(digest string) error {
		n, there, err := s.storage.size(ctx, digest)
		if err != nil || !there {
			return err
		}
		found.Blobs = append(found.Blobs, api.RegistryBlob{Digest: digest, Size: n})
		if len(found.Blobs) < foundBatch {
			return nil
		}
		err = s.found(ctx, found)
		found.Blobs = found.Blobs[:0]
		return err
	})
	if err == nil {
		found.Done = true
		err = s.found(ctx, found)
	}
	if err != nil {
		return fmt.Errorf("registry: scan: %w", err)
	}
	return nil
}

func (s *Server) found(ctx context.Context, found api.RegistryFound) error {
	return patiently(ctx, func() error { return s.ledger.call(ctx, "found", found, nil) })
}

// scanRepository tells the api role of the links of one repository.
func (s *Server) scanRepository(ctx context.Context, repository string) error {
	found := api.RegistryFound{Repository: repository}
	for _, links := range []string{"_layers/sha256", "_manifests/revisions/sha256"} {
		names, err := s.storage.list(ctx, path.Join(repositoryDir(repository), links))
		if err != nil {
			return err
		}
		for _, name := range names {
			digest := "sha256:" + name
			if !digestForm.MatchString(digest) {
				continue
			}
			n, there, err := s.storage.size(ctx, digest)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			if found.Blobs = append(found.Blobs, api.RegistryBlob{Digest: digest, Size: n}); len(found.Blobs) == foundBatch {
				if err := s.found(ctx, found); err != nil {
					return err
				}
				found.Blobs = nil
			}
		}
	}
	return s.found(ctx, found)
}
