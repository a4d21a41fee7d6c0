package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// serve runs RootlessKit with buildkitd inside it. It returns nil when the context ended it.
func (w *Worker) serve(ctx context.Context, id account, tools programs) error {
	// The kernel ties a child's parent-death signal to the thread that started it, so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("build service: %w", err)
	}
	cmd := w.command(ctx, id, tools)
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		_ = in.Close()
		_ = out.Close()
		return fmt.Errorf("start the build service: %w", err)
	}
	_ = in.Close() // the child has its own
	last := make(chan string, 1)
	go func() { last <- w.passLog(out) }()
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

func (w *Worker) command(ctx context.Context, id account, tools programs) *exec.Cmd {
	dir := w.cfg.Dir
	args := []string{
		// Build steps must see the usual umask, whatever the server's is: it ends up in the images.
		"-c", `umask 022; exec nice -n 5 "$@"`, "sh",
		tools.rootlesskit,
		"--state-dir", filepath.Join(dir, "rootlesskit"),
		"--net=slirp4netns", "--slirp4netns-binary", tools.slirp, "--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto",
		"--disable-host-loopback",
		"--copy-up=/etc", "--copy-up=/run",
		"--pidns", "--ipcns", "--utsns",
		// Where clouds answer any program on the machine with the machine's own credentials. A step could not take the route
		// away again: it has no CAP_NET_ADMIN.
		"/bin/sh", "-c", `"$0" route add prohibit 169.254.0.0/16 && exec "$@"`, tools.ip,
		tools.buildkitd,
		"--config", filepath.Join(dir, "buildkitd.toml"),
		"--root", filepath.Join(dir, "state"),
		"--addr", w.cfg.Address(),
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	// A while to end by itself. Killing RootlessKit then ends its process namespace, and with it every build step.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	cmd.Dir = dir
	// Nothing of the server's environment goes in: it may hold secrets.
	cmd.Env = []string{"PATH=" + searchPath, "HOME=" + dir, "XDG_RUNTIME_DIR=" + filepath.Join(dir, "run"),
		"TMPDIR=" + filepath.Join(dir, "tmp"), "USER=" + id.name}
	cmd.SysProcAttr = id.attributes()
	return cmd
}

// passLog copies the service's own log lines into ours and remembers the last for the error text.
func (w *Worker) passLog(r io.Reader) string {
	var last string
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 1<<20)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" {
			continue
		}
		last = line
		w.log.Debug("buildkitd", "line", line)
	}
	_, _ = io.Copy(io.Discard, r) // a line beyond the buffer must not block the service
	return last
}
