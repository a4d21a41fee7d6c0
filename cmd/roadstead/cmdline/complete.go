package cmdline

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// completionTime is how long a shell's Tab key may wait for the server.
const completionTime = time.Second

// Completer offers what may come next.
type Completer = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// Fixed completes a flag from a fixed list.
func Fixed(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// Remote completes from the server; when it is not to be reached there is just nothing to offer.
func (a *App) Remote(list func(ctx context.Context, c *client.Client) ([]string, error)) Completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		c, err := a.Connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// Fleets completes fleets.
func (a *App) Fleets() Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Fleet](ctx, c, "application",
			client.Query{Select: "slug,app_name", Filter: client.MyFleets, OrderBy: "app_name asc", Top: 200})
		var list []string
		for _, f := range found {
			list = append(list, f.Name+"\t"+f.Slug, f.Slug)
		}
		return list, err
	})
}

// Devices completes devices.
func (a *App) Devices() Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Device](ctx, c, "device",
			client.Query{Select: "uuid,device_name", OrderBy: "device_name asc", Top: 200})
		var list []string
		for _, d := range found {
			list = append(list, terminal.Short(d.UUID)+"\t"+d.Name)
		}
		return list, err
	})
}

// DeviceTypes completes kinds of hardware.
func (a *App) DeviceTypes() Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.DeviceType](ctx, c, "device_type", client.Query{Select: "slug,name", OrderBy: "slug asc"})
		var list []string
		for _, t := range found {
			list = append(list, t.Slug+"\t"+t.Name)
		}
		return list, err
	})
}

// Releases completes releases.
func (a *App) Releases() Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Release](ctx, c, "release", client.Query{
			Select: "commit,status,raw_version", OrderBy: "created_at desc", Top: 50})
		var list []string
		for _, r := range found {
			list = append(list, terminal.Short(r.Commit)+"\t"+r.RawVersion+" "+r.Status)
		}
		return list, err
	})
}

// First completes only the first argument.
func First(c Completer) Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, args, typed)
	}
}

// ThenDirs completes the first argument from the server and the second from the directories here.
func ThenDirs(c Completer) Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return c(cmd, args, typed)
	}
}

// fleetFlag adds --fleet.
func (a *App) FleetFlag(cmd *cobra.Command, into *string, usage string) {
	cmd.Flags().StringVarP(into, "fleet", "f", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.Fleets()) // fails only for a flag that is not there
}

// ThenFiles completes the first argument from the server and the others from the files here.
func ThenFiles(c Completer) Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return c(cmd, args, typed)
	}
}

// Each completes every argument with a completer of its own.
func Each(list ...Completer) Completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(list) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list[len(args)](cmd, args, typed)
	}
}

// FleetOr is the fleet named by an argument or flag, or by the environment.
func FleetOr(named string) string {
	if named == "" {
		return os.Getenv("ROADSTEAD_FLEET")
	}
	return named
}
