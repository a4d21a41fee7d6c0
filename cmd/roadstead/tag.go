package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// tagView is the JSON form of a tag.
type tagView struct {
	ID    int64  `json:"id"`
	Key   string `json:"key"`
	Value string `json:"value"`
}

// tagScope is what a tag hangs on.
type tagScope struct{ fleet, device, release string }

func (s *tagScope) register(a *app, cmd *cobra.Command) {
	a.FleetFlag(cmd, &s.fleet, "of this fleet")
	cmd.Flags().StringVarP(&s.device, "device", "d", "", "of this device")
	cmd.Flags().StringVarP(&s.release, "release", "r", "", "of this release")
	_ = cmd.RegisterFlagCompletionFunc("device", a.Devices())   // fails only for a flag that is not there
	_ = cmd.RegisterFlagCompletionFunc("release", a.Releases()) // likewise
	cmd.MarkFlagsMutuallyExclusive("fleet", "device", "release")
}

// find gives the resource of such tags, its column for the parent, and the parent's id.
func (s *tagScope) find(ctx context.Context, c *client.Client) (resource, parent string, id int64, err error) {
	switch {
	case s.device != "":
		d, err := c.FindDevice(ctx, s.device, client.Query{})
		if err != nil {
			return "", "", 0, err
		}
		return "device_tag", "device", d.ID, nil
	case s.release != "":
		r, err := c.FindRelease(ctx, s.release, client.Query{})
		if err != nil {
			return "", "", 0, err
		}
		return "release_tag", "release", r.ID, nil
	case cmdline.FleetOr(s.fleet) != "":
		f, err := c.FindFleet(ctx, cmdline.FleetOr(s.fleet), client.Query{})
		if err != nil {
			return "", "", 0, err
		}
		return "application_tag", "application", f.ID, nil
	}
	return "", "", 0, cmdline.Usagef("say whose with --fleet, --device or --release")
}

func (a *app) tagCommand() *cobra.Command {
	return cmdline.Group("tag", "Tags on fleets, devices and releases", a.tagSetCommand(), a.tagListCommand(), a.tagRemoveCommand())
}

func (a *app) tagSetCommand() *cobra.Command {
	var s tagScope
	cmd := &cobra.Command{
		Use: "set KEY [VALUE] | KEY=VALUE", Short: "Set a tag",
		Example: "  roadstead tag set room kitchen --device 4f0c1aa\n  roadstead tag set room=kitchen --device 4f0c1aa\n" +
			"  roadstead tag set reviewed --release 12",
		Args: cmdline.Args(1, 2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, value, _ := strings.Cut(args[0], "=") // as env set and --release-tag take it
			if len(args) == 2 {
				key, value = args[0], args[1]
			}
			if key == "" {
				return cmdline.Usagef("a tag needs a key")
			}
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			resource, parent, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			err = c.Upsert(cmd.Context(), resource, map[string]any{parent: id, "tag_key": key, "value": value}, parent, "tag_key")
			if err != nil {
				return err
			}
			a.Say("Set tag %s.", key)
			return nil
		},
	}
	s.register(a, cmd)
	return cmd
}

func (a *app) tagListCommand() *cobra.Command {
	var s tagScope
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List tags",
		Example: "  roadstead tag list --device kitchen",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			resource, parent, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			found, err := client.Get[client.Tag](cmd.Context(), c, resource,
				client.Query{Select: "id,tag_key,value", Filter: client.Where(parent+" eq ?", id), OrderBy: "tag_key asc"})
			if err != nil {
				return err
			}
			views := make([]tagView, len(found))
			for i, t := range found {
				views[i] = tagView(t)
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Key", "Value", "Id"}}
				for _, v := range views {
					g.Add(v.Key, v.Value, strconv.FormatInt(v.ID, 10))
				}
				return g
			})
		},
	}
	s.register(a, cmd)
	return cmd
}

func (a *app) tagRemoveCommand() *cobra.Command {
	var s tagScope
	cmd := &cobra.Command{
		Use: "rm KEY", Aliases: []string{"remove"}, Short: "Remove a tag",
		Example: "  roadstead tag rm room --device kitchen",
		Args:    cmdline.Args(1, 1), ValidArgsFunction: cmdline.First(a.tagKeys(&s)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			resource, parent, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			q := client.Query{Filter: client.Where(parent+" eq ? and tag_key eq ?", id, args[0])}
			n, err := client.Count(cmd.Context(), c, resource, q.Filter)
			if err != nil {
				return err
			}
			if n == 0 {
				return api.Errorf(api.NotFound, "there is no tag %s there", args[0])
			}
			if err := c.Delete(cmd.Context(), resource, q); err != nil {
				return err
			}
			a.Say("Removed tag %s.", args[0])
			return nil
		},
	}
	s.register(a, cmd)
	return cmd
}

// tagKeys completes the keys of the tags in a scope.
func (a *app) tagKeys(s *tagScope) cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		resource, parent, id, err := s.find(ctx, c)
		if err != nil {
			return nil, err
		}
		found, err := client.Get[client.Tag](ctx, c, resource,
			client.Query{Select: "id,tag_key", Filter: client.Where(parent+" eq ?", id), OrderBy: "tag_key asc"})
		var list []string
		for _, t := range found {
			list = append(list, t.Key)
		}
		return list, err
	})
}
