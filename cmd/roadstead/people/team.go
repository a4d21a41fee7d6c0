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

type teamRow struct {
	ID           int64                           `json:"id"`
	Name         string                          `json:"name"`
	Description  string                          `json:"description"`
	Organization client.Ref[client.Organization] `json:"belongs_to__organization"`
	Members      []memberRow                     `json:"team_membership"`
	Fleets       []grantRow                      `json:"team_application_access"`
}

type grantRow struct {
	ID    int64                    `json:"id"`
	Fleet client.Ref[client.Fleet] `json:"grants_access_to__application"`
	As    client.Ref[named]        `json:"application_membership_role"`
}

type teamView struct {
	ID           int64             `json:"id"`
	Name         string            `json:"name"`
	Organization string            `json:"organization"`
	Description  string            `json:"description"`
	Members      []string          `json:"members"`
	Fleets       map[string]string `json:"fleets"` // slug → role
}

const teamExpand = "belongs_to__organization($select=id,handle),team_membership($select=id;$expand=user($select=id,username))," +
	"team_application_access($select=id;$expand=grants_access_to__application($select=id,slug),application_membership_role($select=id,name))"

func viewTeam(t teamRow) teamView {
	v := teamView{ID: t.ID, Name: t.Name, Organization: t.Organization.Get().Handle, Description: t.Description, Members: []string{},
		Fleets: map[string]string{}}
	for _, m := range t.Members {
		v.Members = append(v.Members, m.User.Get().Username)
	}
	for _, g := range t.Fleets {
		v.Fleets[g.Fleet.Get().Slug] = g.As.Get().Name
	}
	return v
}

func (a people) teams() *cobra.Command {
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List teams, who is in them and which fleets they reach",
		Example: "  roadstead team list\n  roadstead team list -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			q := client.Query{Select: "id,name,description", Expand: teamExpand, OrderBy: "name asc"}
			return cmdline.List(ctx, a.App, c, "team", q, viewTeam, []string{"Team", "Organization", "Members", "Fleets", "Id"},
				func(v teamView) []string {
					var fleets []string
					for slug, role := range v.Fleets {
						fleets = append(fleets, slug+" ("+role+")")
					}
					return []string{v.Name, v.Organization, strings.Join(v.Members, " "), strings.Join(fleets, ", "), id(v.ID)}
				})
		},
	})
	return cmdline.Group("team", "Teams: people of an organization who reach the same fleets", a.teamCreate(), list, a.teamRemove(),
		a.teamMember("add", "Take somebody into a team", true), a.teamMember("drop", "Take somebody out of a team", false),
		a.teamGrant(), a.teamRevoke())
}

func (a people) teamCreate() *cobra.Command {
	var organization, description string
	cmd := a.Command(cmdline.Action{
		Use: "create NAME", Short: "Create a team", Example: "  roadstead team create field --organization acme", Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			o, err := findOrganization(ctx, c, organization)
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0], "belongs_to__organization": o.ID}
			if description != "" {
				body["description"] = description
			}
			made, err := client.Create[teamRow](ctx, c, "team", body)
			if err != nil {
				return cmdline.Taken(err, "a team "+args[0])
			}
			v := viewTeam(*made)
			v.Organization = o.Handle
			return a.Made(v, "Created team %s of %s.", made.Name, o.Handle)
		},
	})
	a.ownedFlags(cmd, "team", &organization, &description)
	return cmd
}

func (a people) names() cmdline.Completer {
	return a.Remote(func(ctx context.Context, c *client.Client) ([]string, error) {
		found, err := client.Get[teamRow](ctx, c, "team", client.Query{Select: "id,name", OrderBy: "name asc"})
		var list []string
		for _, t := range found {
			list = append(list, t.Name)
		}
		return list, err
	})
}

// findTeam finds a team by its name, or by its id where several have that name.
func findTeam(ctx context.Context, c *client.Client, ref string) (*teamRow, error) {
	q := client.Query{Select: "id,name", Expand: teamExpand, Filter: client.Where("name eq ?", ref)}
	if n, err := number(ref, "", ""); err == nil {
		q.Filter = client.Where("name eq ? or id eq ?", ref, n)
	}
	found, err := client.Get[teamRow](ctx, c, "team", q)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, api.Errorf(api.NotFound, "no team %q, or you may not see it", ref)
	case len(found) > 1:
		return nil, cmdline.Usagef("several teams are called %q; give the id (`roadstead team list`)", ref)
	}
	return &found[0], nil
}

func (a people) teamRemove() *cobra.Command {
	return a.RemoveCommand(cmdline.Removal{
		Use: "rm TEAM", Short: "Remove a team; what it gave its members ends at once", Most: 1, Complete: cmdline.First(a.names()),
		Example: "  roadstead team rm field --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			t, err := findTeam(ctx, c, args[0])
			if err != nil {
				return nil, err
			}
			return []cmdline.Doomed{{Address: client.ID("team", t.ID), Name: "team " + t.Name}}, nil
		},
	})
}

func (a people) teamMember(verb, short string, in bool) *cobra.Command {
	return a.Command(cmdline.Action{
		Use: verb + " TEAM USER", Short: short, Example: "  roadstead team " + verb + " field ann", Least: 2, Most: 2,
		Complete: cmdline.First(a.names()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			t, err := findTeam(ctx, c, args[0])
			if err != nil {
				return err
			}
			if in {
				_, err = client.Create[named](ctx, c, "team_membership", map[string]any{"username": args[1], "is_member_of__team": t.ID})
				if err != nil {
					return cmdline.Taken(err, args[1]+"'s membership of "+t.Name)
				}
				a.Say("%s is in %s.", args[1], t.Name)
				return nil
			}
			for _, m := range t.Members {
				if m.User.Get().Username == args[1] {
					if err := c.Delete(ctx, client.ID("team_membership", m.ID), client.Query{}); err != nil {
						return err
					}
					a.Say("%s is no longer in %s.", args[1], t.Name)
					return nil
				}
			}
			return api.Errorf(api.NotFound, "%s is not in %s", args[1], t.Name)
		},
	})
}

func (a people) teamGrant() *cobra.Command {
	var fleet, role, end string
	cmd := a.Command(cmdline.Action{
		Use: "grant TEAM --fleet FLEET --role ROLE", Short: "Let a team reach a fleet, or change as what", Least: 1, Most: 1,
		Example: "  roadstead team grant field --fleet hello --role operator", Complete: cmdline.First(a.names()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if role == "" {
				return cmdline.Usagef("say as what with --role: observer, operator or developer")
			}
			t, f, err := teamAndFleet(ctx, c, args[0], fleet)
			if err != nil {
				return err
			}
			as, err := roleID(ctx, c, fleetRole, role, f.ID)
			if err != nil {
				return err
			}
			row := map[string]any{"team": t.ID, "grants_access_to__application": f.ID, fleetRole: as}
			if end != "" {
				at, err := cmdline.Expiry(end, time.Now())
				if err != nil {
					return err
				}
				row["end_date"] = at
			}
			if err := c.Upsert(ctx, "team_application_access", row, "team", "grants_access_to__application"); err != nil {
				return err
			}
			a.Say("%s is %s of %s.", t.Name, role, f.Slug)
			return nil
		},
	})
	a.FleetFlag(cmd, &fleet, "the fleet")
	cmd.Flags().StringVar(&role, "role", "", "observer, operator, developer or a role of the organization's own")
	cmd.Flags().StringVar(&end, "until", "", "when it ends by itself: 12h, 14d, 2027-01-31; never")
	_ = cmd.RegisterFlagCompletionFunc("role", a.roleNames()) // fails only for a flag that is not there
	return cmd
}

func teamAndFleet(ctx context.Context, c *client.Client, team, fleet string) (*teamRow, *client.Fleet, error) {
	if cmdline.FleetOr(fleet) == "" {
		return nil, nil, cmdline.Usagef("say which fleet with --fleet")
	}
	t, err := findTeam(ctx, c, team)
	if err != nil {
		return nil, nil, err
	}
	f, err := c.FindFleet(ctx, cmdline.FleetOr(fleet), client.Query{})
	return t, f, err
}

func (a people) teamRevoke() *cobra.Command {
	var fleet string
	cmd := a.Command(cmdline.Action{
		Use: "revoke TEAM --fleet FLEET", Short: "End a team's access to a fleet, at once", Least: 1, Most: 1,
		Example: "  roadstead team revoke field --fleet hello", Complete: cmdline.First(a.names()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			t, f, err := teamAndFleet(ctx, c, args[0], fleet)
			if err != nil {
				return err
			}
			for _, g := range t.Fleets {
				if g.Fleet.Get().ID == f.ID {
					if err := c.Delete(ctx, client.ID("team_application_access", g.ID), client.Query{}); err != nil {
						return err
					}
					a.Say("%s does not reach %s any more.", t.Name, f.Slug)
					return nil
				}
			}
			return api.Errorf(api.NotFound, "%s does not reach %s", t.Name, f.Slug)
		},
	})
	a.FleetFlag(cmd, &fleet, "the fleet")
	return cmd
}
