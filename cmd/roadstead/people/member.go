package people

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// where is what somebody is a member of: a fleet, or an organization.
type where struct{ fleet, organization string }

func (w *where) register(a people, cmd *cobra.Command) {
	a.FleetFlag(cmd, &w.fleet, "of this fleet")
	cmd.Flags().StringVar(&w.organization, "organization", "", "of this organization")
	_ = cmd.RegisterFlagCompletionFunc("organization", a.handles()) // fails only for a flag that is not there
	cmd.MarkFlagsMutuallyExclusive("fleet", "organization")
}

// membership is how a kind of membership is stored.
type membership struct {
	resource, parent, role, invite, invitedTo string
	door                                      string // of its invitations: /user/v1/…, /org/v1/…
	id                                        int64
	name                                      string
}

func (w *where) find(ctx context.Context, c *client.Client) (membership, error) {
	if w.organization == "" && cmdline.FleetOr(w.fleet) != "" {
		f, err := c.FindFleet(ctx, cmdline.FleetOr(w.fleet), client.Query{})
		if err != nil {
			return membership{}, err
		}
		return membership{"user_application_membership", "is_member_of__application", fleetRole,
			"application_invite", "is_invited_to__application", "user", f.ID, "fleet " + f.Slug}, nil
	}
	if w.organization == "" {
		return membership{}, cmdline.Usagef("say of what with --fleet or --organization")
	}
	o, err := findOrganization(ctx, c, w.organization)
	if err != nil {
		return membership{}, err
	}
	return membership{"organization_membership", "is_member_of__organization", "organization_membership_role",
		"organization_invite", "is_invited_to__organization", "org", o.ID, "organization " + o.Handle}, nil
}

type memberRow struct {
	ID      int64             `json:"id"`
	User    client.Ref[user]  `json:"user"`
	FleetAs client.Ref[named] `json:"application_membership_role"`
	OrgAs   client.Ref[named] `json:"organization_membership_role"`
	EndDate string            `json:"end_date"`
}

type memberView struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	Role     string `json:"role"`

	EndDate        *string `json:"end_date"`
	ServiceAccount bool    `json:"service_account"`
}

func viewMember(m memberRow) memberView {
	return memberView{ID: m.ID, Username: m.User.Get().Username, Role: m.FleetAs.Get().Name + m.OrgAs.Get().Name,
		EndDate: cmdline.OrNil(m.EndDate), ServiceAccount: m.User.Get().Service != nil}
}

func (a people) members() *cobra.Command {
	var of where
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List who is a member of a fleet or an organization",
		Example: "  roadstead member list --fleet hello\n  roadstead member list --organization acme -o json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			m, err := of.find(ctx, c)
			if err != nil {
				return err
			}
			q := client.Query{Select: "id,end_date", Filter: client.Where(m.parent+" eq ?", m.id), OrderBy: "id asc",
				Expand: "user($select=id,username,is_service_account_of__organization)," + m.role + "($select=id,name)"}
			return cmdline.List(ctx, a.App, c, m.resource, q, viewMember, []string{"User", "Role", "Until", "Id"},
				func(v memberView) []string { return []string{v.called(), v.Role, until(v.EndDate), id(v.ID)} })
		},
	})
	of.register(a, list)
	cmd := cmdline.Group("member", "Members of fleets and organizations, and what they may do", list, a.memberSet(), a.memberRemove())
	cmd.Long = `Administrators of an organization may do everything with its fleets. Others are members of single fleets: an observer sees all of it, an
operator also works on its devices, a developer also decides what they run. ` + "`roadstead role`" + ` makes roles of an organization's own.`
	return cmd
}

func (a people) memberSet() *cobra.Command {
	var of where
	var role, end string
	cmd := a.Command(cmdline.Action{
		Use: "set USER --role ROLE", Aliases: []string{"add"}, Short: "Make somebody a member, or change what a member may do",
		Example: "  roadstead member set ann --fleet hello --role operator\n  roadstead member set ann --organization acme --role administrator\n" +
			"  roadstead member set bob --fleet hello --role field-engineer --until 14d",
		Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if role == "" {
				return cmdline.Usagef("say as what with --role")
			}
			m, err := of.find(ctx, c)
			if err != nil {
				return err
			}
			as, err := roleID(ctx, c, m.role, role, m.id)
			if err != nil {
				return err
			}
			body := map[string]any{m.role: as}
			if end != "" {
				at, err := cmdline.Expiry(end, time.Now())
				if err != nil {
					return err
				}
				body["end_date"] = at
			}
			row, err := m.member(ctx, c, args[0])
			if err != nil {
				return err
			}
			if row != nil {
				err = c.Patch(ctx, client.ID(m.resource, row.ID), client.Query{}, body)
			} else {
				body["username"], body[m.parent] = args[0], m.id
				_, err = client.Create[memberRow](ctx, c, m.resource, body)
			}
			if err != nil {
				return err
			}
			a.Say("%s is %s of %s.", args[0], role, m.name)
			return nil
		},
	})
	of.register(a, cmd)
	cmd.Flags().StringVar(&role, "role", "", "of a fleet: observer, operator, developer or a role of the organization's own; of an organization: member, administrator")
	cmd.Flags().StringVar(&end, "until", "", "when it ends by itself: 12h, 14d, 2027-01-31; never")
	_ = cmd.RegisterFlagCompletionFunc("role", a.roleNames("member", "administrator")) // fails only for a flag that is not there
	return cmd
}

// member finds somebody's membership; nil when there is none.
func (m membership) member(ctx context.Context, c *client.Client, username string) (*memberRow, error) {
	found, err := client.Get[memberRow](ctx, c, m.resource, client.Query{Select: "id",
		Filter: client.Where(m.parent+" eq ? and user/any(u:u/username eq ?)", m.id, username)})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (a people) memberRemove() *cobra.Command {
	var of where
	cmd := a.RemoveCommand(cmdline.Removal{
		Use: "rm USER", Short: "End a membership; its access ends at once", Most: 1,
		Example: "  roadstead member rm ann --fleet hello --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			m, err := of.find(ctx, c)
			if err != nil {
				return nil, err
			}
			row, err := m.member(ctx, c, args[0])
			if err != nil {
				return nil, err
			}
			if row == nil {
				return nil, api.Errorf(api.NotFound, "%s is no member of %s", args[0], m.name)
			}
			return []cmdline.Doomed{{Address: client.ID(m.resource, row.ID), Name: args[0] + " from " + m.name}}, nil
		},
	})
	of.register(a, cmd)
	return cmd
}
