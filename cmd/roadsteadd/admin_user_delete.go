package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
)

func userDeleteCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "delete EMAIL|USERNAME --data DIR", Short: "Delete a user", Args: cobra.ExactArgs(1),
		Long: "Delete a user: sessions, keys, SSH keys, second factors and memberships end at once. Organizations of which they are the only member,\n" +
			"and which hold no fleet, go along. Fleets, devices and releases stay, and so does the audit log with the name. The last administrator\n" +
			"of an organization that has other members or fleets is not deleted; see make-administrator.",
		Example: "  roadsteadd admin user delete grace@example.com --data /var/lib/roadstead",
		RunE: func(cmd *cobra.Command, args []string) error {
			var u api.UserInfo
			if err := askUsers(cmd, data, "delete", api.UserChange{User: args[0]}, &u); err != nil {
				return err
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), u.Username, "is deleted")
			return nil
		},
	}
	dataFlag(cmd, &data)
	return cmd
}
