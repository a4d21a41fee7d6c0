package people

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// organizationShow says what an organization keeps in the registry.
func (a people) organizationShow() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "show ORGANIZATION", Short: "Show what an organization keeps in the registry, and may keep", Least: 1, Most: 1, Complete: cmdline.First(a.handles()),
		Long: `Show how much the images of an organization's releases take in the registry, how much they may, and which fleets have them. A layer counts once
for the organization, however many releases have it; fleets that share one count it each. What was deleted counts until it is collected, an hour
or two later.`,
		Example: "  roadstead organization show acme\n  roadstead organization show acme -o json",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			var use api.RegistryUse
			if err := c.Do(ctx, http.MethodGet, "/storage/v1/organization/"+url.PathEscape(args[0]), nil, &use); err != nil {
				return err
			}
			return a.Show(use, func() *terminal.Grid {
				quota := "anything"
				if use.Quota != nil {
					quota = fmt.Sprintf("%s, so there is room for %s", api.FormatBytes(*use.Quota), api.FormatBytes(max(*use.Quota-use.Bytes, 0)))
				}
				g := &terminal.Grid{Rows: [][]string{
					{"Organization", use.Organization}, {"Keeps", api.FormatBytes(use.Bytes)}, {"Not needed", api.FormatBytes(use.Unused)}, {"May keep", quota},
				}}
				for _, f := range use.Fleets {
					g.Rows = append(g.Rows, []string{f.Fleet, fmt.Sprintf("%s, %s of it no other fleet has", api.FormatBytes(f.Bytes), api.FormatBytes(f.Alone))})
				}
				return g
			})
		},
	})
}
