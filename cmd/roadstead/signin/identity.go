package signin

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// IdentityCommand is the command about one's identities at sign-in providers. Linking needs a browser, on the account's page.
func IdentityCommand(a *cmdline.App) *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List the sign-in providers that you are linked to", Example: "  roadstead identity list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.Identities(ctx)
			if err != nil {
				return err
			}
			return a.Show(all, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Provider", "As", "Linked", "Last used"}}
				for _, i := range all {
					used := "never"
					if i.LastUsedAt != nil {
						used = i.LastUsedAt.Format(time.DateTime)
					}
					g.Rows = append(g.Rows, []string{strconv.FormatInt(i.ID, 10), i.Provider, i.Label, i.CreatedAt.Format(time.DateTime), used})
				}
				return g
			})
		},
	})
	unlink := a.Command(cmdline.Action{
		Use: "unlink ID", Short: "Unlink one of them", Least: 1, Most: 1, Example: "  roadstead identity unlink 3",
		Long: "Unlink a sign-in provider: it lets you in no more, and your other sessions end. Log in anew before; the last way in cannot be removed.",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id <= 0 {
				return cmdline.Usagef("%q is no identity's number; see roadstead identity list", args[0])
			}
			if err := c.Unlink(ctx, id); err != nil {
				return err
			}
			return a.Made(api.Identity{ID: id}, "Unlinked %d.", id)
		},
	})
	return cmdline.Group("identity", "See and unlink your identities at sign-in providers", list, unlink)
}
