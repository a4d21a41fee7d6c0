// Package invite owns invitations of people to organizations and fleets, by e-mail address: who may invite, the link that is handed on, and
// what it makes of whoever accepts it.
package invite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/letter"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// life is how long an invitation waits.
const life = 7 * 24 * time.Hour

// kind is one of the two kinds of invitations, which differ in what they invite to.
type kind struct {
	table, to, role string // table, and its columns for what is invited to and as what
	usual           int64  // the role when none is given
}

var (
	ofOrganization = kind{"organization_invite", "is_invited_to__organization", "organization_membership_role", rights.Member}
	ofFleet        = kind{"application_invite", "is_invited_to__application", "application_membership_role", int64(access.Observer)}
)

// Invites is the running part of the package.
type Invites struct{ accounts *account.Accounts }

// New makes it; it starts nothing.
func New(accounts *account.Accounts) *Invites { return &Invites{accounts} }

// Resources declares what the API shows of invitations.
func (a *Invites) Resources() []*odata.Resource {
	fleet := ofFleet.resource("invitee__is_invited_to__application", "application", "application_membership_role", fleetInviteRules())
	org := ofOrganization.resource("invitee__is_invited_to__organization", "organization", "organization_membership_role",
		organizationInviteRules())
	fleet.Before = []odata.Hook{rights.FreshFor(fleet.Name), a.beforeInvite(ofFleet)}
	org.Before = []odata.Hook{rights.FreshFor(org.Name), a.beforeInvite(ofOrganization)}
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
func (i kind) resource(long, to, role string, rules map[access.Kind]odata.Rule) *odata.Resource {
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
			{Name: i.to, Type: odata.ForeignKey, To: to, Synonyms: []string{to}, Reverse: []string{i.table, long, "includes__invitee", "invitee"}},
			{Name: i.role, Type: odata.ForeignKey, To: role, Reverse: []string{"is_of__" + long, "is_of__" + i.table}},
			{Name: "message", Type: odata.String, Null: true, MaxLen: 2000},
			{Name: "is_created_by__user", Type: odata.ForeignKey, To: "user", Null: true, Reverse: []string{"creates__" + i.table, "creates__" + long}},
			{Name: "expires_at", Type: odata.Date}, // ours
			{Name: "token_hash", Type: odata.String, Hidden: true},
		},
		UniqueText: map[string]string{"invited," + i.to: `"invitee" and "` + i.to + `" must be unique.`},
		Virtual:    []string{"invitee"},
		Rules:      rules,
	}
}

// beforeInvite turns an e-mail address into an invitee. The token of the invitation is known to nobody but whom a letter goes to, if the
// server sends mail; see [Invites.Link].
func (a *Invites) beforeInvite(i kind) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		if c.Op != odata.Create {
			return nil
		}
		if i.table == ofFleet.table {
			if err := member.CheckRole(ctx, tx, c, i.table, i.to); err != nil {
				return err
			}
		}
		given, _ := c.Values["invitee"].(string)
		delete(c.Values, "invitee")
		email := strings.ToLower(strings.TrimSpace(given))
		if !letter.IsAddress(email) {
			return api.Errorf(api.Invalid, `"invitee" is not an e-mail address`)
		}
		var id int64
		err := tx.QueryRowContext(ctx, `INSERT INTO invitee (email) VALUES (?) ON CONFLICT (email) DO UPDATE SET email = excluded.email
			RETURNING id`, email).Scan(&id)
		if err != nil {
			return fmt.Errorf("invite: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+i.table+` WHERE invited = ? AND `+i.to+` = ? AND expires_at <= ?`,
			id, c.Values[i.to], tx.NowText()); err != nil { // one that has expired is in nobody's way
			return fmt.Errorf("invite: %w", err)
		}
		if _, given := c.Values[i.role]; !given {
			c.Values[i.role] = i.usual
		}
		secret, until := token.New(token.Invite), tx.Now.Add(life)
		c.Values["invited"], c.Values["expires_at"] = id, db.FormatTime(until)
		c.Values["token_hash"] = a.accounts.Hasher().Token(secret)
		if c.Caller.User != 0 {
			c.Values["is_created_by__user"] = c.Caller.User
		}
		to, _ := c.Values[i.to].(int64)
		role, _ := c.Values[i.role].(int64)
		return a.sendInvite(ctx, tx, i, c.Caller, account.Notice{To: email, Until: until, Data: map[string]string{"token": secret}}, to, role)
	}
}

// sendInvite sends the letter of a new invitation. The words of whoever invites are not in it, and of an organization it says the handle,
// whose letters are few, not the name, and nothing of a role that it has made itself: nobody shall write to strangers in our name.
func (a *Invites) sendInvite(ctx context.Context, tx *db.Tx, i kind, by access.Caller, n account.Notice, to, role int64) error {
	if !a.accounts.Mails() {
		return nil
	}
	query := `SELECT (SELECT handle FROM organization WHERE id = ?), (SELECT name FROM organization_membership_role WHERE id = ?)`
	n.Data["where"] = ToOrganization
	if i == ofFleet {
		query = `SELECT (SELECT slug FROM application WHERE id = ?), (SELECT CASE WHEN belongs_to__organization IS NULL THEN name ELSE 'a member in a role of its own' END
			FROM application_membership_role WHERE id = ?)`
		n.Data["where"] = ToFleet
	}
	var what, name sql.NullString
	if err := tx.QueryRowContext(ctx, query, to, role).Scan(&what, &name); err != nil {
		return fmt.Errorf("invite: %w", err)
	}
	if !what.Valid || !name.Valid {
		return nil // the engine refuses it in its own words
	}
	n.Kind, n.By = "invitation", by.User
	n.Data["what"], n.Data["role"], n.Data["inviter"], n.Data["until"] = what.String, name.String, by.Name, letter.Time(n.Until)
	return a.accounts.Notify(ctx, tx, n)
}

// The two things that people are invited to, as their routes are named.
const (
	ToOrganization = "org"
	ToFleet        = "user"
)

func kindOf(where string) kind {
	if where == ToOrganization {
		return ofOrganization
	}
	return ofFleet
}

// Link gives an invitation a new token, valid from now on for as long as a new invitation is; a former one ends, one that was sent by
// mail too. Whoever invites hands it on. The engine has found the invitation to be one that the caller may see.
func (a *Invites) Link(ctx context.Context, tx *db.Tx, by access.Caller, where string, id int64) (api.Invitation, error) {
	i := kindOf(where)
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return api.Invitation{}, err
	}
	out := api.Invitation{Token: token.New(token.Invite), ExpiresAt: tx.Now.Add(life)}
	var email string
	err := tx.QueryRowContext(ctx, `UPDATE `+i.table+` SET token_hash = ?, expires_at = ?, is_created_by__user = coalesce(NULLIF(?, 0), is_created_by__user)
		WHERE id = ? RETURNING (SELECT e.email FROM invitee e WHERE e.id = invited)`,
		a.accounts.Hasher().Token(out.Token), db.FormatTime(out.ExpiresAt), by.User, id).Scan(&email)
	if errors.Is(err, sql.ErrNoRows) {
		return out, api.Errorf(api.NotFound, "there is no invitation %d", id)
	}
	if err != nil {
		return out, fmt.Errorf("invitation link: %w", err)
	}
	entry := audit.Entry{Act: "invitation.link", Kind: i.table, ID: id, Name: email, User: by.User}
	var to int64
	if err := tx.QueryRowContext(ctx, `SELECT `+i.to+` FROM `+i.table+` WHERE id = ?`, id).Scan(&to); err != nil {
		return out, fmt.Errorf("invitation link: %w", err)
	}
	if err := whose(ctx, tx, where, to, &entry); err != nil {
		return out, err
	}
	return out, audit.Record(ctx, tx, by, entry)
}

// whose says of an entry whose administrators read of it: those of the organization, or of the fleet, that an invitation leads to.
func whose(ctx context.Context, tx *db.Tx, where string, to int64, e *audit.Entry) error {
	if where == ToOrganization {
		e.Organization = to
		return nil
	}
	e.Fleet = to
	if err := tx.QueryRowContext(ctx, `SELECT organization FROM application WHERE id = ?`, to).Scan(&e.Organization); err != nil {
		return fmt.Errorf("whose invitation: %w", err)
	}
	return nil
}

// Accept makes the caller what an invitation says, once. It must be the one who is invited: a link that went astray lets
// nobody else in. And who invited must still be one who may: an administrator who was removed has left no doors open.
func (a *Invites) Accept(ctx context.Context, tx *db.Tx, by access.Caller, where, token string) error {
	if by.Kind != access.User {
		return api.ErrUnauthorized
	}
	i := kindOf(where)
	var id, to, role, invited int64
	var maker sql.NullInt64
	err := tx.QueryRowContext(ctx, `DELETE FROM `+i.table+` WHERE token_hash = ? AND expires_at > ?
		RETURNING id, `+i.to+`, `+i.role+`, invited, is_created_by__user`, a.accounts.Hasher().Token(token), tx.NowText()).Scan(&id, &to, &role, &invited, &maker)
	if errors.Is(err, sql.ErrNoRows) {
		return errNoInvite
	}
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	var email, mine, name string
	err = tx.QueryRowContext(ctx, `SELECT e.email, u.email, u.username FROM invitee e, "user" u WHERE e.id = ? AND u.id = ?`, invited, by.User).
		Scan(&email, &mine, &name)
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	if !strings.EqualFold(email, mine) { // the transaction, and with it the deletion, is undone
		return api.Errorf(api.Forbidden, "This invitation is for another e-mail address than that of your account.")
	}
	if err := i.stillMay(ctx, tx, maker, to); err != nil {
		return err
	}
	if where == ToOrganization {
		if err := a.accounts.MemberNeedsWayIn(ctx, tx, by.User, to); err != nil {
			return err
		}
	}
	entry := audit.Entry{Act: "invitation.accept", Kind: i.table, ID: id, Name: email, User: by.User, Detail: map[string]any{"role": role}}
	if err := whose(ctx, tx, where, to, &entry); err != nil {
		return err
	}
	if where == ToOrganization {
		if err := account.ClearEnded(ctx, tx, "organization_membership", "user", by.User, "is_member_of__organization", to); err != nil {
			return err
		}
		if err := a.accounts.TakeIn(ctx, tx, by.User, to); err != nil {
			return err
		}
		// Never less than they have, as in a fleet.
		_, err = tx.ExecContext(ctx, `INSERT INTO organization_membership AS m (created_at, "user", is_member_of__organization,
				organization_membership_role) VALUES (?, ?, ?, ?) ON CONFLICT ("user", is_member_of__organization)
			DO UPDATE SET end_date = NULL, organization_membership_role = CASE excluded.organization_membership_role
				WHEN ? THEN excluded.organization_membership_role ELSE m.organization_membership_role END`,
			tx.NowText(), by.User, to, role, rights.Administrator)
	} else {
		err = member.AddFleetMember(ctx, tx, by.User, to, role)
	}
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	return audit.Record(ctx, tx, by, entry)
}

var errNoInvite = api.Errorf(api.NotFound, "There is no such invitation, or it has expired.")

// stillMay refuses the invitation of somebody who might not make it today.
func (i kind) stillMay(ctx context.Context, tx *db.Tx, maker sql.NullInt64, to int64) error {
	if !maker.Valid {
		return nil // the server's own
	}
	who, err := rights.Maker(ctx, tx, maker.Int64)
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	var may bool
	if i == ofFleet {
		var verbs access.Verbs
		verbs, err = rights.FleetVerbs(ctx, tx, who, to)
		may = verbs.Has(access.Members)
	} else {
		may, err = rights.Administers(ctx, tx, who, to)
	}
	if err != nil {
		return fmt.Errorf("accept invitation: %w", err)
	}
	if !may {
		return errNoInvite
	}
	return nil
}
