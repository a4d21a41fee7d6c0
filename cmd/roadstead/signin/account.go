package signin

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

func (a signin) accountCommand() *cobra.Command {
	var yes string
	remove := a.Command(cmdline.Action{
		Use: "delete", Short: "Delete your account",
		Long: `Delete your account: its sessions, keys, SSH keys, second factors and memberships end at once. Organizations of which you are the only
member, and which hold no fleet, go along. Fleets, devices and releases that you made for others stay, and so does the audit log.

You are asked to type your user name; --yes takes it where nobody can be asked. The login must be fresh, and you cannot be the last
administrator of an organization that has other members or fleets.`,
		Example: "  roadstead account delete\n  roadstead account delete --yes grace",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			me, err := c.Whoami(ctx)
			if err != nil {
				return err
			}
			name := yes
			if name == "" {
				if name, err = a.Ask("Type your user name, " + me.Username + ", to delete your account"); err != nil {
					return cmdline.Usagef("confirm with --yes and your user name")
				}
			}
			if err := c.DeleteAccount(ctx, name); err != nil {
				return err
			}
			if os.Getenv("ROADSTEAD_TOKEN") == "" {
				if err := a.save(""); err != nil {
					return err
				}
			}
			return a.Made(api.DeleteAccount{Username: name}, "Your account %s is deleted.", name)
		},
	})
	remove.Flags().StringVar(&yes, "yes", "", "your user name, where nobody can be asked")
	return cmdline.Group("account", "Your account", remove)
}
