// Package member owns who may do what in which fleet: roles, members of fleets, teams and what they reach.
package member

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Members is the running part of the package.
type Members struct {
	accounts    *account.Accounts
	validateTag odata.Hook
}

// New makes it; it starts nothing. validateTag, if it is not nil, is the hook that keeps tags well formed.
func New(accounts *account.Accounts, validateTag odata.Hook) *Members {
	return &Members{accounts, validateTag}
}

// Resources declares who has to do with which fleet: roles, members, teams and their access.
func (m *Members) Resources() []*odata.Resource {
	return []*odata.Resource{
		m.fleetRoleResource(), m.fleetMembershipResource(), m.teamResource(), m.teamMembershipResource(), m.teamAccessResource(),
		m.membershipTagResource(),
	}
}

func (m *Members) fleetRoleResource() *odata.Resource {
	return &odata.Resource{
		Name: "application_membership_role",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "modified_at", Type: odata.Date},
			{Name: "name", Type: odata.String, MaxLen: maxRoleName},
			{Name: "description", Type: odata.String, MaxLen: 1000},
			{Name: "verbs", Type: odata.JSON}, // ours: what the role may do, see internal/access
			{Name: "mask", Type: odata.Integer, Hidden: true},
			{
				Name: "belongs_to__organization", Type: odata.ForeignKey, To: "organization", Null: true,
				Reverse: []string{"owns__application_membership_role"},
			},
		},
		Keys: [][]string{{"name"}, {"belongs_to__organization", "name"}},
		UniqueText: map[string]string{
			"belongs_to__organization,name": `"belongs_to__organization" and "name" must be unique.`,
		},
		Rules:  roleRules(),
		Before: []odata.Hook{rights.FreshFor("application_membership_role"), account.Fixed("belongs_to__organization"), named("role"), m.beforeRole},
	}
}

func (m *Members) fleetMembershipResource() *odata.Resource {
	const short, long = "user_application_membership", "user__is_member_of__application"
	return &odata.Resource{
		Name: short, Synonyms: []string{long},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{
				Name: "user", Type: odata.ForeignKey, To: "user", Synonyms: []string{"includes__user"},
				Reverse: []string{
					short, long, "is_member_of__application", "is_of__" + long, "is_of__" + short, "includes__" + long, "includes__" + short,
				},
			},
			{
				Name: "is_member_of__application", Type: odata.ForeignKey, To: "application", Synonyms: []string{"application"},
				Reverse: []string{short, long, "includes__user", "includes__" + long, "includes__" + short},
			},
			{
				Name: "application_membership_role", Type: odata.ForeignKey, To: "application_membership_role",
				Reverse: []string{"is_of__user__is_member_of__application", "is_of__user_application_membership"},
			},
			{Name: "end_date", Type: odata.Date, Null: true}, // ours: from then on the membership gives nothing
		},
		Keys:       [][]string{{"user", "is_member_of__application"}},
		UniqueText: map[string]string{"user,is_member_of__application": `"user" and "is_member_of__application" must be unique.`},
		Virtual:    []string{"username"},
		Rules:      fleetMembershipRules(),
		Before:     []odata.Hook{rights.FreshFor(short), account.Fixed("user", "is_member_of__application"), account.UserByName, m.beforeFleetMembership},
		After:      []odata.Hook{m.accounts.MembersChanged},
	}
}

func (m *Members) teamResource() *odata.Resource {
	return &odata.Resource{
		Name: "team",
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "belongs_to__organization", Type: odata.ForeignKey, To: "organization", Reverse: []string{"team", "owns__team"}},
			{Name: "name", Type: odata.String, MaxLen: 255},
			{Name: "description", Type: odata.String, Null: true, MaxLen: 1000},
		},
		Keys:       [][]string{{"belongs_to__organization", "name"}},
		UniqueText: map[string]string{"belongs_to__organization,name": `"belongs_to__organization" and "name" must be unique.`},
		Rules:      teamRules(),
		Before:     []odata.Hook{rights.FreshFor("team"), account.Fixed("belongs_to__organization"), named("team")},
		After:      []odata.Hook{m.teamChanged},
	}
}

func (m *Members) teamMembershipResource() *odata.Resource {
	const short, long = "team_membership", "user__is_member_of__team"
	return &odata.Resource{
		Name: short, Synonyms: []string{long},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{
				Name: "user", Type: odata.ForeignKey, To: "user", Synonyms: []string{"includes__user"},
				Reverse: []string{short, long, "is_member_of__team"},
			},
			{
				Name: "is_member_of__team", Type: odata.ForeignKey, To: "team", Synonyms: []string{"team"},
				Reverse: []string{short, long, "includes__user"},
			},
		},
		Keys:       [][]string{{"user", "is_member_of__team"}},
		UniqueText: map[string]string{"user,is_member_of__team": `"user" and "is_member_of__team" must be unique.`},
		Virtual:    []string{"username"},
		Rules:      teamMembershipRules(),
		Before:     []odata.Hook{rights.FreshFor(short), account.Fixed("user", "is_member_of__team"), account.UserByName, m.beforeTeamMembership},
		After:      []odata.Hook{m.accounts.MembersChanged},
	}
}

func (m *Members) teamAccessResource() *odata.Resource {
	const short, long = "team_application_access", "team__grants_access_to__application"
	return &odata.Resource{
		Name: short, Synonyms: []string{long},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{
				Name: "team", Type: odata.ForeignKey, To: "team", Synonyms: []string{"is_accessible_by__team"},
				Reverse: []string{short, long, "grants_access_to__application"},
			},
			{
				Name: "grants_access_to__application", Type: odata.ForeignKey, To: "application", Synonyms: []string{"application"},
				Reverse: []string{short, long, "is_accessible_by__team"},
			},
			{
				Name: "application_membership_role", Type: odata.ForeignKey, To: "application_membership_role",
				Reverse: []string{"is_of__team__grants_access_to__application", "is_of__team_application_access"},
			},
			{Name: "end_date", Type: odata.Date, Null: true},
		},
		Keys:       [][]string{{"team", "grants_access_to__application"}},
		UniqueText: map[string]string{"team,grants_access_to__application": `"team" and "grants_access_to__application" must be unique.`},
		Rules:      teamAccessRules(),
		Before:     []odata.Hook{rights.FreshFor(short), account.Fixed("team", "grants_access_to__application"), beforeTeamAccess},
		After:      []odata.Hook{m.accounts.MembersChanged},
	}
}

func (m *Members) membershipTagResource() *odata.Resource {
	const short, long = "organization_membership_tag", "user__is_member_of__organization__has__tag_key"
	r := &odata.Resource{
		Name: short, Synonyms: []string{long, "organization_membership__has__tag_key"},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{
				Name: "organization_membership", Type: odata.ForeignKey, To: "organization_membership",
				Synonyms: []string{"user__is_member_of__organization"},
				Reverse:  []string{short, long, "organization_membership__has__tag_key"},
			},
			{Name: "tag_key", Type: odata.String, MaxLen: 1000},
			{Name: "value", Type: odata.String},
		},
		Keys:       [][]string{{"organization_membership", "tag_key"}},
		UniqueText: map[string]string{"organization_membership,tag_key": `"organization_membership" and "tag_key" must be unique.`},
		Rules:      membershipTagRules(),
	}
	if m.validateTag != nil {
		r.Before = []odata.Hook{m.validateTag}
	}
	return r
}

// named refuses a blank name.
func named(what string) odata.Hook {
	return func(_ context.Context, _ *db.Tx, c *odata.Change) error {
		name, given := c.Values["name"].(string)
		if (given || c.Op == odata.Create) && strings.TrimSpace(name) == "" {
			return api.Errorf(api.Invalid, "a %s needs a name", what)
		}
		return nil
	}
}

func (m *Members) beforeFleetMembership(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if _, given := c.Values["application_membership_role"]; c.Op == odata.Create && !given {
		c.Values["application_membership_role"] = int64(access.Observer)
	}
	if err := account.CheckEnd(tx, c); err != nil {
		return err
	}
	if c.Op == odata.Create {
		if err := account.AtHome(ctx, tx, c.Values["user"], `SELECT organization FROM application WHERE id = ?`, c.Values["is_member_of__application"]); err != nil {
			return err
		}
		if err := account.ClearEnded(ctx, tx, "user_application_membership", "user", c.Values["user"],
			"is_member_of__application", c.Values["is_member_of__application"]); err != nil {
			return err
		}
	}
	return CheckRole(ctx, tx, c, "user_application_membership", "is_member_of__application")
}

// beforeTeamMembership lets in members of the organization only: a team is a part of it.
func (m *Members) beforeTeamMembership(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create {
		return nil
	}
	var member bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM team t JOIN organization_membership m
		ON m.is_member_of__organization = t.belongs_to__organization WHERE t.id = ?1 AND m."user" = ?2)
		OR EXISTS (SELECT 1 FROM team t JOIN "user" u ON u.is_service_account_of__organization = t.belongs_to__organization WHERE t.id = ?1 AND u.id = ?2)`,
		c.Values["is_member_of__team"], c.Values["user"]).Scan(&member)
	if err != nil {
		return fmt.Errorf("team membership: %w", err)
	}
	if !member {
		return api.Errorf(api.Invalid, "Only members of the organization can be members of its teams.")
	}
	return nil
}

// beforeTeamAccess keeps teams to the fleets of their own organization.
func beforeTeamAccess(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if _, given := c.Values["application_membership_role"]; c.Op == odata.Create && !given {
		c.Values["application_membership_role"] = int64(access.Observer)
	}
	if err := account.CheckEnd(tx, c); err != nil {
		return err
	}
	if err := CheckRole(ctx, tx, c, "team_application_access", "grants_access_to__application"); err != nil || c.Op != odata.Create {
		return err
	}
	if err := account.ClearEnded(ctx, tx, "team_application_access", "team", c.Values["team"],
		"grants_access_to__application", c.Values["grants_access_to__application"]); err != nil {
		return err
	}
	var same bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM team t JOIN application f ON f.organization = t.belongs_to__organization
		WHERE t.id = ? AND f.id = ?)`, c.Values["team"], c.Values["grants_access_to__application"]).Scan(&same)
	if err != nil {
		return fmt.Errorf("team access: %w", err)
	}
	if !same {
		return api.Errorf(api.Invalid, "A team has access to fleets of its own organization only.")
	}
	return nil
}

// teamChanged tells the same of a team that is gone, with all that its members had by it.
func (m *Members) teamChanged(_ context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		m.accounts.Revoked(tx, "team", c.IDs...)
	}
	return nil
}

// AddFleetMember gives a user a role in a fleet, and never less than they have. It checks no right: the caller makes the fleet or holds
// an invitation.
func AddFleetMember(ctx context.Context, tx *db.Tx, user, fleet, role int64) error {
	var have, gets access.Verbs
	var end sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT r.mask, n.mask, m.end_date FROM application_membership_role n
		JOIN user_application_membership m ON m."user" = ? AND m.is_member_of__application = ?
		JOIN application_membership_role r ON r.id = m.application_membership_role WHERE n.id = ?`, user, fleet, role).Scan(&have, &gets, &end)
	lasts := !end.Valid || end.String > tx.NowText()
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, `INSERT INTO user_application_membership (created_at, "user", is_member_of__application,
			application_membership_role) VALUES (?, ?, ?, ?)`, tx.NowText(), user, fleet, role)
	case err != nil:
	case lasts && have.Has(gets) && !end.Valid:
		return nil
	case lasts && !gets.Has(have):
		return api.Errorf(api.Conflict, "You have another role in this fleet already; ask who invited you to change it.")
	default:
		_, err = tx.ExecContext(ctx, `UPDATE user_application_membership SET application_membership_role = ?, end_date = NULL
			WHERE "user" = ? AND is_member_of__application = ?`, role, user, fleet)
	}
	if err != nil {
		return fmt.Errorf("add fleet member: %w", err)
	}
	return nil
}
