package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// completionTime is how long a shell's Tab key may wait for the server.
const completionTime = 3 * time.Second

type completer = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// fixed completes a flag from a fixed list.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// remote completes from the server; when it is not to be reached there is just nothing to offer.
func (a *app) remote(list func(ctx context.Context, c *client.Client) ([]string, error)) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		c, err := a.connect(ctx)
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

func (a *app) fleets() completer {
	return a.remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Fleet](ctx, c, "application",
			client.Query{Select: "slug,app_name", Filter: client.MyFleets, OrderBy: "app_name asc", Top: 200})
		var list []string
		for _, f := range found {
			list = append(list, f.Name+"\t"+f.Slug, f.Slug)
		}
		return list, err
	})
}

func (a *app) devices() completer {
	return a.remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Device](ctx, c, "device",
			client.Query{Select: "uuid,device_name", OrderBy: "device_name asc", Top: 200})
		var list []string
		for _, d := range found {
			list = append(list, terminal.Short(d.UUID)+"\t"+d.Name)
		}
		return list, err
	})
}

func (a *app) deviceTypes() completer {
	return a.remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.DeviceType](ctx, c, "device_type", client.Query{Select: "slug,name", OrderBy: "slug asc"})
		var list []string
		for _, t := range found {
			list = append(list, t.Slug+"\t"+t.Name)
		}
		return list, err
	})
}

func (a *app) releases() completer {
	return a.remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Release](ctx, c, "release", client.Query{
			Select: "commit,status,raw_version", OrderBy: "created_at desc", Top: 50})
		var list []string
		for _, r := range found {
			list = append(list, terminal.Short(r.Commit)+"\t"+r.RawVersion+" "+r.Status)
		}
		return list, err
	})
}

// first completes only the first argument.
func first(c completer) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, args, typed)
	}
}

// thenDirs completes the first argument from the server and the second from the directories here.
func thenDirs(c completer) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return c(cmd, args, typed)
	}
}

// fleetFlag adds --fleet.
func (a *app) fleetFlag(cmd *cobra.Command, into *string, usage string) {
	cmd.Flags().StringVarP(into, "fleet", "f", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.fleets()) // fails only for a flag that is not there
}
