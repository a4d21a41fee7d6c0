package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/builder/remote"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/heap"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

const (
	// roleLink is the process of a build worker on another machine that connects to the server.
	roleLink = "worker-link"
	// aloneWorker is what such a machine is.
	aloneWorker = "build worker"
)

// buildkitRole is the process around the build daemons.
func buildkitRole(cfg worker.Config, buildkitd string) supervise.Role {
	return supervise.Role{
		Name: roleBuildkit, Quiet: true, Optional: true, Setuid: true, PrepareUser: worker.Prepare,
		Contain: func(pid int) (func(), error) { return worker.Contain(pid, cfg.Limits) },
		Config: func(e supervise.Env) any {
			cfg.Dir, cfg.Buildkitd = e.Dir, buildkitd
			return cfg
		},
	}
}

// linkFlags are those of a build worker.
type linkFlags struct {
	dir, join, buildkitd, logFormat, config string
	worker                                  worker.Config
}

func builderWorkerCommand() *cobra.Command {
	var f linkFlags
	cmd := &cobra.Command{
		Use:   "builder-worker --dir DIR",
		Short: "Build on this machine for a server elsewhere",
		Long: `Build on this machine for a server elsewhere. The first time it joins with a token of ` + "`roadsteadd admin worker add`" + ` on the
server; from then on the machine is known by a key that it made itself, and is started without the token. It connects to the server and
listens nowhere. DIR holds its key and the caches of builds. When it is connected and can build, one line "ready build worker" goes to
standard output; ` + "`roadsteadd status --data DIR`" + ` shows how it is. Started as root, it runs builds as users of their own.

--join takes the token itself, - for standard input, or comes from the environment (ROADSTEAD_JOIN).`,
		Example: `  roadsteadd role builder-worker --dir /var/lib/roadstead-worker --join rsw_…
  roadsteadd role builder-worker --dir /var/lib/roadstead-worker --build-bounds organizations=8,memory=8192`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return builderWorker(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.dir, "dir", "", "the `DIR` that holds everything this worker keeps")
	fs.StringVar(&f.join, "join", "", "the `TOKEN` of the server, the first time; - reads it from standard input")
	fs.StringVar(&f.buildkitd, "buildkitd", "", "`PATH` of buildkitd; empty means beside this program, else on PATH")
	fs.StringVar(&f.config, "config", "", "a `FILE` with settings, YAML or JSON")
	fs.StringVar(&f.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	fs.StringSliceVar(&f.worker.Allow, "build-allow", nil, "private `NETWORKS` that builds may reach, such as that of a registry: 192.168.7.0/24,10.1.2.3")
	fs.Func("build-bounds", "what builds take of this machine, `NAME=N,…`; see docs/operating.md", f.worker.Parse)
	return cmd
}

// builderWorker runs the two processes of a build worker: the one that connects to the server and has the key, and the one around the
// build daemons, which has neither.
func builderWorker(cmd *cobra.Command, f linkFlags) error {
	log, err := logger(os.Stderr, f.logFormat)
	if err != nil {
		return err
	}
	if f.dir == "" {
		return usageError{errors.New("--dir is missing: the directory that holds everything this worker keeps")}
	}
	if f.join == "-" {
		line, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
		if err != nil {
			return err
		}
		if f.join = strings.TrimSpace(string(line)); f.join == "" {
			return usageError{errors.New("--join -: standard input holds no token")}
		}
	}
	if f.join != "" {
		if _, err := remote.ParseToken(f.join); err != nil {
			return usageError{fmt.Errorf("--join: %w", err)}
		}
	}
	if f.buildkitd != "" {
		if f.buildkitd, err = filepath.Abs(f.buildkitd); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(f.dir, 0o711); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	dir, err := dataDir(f.dir)
	if err != nil {
		return err
	}
	f.worker.Dir = supervise.Layout(dir).Role(roleBuildkit)
	if err := f.worker.Validate(); err != nil {
		return usageError{fmt.Errorf("--dir, --build-allow, --build-bounds: %w", err)}
	}
	cfg := supervise.Config{
		Dir: dir, Alone: aloneWorker, Log: log.With("role", "parent"), Stderr: os.Stderr, Args: []string{"--log-format", f.logFormat}, Env: childEnv(),
		Ready: func(what string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), "ready", what) },
	}
	if cfg.Exe, err = self(); err != nil {
		return err
	}
	cfg.Show = []string{filepath.Dir(cfg.Exe)}
	if f.buildkitd != "" {
		cfg.Show = append(cfg.Show, filepath.Dir(f.buildkitd))
	}
	builds := buildkitRole(f.worker, f.buildkitd)
	builds.Optional = false
	cfg.Roles = []supervise.Role{builds, {
		Name: roleLink, Quiet: true, InGroupOf: []string{roleBuildkit},
		Prepare: func(own string) error {
			name, err := remote.Join(cmd.Context(), own, f.join, version)
			if err == nil {
				log.Info("this machine is a build worker", "role", "parent", "worker", name)
			}
			return err
		},
		Config: func(e supervise.Env) any {
			return remote.LinkConfig{Dir: e.Dir, Manager: worker.Config{Dir: e.Layout.Role(roleBuildkit)}.Socket(), Version: version}
		},
	}}
	p, err := supervise.New(cfg)
	if err != nil {
		return usageError{err}
	}
	defer heap.Watch(cmd.Context())()
	return p.Run(cmd.Context())
}

// runLink runs the process that connects to the server.
func runLink(ctx context.Context, in inherited, log *slog.Logger) error {
	cfg, err := load[remote.LinkConfig](in.dir)
	if err != nil {
		return err
	}
	l, err := remote.NewLink(cfg, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { tell(ctx, in.report, l.Healthy, l.Tells); return nil })
	group.Go(func() error { return l.Run(ctx) })
	return group.Wait()
}
