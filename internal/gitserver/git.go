package gitserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/sandbox"
)

// The files that git is set up with.
const (
	settingsFile = "gitconfig"
	hooksDir     = "hooks"
)

// hook is the only hook there is. What it is told goes to the role, on file 3; what comes from the role, on file 4, goes to the pusher as
// it comes; the last word, on file 5, is whether the push is taken. Nothing in it is the pusher's.
const hook = `#!/bin/sh
{
	echo "quarantine $GIT_QUARANTINE_PATH"
	while read -r line; do echo "ref $line"; done
	echo end
} >&3
cat <&4 >&2
read -r verdict <&5 && [ "$verdict" = ok ]
`

// settings is git's configuration, the only one that it reads besides a repository's own, which we made.
func (s *Server) settings() string {
	return `[core]
	hooksPath = ` + filepath.Join(s.cfg.Dir, hooksDir) + `
	bigFileThreshold = 16m
	packedGitWindowSize = 16m
	packedGitLimit = 128m
	deltaBaseCacheLimit = 32m
	logAllRefUpdates = false
	fsync = committed,reference
[receive]
	fsckObjects = true
	unpackLimit = 1
	autogc = false
	shallowUpdate = true
	advertisePushOptions = false
	updateServerInfo = false
	keepAlive = 5
[receive "fsck"]
	zeroPaddedFilemode = warn
	missingSpaceBeforeDate = warn
[transfer]
	fsckObjects = true
[fetch]
	fsckObjects = true
	unpackLimit = 1
[fetch "fsck"]
	zeroPaddedFilemode = warn
	missingSpaceBeforeDate = warn
[pack]
	threads = 1
	windowMemory = 64m
	deltaCacheSize = 32m
[repack]
	useDeltaBaseOffset = true
[gc]
	auto = 0
[maintenance]
	auto = false
[protocol]
	allow = never
[tar]
	umask = 0022
[safe]
	directory = *
`
}

func (s *Server) setUp() error {
	hooks := filepath.Join(s.cfg.Dir, hooksDir)
	if err := os.MkdirAll(hooks, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(hooks, "pre-receive"), []byte(hook), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(s.cfg.Dir, settingsFile), []byte(s.settings()), 0o600)
}

// walls is what a git process reaches: at most one repository.
type walls struct{ read, write string }

// command makes a git process. Its environment is ours alone: nothing that a client sends is ever in it. It ends with the context, and
// with this process.
func (s *Server) command(ctx context.Context, w walls, env []string, args ...string) *exec.Cmd {
	l := s.cfg.Limits
	c := sandbox.Confine{
		Read:   []string{filepath.Join(s.cfg.Dir, hooksDir), filepath.Join(s.cfg.Dir, settingsFile)},
		Memory: uint64(l.Memory), FileBytes: uint64(l.RepoBytes + l.PushBytes), CPUSeconds: uint64(l.Minutes) * 60, Files: 1024,
	}
	if w.read != "" {
		c.Read = append(c.Read, w.read)
	}
	if w.write != "" {
		c.Write = []string{w.write}
	}
	cmd := exec.CommandContext(ctx, s.cfg.Exe, c.Args(s.cfg.Git, args...)...)
	cmd.Dir = "/"
	cmd.Env = append([]string{
		"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_GLOBAL=" + filepath.Join(s.cfg.Dir, settingsFile),
	}, env...)
	attr := &syscall.SysProcAttr{Setpgid: true}
	withParent(attr)
	cmd.SysProcAttr = attr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// output runs git to its end and gives what it wrote.
func (s *Server) output(ctx context.Context, w walls, env []string, args ...string) ([]byte, error) {
	cmd := s.command(ctx, w, env, args...)
	var out, bad limited
	out.left, bad.left = 16<<20, 4<<10
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(bad.String()))
	}
	if out.over {
		return nil, fmt.Errorf("git %s: it said too much", strings.Join(args, " "))
	}
	return out.Bytes(), nil
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	left int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if n > l.left {
		p, l.over = p[:l.left], true
	}
	l.left -= len(p)
	_, _ = l.Buffer.Write(p) // never fails
	return n, nil
}

// maxInput is how large a push may be.
func (s *Server) maxInput() int64 { return min(s.cfg.Limits.PushBytes, s.cfg.Limits.RepoBytes) }
