package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// inviteLife is how long an invitation waits.
const inviteLife = 7 * 24 * time.Hour

// invites are the two kinds of invitations, which differ in what they invite to.
type invites struct {
	table, to, role string // table, and its columns for what is invited to and as what
	usual           int64  // the role when none is given
}

var (
	toOrganization = invites{"organization_invite", "is_invited_to__organization", "organization_membership_role", roleMember}
	toFleet        = invites{"application_invite", "is_invited_to__application", "application_membership_role", int64(access.Observer)}
)

func (a *Accounts) inviteResources() []*odata.Resource {
	fleet := toFleet.resource("invitee__is_invited_to__application", "application", "application_membership_role", fleetInviteRules())
	org := toOrganization.resource("invitee__is_invited_to__organization", "organization", "organization_membership_role",
		organizationInviteRules())
	fleet.Before = []odata.Hook{a.beforeInvite(toFleet)}
	org.Before = []odata.Hook{a.beforeInvite(toOrganization)}
	return []*odata.Resource{inviteeResource(), org, fleet}
}

func inviteeResource() *odata.Resource {
	return &odata.Resource{
		Name:    "invitee",
		Columns: []odata.Column{{Name: "id", Type: odata.Integer}, {Name: "email", Type: odata.String}},
		Keys:    [][]string{{"email"}},
		Rules:   inviteeRules(),
	}
}

// resource declares one kind. Clients give an e-mail address as invitee, and read a row: what is written is no column, and what is
// read comes from the hidden one.
func (i invites) resource(long, to, role string, rules map[access.Kind]odata.Rule) *odata.Resource {
	return &odata.Resource{
		Name: i.table, Synonyms: []string{long},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "invited", Type: odata.ForeignKey, To: "invitee", Hidden: true},
			{
				Name: "invitee", Type: odata.ForeignKey, To: "invitee", SQL: "{t}.invited",
				Reverse: []string{i.table, long, i.to, "is_of__" + long, "is_of__" + i.table, "includes__" + long, "includes__" + i.table},
			},
			{Name: i.to, Type: odata.ForeignKey, To: to, Synonyms: []string{to}, Reverse: []string{i.table, long, "includes__invitee"}},
			{Name: i.role, Type: odata.ForeignKey, To: role, Reverse: []string{"is_of__" + long, "is_of__" + i.table}},
			{Name: "message", Type: odata.String, Null: true, MaxLen: 2000},
			{Name: "is_created_by__user", Type: odata.ForeignKey, To: "user", Null: true, Reverse: []string{"creates__" + i.table}},
			{Name: "expires_at", Type: odata.Date}, // ours
			{Name: "token_hash", Type: odata.String, Hidden: true},
		},
		UniqueText: map[string]string{"invited," + i.to: `"invitee" and "` + i.to + `" must be unique.`},
		Virtual:    []string{"invitee"},
		Rules:      rules,
	}
}

// beforeInvite turns an e-mail address into an invitee. The token of the invitation is not known to anybody yet, see [InviteLink].
func (a *Accounts) beforeInvite(i invites) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		if c.Op != odata.Create {
			return nil
		}
		if i.table == toFleet.table {
			if err := checkRole(ctx, tx, c, i.table, i.to); err != nil {
				return err
			}
		}
		given, _ := c.Values["invitee"].(string)
		delete(c.Values, "invitee")
		email := strings.ToLower(strings.TrimSpace(given))
		if parsed, err := mail.ParseAddress(email); err != nil || parsed.Address != email || len(email) > 254 {
			return api.Errorf(api.Invalid, `"invitee" is not an e-mail address`)
		}
		var id int64
		err := tx.QueryRowContext(ctx, `INSERT INTO invitee (email) VALUES (?) ON CONFLICT (email) DO UPDATE SET email = excluded.email
			RETURNING id`, email).Scan(&id)
		if err != nil {
			return fmt.Errorf("invite: %w", err)
		}
		if _, given := c.Values[i.role]; !given {
			c.Values[i.role] = i.usual
		}
		c.Values["invited"], c.Values["expires_at"] = id, db.FormatTime(tx.Now.Add(inviteLife))
		c.Values["token_hash"] = a.hash.Token(newToken(prefixInvite))
		if c.Caller.User != 0 {
			c.Values["is_created_by__user"] = c.Caller.User
		}
		return nil
	}
}

// The two things that people are invited to, as their routes are named.
const (
	InviteToOrganization = "org"
	InviteToFleet        = "user"
)

func kindOf(where string) invites {
	if where == InviteToOrganization {
		return toOrganization
	}
	return toFleet
}

// InviteLink gives an invitation a new token, valid from now on for as long as a new invitation is; a former one ends. No mail is
// sent: whoever invites hands it on. The engine has found the invitation to be one that the caller may see.
func (a *Accounts) InviteLink(ctx context.Context, tx *db.Tx, where string, id int64) (api.Invitation, error) {
	i := kindOf(where)
	out := api.Invitation{Token: newToken(prefixInvite), ExpiresAt: tx.Now.Add(inviteLife)}
	res, err := tx.ExecContext(ctx, `UPDATE `+i.table+` SET token_hash = ?, expires_at = ? WHERE id = ?`,
		a.hash.Token(out.Token), db.FormatTime(out.ExpiresAt), id)
	if err != nil {
		return out, fmt.Errorf("invitation link: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return out, errors.Join(err, api.Errorf(api.NotFound, "there is no invitation %d", id))
	}
	return out, nil
}

// AcceptInvite makes the caller what an invitation says, once. It must be the one who is invited: a link that went astray lets
// nobody else in.
func (a *Accounts) AcceptInvite(ctx context.Context, tx *db.Tx, by access.Caller, where, token string) error {
	if by.Kind != access.User {
		return api.ErrUnauthorized
	}
	i := kindOf(where)
	var id, to, role int64
	var email, mine string
	err := tx.QueryRowContext(ctx, `SELECT i.id, i.`+i.to+`, i.`+i.role+`, e.email, u.email
		FROM `+i.table+` i JOIN invitee e ON e.id = i.invited JOIN "user" u ON u.id = ?
		WHERE i.token_hash = ? AND i.expires_at > ?`, by.User, a.hash.Token(token), tx.NowText()).Scan(&id, &to, &role, &email, &mine)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.NotFound, "There is no such invitation, or it has expired.")
	}
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	if !strings.EqualFold(email, mine) {
		return api.Errorf(api.Forbidden, "This invitation is for another e-mail address.")
	}
	if where == InviteToOrganization {
		if err := clearEnded(ctx, tx, "organization_membership", "user", by.User, "is_member_of__organization", to); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization,
			organization_membership_role) VALUES (?, ?, ?, ?) ON CONFLICT ("user", is_member_of__organization) DO NOTHING`,
			tx.NowText(), by.User, to, role)
	} else {
		err = AddFleetMember(ctx, tx, by.User, to, role)
	}
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM `+i.table+` WHERE id = ?`, id); err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	return nil
}
