package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// keyView is the JSON form of a key in a list; nobody can be shown the key itself again.
type keyView struct {
	ID          int64   `json:"id"`
	Name        string  `json:"name"`
	Description string  `json:"description"`
	CreatedAt   string  `json:"created_at"`
	ExpiresAt   *string `json:"expires_at"`
}

// newKeyView is the JSON form of a key that was just made.
type newKeyView struct {
	Name      string     `json:"name"`
	Key       string     `json:"key"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func (a *app) keyCommand() *cobra.Command {
	return cmdline.Group("key", "API keys of yours, and provisioning keys of fleets",
		a.keyCreateCommand(), a.keyListCommand(), a.keyExplainCommand(), a.keyRemoveCommand())
}

func (a *app) keyCreateCommand() *cobra.Command {
	var fleet, expires, description, level string
	var only []string
	var uses int
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a key; it is shown this once",
		Long: `Create an API key that can do what you can do, except create keys. With --level and --only it can do less: at most what such a
member of a fleet may, and only in the fleets named. With --fleet create a provisioning key: it can register devices into that fleet
and do nothing else.

The key alone goes to the standard output.`,
		Example: `  roadstead key create ci --expires 90d
  roadstead key create dashboard --level observer --only hello --only acme/beta
  roadstead key create factory --fleet hello --uses 100 --expires 2027-01-31`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := cmdline.Expiry(expires, time.Now())
			if err != nil {
				return err
			}
			if uses != 0 && fleet == "" {
				return cmdline.Usagef("--uses is for provisioning keys; name their fleet with --fleet")
			}
			if uses < 0 {
				return cmdline.Usagef("--uses %d is no number of devices", uses)
			}
			if fleet != "" && (level != "" || len(only) > 0) {
				return cmdline.Usagef("a provisioning key can do one thing in one fleet; --level and --only are for keys of your own")
			}
			key := api.NewKey{Name: args[0], Description: description, ExpiryDate: until, MaxUses: uses, Level: level, Fleets: only}
			return a.createKey(cmd.Context(), key, fleet)
		},
	}
	cmd.Flags().StringVarP(&fleet, "fleet", "f", "", "make a provisioning key of this fleet")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends: 12h, 90d, 2027-01-31, never")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.Flags().StringVar(&level, "level", "", "at most what an observer, operator or developer of a fleet may do")
	cmd.Flags().StringArrayVar(&only, "only", nil, "only in this fleet; give it again for more")
	cmdline.Fixed(cmd, "level", "observer", "operator", "developer")
	_ = cmd.RegisterFlagCompletionFunc("only", a.Fleets()) // fails only for a flag that is not there
	cmd.Flags().IntVar(&uses, "uses", 0, "how many devices it may register (0: no bound)")
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.Fleets()) // fails only for a flag that is not there
	return cmd
}

func (a *app) createKey(ctx context.Context, key api.NewKey, fleet string) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var secret string
	for i, ref := range key.Fleets {
		f, err := c.FindFleet(ctx, ref, client.Query{})
		if err != nil {
			return err
		}
		key.Fleets[i] = f.Slug
	}
	if fleet == "" {
		secret, err = c.CreateUserKey(ctx, key)
	} else {
		var f *client.Fleet
		if f, err = c.FindFleet(ctx, fleet, client.Query{}); err != nil {
			return err
		}
		secret, err = c.CreateProvisioningKey(ctx, f.ID, key)
	}
	if errors.Is(err, api.ErrUnauthorized) || errors.Is(err, api.ErrForbidden) {
		return fmt.Errorf("%w; a key cannot make keys, and a session can only soon after its login: "+
			"`roadstead login` with your password first", err)
	}
	if err != nil {
		return err
	}
	if a.Output == "json" {
		return a.JSON(newKeyView{Name: key.Name, Key: secret, ExpiresAt: key.ExpiryDate})
	}
	a.Say("This is the only time that the key is shown:")
	_, err = fmt.Fprintln(a.Out, secret)
	return err
}

// keysOf is the filter for keys of the caller's own or of a fleet.
func keysOf(ctx context.Context, c *client.Client, fleet string) (string, error) {
	if fleet != "" {
		f, err := c.FindFleet(ctx, fleet, client.Query{Select: "id,slug,actor"})
		if err != nil {
			return "", err
		}
		return client.Where("is_of__actor eq ?", f.Actor.ID), nil
	}
	who, err := c.Whoami(ctx)
	if err != nil {
		return "", err
	}
	return client.Where("is_of__actor eq ? and name ne null", who.ID), nil
}

func (a *app) keyListCommand() *cobra.Command {
	var fleet string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List your keys, or a fleet's provisioning keys",
		Example: "  roadstead key list\n  roadstead key list --fleet hello -o json",
		Args:    cmdline.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			filter, err := keysOf(cmd.Context(), c, fleet)
			if err != nil {
				return err
			}
			found, err := client.Get[client.APIKey](cmd.Context(), c, "api_key",
				client.Query{Select: "id,created_at,name,description,expiry_date", Filter: filter, OrderBy: "name asc"})
			if err != nil {
				return err
			}
			views := make([]keyView, len(found))
			for i, k := range found {
				views[i] = keyView{
					ID: k.ID, Name: k.Name, Description: k.Description, CreatedAt: k.CreatedAt, ExpiresAt: cmdline.OrNil(k.ExpiryDate)}
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Id", "Name", "Description", "Created", "Expires"}}
				for _, v := range views {
					g.Add(strconv.FormatInt(v.ID, 10), v.Name, v.Description, terminal.Ago(v.CreatedAt), expires(v.ExpiresAt))
				}
				return g
			})
		},
	}
	cmd.Flags().StringVarP(&fleet, "fleet", "f", "", "the provisioning keys of this fleet")
	_ = cmd.RegisterFlagCompletionFunc("fleet", a.Fleets()) // fails only for a flag that is not there
	return cmd
}

func expires(stamp *string) string {
	if stamp == nil {
		return "never"
	}
	at, ok := client.ParseTime(*stamp)
	if !ok {
		return *stamp
	}
	if at.Before(time.Now()) {
		return "ended " + terminal.Ago(*stamp)
	}
	return at.Local().Format("2006-01-02 15:04")
}

func (a *app) keyRemoveCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use: "rm ID...", Aliases: []string{"remove", "revoke"}, Short: "Remove keys; they stop working at once",
		Example: "  roadstead key rm 31 32",
		Args:    cmdline.Args(1, -1), ValidArgsFunction: a.keyNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ids []int64
			for _, arg := range args {
				id, err := strconv.ParseInt(arg, 10, 64)
				if err != nil {
					return cmdline.Usagef("%q is not the id of a key; `roadstead key list` shows them", arg)
				}
				ids = append(ids, id)
			}
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			found, err := client.Get[client.APIKey](cmd.Context(), c, "api_key",
				client.Query{Select: "id,name", Filter: client.Where("id in ?", ids)})
			if err != nil {
				return err
			}
			if len(found) < len(ids) {
				return api.Errorf(api.NotFound, "not all of the keys %s exist, or you may not see them", strings.Join(args, ", "))
			}
			for _, k := range found {
				if err := a.Confirm(sure, fmt.Sprintf("Remove key %d (%s)?", k.ID, k.Name)); err != nil {
					return err
				}
				if err := c.Delete(cmd.Context(), client.ID("api_key", k.ID), client.Query{}); err != nil {
					return err
				}
				a.Say("Removed key %d.", k.ID)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return cmd
}

// keyNames completes the ids of the caller's keys, each with its name.
func (a *app) keyNames() cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.APIKey](ctx, c, "api_key", client.Query{Select: "id,name", Filter: "name ne null", OrderBy: "name asc", Top: 200})
		var list []string
		for _, k := range found {
			list = append(list, strconv.FormatInt(k.ID, 10)+"\t"+k.Name)
		}
		return list, err
	})
}
