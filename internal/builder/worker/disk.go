package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measured is what is known of the disk that a domain uses.
type measured struct {
	next time.Time // when to look again
	free int64     // of the file system, when last looked
	busy bool
	took chan int64
}

// watchDisk ends the steps of a domain whose files have outgrown its cache and what builds may take besides. Measuring reads
// every directory, so it is done beside, and the less often the longer it takes; but at once when much was written.
func (m *Manager) watchDisk(ctx context.Context, d *daemon) {
	if len(d.steps) == 0 {
		return
	}
	if d.disk.busy {
		select {
		case bytes := <-d.disk.took:
			d.disk.busy = false
			if limit := m.cfg.CacheBytes/2 + m.cfg.Limits.Disk; bytes > limit {
				for _, u := range d.steps {
					m.kill(d, u, "disk", fmt.Sprintf("the builds of its organization used %s of the disk; %s is the limit, cache included",
						size(bytes), size(limit)))
				}
			}
		default:
		}
		return
	}
	free := m.free()
	if time.Now().Before(d.disk.next) && d.disk.free-free < m.cfg.Limits.Disk/4 {
		return
	}
	d.disk.busy, d.disk.free, d.disk.took = true, free, make(chan int64, 1)
	took := d.disk.took
	m.all.Go(func() {
		began := time.Now()
		bytes, err := m.du(ctx, m.cfg.cache(d.domain))
		if err != nil && ctx.Err() == nil {
			m.log.Warn("the disk that builds use cannot be measured", "domain", d.domain, "error", err)
		}
		d.disk.next = time.Now().Add(max(time.Second, 10*time.Since(began)))
		took <- bytes
	})
}

// free is what the file system of the caches has left.
func (m *Manager) free() int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(m.cfg.caches(), &st) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// du measures a directory on disk. What steps remove meanwhile is no error.
func (m *Manager) du(ctx context.Context, dir string) (int64, error) {
	out, err := m.insideOut(ctx, "du", "-skx", "--", dir)
	kib, _, ok := strings.Cut(string(out), "\t")
	n, parseErr := strconv.ParseInt(strings.TrimSpace(kib), 10, 64)
	var exit *exec.ExitError
	if !ok || parseErr != nil || (err != nil && !errors.As(err, &exit)) {
		return 0, errors.Join(err, parseErr)
	}
	return n << 10, nil
}

// collect removes caches of domains that do not build, the one that was not used for longest first, until all together keep the
// bound.
func (m *Manager) collect(ctx context.Context) error {
	entries, err := os.ReadDir(m.cfg.caches())
	if err != nil {
		return fmt.Errorf("look through the build caches: %w", err)
	}
	type cache struct {
		domain string
		used   time.Time
		bytes  int64
	}
	var sum int64
	var caches []cache
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || checkDomain(e.Name()) != nil {
			continue
		}
		bytes, err := m.du(ctx, m.cfg.cache(e.Name()))
		if err != nil {
			return fmt.Errorf("measure the build cache of %s: %w", e.Name(), err)
		}
		sum += bytes
		caches = append(caches, cache{e.Name(), info.ModTime(), bytes})
	}
	for sum > m.cfg.CacheBytes {
		oldest := -1
		for i, c := range caches {
			if c.bytes > 0 && (oldest < 0 || c.used.Before(caches[oldest].used)) && m.lock(c.domain) {
				if oldest >= 0 {
					m.unlock(caches[oldest].domain)
				}
				oldest = i
			}
		}
		if oldest < 0 {
			return nil // all of them build
		}
		c := &caches[oldest]
		m.log.Info("a build cache makes place", "domain", c.domain, "bytes", c.bytes, "last_used", c.used)
		err := m.remove(ctx, c.domain)
		m.unlock(c.domain)
		if err != nil {
			return err
		}
		sum -= c.bytes
		c.bytes = 0
	}
	return nil
}

// lock keeps a domain's daemon from starting while its cache is removed; false when it runs.
func (m *Manager) lock(domain string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[domain] != nil {
		return false
	}
	d := &daemon{domain: domain, leaving: true, ended: make(chan struct{}), stop: func() {}}
	m.running[domain] = d
	return true
}

func (m *Manager) unlock(domain string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.running[domain].ended)
	delete(m.running, domain)
}

// insideOut runs a program as the root of a user namespace like the daemons', to which all their files belong.
func (m *Manager) insideOut(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/unshare", append([]string{"--user", "--map-root-user", "--map-auto", "--", program}, args...)...)
	cmd.Env = []string{"PATH=" + searchPath}
	cmd.SysProcAttr = m.id.attributes()
	cmd.SysProcAttr.Pdeathsig = 0 // it lives for a moment, on any thread
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		text := bytes.TrimSpace(words.Bytes())
		if len(text) > 500 {
			text = text[:500]
		}
		return out, fmt.Errorf("%s: %w: %s", program, err, text)
	}
	return out, nil
}
