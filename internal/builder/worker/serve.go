package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// serve runs RootlessKit with buildkitd inside it. It returns nil when the context ended it.
func (m *Manager) serve(ctx context.Context, d *daemon) error {
	// The kernel ties a child's parent-death signal to the thread that started it, so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd, err := m.command(ctx, d)
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("build service: %w", err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		_ = in.Close()
		_ = out.Close()
		return fmt.Errorf("start the build service: %w", err)
	}
	_ = in.Close() // the child has its own
	d.pid.Store(int64(cmd.Process.Pid))
	last := make(chan string, 1)
	go func() { last <- m.passLog(out, d.domain) }()
	err = cmd.Wait()
	line := <-last
	_ = out.Close()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("it ended")
	}
	return fmt.Errorf("the build service: %w: %s", err, line)
}

func (m *Manager) command(ctx context.Context, d *daemon) (*exec.Cmd, error) {
	rules, err := m.netCommand()
	if err != nil {
		return nil, err
	}
	id, tools, dir := m.id, m.tools, string(d.place)
	args := []string{
		// Build steps must see the usual umask, whatever the server's is: it ends up in the images.
		"-c", `umask 022; exec nice -n 5 "$@"`, "sh",
		tools.rootlesskit,
		"--state-dir", d.place.kit(),
		"--net=slirp4netns", "--slirp4netns-binary", tools.slirp, "--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto",
		"--disable-host-loopback",
		"--copy-up=/etc", "--copy-up=/run", "--copy-up=/var/lib", // buildkitd notes the steps' networks in /var/lib/cni
		"--pidns", "--ipcns", "--utsns",
	}
	args = append(append(append(args, rules...), emulation()...),
		// Far beyond the limit of a step, which is ended before: a daemon that cannot start a thread dies.
		"prlimit", fmt.Sprintf("--nproc=%d", 3*m.cfg.Limits.Processes+8192),
		tools.buildkitd,
		"--config", d.place.settings(),
		"--root", m.cfg.cache(d.domain),
		"--addr", "unix://"+d.place.socket())
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	// A while to end by itself. Killing RootlessKit then ends its process namespace, and with it every build step.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	cmd.Dir = dir
	// Nothing of the server's environment goes in: it may hold secrets.
	cmd.Env = []string{"PATH=" + searchPath, "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir,
		"TMPDIR=" + d.place.tmp(), "USER=" + id.name}
	cmd.SysProcAttr = id.attributes()
	return cmd, nil
}

// passLog copies the service's own log lines into ours and remembers the last for the error text.
func (m *Manager) passLog(r io.Reader, domain string) string {
	var last string
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 1<<20)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" {
			continue
		}
		last = line
		m.log.Debug("buildkitd", "domain", domain, "line", line)
	}
	_, _ = io.Copy(io.Discard, r) // a line beyond the buffer must not block the service
	return last
}
