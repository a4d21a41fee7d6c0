package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/remote"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// workersAddress is where workers of other machines connect; "" is nowhere.
func (f *upFlags) workersAddress() string {
	if f.workersListen == "off" {
		return ""
	}
	return f.workersListen
}

// tellsWorkers is what the status says of the builder's port.
func tellsWorkers(_ string, _ api.Site, own string) (string, error) {
	if own == "" {
		return "", nil
	}
	return "workers of other machines connect at " + own + "; `roadsteadd admin worker list` shows them", nil
}

func workerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "worker", Short: "Machines that build for this server: add, list, remove", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(workerAddCommand(), workerListCommand(), workerRemoveCommand())
	return cmd
}

// invitation is what the operator is given for a machine.
type invitation struct {
	Name      string `json:"name"`
	ExpiresAt string `json:"expires_at"`
	Server    string `json:"server"` // fingerprint of the key that the machine will insist on
	Token     string `json:"token"`
	Command   string `json:"command"`
}

func workerAddCommand() *cobra.Command {
	life, addresses := time.Hour, []string(nil)
	cmd := operation("add NAME --data DIR", "Let a machine build for this server",
		"Make a token with which one machine joins as the build worker NAME, and show it, once. The token holds the addresses of this server, the\n"+
			"fingerprint of its key, and a secret that is good for one machine. A worker that has not joined yet gets a new token; the old one is void.\n\n"+
			"A worker is trusted with what it builds: it sees the sources and build secrets of the projects it is given, and makes their images.",
		"  roadsteadd admin worker add arm-1 --data /var/lib/roadstead\n"+
			"  roadsteadd admin worker add arm-1 --expires 15m --address build.example.com:7443 --data /var/lib/roadstead",
		func(fs *pflag.FlagSet) {
			fs.DurationVar(&life, "expires", time.Hour, "how `LONG` the token holds: 1m to 720h")
			fs.StringSliceVar(&addresses, "address", nil, "`HOST:PORT` at which the machine reaches --workers-listen; may be given several times. Empty means builder. "+
				"under the domain, or the address of --workers-listen when that is one")
		},
		func(ctx context.Context, l supervise.Layout, args []string) (any, func(io.Writer), error) {
			if _, err := supervise.Ask(ctx, l); err != nil {
				return nil, nil, err
			}
			cfg, err := load[builder.Config](l.Role(api.RoleBuilder))
			if err != nil {
				return nil, nil, err
			}
			t := remote.Token{Addresses: addresses}
			if cfg.Workers == "" {
				return nil, nil, fmt.Errorf("this server takes no workers of other machines: start it with --workers-listen ADDR:PORT")
			}
			if len(addresses) == 0 {
				t.Addresses = []string{reachable(cfg.Workers, cfg.Site)}
			}
			if err := remote.CheckAddresses(t.Addresses); err != nil {
				return nil, nil, usageError{fmt.Errorf("--address: %w", err)}
			}
			if t.Server, err = remote.Fingerprint(filepath.Join(l.Role(api.RoleBuilder), remote.KeyFile)); err != nil {
				return nil, nil, err
			}
			var made api.WorkerInvitation
			if err := askAPI(ctx, l, "/internal/v1/workers/add", api.NewWorker{Name: args[0], Seconds: int64(life / time.Second)}, &made); err != nil {
				return nil, nil, err
			}
			t.Secret = made.Secret
			inv := invitation{Name: made.Name, ExpiresAt: made.ExpiresAt, Server: t.Server, Token: t.String(),
				Command: "roadsteadd role builder-worker --dir /var/lib/roadstead-worker --join " + t.String()}
			return inv, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "worker:\t%s\ntoken:\t%s\nholds until:\t%s, for one machine\nserver:\t%s, key SHA-256 %s\n\nOn the machine:\n\n  %s\n",
					inv.Name, inv.Token, inv.ExpiresAt, strings.Join(t.Addresses, ", "), inv.Server, inv.Command)
			}, nil
		})
	cmd.Args = cobra.ExactArgs(1)
	return cmd
}

// reachable is where a listener is to be found from another machine.
func reachable(listen string, site api.Site) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || ip != nil && !ip.IsUnspecified() {
		return listen
	}
	return net.JoinHostPort("builder."+site.Domain, port)
}

func workerListCommand() *cobra.Command {
	cmd := operation("list --data DIR", "List the machines that build for this server",
		"List the workers of other machines: what each builds for, where it is, and since when it was not seen. Programs of a platform in\n"+
			"parentheses run there in an emulator. The server's own builds are in `roadsteadd status`.",
		"  roadsteadd admin worker list --data /var/lib/roadstead\n  roadsteadd admin worker list --data /var/lib/roadstead -o json", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			list := []api.Worker{}
			if err := askAPI(ctx, l, "/internal/v1/workers/list", struct{}{}, &list); err != nil {
				return nil, nil, err
			}
			return list, func(w io.Writer) {
				_, _ = fmt.Fprintln(w, "NAME\tSTATE\tPLATFORMS\tADDRESS\tSEEN\tVERSION\tWHY")
				for _, k := range list {
					seen := k.SeenAt
					if seen == "" {
						seen = k.JoinedAt
					}
					why := k.Why
					if k.ExpiresAt != "" {
						why = "token until " + k.ExpiresAt
					}
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, k.State, dash(platformList(k.Platforms)), dash(k.Address), dash(seen), dash(k.Version), why)
				}
			}, nil
		})
	cmd.Args = cobra.NoArgs
	return cmd
}

func platformList(list []api.WorkerPlatform) string {
	var names []string
	for _, p := range list {
		name := strings.TrimPrefix(p.Platform, "linux/")
		if !p.Native {
			name = "(" + name + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func workerRemoveCommand() *cobra.Command {
	cmd := operation("remove NAME --data DIR", "Take a machine's right to build for this server away",
		"Remove a build worker: its connection is cut within two seconds, its key is worth nothing any more, and builds that it was making fail,\n"+
			"with the reason. To come back it needs a new token.",
		"  roadsteadd admin worker remove arm-1 --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, args []string) (any, func(io.Writer), error) {
			var done api.WorkerName
			if err := askAPI(ctx, l, "/internal/v1/workers/remove", api.WorkerName{Name: args[0]}, &done); err != nil {
				return nil, nil, err
			}
			return done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "worker %s was removed\n", done.Name) }, nil
		})
	cmd.Args = cobra.ExactArgs(1)
	return cmd
}
