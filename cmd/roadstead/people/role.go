package people

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// fleetRole is the resource of roles in fleets.
const fleetRole = "application_membership_role"

type roleRow struct {
	ID           int64                           `json:"id"`
	Name         string                          `json:"name"`
	Description  string                          `json:"description"`
	Verbs        []string                        `json:"verbs"`
	Organization client.Ref[client.Organization] `json:"belongs_to__organization"`
}

type roleView struct {
	ID           int64    `json:"id"`
	Name         string   `json:"name"`
	Organization string   `json:"organization"` // "": built in
	Verbs        []string `json:"verbs"`
	Description  string   `json:"description"`
}

func viewRole(r roleRow) roleView {
	return roleView{ID: r.ID, Name: r.Name, Organization: r.Organization.Get().Handle, Verbs: r.Verbs, Description: r.Description}
}

func (a people) roles() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List the roles that people can have in fleets", Example: "  roadstead role list\n  roadstead role list -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			q := client.Query{Select: "id,name,description,verbs", OrderBy: "id asc", Expand: "belongs_to__organization($select=id,handle)"}
			return cmdline.List(ctx, a.App, c, fleetRole, q, viewRole, []string{"Role", "Organization", "May", "Description", "Id"},
				func(v roleView) []string {
					return []string{v.Name, v.Organization, strings.Join(v.Verbs, " "), v.Description, id(v.ID)}
				})
		},
	})
	cmd := cmdline.Group("role", "Roles: what members and teams may do in fleets", a.roleCreate(), list, a.roleSet(), a.roleRemove())
	cmd.Long = `A role is a list of verbs: read (always among them), devices, actions, shell, keys, releases and settings. Observer, operator and
developer are built in; an organization's administrators make others for its own fleets.`
	return cmd
}

func (a people) roleCreate() *cobra.Command {
	var organization, description string
	var verbs []string
	cmd := a.Command(cmdline.Action{
		Use: "create NAME --verb VERB", Short: "Create a role of an organization's own", Least: 1, Most: 1,
		Example: "  roadstead role create field-engineer --verb actions --verb shell --organization acme",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if len(verbs) == 0 {
				return cmdline.Usagef("say what it may do with --verb")
			}
			o, err := findOrganization(ctx, c, organization)
			if err != nil {
				return err
			}
			made, err := client.Create[roleRow](ctx, c, fleetRole,
				map[string]any{"name": args[0], "description": description, "verbs": verbs, "belongs_to__organization": o.ID})
			if err != nil {
				return cmdline.Taken(err, "a role "+args[0])
			}
			v := viewRole(*made)
			v.Organization = o.Handle
			return a.Made(v, "Created role %s of %s.", made.Name, o.Handle)
		},
	})
	a.ownedFlags(cmd, "role", &organization, &description)
	verbFlag(cmd, &verbs, "what it may do; give it again for more")
	return cmd
}

// ownedFlags are those of a command that makes something of an organization's.
func (a people) ownedFlags(cmd *cobra.Command, what string, organization, description *string) {
	cmd.Flags().StringVar(organization, "organization", "", "whose "+what+"; not needed when you are in only one organization")
	cmd.Flags().StringVar(description, "description", "", "what it is for")
	_ = cmd.RegisterFlagCompletionFunc("organization", a.handles()) // fails only for a flag that is not there
}

func verbFlag(cmd *cobra.Command, verbs *[]string, help string) {
	cmd.Flags().StringSliceVar(verbs, "verb", nil, help)
	cmdline.Fixed(cmd, "verb", "read", "devices", "actions", "shell", "keys", "releases", "settings")
}

func (a people) roleSet() *cobra.Command {
	var name, description string
	var verbs []string
	cmd := a.Command(cmdline.Action{
		Use: "set ROLE", Short: "Change a role; whoever has it may do at once what it says then", Least: 1, Most: 1,
		Example:  "  roadstead role set field-engineer --verb actions --verb shell --verb devices",
		Complete: cmdline.First(a.roleNames()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			body := map[string]any{}
			if name != "" {
				body["name"] = name
			}
			if description != "" {
				body["description"] = description
			}
			if len(verbs) > 0 {
				body["verbs"] = verbs
			}
			if len(body) == 0 {
				return cmdline.Usagef("say what to change with --verb, --name or --description")
			}
			r, err := findRole(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := c.Patch(ctx, client.ID(fleetRole, r.ID), client.Query{}, body); err != nil {
				return err
			}
			a.Say("Changed role %s.", r.Name)
			return nil
		},
	})
	cmd.Flags().StringVar(&name, "name", "", "its new name")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	verbFlag(cmd, &verbs, "all that it may do from now on; give it again for more")
	return cmd
}

func (a people) roleRemove() *cobra.Command {
	return a.RemoveCommand(cmdline.Removal{
		Use: "rm ROLE", Short: "Remove a role that nobody has", Most: 1, Complete: cmdline.First(a.roleNames()),
		Example: "  roadstead role rm field-engineer --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			r, err := findRole(ctx, c, args[0])
			if err != nil {
				return nil, err
			}
			return []cmdline.Doomed{{Address: client.ID(fleetRole, r.ID), Name: "role " + r.Name}}, nil
		},
	})
}

// findRole finds a role of an organization by its name, or by its id where several have that name.
func findRole(ctx context.Context, c *client.Client, ref string) (*roleRow, error) {
	q := client.Query{Select: "id,name,verbs", Filter: client.Where("belongs_to__organization ne null and name eq ?", ref)}
	if n, err := number(ref, "", ""); err == nil {
		q.Filter = client.Where("belongs_to__organization ne null and (name eq ? or id eq ?)", ref, n)
	}
	found, err := client.Get[roleRow](ctx, c, fleetRole, q)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, api.Errorf(api.NotFound, "no role %q of your organizations, or it is a built-in one", ref)
	case len(found) > 1:
		return nil, cmdline.Usagef("several roles are called %q; give the id (`roadstead role list`)", ref)
	}
	return &found[0], nil
}

// roleNames completes the roles there are, and some words more.
func (a people) roleNames(more ...string) cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[roleRow](ctx, c, fleetRole, client.Query{Select: "id,name,verbs", OrderBy: "id asc"})
		list := more
		for _, r := range found {
			list = append(list, r.Name+"\t"+strings.Join(r.Verbs, " "))
		}
		return list, err
	})
}

// called marks automation among people.
func (v memberView) called() string {
	if v.ServiceAccount {
		return v.Username + " (service account)"
	}
	return v.Username
}

func until(stamp *string) string {
	if stamp == nil {
		return ""
	}
	at, ok := client.ParseTime(*stamp)
	if !ok {
		return *stamp
	}
	return at.In(time.Local).Format("2006-01-02 15:04")
}
