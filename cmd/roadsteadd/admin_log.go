package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

func logCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "log", Short: "The transparency log of releases", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var data string
	renew := &cobra.Command{
		Use:   "renew --data DIR",
		Short: "Have the log begin anew under another name, where the whole directory was put back to an older day",
		Long: `Have the transparency log begin anew under another name, with all entries that the database has. It is for a server that does not run, and whose whole
directory or disk was put back to an older day (a snapshot): devices have seen entries that are lost, take nothing new from a log without them, and say
"log" as the reason. After "admin restore" it is not needed: a backup has no log in it.

The server names the new log to the fleets whose roots it holds; where owners hold them, each has to run "roadstead trust restore" and
"roadstead trust renew FLEET --server-keys".`,
		Example: "  roadsteadd admin log renew --data /var/lib/roadstead",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			l := supervise.Layout(dir)
			free, err := l.Lock()
			if err != nil {
				return fmt.Errorf("%w; stop the server first", err)
			}
			defer free()
			before, err := signer.RenewTrustLog(l.Role(api.RoleSigner))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The log %s with its %d entries is left behind; another begins when the server starts.\n", before.Origin, before.Size)
			return err
		},
	}
	dataFlag(renew, &data)
	cmd.AddCommand(renew)
	return cmd
}
