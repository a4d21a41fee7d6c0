package gitserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// streams is what a client is connected to.
type streams struct {
	in       io.Reader
	out      io.Writer
	messages io.Writer // beside the protocol
}

// afterwards is how long a push may take once its build has ended.
const afterwards = 2 * time.Minute

// receive takes a push: git receives and checks the objects, in a place apart; then its hook asks us, and we have what came built; then
// git takes it, or throws it away. It gives git's exit code. input must end, or fail, soon after receive has returned; it is read until
// the returned function has been called.
func (s *Server) receive(x *session, io streams, args ...string) (code int, wait func(), err error) {
	ctx := x.ctx
	defer x.repo.receiving()()
	pipes, err := newPipes()
	if err != nil {
		return 1, func() {}, err
	}
	defer pipes.close()
	cmd := s.command(ctx, walls{write: x.repo.path}, nil, append(append([]string{"-c", "receive.maxInputSize=" + strconv.FormatInt(s.maxInput(), 10), "receive-pack"}, args...), x.repo.path)...)
	cmd.ExtraFiles = pipes.child
	late := time.AfterFunc(time.Duration(s.cfg.Limits.Minutes)*time.Minute, func() { x.cancel(errSlow) })
	defer late.Stop()
	wait, err = s.start(cmd, x, io, newGuard(io.in, s.cfg.Limits.Objects, s.maxInput()))
	if err != nil {
		return 1, wait, err
	}
	pipes.closeChild()
	p := &pushed{s: s, x: x, late: late}
	var hooked sync.WaitGroup
	hooked.Go(func() { p.answer(ctx, pipes) })
	err = cmd.Wait()
	pipes.close() // ends the answer, should it go on
	hooked.Wait()
	defer p.done()
	if p.older {
		if err := s.startOver(context.WithoutCancel(ctx), x.repo); err != nil {
			s.log.ErrorContext(ctx, "a repository could not be emptied", "fleet", x.Fleet.Slug, "error", err)
		}
	}
	if err != nil {
		return exitCode(cmd), wait, s.ended(ctx, x, err)
	}
	if p.taken {
		if err := s.settle(context.WithoutCancel(ctx), x.repo, p.order); err != nil {
			s.log.ErrorContext(ctx, "a push was taken, but not settled", "fleet", x.Fleet.Slug, "session", x.id, "error", err)
		}
		s.later(x.repo)
	}
	s.log.InfoContext(ctx, "git", "verb", string(x.what), "user", x.User, "fleet", x.Fleet.Slug, "session", x.id,
		"cpu", cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	return 0, wait, nil
}

// later tidies a repository when there is time.
func (s *Server) later(r *repository) {
	s.work.Go(func() {
		if err := r.take(s.life, func() {}); err != nil {
			return
		}
		defer r.leave()
		ctx, cancel := context.WithTimeout(s.life, 10*time.Minute)
		defer cancel()
		if err := s.tidy(ctx, r); err != nil && s.life.Err() == nil {
			s.log.WarnContext(ctx, "a repository could not be tidied", "fleet", r.fleet, "error", err)
		}
	})
}

// start starts git with a client's streams. What the client sends goes through from.
func (s *Server) start(cmd *exec.Cmd, x *session, io1 streams, from io.Reader) (wait func(), err error) {
	var copying sync.WaitGroup
	cmd.Stdout, cmd.Stderr = io1.out, io1.messages
	in, err := cmd.StdinPipe()
	if err != nil {
		return copying.Wait, err
	}
	if err := cmd.Start(); err != nil {
		return copying.Wait, err
	}
	copying.Go(func() {
		_, err := io.Copy(in, from)
		var coded *api.Error
		if errors.As(err, &coded) { // of the guard
			x.cancel(coded)
		}
		_ = in.Close() // git has ended, or sees the end
	})
	return copying.Wait, nil
}

// ended words why git did.
func (s *Server) ended(ctx context.Context, x *session, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		s.log.InfoContext(ctx, "git ended", "verb", string(x.what), "user", x.User, "fleet", x.Fleet.Slug, "session", x.id, "state", exit.String())
		return nil // it has said why
	}
	return fmt.Errorf("%s: %w", x.what, err)
}

func exitCode(cmd *exec.Cmd) int {
	if code := cmd.ProcessState.ExitCode(); code > 0 {
		return code
	}
	return 1
}

// upload serves a fetch.
func (s *Server) upload(x *session, io streams, args ...string) (code int, wait func(), err error) {
	x.repo.reads.RLock()
	defer x.repo.reads.RUnlock()
	cmd := s.command(x.ctx, walls{read: x.repo.path}, nil, append(append([]string{"upload-pack", "--strict", "--timeout=120"}, args...), x.repo.path)...)
	late := time.AfterFunc(time.Duration(s.cfg.Limits.Minutes)*time.Minute, func() { x.cancel(errSlow) })
	defer late.Stop()
	if wait, err = s.start(cmd, x, io, io.in); err != nil {
		return 1, wait, err
	}
	if err := cmd.Wait(); err != nil {
		return exitCode(cmd), wait, s.ended(x.ctx, x, err)
	}
	return 0, wait, nil
}

// pipes are the ways between the hook and us.
type pipes struct {
	asks    *os.File // we read what the hook asks
	tells   *os.File // we write what the pusher is told
	verdict *os.File // we write whether the push is taken
	child   []*os.File
}

func newPipes() (p pipes, err error) {
	var all []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			for _, f := range all {
				_ = f.Close()
			}
			return p, err
		}
		all = append(all, r, w)
	}
	return pipes{asks: all[0], tells: all[3], verdict: all[5], child: []*os.File{all[1], all[2], all[4]}}, nil
}

func (p pipes) closeChild() {
	for _, f := range p.child {
		_ = f.Close()
	}
}

func (p pipes) close() {
	p.closeChild()
	for _, f := range []*os.File{p.asks, p.tells, p.verdict} {
		_ = f.Close()
	}
}

// pushed is a push that the hook asks about.
type pushed struct {
	s     *Server
	x     *session
	late  *time.Timer
	order order
	turn  bool // we have the repository's turn
	taken bool
	older bool // the pusher leaves out what we have no more
}

func (p *pushed) done() {
	if p.turn {
		p.x.repo.leave()
	}
}

// answer waits for the hook and gives it its answer.
func (p *pushed) answer(ctx context.Context, pipes pipes) {
	quarantine, updates, err := question(pipes.asks)
	if err != nil {
		return // git ended before
	}
	p.late.Stop()
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintln(pipes.tells, clean(fmt.Sprintf(format, args...)))
	}
	err = p.judge(ctx, quarantine, updates, say)
	p.late.Reset(afterwards)
	if err != nil {
		if ctx.Err() == nil {
			_ = p.s.renew(ctx) // a build ends with the right to it, and whoever pushed is told of that rather than of the build
		}
		text, ours := words(err)
		if cause := context.Cause(ctx); cause != nil {
			text, ours = cause.Error(), false
		}
		if ours {
			p.s.log.ErrorContext(ctx, "a push failed", "fleet", p.x.Fleet.Slug, "session", p.x.id, "error", err)
			text += " under " + p.x.id
		}
		say("ERROR: %s", text)
	} else {
		p.taken = true
	}
	_ = pipes.tells.Close()
	if p.taken {
		_, _ = fmt.Fprintln(pipes.verdict, "ok")
	}
	_ = pipes.verdict.Close()
}

// question reads what the hook asks.
func question(r io.Reader) (quarantine string, updates []update, err error) {
	lines := bufio.NewScanner(io.LimitReader(r, maxCommandBytes))
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "quarantine":
			quarantine = rest
		case "ref":
			parts := strings.SplitN(rest, " ", 3)
			if len(parts) != 3 {
				return "", nil, errors.New("the hook names no branch")
			}
			updates = append(updates, update{parts[0], parts[1], parts[2]})
		case "end":
			return quarantine, updates, nil
		}
	}
	return "", nil, errors.Join(io.ErrUnexpectedEOF, lines.Err())
}

// judge has what was pushed built; no error means that it is taken.
func (p *pushed) judge(ctx context.Context, quarantine string, updates []update, say func(string, ...any)) error {
	o, err := decide(updates, p.x.Branch)
	if err != nil {
		return err
	}
	p.order = o
	objects := p.x.repo.objects()
	if filepath.Dir(filepath.Clean(quarantine)) != objects {
		return fmt.Errorf("the hook names %q as the place of new objects", quarantine)
	}
	apart := []string{"GIT_OBJECT_DIRECTORY=" + quarantine, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + objects}
	if err := p.x.repo.take(ctx, func() { say("Another push to %s is under way; this one waits for it.", p.x.Fleet.Slug) }); err != nil {
		return err
	}
	p.turn = true
	now, err := p.s.ref(ctx, p.x.repo, o.ref)
	if err != nil {
		return err
	}
	if !o.passing && now != strings.TrimLeft(o.old, "0") && now != o.old {
		return api.Errorf(api.Conflict, "Somebody else pushed to %s meanwhile; fetch, and push again.", strings.TrimPrefix(o.ref, heads))
	}
	if err := p.s.checkTree(ctx, p.x, o, apart, say); err != nil {
		p.older = errors.Is(err, errOlder) && ctx.Err() == nil
		return err
	}
	return p.s.build(ctx, p.x, o, apart, say)
}
