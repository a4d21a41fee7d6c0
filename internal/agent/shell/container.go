package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/engine"
)

const shortID = 12 // digits of a container's id that are enough

func serviceOf(c engine.Container) string {
	if name := c.Labels[composition.LabelServiceName]; name != "" {
		return name
	}
	return c.Name
}

// is reports whether a container is meant by a name: of its service, its own, or its id.
func is(c engine.Container, name string) bool {
	return serviceOf(c) == name || c.Name == name || len(name) >= shortID && strings.HasPrefix(c.ID, name)
}

// find finds the running container that a name means.
func (s *Shell) find(ctx context.Context, name string) (engine.Container, error) {
	list, err := s.cfg.Engine.Containers(ctx)
	if err != nil {
		return engine.Container{}, errors.New("the container engine of the device does not answer")
	}
	var there []string
	stopped := false
	for _, one := range list {
		if is(one, name) {
			if one.State == "running" {
				return one, nil
			}
			stopped = true
		}
		if n := serviceOf(one); !slices.Contains(there, n) {
			there = append(there, n)
		}
	}
	switch {
	case stopped:
		return engine.Container{}, fmt.Errorf("the service %q does not run", name)
	case len(there) == 0:
		return engine.Container{}, fmt.Errorf("there is no service %q on this device; it has none", name)
	}
	return engine.Container{}, fmt.Errorf("there is no service %q on this device; it has %s", name, strings.Join(there, ", "))
}

// rootOf opens the files of the device, or of a service.
func (s *Shell) rootOf(ctx context.Context, name string) (root *os.Root, where string, err error) {
	if name == "" {
		root, err = os.OpenRoot("/")
		return root, "host", err
	}
	one, err := s.find(ctx, name)
	if err != nil {
		return nil, "", err
	}
	pid, _, err := s.cfg.Engine.Inside(ctx, one.ID)
	if err != nil {
		return nil, "", err
	}
	if pid <= 0 {
		return nil, "", fmt.Errorf("the service %q does not run", name)
	}
	root, err = os.OpenRoot("/proc/" + strconv.Itoa(pid) + "/root")
	if err != nil {
		return nil, "", fmt.Errorf("the files of the service %q cannot be reached", name)
	}
	return root, serviceOf(one), nil
}

// inContainer is a program in a container.
type inContainer struct {
	s    *Shell
	id   string
	want wish

	mu      sync.Mutex // covers running
	running *engine.Running
}

// inShell is a shell as good as the image has one.
const inShell = `[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l`

func (p *inContainer) run(ctx context.Context, in io.Reader, out, errs io.Writer) (int, string, error) {
	command := p.want.command
	if command == "" {
		command = inShell
	}
	e := engine.Exec{
		Container: p.id, Command: []string{"/bin/sh", "-c", command}, Env: p.want.env, TTY: p.want.tty,
		Rows: uint(p.want.size.rows), Cols: uint(p.want.size.cols),
	}
	if p.want.tty {
		e.Env = append(e.Env, "TERM="+p.want.term)
	}
	// What is begun is looked after to its end, whatever becomes of the session meanwhile.
	began, err := p.s.cfg.Engine.Exec(context.WithoutCancel(ctx), e)
	if err != nil {
		return 126, "", err
	}
	defer began.Close()
	p.mu.Lock()
	p.running = began
	p.mu.Unlock()
	go func() { // ends with the channel
		_, _ = io.Copy(began, in)
		if !p.want.tty { // a terminal has no end of its own; what was typed before may still be read
			_ = began.CloseWrite()
		}
	}()
	ended := make(chan struct{})
	var ending sync.WaitGroup
	ending.Go(func() { endWith(ctx, ended, p.signal, began.Close) })
	err = began.Copy(out, errs)
	close(ended)
	ending.Wait()
	code, gone := p.code(ctx)
	if gone != nil {
		return 1, "", errors.Join(err, gone)
	}
	return code, "", nil
}

// code is that with which the program ended; the engine may learn of it a moment after its output ended.
func (p *inContainer) code(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		running, _, code, err := p.running.State(ctx)
		if err != nil || !running {
			return code, err
		}
		select {
		case <-ctx.Done():
			return 0, errors.New("the program goes on without its output")
		case <-tick.C:
		}
	}
}

func (p *inContainer) resize(s size) {
	p.mu.Lock()
	r := p.running
	p.mu.Unlock()
	if r != nil {
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		_ = r.Resize(ctx, uint(s.rows), uint(s.cols))
	}
}

// signal reaches the program as what it is to the kernel: a process of this machine.
func (p *inContainer) signal(name string) {
	p.mu.Lock()
	r := p.running
	p.mu.Unlock()
	sig, ok := signals[name]
	if r == nil || !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if running, pid, _, err := r.State(ctx); err == nil && running && pid > 1 {
		_ = syscall.Kill(-pid, sig) // a program in a terminal leads a group of its own
		_ = syscall.Kill(pid, sig)
	}
}
