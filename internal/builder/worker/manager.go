package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

const (
	stopGrace  = 5 * time.Second        // for buildkitd to end by itself
	startTime  = 30 * time.Second       // for it to answer
	firstRetry = 500 * time.Millisecond // after this machine could not run builds
	maxRetry   = 10 * time.Second
	lookEvery  = time.Second // for daemons that nobody uses
	trial      = "trial"     // the domain in which the manager tries at its start whether this machine can build
)

// Manager runs one buildkitd for each domain (an organization) that builds: it starts it when it is asked for, and stops it
// when nobody has used it for a while.
type Manager struct {
	cfg Config
	log *slog.Logger

	mu         sync.Mutex // covers what follows
	why        error      // what keeps builds from running here; nil when they can
	life       context.Context
	id         account
	tools      programs
	running    map[string]*daemon
	places     []bool        // which are taken
	changed    chan struct{} // closed and made anew when a place may have become free
	can        []Platform
	cannot     []Missing
	kills      map[string][]Kill
	collectNow chan struct{}  // a daemon ended: the caches may have outgrown their bound
	all        sync.WaitGroup // daemons, and what looks after them
}

// NewManager makes a manager; Run starts it.
func NewManager(cfg Config, log *slog.Logger) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("build service: %w", err)
	}
	cfg = cfg.withDefaults()
	return &Manager{cfg: cfg, log: log, why: errors.New("the build service is starting"), running: map[string]*daemon{}, kills: map[string][]Kill{},
		places: make([]bool, cfg.Daemons), changed: make(chan struct{}), collectNow: make(chan struct{}, 1)}, nil
}

// Run lets builds in until the context ends, then stops every daemon. A machine that cannot run them is no reason to return:
// the rest of the platform works without builds, and Healthy says what is missing.
func (m *Manager) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		err := m.prepare(ctx)
		if ctx.Err() != nil {
			m.close()
			return nil
		}
		m.set(err)
		if err == nil {
			break
		}
		m.log.WarnContext(ctx, "the build service is not running", "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			m.close()
			return nil
		case <-time.After(wait):
		}
		wait = min(wait*2, maxRetry)
	}
	m.log.InfoContext(ctx, "builds can run", "platforms", m.Status().Platforms)
	m.all.Go(func() { m.watch(ctx) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.close()
			return nil
		case <-m.collectNow:
			if err := m.collect(ctx); err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "the build caches cannot be kept within their bound", "error", err)
			}
		case <-tick.C:
			m.stopIdle()
		}
	}
}

// close lets no daemon start any more and waits for the ends of those that run: their context has ended.
func (m *Manager) close() {
	m.set(errors.New("the build service is stopping"))
	m.all.Wait()
}

// Healthy reports whether builds can run, and if not, why.
func (m *Manager) Healthy(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

func (m *Manager) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why = err
}

// prepare finds out whether this machine can run builds, by running a daemon once, and what it can build for.
func (m *Manager) prepare(ctx context.Context) error {
	id, err := identity(m.cfg.User)
	if err != nil {
		return err
	}
	tools, err := find(m.cfg.Buildkitd)
	if err != nil {
		return err
	}
	if err := check(ctx, id); err != nil {
		return err
	}
	m.mu.Lock()
	m.life, m.id, m.tools = ctx, id, tools
	m.mu.Unlock()
	if err := id.makeDir(m.cfg.Dir, 0o710); err != nil {
		return err
	}
	if err := id.makeDir(m.cfg.caches(), 0o700); err != nil {
		return err
	}
	return m.try(ctx)
}

// try runs a daemon once and asks it what it can build for.
func (m *Manager) try(ctx context.Context) error {
	d, err := m.use(ctx, trial)
	if err != nil {
		return err
	}
	can, err := platforms(ctx, d.place.socket())
	m.leave(d)
	d.stop()
	<-d.ended
	m.mu.Lock()
	m.can, m.cannot = can, missing(can)
	m.mu.Unlock()
	return errors.Join(err, m.remove(ctx, trial))
}

// makeDir makes a directory of the service's user; MkdirAll alone obeys the umask and leaves an existing mode alone.
func (a account) makeDir(dir string, mode fs.FileMode) error {
	err := os.MkdirAll(dir, mode)
	if err == nil {
		err = os.Chmod(dir, mode)
	}
	if err == nil && a.drop {
		err = os.Chown(dir, a.uid, a.gid)
	}
	if err != nil {
		return fmt.Errorf("make the build service's directory: %w", err)
	}
	return nil
}

// Connect opens a connection to a domain's daemon, and starts that when it does not run. The daemon is kept at least until the
// connection is closed.
func (m *Manager) Connect(ctx context.Context, domain string) (net.Conn, error) {
	if err := checkDomain(domain); err != nil {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	if domain == trial {
		return nil, api.Errorf(api.Invalid, "domain %q: the build service's own", domain)
	}
	if err := m.Healthy(ctx); err != nil {
		return nil, api.Errorf(api.Unavailable, "builds cannot run: %v", err)
	}
	d, err := m.use(ctx, domain)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, d.place.socket())
	if err != nil {
		m.leave(d)
		return nil, errors.Join(api.Errorf(api.Unavailable, "the build service went away; try again"), err)
	}
	return &lease{Conn: conn, leave: sync.OnceFunc(func() { m.leave(d) })}, nil
}

// lease is a connection that tells when it ends.
type lease struct {
	net.Conn
	leave func()
}

func (l *lease) Close() error {
	defer l.leave()
	return l.Conn.Close()
}

// CloseWrite lets one side end before the other.
func (l *lease) CloseWrite() error { return l.Conn.(*net.UnixConn).CloseWrite() }

// use gives a domain's daemon once it answers, counted as used: leave must be called once for it.
func (m *Manager) use(ctx context.Context, domain string) (*daemon, error) {
	for {
		d, wait, err := m.take(domain)
		if err != nil {
			return nil, err
		}
		if d == nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, api.Errorf(api.Unavailable, "%d organizations are building already; try again later", m.cfg.Daemons)
			}
		}
		select {
		case <-d.ready:
			if d.err == nil {
				return d, nil
			}
			m.leave(d)
			return nil, errors.Join(api.Errorf(api.Unavailable, "the build service does not start; the operator finds out why in the server's log"), d.err)
		case <-ctx.Done():
			m.leave(d)
			return nil, ctx.Err()
		}
	}
}

// take counts a domain's daemon as used, and starts one that does not run. When there is no place for it, the daemon that was not
// used for longest is stopped, if there is one, and wait tells when to try again.
func (m *Manager) take(domain string) (d *daemon, wait <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life == nil || m.life.Err() != nil {
		return nil, nil, api.Errorf(api.Unavailable, "the build service is stopping")
	}
	if d := m.running[domain]; d != nil {
		if d.leaving {
			return nil, d.ended, nil
		}
		d.users++
		return d, nil, nil
	}
	for n, taken := range m.places {
		if !taken {
			return m.launch(domain, n), nil, nil
		}
	}
	var oldest *daemon
	for _, d := range m.running {
		if d.users == 0 && !d.leaving && (oldest == nil || d.unused.Before(oldest.unused)) {
			oldest = d
		}
	}
	if oldest != nil {
		oldest.leaving = true
		oldest.stop()
		return nil, oldest.ended, nil
	}
	return nil, m.changed, nil
}

// launch starts a daemon. The lock is held.
func (m *Manager) launch(domain string, n int) *daemon {
	ctx, stop := context.WithCancel(m.life)
	d := &daemon{domain: domain, place: m.cfg.place(n), ready: make(chan struct{}), ended: make(chan struct{}), stop: stop, users: 1}
	m.places[n] = true
	m.running[domain] = d
	m.all.Go(func() {
		err := m.keep(ctx, d)
		stop()
		m.mu.Lock()
		delete(m.running, domain)
		m.places[n] = false
		m.wake()
		m.mu.Unlock()
		close(d.ended)
		select {
		case m.collectNow <- struct{}{}:
		default: // it will be looked anyway
		}
		if err != nil {
			m.log.Warn("a build daemon ended", "domain", domain, "error", err)
		}
	})
	return d
}

// wake tells those who wait for a place. The lock is held.
func (m *Manager) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) leave(d *daemon) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.users--; d.users == 0 {
		d.unused = time.Now()
		m.wake()
	}
}

// stopIdle stops daemons that nobody uses.
func (m *Manager) stopIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.running {
		if d.users == 0 && !d.leaving && time.Since(d.unused) >= m.cfg.idle() {
			d.leaving = true
			d.stop()
		}
	}
}

// Status is what a worker says of itself.
type Status struct {
	Platforms []Platform `json:"platforms"`
	Missing   []Missing  `json:"missing,omitempty"`
	Version   string     `json:"version"` // of BuildKit
	Domains   int        `json:"domains"` // whose daemons run
}

// Status says what can be built here.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Status{Platforms: m.can, Missing: m.cannot, Version: buildkitVersion(), Domains: len(m.running)}
}

// remove deletes a domain's cache. Its files belong to the users of the namespace, so that is where they are removed from.
func (m *Manager) remove(ctx context.Context, domain string) error {
	if err := checkDomain(domain); err != nil {
		return err
	}
	if _, err := m.insideOut(ctx, "rm", "-rf", "--", m.cfg.cache(domain)); err != nil {
		return fmt.Errorf("remove the build cache of %s: %w", domain, err)
	}
	return nil
}
