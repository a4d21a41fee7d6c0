package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// counters are what happened since the role started.
type counters struct {
	pulled, pulledBytes, pushed, refused atomic.Int64
	collections, blobs, bytes            atomic.Int64 // of garbage
	alarms                               atomic.Int64
}

func (c *counters) list() map[string]int64 {
	return map[string]int64{
		"pulled": c.pulled.Load(), "pulled_bytes": c.pulledBytes.Load(), "pushed": c.pushed.Load(), "refused_pushes": c.refused.Load(),
		"collections": c.collections.Load(), "collected_blobs": c.blobs.Load(), "collected_bytes": c.bytes.Load(), "alarms": c.alarms.Load(),
	}
}

// last is how the last collection went.
type last struct {
	mu   sync.Mutex // covers what follows
	done *api.RegistryCollected
	at   time.Time
	err  error
}

// collected writes down how a collection went.
func (s *Server) collected(done api.RegistryCollected, err error) {
	s.count.collections.Add(1)
	s.count.blobs.Add(done.Blobs)
	s.count.bytes.Add(done.Bytes)
	s.last.mu.Lock()
	defer s.last.mu.Unlock()
	s.last.done, s.last.at, s.last.err = &done, time.Now().UTC(), err
	if done != (api.RegistryCollected{}) {
		s.log.Info("garbage collected", "repositories", done.Repositories, "blobs", done.Blobs, "bytes", done.Bytes, "uploads", done.Uploads,
			"scanned", done.Scanned)
	}
}

// damage is the list of blobs whose bytes are not what they were. It is kept over a restart: the operator may not have seen it.
type damage struct {
	file string

	mu      sync.Mutex // covers digests and the file
	digests []string
}

const maxDamaged = 1000

func loadDamage(file string) (*damage, error) {
	d := &damage{file: file}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &d.digests)
	}
	if err != nil {
		return nil, fmt.Errorf("the list of damaged blobs: %w", err)
	}
	return d, nil
}

func (d *damage) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.digests)
}

func (d *damage) has(digest string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.digests, digest)
}

func (d *damage) found(digest string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.digests, digest) || len(d.digests) == maxDamaged {
		return nil
	}
	d.digests = append(d.digests, digest)
	return d.save()
}

// gone takes a blob from the list: it was deleted.
func (d *damage) gone(digest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.digests, digest); i >= 0 {
		d.digests = slices.Delete(d.digests, i, i+1)
		_ = d.save() // a blob that is not there is not found damaged again
	}
}

func (d *damage) set(digests []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.digests = digests[:min(len(digests), maxDamaged)]
	return d.save()
}

func (d *damage) save() error {
	data, err := json.Marshal(d.digests)
	if err != nil {
		return err
	}
	return durable.WriteFile(d.file, data, 0o600)
}

const damageFile = "damaged.json"

func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	if pki.PeerRole(r) == "" {
		return api.Errorf(api.Forbidden, "only roles may ask")
	}
	free, known, err := s.storage.free()
	if !known && err == nil {
		if _, err = s.storage.Stat(r.Context(), markFile); missing(err) {
			err = errors.New("the storage was emptied, or never used")
		}
	}
	damaged := s.damage.list()
	switch {
	case err != nil:
		return api.Errorf(api.Unavailable, "the storage cannot be read: %v", err)
	case known && free < s.cfg.MinFree:
		return api.Errorf(api.Unavailable, "the disk is full: %d MiB free, %d needed; pulls still work", free>>20, s.cfg.MinFree>>20)
	case len(damaged) > 0:
		return api.Errorf(api.Unavailable, "%d stored blobs are damaged, %s among them; `roadsteadd admin registry check` looks at all", len(damaged), damaged[0])
	}
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// operator lets only the operator in, and the parent for him.
func (s *Server) operator(h web.HandlerFunc) http.Handler {
	return web.Handle(s.log, func(w http.ResponseWriter, r *http.Request) error {
		if role := pki.PeerRole(r); role != api.RoleAdmin && role != api.RoleParent {
			return api.Errorf(api.Forbidden, "the registry does not do this for %q", role)
		}
		return h(w, r)
	})
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	st := api.RegistryStatus{Storage: s.storage.shown, Damaged: s.damage.list(), Counters: s.count.list()}
	if free, known, err := s.storage.free(); known && err == nil {
		st.Free = &free
	}
	s.last.mu.Lock()
	defer s.last.mu.Unlock()
	if st.Collected = s.last.done; st.Collected != nil {
		st.At = s.last.at.Format(time.RFC3339)
	}
	if s.last.err != nil {
		st.Error = s.last.err.Error()
	}
	return web.WriteJSON(w, http.StatusOK, st)
}

func (s *Server) collectNow(w http.ResponseWriter, r *http.Request) error {
	var ask api.RegistryAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if ask.Grace != nil && *ask.Grace < 0 {
		return api.Errorf(api.Invalid, "grace: is negative")
	}
	done, err := s.Collect(r.Context(), ask)
	if err != nil {
		s.log.ErrorContext(r.Context(), "collection of garbage failed", "error", err)
		if api.AsError(err).Code == api.Internal {
			err = api.Errorf(api.Unavailable, "%v", err) // the operator may read it
		}
		return err
	}
	return web.WriteJSON(w, http.StatusOK, done)
}

// checkNow reads every blob. What is damaged is said by the role's health from then on, and what was and is not any more no longer.
func (s *Server) checkNow(w http.ResponseWriter, r *http.Request) error {
	got, err := s.storage.check(r.Context())
	if err != nil {
		return api.Errorf(api.Unavailable, "%v", err)
	}
	for _, d := range got.Damaged {
		s.alarm(r, "", d)
	}
	if err := s.damage.set(got.Damaged); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, got)
}

// alarm says that bytes are not what they were.
func (s *Server) alarm(r *http.Request, repository, digest string) {
	s.count.alarms.Add(1)
	s.log.ErrorContext(r.Context(), "ALARM: stored bytes do not match their digest", "repository", repository,
		"digest", digest, "request", web.RequestID(r.Context()))
	if err := s.damage.found(digest); err != nil {
		s.log.ErrorContext(r.Context(), "the list of damaged blobs cannot be written", "error", err)
	}
}

// repair throws the bytes of a damaged blob away when somebody brings good ones: the library would keep what is there.
func (s *Server) repair(r *http.Request, digest string) {
	if !s.damage.has(digest) {
		return
	}
	if _, good, err := s.storage.whole(r.Context(), digest); err != nil || good {
		return
	}
	if err := s.storage.remove(r.Context(), path.Clean(blobDir(digest))); err != nil {
		s.log.ErrorContext(r.Context(), "a damaged blob cannot be removed", "digest", digest, "error", err)
		return
	}
	s.log.WarnContext(r.Context(), "a damaged blob was removed: it is being pushed again", "digest", digest)
	s.damage.gone(digest)
}

func damagePath(dir string) string { return filepath.Join(dir, damageFile) }
