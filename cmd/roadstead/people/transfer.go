package people

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// FleetTransfer is `fleet transfer`.
func FleetTransfer(app *cmdline.App) *cobra.Command {
	a := people{app}
	var to string
	cmd := a.Command(cmdline.Action{
		Use: "transfer FLEET ORGANIZATION", Short: "Give a fleet to another organization, or offer it", Least: 1, Most: 2, Complete: cmdline.First(a.Fleets()),
		Long: "Give a fleet, with its devices and releases, to another organization. Who administers both moves it at once. Otherwise it is offered for seven\n" +
			"days, until an administrator of the other organization accepts or declines. When it goes, everything that people of your organization have of\n" +
			"it ends: memberships, what teams may, invitations, support access and the keys of the fleet.",
		Example: "  roadstead fleet transfer acme/hello globex\n  roadstead transfer list",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 2 {
				if to != "" {
					return cmdline.Usagef("say to whom once")
				}
				to = args[1]
			}
			if to == "" {
				return cmdline.Usagef("say to whom: roadstead fleet transfer FLEET ORGANIZATION")
			}
			f, err := c.FindFleet(ctx, args[0], client.Query{})
			if err != nil {
				return err
			}
			var out api.Transfer
			if err := c.Do(ctx, http.MethodPost, "/transfer/v1", api.NewTransfer{Fleet: f.Slug, Organization: to}, &out); err != nil {
				return err
			}
			if out.Moved {
				return a.Made(out, "%s is %s now.", f.Slug, out.Fleet)
			}
			return a.Made(out, "%s is offered to %s until %s, as transfer %d.", out.Fleet, out.To, out.ExpiresAt.Local().Format("2006-01-02 15:04"), out.ID)
		},
	})
	cmd.Flags().StringVar(&to, "to", "", "the `ORGANIZATION` that gets it, instead of the second argument")
	return cmd
}

// transfers are the commands about fleets that are offered.
func (a people) transfers() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List fleets that are offered from or to your organizations", Example: "  roadstead transfer list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			views := []api.Transfer{}
			if err := c.Do(ctx, http.MethodGet, "/transfer/v1", nil, &views); err != nil {
				return err
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Fleet", "From", "To", "Offered by", "Until"}}
				for _, v := range views {
					g.Add(id(v.ID), v.Fleet, v.From, v.To, v.OfferedBy, v.ExpiresAt.Local().Format("2006-01-02 15:04"))
				}
				return g
			})
		},
	})
	accept := a.Command(cmdline.Action{
		Use: "accept ID", Short: "Take an offered fleet over", Example: "  roadstead transfer accept 7", Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var out api.Transfer
			if err := c.Do(ctx, http.MethodPost, "/transfer/v1/"+url.PathEscape(args[0])+"/accept", nil, &out); err != nil {
				return err
			}
			return a.Made(out, "The fleet is %s now.", out.Fleet)
		},
	})
	decline := a.Command(cmdline.Action{
		Use: "decline ID", Short: "Do not take an offered fleet", Example: "  roadstead transfer decline 7", Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.Do(ctx, http.MethodPost, "/transfer/v1/"+url.PathEscape(args[0])+"/decline", nil, nil); err != nil {
				return err
			}
			a.Say("Declined.")
			return nil
		},
	})
	withdraw := a.Command(cmdline.Action{
		Use: "withdraw ID", Short: "Offer a fleet no longer", Example: "  roadstead transfer withdraw 7", Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.Do(ctx, http.MethodDelete, "/transfer/v1/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			a.Say("Withdrawn.")
			return nil
		},
	})
	return cmdline.Group("transfer", "Fleets that go to another organization", list, accept, decline, withdraw)
}
