package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// userCommands look after the users of a server.
func userCommands() []*cobra.Command {
	const where = " --data /var/lib/roadstead"
	change := func(use, act, short, long, done string) *cobra.Command {
		return changeCommand(use, act, short, long, "  roadsteadd admin user "+act+" grace@example.com"+where, done)
	}
	admin := changeCommand("make-administrator EMAIL|USERNAME ORGANIZATION", api.UserMakeAdministrator, "Make a user an administrator of an organization",
		"Make a user an administrator of an organization, whether they are a member of it or not: for one that has lost its last.\n"+
			"An end of their membership is taken away. Their sessions end that the organization's rules about signing in would not let in.",
		"  roadsteadd admin user make-administrator grace@example.com acme"+where, "is an administrator of it now")
	admin.Args = cobra.ExactArgs(2)
	return []*cobra.Command{
		userListCommand(), userShowCommand(), userDeleteCommand(), admin,
		change("disable EMAIL|USERNAME", api.UserDisable, "Let a user use nothing any more",
			"Let a user use nothing any more: sessions end, keys and SSH keys are refused, and so are the keys that they made for fleets\n"+
				"and service accounts. Nothing is deleted. No way of signing in lets a disabled user in.", "is disabled"),
		change("enable EMAIL|USERNAME", api.UserEnable, "Let a disabled user in again", "Let a disabled user in again, with the keys that were refused.", "is enabled"),
		change("reset-factor EMAIL|USERNAME", api.UserResetFactor, "Take away a user's second factors",
			"Take away the second factors of a user who has lost them, recovery codes included. The sessions end; the password stays.\n"+
				"Make sure that it is them who ask.", "has no second factor now"),
		change("revoke EMAIL|USERNAME", api.UserRevoke, "End all sessions of a user and delete their keys",
			"End all sessions of a user and delete all their API keys and SSH keys, and the keys that they made for fleets and service accounts.\n"+
				"Keys of devices stay, and so do the password and second factors: see password and reset-factor.",
			"has no session and no key now"),
	}
}

// askUsers sends a request to one of the routes about users.
func askUsers(cmd *cobra.Command, data, path string, want api.UserChange, into any) error {
	dir, err := dataDir(data)
	if err != nil {
		return err
	}
	body, err := json.Marshal(want)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	res, err := callAPI(ctx, supervise.Layout(dir), "/internal/v1/users/"+path, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(res.Body, 256<<20)).Decode(into); err != nil {
		return fmt.Errorf("the api role's answer: %w", err)
	}
	return nil
}

func changeCommand(use, act, short, long, example, done string) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: use + " --data DIR", Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			want := api.UserChange{User: args[0], Act: act}
			if len(args) > 1 {
				want.Organization = args[1]
			}
			var u api.UserInfo
			if err := askUsers(cmd, data, "change", want, &u); err != nil {
				return err
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), u.Username, done)
			return nil
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

// outputFlag is -o table|json.
func outputFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVarP(into, "output", "o", "table", "what to print: table or json")
}

func show(cmd *cobra.Command, output string, v any, table func(w io.Writer)) error {
	switch output {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "table":
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	return usageError{errors.New("--output is " + output + "; it can be table or json")}
}

func userListCommand() *cobra.Command {
	var data, output string
	cmd := &cobra.Command{
		Use: "list --data DIR", Short: "List the users", Args: cobra.NoArgs,
		Example: "  roadsteadd admin user list -o json --data /var/lib/roadstead",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := []api.UserInfo{}
			if err := askUsers(cmd, data, "list", api.UserChange{}, &list); err != nil {
				return err
			}
			return show(cmd, output, list, func(w io.Writer) {
				_, _ = fmt.Fprintln(w, "USERNAME\tEMAIL\tSTATE\tSECOND FACTOR\tSESSIONS\tKEYS")
				for _, u := range list {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\n", u.Username, u.Email, stateOf(u), yes(u.SecondFactor), u.SessionCount, u.KeyCount)
				}
			})
		},
	}
	dataFlag(cmd, &data)
	outputFlag(cmd, &output)
	return cmd
}

func stateOf(u api.UserInfo) string {
	switch {
	case u.Disabled:
		return "disabled"
	case u.Support:
		return "support"
	}
	return "active"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func userShowCommand() *cobra.Command {
	var data, output string
	cmd := &cobra.Command{
		Use: "show EMAIL|USERNAME --data DIR", Aliases: []string{"sessions"}, Short: "Show a user with their organizations and sessions", Args: cobra.ExactArgs(1),
		Example: "  roadsteadd admin user show grace@example.com --data /var/lib/roadstead",
		RunE: func(cmd *cobra.Command, args []string) error {
			var u api.UserInfo
			if err := askUsers(cmd, data, "show", api.UserChange{User: args[0]}, &u); err != nil {
				return err
			}
			return show(cmd, output, u, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "username:\t%s\nemail:\t%s\nstate:\t%s\npassword:\t%s\nsecond factor:\t%s\nkeys:\t%d\n",
					u.Username, u.Email, stateOf(u), yes(u.HasPassword), yes(u.SecondFactor), u.KeyCount)
				for _, handle := range slices.Sorted(maps.Keys(u.Organizations)) {
					_, _ = fmt.Fprintf(w, "organization:\t%s (%s)\n", handle, u.Organizations[handle])
				}
				for _, s := range u.Sessions {
					used := "never used"
					if s.LastUsedAt != nil {
						used = "used " + s.LastUsedAt.Format(time.RFC3339)
					}
					if s.Half {
						used += ", waits for a second factor"
					}
					_, _ = fmt.Fprintf(w, "session %d:\t%s by %s, opened %s from %s, %s\n", s.ID, s.Client, s.OpenedBy, s.CreatedAt.Format(time.RFC3339), s.Address, used)
				}
			})
		},
	}
	dataFlag(cmd, &data)
	outputFlag(cmd, &output)
	return cmd
}
