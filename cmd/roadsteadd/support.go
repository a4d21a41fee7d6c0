package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

func userSupportCommand() *cobra.Command {
	var data string
	var off, list bool
	cmd := &cobra.Command{
		Use:   "support EMAIL|USERNAME --data DIR",
		Short: "Make a user one of the people who give support",
		Long: "Make a user one of the people who give support. Such a user sees nothing more than before, until the owner of a fleet\n" +
			"or a device opens it to support for a time, and then only that, only with a session, and only until the time is over.",
		Example: `  roadsteadd admin user support helpdesk@example.com --data /var/lib/roadstead
  roadsteadd admin user support helpdesk@example.com --off --data /var/lib/roadstead
  roadsteadd admin user support --list --data /var/lib/roadstead`,
		Args: func(cmd *cobra.Command, args []string) error {
			if list {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return err
			}
			if list {
				return listSupport(cmd.Context(), cmd.OutOrStdout(), supervise.Layout(dir))
			}
			body, err := json.Marshal(api.SupportStaff{User: args[0], Support: !off})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			res, err := callAPI(ctx, supervise.Layout(dir), "/internal/v1/users/support", body)
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			word := "gives support"
			if off {
				word = "gives no support"
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), args[0], word)
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().BoolVar(&off, "off", false, "take it back")
	cmd.Flags().BoolVar(&list, "list", false, "list who gives support")
	cmd.MarkFlagsMutuallyExclusive("off", "list")
	return cmd
}

// listSupport prints who gives support.
func listSupport(ctx context.Context, out io.Writer, l supervise.Layout) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	res, err := callAPI(ctx, l, "/internal/v1/users/support/list", nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	var list []api.User
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&list); err != nil {
		return fmt.Errorf("the api role's answer: %w", err)
	}
	for _, u := range list {
		mail := ""
		if u.Email != nil {
			mail = *u.Email
		}
		_, _ = fmt.Fprintf(out, "%s\t%s\n", u.Username, mail)
	}
	return nil
}
