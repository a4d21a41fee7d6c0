package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/hardware"
)

// fleetChange is a command that finds a fleet and writes some of its fields.
func (a *app) fleetChange(
	action cmdline.Action, change func(ctx context.Context, c *client.Client, f *client.Fleet, args []string) (map[string]any, string, error),
) *cobra.Command {
	action.Least, action.Complete = max(action.Least, 1), cmdline.First(a.Fleets())
	action.Most = max(action.Most, action.Least)
	action.Do = func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.FindFleet(ctx, args[0], client.Query{})
		if err != nil {
			return err
		}
		fields, done, err := change(ctx, c, f, args[1:])
		if err != nil {
			return err
		}
		if err := c.Patch(ctx, client.ID("application", f.ID), client.Query{}, fields); err != nil {
			return err
		}
		a.Say("%s", done)
		return nil
	}
	return a.Command(action)
}

func (a *app) fleetRenameCommand() *cobra.Command {
	return a.fleetChange(cmdline.Action{
		Use: "rename FLEET NAME", Short: "Give a fleet another name; its slug changes with it", Least: 2,
		Example: "  roadstead fleet rename hello greeter",
	}, func(_ context.Context, _ *client.Client, f *client.Fleet, args []string) (map[string]any, string, error) {
		return map[string]any{"app_name": args[0]}, fmt.Sprintf("%s is called %s now.", f.Slug, args[0]), nil
	})
}

func (a *app) fleetSetCommand() *cobra.Command {
	var deviceType, repository, support, branch, also string
	var public, archived bool
	var cmd *cobra.Command
	cmd = a.fleetChange(cmdline.Action{
		Use: "set FLEET [flags]", Short: "Change a fleet's settings",
		Example: `  roadstead fleet set hello --type raspberrypi4-64
  roadstead fleet set hello --public
  roadstead fleet set hello --public=false --archived
  roadstead fleet set hello --support 4h
  roadstead fleet set hello --git-branch stable
  roadstead fleet set hello --also-for aarch64,armv7hf
  roadstead fleet set hello --also-for ""`,
	}, func(ctx context.Context, c *client.Client, f *client.Fleet, _ []string) (map[string]any, string, error) {
		fields := map[string]any{}
		if cmd.Flags().Changed("public") {
			fields["is_public"] = public
		}
		if cmd.Flags().Changed("archived") {
			fields["is_archived"] = archived
		}
		if cmd.Flags().Changed("repository") {
			fields["is_stored_at__repository_url"] = repository
		}
		if cmd.Flags().Changed("git-branch") {
			fields["git_branch"] = branch
			if branch == "" {
				fields["git_branch"] = nil
			}
		}
		if cmd.Flags().Changed("also-for") {
			fields["is_also_built_for"] = also
		}
		if deviceType != "" {
			id, err := hardware.FindDeviceType(ctx, c, deviceType)
			if err != nil {
				return nil, "", err
			}
			fields["is_for__device_type"] = id
		}
		if err := supportUntil(fields, support); err != nil {
			return nil, "", err
		}
		if len(fields) == 0 {
			return nil, "", cmdline.Usagef("say what to change with a flag")
		}
		return fields, "Changed " + f.Slug + ".", nil
	})
	cmd.Flags().BoolVar(&public, "public", false, "let everybody see the fleet and its releases (not its devices)")
	cmd.Flags().BoolVar(&archived, "archived", false, "put it away")
	cmd.Flags().StringVarP(&deviceType, "type", "t", "", "device type of new devices")
	cmd.Flags().StringVar(&repository, "repository", "", "address of its source")
	cmd.Flags().StringVar(&branch, "git-branch", "", "the branch that builds when it is pushed; empty means main and master")
	cmd.Flags().StringVar(&also, "also-for", "", "`ARCHITECTURES` that it is built for beside that of its device type, such as aarch64,armv7hf; empty means none")
	cmd.Flags().StringVar(&support, "support", "", "let support staff operate it for so long (4h, 2d); never ends it")
	_ = cmd.RegisterFlagCompletionFunc("type", a.DeviceTypes()) // fails only for a flag that is not there
	return cmd
}

// supportUntil writes until when support staff may reach something. Nothing given changes nothing.
func supportUntil(fields map[string]any, text string) error {
	if text == "" {
		return nil
	}
	until, err := cmdline.Expiry(text, time.Now())
	if err != nil {
		return err
	}
	fields["is_accessible_by_support_until__date"] = until // a null ends it
	return nil
}

// fleetOrder is a command that has all devices of a fleet do something.
func (a *app) fleetOrder(use, short, example, path, done string, body func(f *client.Fleet) any) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: use, Short: short, Example: example, Least: 1, Most: 1, Complete: cmdline.First(a.Fleets()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			address := path
			if address == "" {
				address = fmt.Sprintf("/application/%d/restart", f.ID)
			}
			if err := c.Do(ctx, http.MethodPost, address, body(f), nil); err != nil {
				return err
			}
			a.Say(done, f.Slug)
			return nil
		},
	})
}

func (a *app) fleetRestartCommand() *cobra.Command {
	return a.fleetOrder("restart FLEET", "Restart the services of all devices of a fleet that can be reached", "  roadstead fleet restart hello",
		"", "The devices of %s restart their services.", func(*client.Fleet) any { return nil })
}

func (a *app) fleetPurgeCommand() *cobra.Command {
	return a.fleetOrder("purge FLEET", "Have all devices of a fleet that can be reached delete what their services stored",
		"  roadstead fleet purge hello", "/supervisor/v1/purge", "The devices of %s delete their services' data.",
		func(f *client.Fleet) any {
			return map[string]any{"appId": f.ID, "data": map[string]any{"appId": fmt.Sprint(f.ID)}}
		})
}
