package shell

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// signals are those that may be sent to a program, by the names that SSH has for them.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

const basePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// onHost is a program on the device itself.
type onHost struct {
	cmd  *exec.Cmd
	tty  bool
	size size

	mu    sync.Mutex // covers what follows
	term  *os.File   // our end of the terminal
	group int        // of the program, once it runs
}

// hostProgram makes a shell, or a command in one, as the user that the agent runs as: root. Its environment is made anew: nothing of the
// agent's own comes along.
func (s *Shell) hostProgram(want wish) (program, error) {
	name, home, sh := account(os.Getuid())
	cmd := exec.Command(sh) //nolint:gosec // the shell of the device's own user
	if want.command != "" {
		cmd.Args = append(cmd.Args, "-c", want.command)
	} else {
		cmd.Args = []string{"-" + filepath.Base(sh)}
	}
	cmd.Dir = home
	if _, err := os.Stat(home); err != nil {
		cmd.Dir = "/"
	}
	cmd.Env = append([]string{"PATH=" + basePath + ":" + s.shimDir(), "HOME=" + home, "USER=" + name, "LOGNAME=" + name, "SHELL=" + sh}, want.env...)
	if s.cfg.Docker != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+s.cfg.Docker)
	}
	if want.tty {
		cmd.Env = append(cmd.Env, "TERM="+want.term)
	}
	return &onHost{cmd: cmd, tty: want.tty, size: want.size}, nil
}

// account finds a user's name, home and shell.
func account(uid int) (name, home, sh string) {
	name, home, sh = "root", "/", "/bin/sh"
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return name, home, sh
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 || fields[2] != strconv.Itoa(uid) {
			continue
		}
		if _, err := os.Stat(fields[6]); err == nil && fields[6] != "" && !slices.Contains([]string{"nologin", "false"}, filepath.Base(fields[6])) {
			sh = fields[6]
		}
		return fields[0], fields[5], sh
	}
	return name, home, sh
}

func (p *onHost) run(ctx context.Context, in io.Reader, out, errs io.Writer) (int, string, error) {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.cmd.WaitDelay = hangUp // for what the program left behind with its output open
	var feed io.WriteCloser
	var done sync.WaitGroup
	if p.tty {
		ours, theirs, err := openTerminal()
		if err != nil {
			return 1, "", err
		}
		defer func() { _ = ours.Close() }()
		_ = setSize(ours, p.size)
		p.cmd.SysProcAttr.Setctty = true // descriptor 0, in the child
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs, theirs, theirs
		err = p.start()
		_ = theirs.Close()
		if err != nil {
			return 126, "", err
		}
		p.mu.Lock()
		p.term = ours
		p.mu.Unlock()
		done.Go(func() { _, _ = io.Copy(out, ours) }) // ends with an error when the last of the programs has closed its end
		feed = ours
	} else {
		p.cmd.Stdout, p.cmd.Stderr = out, errs
		var err error
		if feed, err = p.cmd.StdinPipe(); err != nil {
			return 1, "", err
		}
		if err := p.start(); err != nil {
			return 126, "", err
		}
	}
	go func() { // ends with the channel
		_, _ = io.Copy(feed, in)
		if !p.tty {
			_ = feed.Close()
		}
	}()
	ended := make(chan struct{})
	var ending sync.WaitGroup
	ending.Go(func() { endWith(ctx, ended, p.signal, func() {}) })
	err := p.cmd.Wait()
	close(ended)
	ending.Wait()
	if p.tty { // what the program said last is still on its way; what it left behind does not keep the session
		late := time.AfterFunc(hangUp, p.closeTerminal)
		done.Wait()
		late.Stop()
	}
	return outcome(err)
}

func (p *onHost) closeTerminal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != nil {
		_ = p.term.Close()
		p.term = nil
	}
}

func (p *onHost) start() error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.group = p.cmd.Process.Pid
	return nil
}

// endWith ends a program with the session: it is told, and then killed.
func endWith(ctx context.Context, ended <-chan struct{}, signal func(name string), killed func()) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	signal("HUP")
	select {
	case <-ended:
	case <-time.After(hangUp):
		signal("KILL")
		killed()
	}
}

func (p *onHost) resize(s size) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != nil {
		_ = setSize(p.term, s)
	}
}

func (p *onHost) signal(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sig, ok := signals[name]; ok && p.group > 0 {
		_ = syscall.Kill(-p.group, sig)
	}
}

// outcome reads how a process ended.
func outcome(err error) (int, string, error) {
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return 0, "", nil
	case !errors.As(err, &exit):
		return 1, "", err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		for name, sig := range signals {
			if sig == status.Signal() {
				return 128 + int(sig), name, nil
			}
		}
	}
	return exit.ExitCode(), "", nil
}
