package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// daemon is one domain's buildkitd.
type daemon struct {
	domain string
	place  place
	stop   context.CancelFunc
	ready  chan struct{} // closed when it answers, or will not
	err    error         // why it will not; read after ready
	ended  chan struct{} // closed when nothing of it runs any more
	pid    atomic.Int64  // of the process from which everything of it descends

	// The watch alone uses these.
	steps  map[string]*used  // by process namespace
	killed map[string]bool   // those that were ended and are still there
	tmpfs  map[string]string // memory file systems that are not a step's, by device
	disk   measured

	// The manager's lock covers these.
	users   int       // connections, and those who wait for it to answer
	unused  time.Time // since users is 0
	leaving bool      // it was told to stop
}

// keep runs a daemon until it dies or the context ends, and leaves nothing of it behind but its cache.
func (m *Manager) keep(ctx context.Context, d *daemon) error {
	began := time.Now()
	answered := false
	defer func() {
		if !answered {
			close(d.ready)
		}
	}()
	if err := m.prepareDirs(d); err != nil {
		d.err = err
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.serve(ctx, d) }()
	// BuildKit would put a socket of its own, for traces, into every step that begins while it is there: steps have nothing to say to the
	// daemon. Once it answers, it has done to that socket all that it does; one that is gone before would end it.
	err := awaitSocket(ctx, d.place.socket(), ended, func() bool { return os.Remove(d.place.traces()) == nil })
	if err != nil {
		cancel()
		d.err = errors.Join(err, <-ended)
		return d.err
	}
	answered = true
	close(d.ready)
	m.log.InfoContext(ctx, "a build daemon answers", "domain", d.domain, "after", time.Since(began).Round(time.Millisecond))
	return <-ended
}

// awaitSocket returns when the daemon answers and is closed to steps; ended keeps a value for the caller when that is what ended.
func awaitSocket(ctx context.Context, socket string, ended chan error, closed func() bool) error {
	deadline := time.NewTimer(startTime)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, socket) && closed() {
			return nil
		}
		select {
		case err := <-ended:
			ended <- nil
			if err == nil {
				err = errors.New("ended at once")
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("the build service did not listen within %s", startTime)
		case <-tick.C:
		}
	}
}

// answers says whether a daemon serves its socket: it listens long before, and may die in between. A server of HTTP/2 speaks first.
func answers(ctx context.Context, socket string) bool {
	conn, err := dial(ctx, socket)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	_ = conn.SetReadDeadline(time.Now().Add(startTime))
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("the build service does not answer: %w", err)
	}
	return conn, nil
}

// prepareDirs makes the daemon's directories. Nobody but the service's own user reaches anything in them.
func (m *Manager) prepareDirs(d *daemon) error {
	// What RootlessKit left of a run that was killed would stop the next one.
	if err := os.RemoveAll(string(d.place)); err != nil {
		return fmt.Errorf("clear the build service's leftovers: %w", err)
	}
	for _, dir := range []string{string(d.place), d.place.kit(), d.place.tmp(), d.place.plugins(), m.cfg.cache(d.domain)} {
		if err := m.id.makeDir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.place.settings(), m.cfg.settings(d.place), 0o644); err != nil {
		return fmt.Errorf("write the build service's settings: %w", err)
	}
	if err := m.layNetwork(d.place); err != nil {
		return err
	}
	now := time.Now() // the directory's time tells which cache was not used for longest
	if err := os.Chtimes(m.cfg.cache(d.domain), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark the build cache as used: %w", err)
	}
	return os.Chmod(d.place.settings(), 0o644)
}

// settings is buildkitd's configuration: one rootless worker with a bounded cache, none of the privileges a build could ask
// for, and no front end but the one that is built in (a Dockerfile cannot bring its own parser).
func (c Config) settings(p place) []byte {
	cache := c.CacheBytes / 2
	return fmt.Appendf(nil, `insecure-entitlements = []
[cdi]
  disabled = true
[otel]
  socketPath = %q
[history]
  maxAge = "1h"
  maxEntries = 20
[frontend."gateway.v0"]
  enabled = false
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  rootless = true
  snapshotter = "auto"
  networkMode = "cni"
  cniConfigPath = %q
  cniBinaryPath = %q
  max-parallelism = %d
  gc = true
  reservedSpace = %d
  maxUsedSpace = %d
  minFreeSpace = "5%%"
`, p.traces(), p.network(), p.plugins(), c.Parallel, cache/4, cache)
}
