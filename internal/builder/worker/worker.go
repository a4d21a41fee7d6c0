package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Config says where and how the build service runs. The zero value of every field but Dir works.
type Config struct {
	Dir        string `json:"dir"`                   // state, cache and socket; owned by the user it runs as
	Buildkitd  string `json:"buildkitd,omitempty"`   // program; "" means beside our own program, else on PATH
	User       string `json:"user,omitempty"`        // started as root: the user to become, which must not be root
	CacheBytes int64  `json:"cache_bytes,omitempty"` // build cache kept on disk; 0 means 20 GiB
	Parallel   int    `json:"parallel,omitempty"`    // build steps at once; 0 means 4
}

const (
	defaultCache    = 20 << 30
	defaultParallel = 4
	stopGrace       = 5 * time.Second        // for buildkitd to end by itself
	firstRetry      = 500 * time.Millisecond // after the service died or could not start
	maxRetry        = 10 * time.Second
	steady          = time.Minute // running this long forgets earlier failures
)

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("dir: must be an absolute path, not %q", c.Dir)
	}
	// A Unix socket's path has room for 107 bytes.
	if s := c.Socket(); len(s) > 107 {
		return fmt.Errorf("dir: %s is too long for a Unix socket (%d bytes, at most 107)", s, len(s))
	}
	if c.CacheBytes < 0 {
		return errors.New("cache_bytes: must not be negative")
	}
	if c.Parallel < 0 {
		return errors.New("parallel: must not be negative")
	}
	return nil
}

// Socket is where the service listens.
func (c Config) Socket() string { return filepath.Join(c.Dir, "run", "buildkitd.sock") }

// Address is the same, as BuildKit's client wants it.
func (c Config) Address() string { return "unix://" + c.Socket() }

// Worker keeps the build service running.
type Worker struct {
	cfg Config
	log *slog.Logger

	mu  sync.Mutex // covers why
	why error      // what keeps the service from running; nil while it runs
}

// New makes a worker; Run starts it.
func New(cfg Config, log *slog.Logger) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("build service: %w", err)
	}
	return &Worker{cfg: cfg, log: log, why: errors.New("the build service is starting")}, nil
}

// Run starts the service and starts it again whenever it dies, until the context ends. A machine that cannot run it is no
// reason to return: the rest of the platform works without builds, and Healthy says what is missing.
func (w *Worker) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		began := time.Now()
		err := w.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > steady {
			wait = firstRetry
		}
		w.set(err)
		w.log.WarnContext(ctx, "the build service is not running", "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(wait*2, maxRetry)
	}
}

// Healthy reports whether the service answers, and if not, why.
func (w *Worker) Healthy(ctx context.Context) error {
	w.mu.Lock()
	why := w.why
	w.mu.Unlock()
	if why != nil {
		return why
	}
	return dial(ctx, w.cfg.Socket())
}

func (w *Worker) set(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = err
}

// once runs the service until it dies or the context ends, and leaves nothing of it behind but its cache.
func (w *Worker) once(ctx context.Context) error {
	id, err := identity(w.cfg.User)
	if err != nil {
		return err
	}
	tools, err := find(w.cfg.Buildkitd)
	if err != nil {
		return err
	}
	if err := check(ctx, id); err != nil {
		return err
	}
	if err := w.prepareDirs(id); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.serve(ctx, id, tools) }()
	if err := w.awaitSocket(ctx, ended); err != nil {
		cancel()
		return errors.Join(err, <-ended)
	}
	w.set(nil)
	w.log.InfoContext(ctx, "the build service answers", "socket", w.cfg.Socket(), "uid", id.uid)
	return <-ended
}

// awaitSocket returns when the service takes connections; ended keeps its value for the caller when it is what ended.
func (w *Worker) awaitSocket(ctx context.Context, ended chan error) error {
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if dial(ctx, w.cfg.Socket()) == nil {
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
			return errors.New("the build service did not listen within 30 s")
		case <-tick.C:
		}
	}
}

func dial(ctx context.Context, socket string) error {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("the build service does not answer: %w", err)
	}
	return conn.Close()
}

// prepareDirs makes the directories. The socket's is open to the group, which is the builder role's way in; nothing else is.
func (w *Worker) prepareDirs(id account) error {
	// What RootlessKit left of a run that was killed would stop the next one.
	if err := os.RemoveAll(filepath.Join(w.cfg.Dir, "rootlesskit")); err != nil {
		return fmt.Errorf("clear the build service's leftovers: %w", err)
	}
	for name, mode := range map[string]fs.FileMode{"": 0o710, "run": 0o710, "state": 0o710, "tmp": 0o700, "rootlesskit": 0o700} {
		dir := filepath.Join(w.cfg.Dir, name)
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make the build service's directory: %w", err)
		}
		// MkdirAll obeys the umask and leaves an existing mode alone.
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("make the build service's directory: %w", err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(dir, id.uid, id.gid); err != nil {
				return fmt.Errorf("make the build service's directory: %w", err)
			}
		}
	}
	if err := os.Remove(w.cfg.Socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear the build service's socket: %w", err)
	}
	path := filepath.Join(w.cfg.Dir, "buildkitd.toml")
	if err := os.WriteFile(path, w.settings(), 0o644); err != nil {
		return fmt.Errorf("write the build service's settings: %w", err)
	}
	return os.Chmod(path, 0o644)
}

// settings is buildkitd's configuration: one rootless worker with a bounded cache, none of the privileges a build could ask
// for, and no front end but the one that is built in (a Dockerfile cannot bring its own parser).
func (w *Worker) settings() []byte {
	cache, parallel := w.cfg.CacheBytes, w.cfg.Parallel
	if cache == 0 {
		cache = defaultCache
	}
	if parallel == 0 {
		parallel = defaultParallel
	}
	return fmt.Appendf(nil, `insecure-entitlements = []
[cdi]
  disabled = true
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
  networkMode = "host"
  max-parallelism = %d
  gc = true
  reservedSpace = %d
  maxUsedSpace = %d
  minFreeSpace = "5%%"
`, parallel, cache/4, cache)
}

// account is the Unix user that the service runs as.
type account struct {
	uid, gid int
	name     string
	drop     bool // we are root and become it
}

func identity(name string) (account, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{}, fmt.Errorf("build service: who am I: %w", err)
		}
		return account{uid: os.Geteuid(), gid: os.Getegid(), name: u.Username}, nil
	}
	if name == "" {
		return account{}, errors.New("the build service does not run as root: name a user for it")
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("build service: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("build service: user %s: %w", name, err)
	}
	if uid == 0 {
		return account{}, fmt.Errorf("the build service does not run as root: %q is root", name)
	}
	return account{uid: uid, gid: gid, name: name, drop: true}, nil
}

// attributes gives a child process the account. The child is killed when the thread that started it ends.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid), Groups: []uint32{}}
	}
	return attr
}

// programs are the paths of what the service consists of.
type programs struct{ buildkitd, rootlesskit, slirp, ip string }

func find(buildkitd string) (programs, error) {
	if buildkitd == "" {
		self, err := os.Executable()
		if err != nil {
			return programs{}, fmt.Errorf("build service: %w", err)
		}
		buildkitd = filepath.Join(filepath.Dir(self), "buildkitd")
		if _, err := os.Stat(buildkitd); err != nil {
			buildkitd = "buildkitd"
		}
	}
	var p programs
	for _, want := range []struct {
		path *string
		name string
		hint string
	}{
		{&p.buildkitd, buildkitd, "`make build` makes it"},
		{&p.rootlesskit, "rootlesskit", "Debian's package rootlesskit has it"},
		{&p.slirp, "slirp4netns", "Debian's package slirp4netns has it"},
		{&p.ip, "ip", "Debian's package iproute2 has it"},
		{new(string), "newuidmap", "Debian's package uidmap has it"},
		{new(string), "runc", "Debian's package runc has it"},
	} {
		path, err := lookPath(want.name)
		if err != nil {
			return programs{}, fmt.Errorf("build service: %s is missing: %s", want.name, want.hint)
		}
		*want.path = path
	}
	return p, nil
}

// searchPath is where the service's programs are looked for, whatever the caller's PATH is.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return exec.LookPath(name)
	}
	for _, dir := range filepath.SplitList(searchPath) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return exec.LookPath(name)
}
