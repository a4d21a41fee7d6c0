package gitserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitserver/upstream"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	sourcesDir = "sources"
	fetched    = "refs/source/now" // what a fetch brought
	// claimPause is how often the api role is told that we are still at work; it gives up on us after four of them.
	claimPause  = 5 * time.Second
	sourcePause = time.Second // after the api role did not answer
	// deeper is how far behind its branch a commit is looked for, when the server does not give it by its name.
	deeper = 500
)

// Validate names the field that is wrong.
func (c Sources) Validate() error {
	_, err := c.ways(0)
	return err
}

// ways makes the way out.
func (c Sources) ways(maxBytes int64) (*upstream.Ways, error) {
	cfg := upstream.Config{Allow: c.Allow, MaxBytes: maxBytes}
	if c.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a machine without any
		}
		if !pool.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, errors.New("ca: it holds no certificate")
		}
		cfg.Roots = pool
	}
	return upstream.New(cfg)
}

// clearSources removes what a role that was killed had fetched.
func (s *Server) clearSources() error {
	dir := filepath.Join(s.cfg.Dir, sourcesDir)
	return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700))
}

// buildSources fetches and has built what the api role says, a few at a time.
func (s *Server) buildSources(ctx context.Context) error {
	places := make(chan struct{}, s.cfg.Limits.Fetches)
	for ctx.Err() == nil {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		job, err := ask[api.SourceJob](ctx, s.api, "/internal/v1/sources/next", credentials{}, struct{}{})
		if err == nil && job.Delivery != 0 {
			s.work.Go(func() {
				defer func() { <-places }()
				s.buildSource(job)
			})
			continue
		}
		<-places
		if err != nil {
			s.log.DebugContext(ctx, "which source to build", "error", err)
			select {
			case <-time.After(sourcePause):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// renewClaims tells the api role that we are still at work, and ends the work that was given to somebody else.
func (s *Server) renewClaims(ctx context.Context) error {
	var open []*session
	var list api.SourceClaims
	s.mu.Lock()
	for x := range s.sessions {
		if x.claim != "" {
			open, list.Claims = append(open, x), append(list.Claims, x.claim)
		}
	}
	s.mu.Unlock()
	if len(open) == 0 {
		return nil
	}
	held, err := ask[api.SourceClaims](ctx, s.api, "/internal/v1/sources/renew", credentials{}, list)
	if err != nil {
		return fmt.Errorf("renew claims on deliveries: %w", err)
	}
	for _, x := range open {
		if !slices.Contains(held.Claims, x.claim) {
			x.cancel(errRevoked)
		}
	}
	return nil
}

// buildSource does a job from its beginning to its end, and tells the api role how it ended.
func (s *Server) buildSource(job api.SourceJob) {
	x := &session{GitOpen: job.Open, id: newID(), what: push, claim: job.Claim, ticket: job.Open.Ticket}
	x.ctx, x.cancel = context.WithCancelCause(web.WithRequestID(s.life, x.id))
	result := api.SourceResult{Claim: job.Claim, Commit: job.Commit}
	err := s.enter(x)
	if err == nil {
		result.Commit, err = s.fetchAndBuild(x, job)
		if cause := context.Cause(x.ctx); err != nil && cause != nil {
			err = cause
		}
		s.leave(x)
	}
	x.cancel(errGone)
	log := s.log.With("delivery", job.Delivery, "fleet", job.Open.Fleet.Slug, "url", job.URL, "ref", job.Ref, "commit", result.Commit, "session", x.id)
	if err != nil {
		text, ours := words(err)
		switch {
		case errors.Is(err, errStopped):
			text, ours, result.Again = "the server was stopped", false, true
		case errors.Is(err, errRevoked), errors.Is(err, errSlow):
			text, ours = err.Error(), false
		}
		if code := api.AsError(err).Code; code == api.Unavailable || code == api.RateLimited {
			result.Again = true
		}
		if ours {
			log.Error("a source could not be built", "error", err)
			text += " under " + x.id
		}
		result.Error = clean(text)
	}
	log.Info("source", "error", result.Error, "again", result.Again)
	s.tellSource(result)
}

// tellSource says how a job ended. When nobody listens, the claim ends, and the api role sees by the release how far we came.
func (s *Server) tellSource(result api.SourceResult) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), stopGrace)
	defer cancel()
	for range 3 {
		_, err := ask[struct{}](ctx, s.api, "/internal/v1/sources/finish", credentials{}, result)
		if err == nil {
			return
		}
		s.log.WarnContext(ctx, "how a source was built could not be told", "error", err)
		select {
		case <-time.After(stopGrace / 4):
		case <-ctx.Done():
			return
		}
	}
}

// fetchAndBuild fetches a commit into a repository of its own, which is gone afterwards, and has it built.
func (s *Server) fetchAndBuild(x *session, job api.SourceJob) (commit string, err error) {
	x.repo = &repository{fleet: x.Fleet.ID, path: filepath.Join(s.cfg.Dir, sourcesDir, x.id+".git")}
	defer func() { err = errors.Join(err, os.RemoveAll(x.repo.path)) }()
	if err := os.Mkdir(x.repo.path, 0o700); err != nil {
		return job.Commit, err
	}
	format := "sha1"
	if len(job.Commit) == 64 {
		format = "sha256"
	}
	if _, err := s.output(x.ctx, walls{write: x.repo.path}, nil, "init", "--quiet", "--bare", "--template=", "--object-format="+format, x.repo.path); err != nil {
		return job.Commit, err
	}
	if commit, err = s.fetchInTurn(x, job); err != nil {
		return commit, err
	}
	o := order{update: update{now: commit, ref: job.Ref}, draft: job.Draft, from: job.URL}
	note := func(format string, args ...any) {
		s.log.Debug("source", "delivery", job.Delivery, "says", clean(fmt.Sprintf(format, args...)))
	}
	if err := s.checkTree(x.ctx, x, o, nil, note); err != nil {
		return commit, err
	}
	return commit, s.build(x.ctx, x, o, nil, note)
}

// fetchInTurn fetches when there is room for it, and not for ever. A build that follows has a queue of its own.
func (s *Server) fetchInTurn(x *session, job api.SourceJob) (commit string, err error) {
	select {
	case s.fetches <- struct{}{}:
	case <-x.ctx.Done():
		return job.Commit, context.Cause(x.ctx)
	}
	defer func() { <-s.fetches }()
	ctx, cancel := context.WithTimeoutCause(x.ctx, time.Duration(s.cfg.Limits.Minutes)*time.Minute, errSlow)
	defer cancel()
	commit, err = s.fetchCommit(ctx, x, job)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return commit, err
}

// fetchCommit fetches the commit that a job names, or what its ref is now, and nothing else if the server gives that.
func (s *Server) fetchCommit(ctx context.Context, x *session, job api.SourceJob) (commit string, err error) {
	want := job.Commit
	if want == "" {
		want = job.Ref
	}
	said, err := s.fetch(ctx, x, job, want, 1)
	if err != nil {
		return job.Commit, err
	}
	if said != "" && job.Commit != "" { // not every server gives a commit by its name
		if said, err = s.fetch(ctx, x, job, job.Ref, deeper); err != nil {
			return job.Commit, err
		}
	}
	if said != "" {
		return job.Commit, api.Errorf(api.Invalid, "git could not fetch %s: %s", strings.TrimPrefix(job.Ref, "refs/"), said)
	}
	if err := s.countObjects(ctx, x); err != nil {
		return job.Commit, err
	}
	git := func(args ...string) ([]byte, error) {
		return s.output(ctx, walls{read: x.repo.path}, nil, append([]string{"--git-dir=" + x.repo.path}, args...)...)
	}
	what := fetched
	if job.Commit != "" {
		what = job.Commit
	}
	out, err := git("rev-parse", "--verify", "--quiet", "--end-of-options", what+"^{commit}")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return job.Commit, api.Errorf(api.Invalid, "%s has no commit %.12s any more: something else was pushed over it, or it is more than %d commits old.",
			strings.TrimPrefix(job.Ref, "refs/"), job.Commit, deeper)
	}
	if err != nil {
		return job.Commit, err
	}
	return strings.TrimSpace(string(out)), nil
}

// countObjects bounds the objects of what was fetched. git has bounded their bytes and its own memory meanwhile.
func (s *Server) countObjects(ctx context.Context, x *session) error {
	out, err := s.output(ctx, walls{read: x.repo.path}, nil, "--git-dir="+x.repo.path, "count-objects", "-v")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "in-pack: "); ok {
			if objects, err := strconv.Atoi(n); err != nil || objects > s.cfg.Limits.Objects {
				return api.Errorf(api.TooLarge, "The commit has %s objects; at most %d are taken.", n, s.cfg.Limits.Objects)
			}
		}
	}
	return nil
}

// fetch has git fetch one ref or commit. git itself has no network: it talks to us on a socket, and we to the server. said is why git gave
// up, in its own words.
func (s *Server) fetch(ctx context.Context, x *session, job api.SourceJob, want string, depth int) (said string, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return "", fmt.Errorf("fetch: %w", err)
	}
	defer func() { _ = ours.Close() }()
	cmd := s.command(ctx, walls{write: x.repo.path}, nil, "--git-dir="+x.repo.path, "-c", "protocol.fd.allow=always", "-c", "protocol.version=2", "fetch",
		"--quiet", "--no-tags", "--no-auto-gc", "--no-recurse-submodules", "--no-write-fetch-head", "--depth="+strconv.Itoa(depth), "fd::3", "+"+want+":"+fetched)
	cmd.ExtraFiles = []*os.File{theirs}
	var complaint limited
	complaint.left = 4 << 10
	cmd.Stderr = &complaint
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return "", err
	}
	served := make(chan error, 1)
	go func() {
		err := s.ways.Serve(ctx, upstream.Remote{URL: job.URL, Username: job.Username, Password: job.Password, Key: job.Key, HostKey: job.HostKey}, ours)
		_ = ours.Close() // git sees the end
		served <- err
	}()
	bad := cmd.Wait()
	_ = ours.Close()
	if err := <-served; err != nil && bad != nil {
		return "", err
	}
	if bad == nil {
		return "", nil
	}
	var exit *exec.ExitError
	if cause := context.Cause(ctx); cause != nil {
		return "", cause
	}
	if !errors.As(bad, &exit) {
		return "", fmt.Errorf("git fetch: %w", bad)
	}
	text := strings.TrimSpace(complaint.String())
	if text == "" {
		text = exit.String()
	}
	return clean(strings.Join(strings.Fields(text), " ")), nil
}

// socketPair makes two ends of one stream: for us, and for a child.
func socketPair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock() // nobody is born between the two steps
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "git"), os.NewFile(uintptr(fds[1]), "git")
	conn, err := net.FileConn(mine)
	if err = errors.Join(err, mine.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}
