package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

type fleetServiceView struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

func (a *app) serviceCommand() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list [FLEET]", Aliases: []string{"ls"}, Short: "List the services that a fleet's releases have had", Most: 1,
		Example: "  roadstead service list hello", Complete: cmdline.First(a.Fleets()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.FindFleet(ctx, cmdline.FleetOr(strings.Join(args, "")), client.Query{})
			if err != nil {
				return err
			}
			q := client.Query{Select: "id,service_name", Filter: client.Where("application eq ?", f.ID), OrderBy: "service_name asc"}
			return cmdline.List(ctx, a.App, c, "service", q,
				func(s client.Service) fleetServiceView { return fleetServiceView(s) }, []string{"Service", "Id"},
				func(v fleetServiceView) []string { return []string{v.Name, strconv.FormatInt(v.ID, 10)} })
		},
	})
	rm := a.RemoveCommand(cmdline.Removal{
		Use: "rm FLEET SERVICE", Short: "Remove a service that no release has any more, with its variables", Most: 2,
		Example: "  roadstead service rm hello worker --yes", Complete: cmdline.First(a.Fleets()),
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			if len(args) != 2 {
				return nil, cmdline.Usagef("give the fleet and the service")
			}
			f, err := c.FindFleet(ctx, args[0], client.Query{Expand: "service($select=id,service_name)"})
			if err != nil {
				return nil, err
			}
			for _, s := range f.Services {
				if s.Name == args[1] {
					return []cmdline.Doomed{{Address: client.ID("service", s.ID), Name: "service " + s.Name + " of " + f.Slug}}, nil
				}
			}
			return nil, api.Errorf(api.NotFound, "%s has no service %q", f.Slug, args[1])
		},
	})
	return cmdline.Group("service", "Services: the containers of a fleet's releases", list, rm)
}
