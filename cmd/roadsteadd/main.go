// Roadsteadd is the server. `roadsteadd up` runs all of it; `roadsteadd role NAME` is one of its processes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/cmd/roadsteadd/bases"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/sqlite"
	"github.com/roadstead-io/roadstead/internal/sandbox"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// Set by the linker, see Makefile.
var (
	version = "dev"
	built   = ""
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ConfineCommand { // a role starts a program through us
		fmt.Fprintln(os.Stderr, "roadsteadd:", sandbox.Confined(os.Args[2:]))
		os.Exit(126)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "roadsteadd:", err)
	var u usageError
	switch {
	case errors.As(err, &u):
		os.Exit(2) //nolint:gocritic // nothing is left to undo
	case errors.Is(err, db.ErrUnsuitable):
		os.Exit(supervise.ExitRefused)
	}
	os.Exit(1)
}

// usageError is a command line that asks for something impossible.
type usageError struct{ error }

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "roadsteadd",
		Short: "The Roadstead server",
		Long: `The Roadstead server: a self-hosted platform for a fleet of Linux devices.

Every flag can also be given as an environment variable (--poll-interval is ROADSTEAD_POLL_INTERVAL) and as a key of the
file that --config names (poll_interval: 1m; YAML or JSON). A flag wins over the environment, and that over the file.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return fill(cmd) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(upCommand(), roleCommand(), statusCommand(), adminCommand(), bases.Command(), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			text := "roadsteadd " + version
			if built != "" {
				text += " (" + built + ")"
			}
			if info, ok := debug.ReadBuildInfo(); ok {
				text += " " + info.GoVersion
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), text+", SQLite in "+sqlite.Library)
		},
	}
}
