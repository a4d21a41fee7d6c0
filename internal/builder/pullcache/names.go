package pullcache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// record is what a name stood for.
type record struct {
	Name    string        `json:"name"`
	Digest  digest.Digest `json:"digest"`
	Checked time.Time     `json:"checked"` // when its registry said so
	Used    time.Time     `json:"used"`
}

const maxNames = 5000

func (c *Cache) nameFile(k key) string {
	return filepath.Join(c.cfg.Dir, k.scope, namesDir, digest.FromString(k.name).Encoded())
}

func (c *Cache) loadNames(scope string) error {
	dir := filepath.Join(c.cfg.Dir, scope, namesDir)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		var r record
		if json.Unmarshal(data, &r) != nil || r.Digest.Validate() != nil || digest.FromString(r.Name).Encoded() != f.Name() {
			_ = os.Remove(filepath.Join(dir, f.Name())) // the registry is asked again
			continue
		}
		c.names[key{scope, r.Name}] = &r
	}
	return nil
}

// known gives what a name stood for.
func (c *Cache) known(k key) (record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.names[k]
	if r == nil {
		return record{}, false
	}
	r.Used = c.cfg.Now()
	return *r, true
}

// note remembers what a registry says that a name stands for.
func (c *Cache) note(k key, d digest.Digest) error {
	now := c.cfg.Now()
	r := &record{Name: k.name, Digest: d, Checked: now, Used: now}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.names[k] == nil && len(c.names) >= maxNames {
		var oldest key
		for k, r := range c.names {
			if o := c.names[oldest]; o == nil || r.Used.Before(o.Used) {
				oldest = k
			}
		}
		c.forget(oldest)
	}
	c.names[k] = r
	c.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(c.nameFile(k)), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(c.nameFile(k), data, 0o600)
}

// forget lets go of a name. The lock is held.
func (c *Cache) forget(k key) {
	delete(c.names, k)
	if err := os.Remove(c.nameFile(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Error("a name of the pull cache cannot be forgotten", "name", k.name, "error", err)
	}
}

// resolve finds out what a name stands for. Its registry is asked when that was not done just now; when it does not answer, what it
// said before holds, and stale says since when.
func (c *Cache) resolve(ctx context.Context, s *source, k key, what string, ask bool) (d digest.Digest, stale time.Time, why, err error) {
	old, ok := c.known(k)
	fixed := digest.Digest(what).Validate() == nil
	if ok && s.scope == public && (fixed || !ask && c.cfg.Now().Sub(old.Checked) < c.cfg.Fresh) {
		return old.Digest, stale, nil, nil
	}
	if d, err = s.head(ctx, what); err == nil && fixed {
		d = digest.Digest(what)
	}
	if err == nil && d == "" {
		var data []byte
		if data, d, err = s.manifest(ctx, what); err == nil {
			err = c.keep(ctx, key{s.scope, d.String()}, data)
		}
	}
	switch {
	case err == nil:
		return d, stale, nil, c.note(k, d)
	case !ok:
		return "", stale, nil, err
	case passing(err):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.counts.Stale++
		return old.Digest, old.Checked, err, nil
	case ctx.Err() == nil: // it is no longer to be had
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(k)
	}
	return "", stale, nil, err
}

// manifest gives one by its digest, from the disk or its registry.
func (c *Cache) manifest(ctx context.Context, s *source, d digest.Digest) ([]byte, error) {
	for _, scope := range []string{s.scope, public} {
		k := key{scope, d.String()}
		c.mu.Lock()
		e := c.entries[k]
		c.mu.Unlock()
		if e == nil || e.size > maxManifest {
			continue
		}
		if h, _, err := c.take(ctx, k, e.size); err != nil {
			return nil, err
		} else if h != nil {
			data := make([]byte, h.size)
			_, err := h.file.ReadAt(data, 0)
			h.Close()
			return data, err
		}
	}
	data, _, err := s.manifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	return data, c.keep(ctx, key{s.scope, d.String()}, data)
}
