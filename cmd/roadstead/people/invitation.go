package people

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

type inviteRow struct {
	ID      int64             `json:"id"`
	Invitee client.Ref[mail]  `json:"invitee"`
	FleetAs client.Ref[named] `json:"application_membership_role"`
	OrgAs   client.Ref[named] `json:"organization_membership_role"`
	Expires string            `json:"expires_at"`
}

type mail struct {
	Email string `json:"email"`
}

type inviteView struct {
	ID        int64  `json:"id"`
	Email     string `json:"email"`
	Role      string `json:"role"`
	ExpiresAt string `json:"expires_at"`
	Token     string `json:"token,omitempty"`
}

func viewInvite(r inviteRow) inviteView {
	return inviteView{ID: r.ID, Email: r.Invitee.Get().Email, Role: r.FleetAs.Get().Name + r.OrgAs.Get().Name, ExpiresAt: r.Expires}
}

func (a people) invitations() *cobra.Command {
	var of where
	list := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List invitations that nobody has taken up yet",
		Example: "  roadstead invite list --organization acme",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			m, err := of.find(ctx, c)
			if err != nil {
				return err
			}
			q := client.Query{Select: "id,expires_at", Filter: client.Where(m.invitedTo+" eq ?", m.id), OrderBy: "id asc",
				Expand: "invitee($select=id,email)," + m.role + "($select=id,name)"}
			return cmdline.List(ctx, a.App, c, m.invite, q, viewInvite, []string{"Id", "E-mail", "Role", "Expires"},
				func(v inviteView) []string { return []string{id(v.ID), v.Email, v.Role, v.ExpiresAt} })
		},
	})
	of.register(a, list)
	accept := a.Command(cmdline.Action{
		Use: "accept TOKEN", Short: "Take up an invitation", Example: "  roadstead invite accept 4qHc…", Least: 1, Most: 1,
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			// A token does not say what it is for; the one that does not know it changes nothing.
			err := c.Do(ctx, http.MethodPost, "/org/v1/invitation/"+url.PathEscape(args[0]), nil, nil)
			if errors.Is(err, api.ErrNotFound) {
				err = c.Do(ctx, http.MethodPost, "/user/v1/invitation/"+url.PathEscape(args[0]), nil, nil)
			}
			if err != nil {
				return err
			}
			a.Say("You are in.")
			return nil
		},
	})
	cmd := cmdline.Group("invite", "Invitations into fleets and organizations", a.inviteCreate(), list, accept, a.inviteRemove())
	cmd.Long = "An invitation is for one e-mail address, and taken up once by the account with that address. Where the server sends mail, a letter goes out;\n" +
		"otherwise hand the token that `create` prints to the one whom you invite."
	return cmd
}

func (a people) inviteCreate() *cobra.Command {
	var of where
	var role, message string
	var byHand bool
	cmd := a.Command(cmdline.Action{
		Use: "create E-MAIL", Short: "Invite somebody, by mail or with a token to hand on", Least: 1, Most: 1,
		Example: "  roadstead invite create ann@example.com --organization acme --role member\n" +
			"  roadstead invite create ann@example.com --fleet hello --role observer",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			m, err := of.find(ctx, c)
			if err != nil {
				return err
			}
			body := map[string]any{"invitee": args[0], m.invitedTo: m.id}
			if message != "" {
				body["message"] = message
			}
			if role != "" {
				if body[m.role], err = roleID(ctx, c, m.role, role, m.id); err != nil {
					return err
				}
			}
			made, err := client.Create[inviteRow](ctx, c, m.invite, body)
			if err != nil {
				return cmdline.Taken(err, "an invitation of "+args[0])
			}
			if !byHand && sendsMail(ctx, c) {
				return a.Made(inviteView{ID: made.ID, Email: args[0], Role: role, ExpiresAt: made.Expires}, "Invited %s to %s; a letter is on its way.", args[0], m.name)
			}
			var link api.Invitation
			if err := c.Do(ctx, http.MethodPost, fmt.Sprintf("/%s/v1/invitations/%d/link", m.door, made.ID), nil, &link); err != nil {
				return err
			}
			if a.Output == "json" {
				return a.JSON(inviteView{ID: made.ID, Email: args[0], Role: role, ExpiresAt: made.Expires, Token: link.Token})
			}
			a.Say("Invited %s to %s. They accept with `roadstead invite accept TOKEN`; this is the only time that it is shown:",
				args[0], m.name)
			_, err = fmt.Fprintln(a.Out, link.Token)
			return err
		},
	})
	of.register(a, cmd)
	cmd.Flags().StringVar(&role, "role", "", "as what; the lowest role when it is not given")
	cmd.Flags().BoolVar(&byHand, "token", false, "print a token to hand on, though the server sends mail; the one in the letter ends")
	cmd.Flags().StringVar(&message, "message", "", "a word to them")
	_ = cmd.RegisterFlagCompletionFunc("role", a.roleNames("member", "administrator")) // fails only for a flag that is not there
	return cmd
}

// sendsMail reports whether the server sends letters. One that does not say so does not.
func sendsMail(ctx context.Context, c *client.Client) bool {
	var site struct {
		SendsMail bool `json:"sendsMail"`
	}
	return c.Do(ctx, http.MethodGet, "/config", nil, &site) == nil && site.SendsMail
}

func (a people) inviteRemove() *cobra.Command {
	var of where
	cmd := a.RemoveCommand(cmdline.Removal{
		Use: "rm ID...", Short: "Take invitations back", Most: -1, Example: "  roadstead invite rm 3 --organization acme --yes",
		Find: func(ctx context.Context, c *client.Client, args []string) ([]cmdline.Doomed, error) {
			m, err := of.find(ctx, c)
			if err != nil {
				return nil, err
			}
			var found []cmdline.Doomed
			for _, arg := range args {
				n, err := number(arg, "an invitation", "invite list")
				if err != nil {
					return nil, err
				}
				if _, err := client.One[inviteRow](ctx, c, client.ID(m.invite, n), client.Query{Select: "id"}); err != nil {
					return nil, err
				}
				found = append(found, cmdline.Doomed{Address: client.ID(m.invite, n), Name: "invitation " + arg})
			}
			return found, nil
		},
	})
	of.register(a, cmd)
	return cmd
}
