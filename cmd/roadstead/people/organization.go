// Package people holds the commands about people: organizations and who is in them, teams, members of fleets, invitations, SSH
// keys and sessions.
package people

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// people adds its commands to what they stand on.
type people struct{ *cmdline.App }

// Commands are the commands of this package.
func Commands(app *cmdline.App) []*cobra.Command {
	a := people{app}
	return []*cobra.Command{a.organizations(), a.teams(), a.members(), a.roles(), a.invitations(), a.transfers(), a.sshKeys(), a.sessions()}
}

// organizationView is an organization, as it is read and shown.
type organizationView struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	Handle    string `json:"handle"`
	TwoFactor bool   `json:"is_requiring_two_factor"`
	Passwords bool   `json:"is_forbidding_passwords"`
	KeyDays   *int   `json:"max_key_days"`
}

// asks says what the organization asks of its members.
func (v organizationView) asks() string {
	var list []string
	if v.TwoFactor {
		list = append(list, "a second factor")
	}
	if v.Passwords {
		list = append(list, "no passwords")
	}
	if v.KeyDays != nil {
		list = append(list, fmt.Sprintf("keys of %d days at most", *v.KeyDays))
	}
	return strings.Join(list, ", ")
}

func (a people) organizations() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List your organizations", Example: "  roadstead organization list",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			q := client.Query{Select: "id,name,handle,is_requiring_two_factor,is_forbidding_passwords,max_key_days", OrderBy: "name asc"}
			return cmdline.List(ctx, a.App, c, "organization", q,
				func(v organizationView) organizationView { return v }, []string{"Organization", "Name", "Asks of members", "Id"},
				func(v organizationView) []string { return []string{v.Handle, v.Name, v.asks(), id(v.ID)} })
		},
	})
	rename := a.Command(cmdline.Action{
		Use: "rename ORGANIZATION NAME", Short: "Give an organization another name; its handle stays",
		Example: "  roadstead organization rename acme 'Acme Devices'", Least: 2, Most: 2, Complete: cmdline.First(a.handles()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			o, err := findOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := c.Patch(ctx, client.ID("organization", o.ID), client.Query{}, map[string]any{"name": args[1]}); err != nil {
				return err
			}
			a.Say("%s is called %s now.", o.Handle, args[1])
			return nil
		},
	})
	rm := a.RemoveCommand(cmdline.Removal{
		Use: "rm ORGANIZATION", Short: "Remove an organization that has no fleets", Most: 1, Complete: cmdline.First(a.handles()),
		Example: "  roadstead organization rm acme --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			o, err := findOrganization(ctx, c, args[0])
			if err != nil {
				return nil, err
			}
			return []cmdline.Doomed{{Address: client.ID("organization", o.ID), Name: "organization " + o.Handle}}, nil
		},
	})
	cmd := cmdline.Group("organization", "Organizations: who owns fleets", a.organizationCreate(), list, a.organizationShow(), rename, a.organizationSet(), rm)
	cmd.Aliases = []string{"org"}
	return cmd
}

func (a people) organizationCreate() *cobra.Command {
	var handle string
	cmd := a.Command(cmdline.Action{
		Use: "create NAME", Short: "Create an organization; you become its administrator", Least: 1, Most: 1,
		Example: "  roadstead organization create 'Acme Devices' --handle acme",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			body := map[string]any{"name": args[0]}
			if handle != "" {
				body["handle"] = handle
			}
			made, err := client.Create[organizationView](ctx, c, "organization", body)
			if err != nil {
				return cmdline.Taken(err, "an organization "+handle)
			}
			return a.Made(made, "Created organization %s (%s).", made.Handle, made.Name)
		},
	})
	cmd.Flags().StringVar(&handle, "handle", "", "short name in the names of its fleets; made from the name when it is not given")
	return cmd
}

func (a people) organizationSet() *cobra.Command {
	var cmd *cobra.Command
	var handle string
	var twoFactor, noPasswords bool
	var keyDays int
	cmd = a.Command(cmdline.Action{
		Use: "set ORGANIZATION", Short: "Change what an organization asks of its members, or its handle", Least: 1, Most: 1, Complete: cmdline.First(a.handles()),
		Long: `Change what an organization asks of its members, or its handle. It is for its administrators, and the switches about signing in need a
password given lately. Whoever asks for a second factor must have one; who forbids passwords needs another way in, such as a passkey.`,
		Example: "  roadstead organization set acme --require-two-factor\n  roadstead organization set acme --forbid-passwords=false --max-key-days 90",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			body := map[string]any{}
			if cmd.Flags().Changed("handle") {
				body["handle"] = handle
			}
			if cmd.Flags().Changed("require-two-factor") {
				body["is_requiring_two_factor"] = twoFactor
			}
			if cmd.Flags().Changed("forbid-passwords") {
				body["is_forbidding_passwords"] = noPasswords
			}
			if cmd.Flags().Changed("max-key-days") {
				body["max_key_days"] = keyDays
			}
			if len(body) == 0 {
				return cmdline.Usagef("say what to change: --handle, --require-two-factor, --forbid-passwords or --max-key-days")
			}
			if body["max_key_days"] == 0 {
				body["max_key_days"] = nil
			}
			o, err := findOrganization(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := c.Patch(ctx, client.ID("organization", o.ID), client.Query{}, body); err != nil {
				return cmdline.Taken(err, "an organization "+handle)
			}
			a.Say("Changed organization %s.", o.Handle)
			return nil
		},
	})
	cmd.Flags().StringVar(&handle, "handle", "", "its new handle; the names of its fleets follow")
	cmd.Flags().BoolVar(&twoFactor, "require-two-factor", false, "members need a second factor; =false: they do not")
	cmd.Flags().BoolVar(&noPasswords, "forbid-passwords", false, "members do not sign in with a password; =false: they may")
	cmd.Flags().IntVar(&keyDays, "max-key-days", 0, "how many days new keys of members live at most; 0: as long as they like")
	return cmd
}

func (a people) handles() cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[client.Organization](ctx, c, "organization", client.Query{Select: "handle,name", OrderBy: "handle asc"})
		var list []string
		for _, o := range found {
			list = append(list, o.Handle+"\t"+o.Name)
		}
		return list, err
	})
}

// findOrganization finds one by its handle; without one, the only one that there is.
func findOrganization(ctx context.Context, c *client.Client, handle string) (*client.Organization, error) {
	q := client.Query{Select: "id,name,handle"}
	if handle != "" {
		q.Filter = client.Where("handle eq ?", strings.ToLower(handle))
	}
	found, err := client.Get[client.Organization](ctx, c, "organization", q)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 1:
		return &found[0], nil
	case len(found) == 0:
		return nil, api.Errorf(api.NotFound, "no organization %q, or you may not see it", handle)
	}
	return nil, cmdline.Usagef("name the organization: you are in %d (`roadstead organization list`)", len(found))
}

// roleID finds a role by its name; one in fleets must be built in or of the organization that the fleet is of.
func roleID(ctx context.Context, c *client.Client, resource, name string, fleet int64) (int64, error) {
	q := client.Query{Select: "id,name", OrderBy: "id asc"}
	if resource == fleetRole {
		q.Filter = client.Where("belongs_to__organization eq null or belongs_to__organization/any(o:o/owns__application/any(f:f/id eq ?))", fleet)
	}
	found, err := client.Get[named](ctx, c, resource, q)
	if err != nil {
		return 0, err
	}
	var known []string
	for _, r := range found {
		if r.Name == name {
			return r.ID, nil
		}
		known = append(known, r.Name)
	}
	return 0, cmdline.Usagef("there is no role %q, only: %s", name, strings.Join(known, ", "))
}

type named struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

type user struct {
	Username string           `json:"username"`
	Service  *json.RawMessage `json:"is_service_account_of__organization"`
}

// number reads the id of something that a list command shows.
func number(arg, what, list string) (int64, error) {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || id <= 0 {
		return 0, cmdline.Usagef("%q is not the id of %s; `roadstead %s` shows them", arg, what, list)
	}
	return id, nil
}

func id(n int64) string { return strconv.FormatInt(n, 10) }

func ago(stamp string) string { return terminal.Ago(stamp) }
