package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// How a child that dies is started again.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 10 * time.Second
	steady     = time.Minute // after living this long, earlier deaths are forgotten
)

// ExitRefused is how a child ends that will not run on what it was given, whenever it is started again: a person must change
// it. The server ends with it, unless it has run before.
const ExitRefused = 78

// The files a child finds open: its listener (or, for a quiet one, the pipe to tell how it is), the pipe whose end means that
// the parent is gone, and from FDMore on those that --more names in their order.
const (
	FDListener = 3
	FDParent   = 4
	FDMore     = 5
)

// Names of further files.
const (
	MorePublic = "public" // the public listener
	MoreOwn    = "own"    // a listener of this process alone, where its role has several
	MoreGiver  = "giver:" // and the label of a public name: the end of the channel on which the public role hands its connections over, see internal/handover
	MoreTaker  = "taker"  // its other end, of the role that serves the name
	MoreTakes  = "taker:" // and the label: the same, of a role that takes several
	MoreLine   = "line"   // an end of the channel to the one role that has the other
)

// State is how a role is.
type State string

// The states.
const (
	Starting  State = "starting"
	Healthy   State = "healthy"
	Unhealthy State = "unhealthy"
	Stopped   State = "stopped" // dead, waiting to be started again, or for good
	NotHere   State = "off"     // it does not run here, by choice or for want of something
)

// child keeps one role running.
type child struct {
	role    Role
	account *account // nil: the parent's own user
	addr    string   // of its listener, "" for a quiet one; of its own where its role has several processes
	files   []*os.File
	more    []string // names of the files from FDMore on
	plan    sandbox.Plan
	tells   string // see Role.Tells

	mu       sync.Mutex // covers what follows
	pid      int
	started  uint64 // of the process, in the kernel's ticks; tells it from a later one with its id
	state    State
	why      string
	restarts int
	since    time.Time
	lastLine string // of its standard error
	answered bool   // it has answered since the server started
	changed  chan struct{}
}

func (c *child) set(state State, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != state {
		c.since = time.Now()
	}
	c.state, c.why = state, why
	if state == Healthy || state == Unhealthy {
		c.answered = true
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// keep runs the child until stop ends, whatever it dies of.
func (p *Parent) keep(stop context.Context, c *child) {
	delay := firstDelay
	for stop.Err() == nil {
		began := time.Now()
		err := p.once(stop, c)
		if stop.Err() != nil {
			break
		}
		if time.Since(began) > steady {
			delay = firstDelay
		}
		c.mu.Lock()
		why := err.Error()
		if c.lastLine != "" {
			why += "; its last words: " + c.lastLine
		}
		c.restarts++
		last, answered := c.lastLine, c.answered
		c.mu.Unlock()
		if errors.Is(err, errRefused) && !answered {
			c.set(Stopped, why)
			p.giveUp(refusal(strings.TrimPrefix(last, "roadsteadd: ")))
			return
		}
		c.set(Stopped, why)
		p.log.Warn("a role died", "role", c.role.Name, "error", err, "again_in", delay)
		wait(stop, delay)
		delay = min(delay*2, lastDelay)
	}
	c.set(Stopped, "the server is stopping")
}

// once starts the child and waits for its end.
func (p *Parent) once(stop context.Context, c *child) error {
	args := []string{"role", c.role.kind(), "--dir", p.layout.Role(c.role.Name)}
	if len(c.more) > 0 {
		args = append(args, "--more", strings.Join(c.more, ","))
	}
	cmd := exec.Command(p.cfg.Exe, append(args, p.cfg.Args...)...)
	cmd.Dir = "/"
	cmd.Env = p.cfg.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.account != nil {
		cmd.Env = append(append([]string{}, cmd.Env...), c.plan.Env())
		p.privateView(cmd.SysProcAttr, c.plan)
	}
	lines := &lineWriter{to: p.stderr, last: func(line string) {
		c.mu.Lock()
		c.lastLine = line
		c.mu.Unlock()
	}}
	cmd.Stderr, cmd.Stdout = lines, lines
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe; the group is killed below
	var report *os.File
	cmd.ExtraFiles = append([]*os.File{}, c.files...)
	if c.role.Quiet {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer func() { _ = w.Close() }()
		cmd.ExtraFiles[0], report = w, r
	}
	c.mu.Lock()
	c.lastLine = ""
	c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		if report != nil {
			_ = report.Close()
		}
		return fmt.Errorf("it cannot be started: %w", err)
	}
	if report != nil {
		_ = cmd.ExtraFiles[0].Close() // the child has it; the deferred close finds it closed
	}
	pid := cmd.Process.Pid
	defer p.contain(c, pid)()
	c.mu.Lock()
	c.pid, c.started = pid, startTime(pid)
	c.mu.Unlock()
	c.set(Starting, "")
	p.saveChildren()

	watch, cancel := context.WithCancel(stop)
	var watching sync.WaitGroup
	watching.Go(func() {
		if report != nil {
			p.listen(c, report)
		} else {
			p.ask(watch, c)
		}
	})
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-stop.Done():
		err = p.end(pid, done)
	}
	cancel()
	_ = syscall.Kill(-pid, syscall.SIGKILL) // what it left behind in its group
	watching.Wait()
	c.mu.Lock()
	c.pid, c.started = 0, 0
	c.mu.Unlock()
	p.saveChildren()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() == ExitRefused {
			return fmt.Errorf("it ended: %w", errRefused)
		}
		return fmt.Errorf("it ended: %s", exit.ProcessState)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return errors.New("it ended by itself")
}

// contain bounds what a child may take of the machine.
func (p *Parent) contain(c *child, pid int) (undo func()) {
	if c.account != nil && c.role.Contain != nil {
		undo, err := c.role.Contain(pid)
		if err == nil {
			return undo
		}
		p.log.Warn("a role could not be contained", "role", c.role.Name, "error", err)
	}
	return func() {}
}

var errRefused = errors.New("it refuses what it was given")

// refusal is why a child refused, in its own words.
type refusal string

func (r refusal) Error() string { return string(r) }

// end asks a child to stop, and kills its group when the time is over.
func (p *Parent) end(pid int, done <-chan error) error {
	_ = syscall.Kill(pid, syscall.SIGTERM)
	t := time.NewTimer(time.Until(p.killAt()))
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		p.log.Warn("a child did not stop in time and is killed", "pid", pid)
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return <-done
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lineWriter passes whole lines on, so that the children's logs make one readable stream.
type lineWriter struct {
	to   io.Writer // takes whole lines, from many children at once
	last func(string)
	buf  []byte
}

// maxLine is how much of a line without an end is kept together.
const maxLine = 64 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	end := bytes.LastIndexByte(w.buf, '\n') + 1
	if end == 0 && len(w.buf) >= maxLine {
		end = len(w.buf)
	}
	if end == 0 {
		return len(p), nil
	}
	_, _ = w.to.Write(w.buf[:end]) // a log that cannot be written is no reason to stop a role
	if text := bytes.TrimSpace(w.buf[:end]); len(text) > 0 {
		w.last(string(bytes.TrimSpace(text[bytes.LastIndexByte(text, '\n')+1:])))
	}
	w.buf = append(w.buf[:0], w.buf[end:]...)
	return len(p), nil
}

// oneAtATime lets several writers share a stream.
type oneAtATime struct {
	mu sync.Mutex // one call at a time
	to io.Writer
}

func (o *oneAtATime) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to.Write(p)
}
