package member

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const (
	maxRoleName = 100
	maxRoles    = 100 // of one organization
)

// beforeRole keeps a role of an organization well formed. It holds no verb that only administrators have, so that nobody can give by a
// role what they have not; and one that somebody has is not deleted under them.
func (m *Members) beforeRole(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return roleUnused(ctx, tx, c.IDs)
	}
	if err := checkRoleName(c); err != nil {
		return err
	}
	given, isGiven := c.Values["verbs"]
	if c.Op == odata.Create && !isGiven {
		return api.Errorf(api.Invalid, `a role needs "verbs"`)
	}
	if isGiven {
		verbs, err := roleVerbs(given)
		if err != nil {
			return err
		}
		c.Values["verbs"], c.Values["mask"] = json.RawMessage(verbs.JSON()), int64(verbs)
	}
	c.Values["modified_at"] = tx.NowText()
	if c.Op == odata.Update {
		m.accounts.Revoked(tx, "role", c.IDs...) // whoever has it may have lost something
		return nil
	}
	c.Values["created_at"] = tx.NowText()
	org, _ := c.Values["belongs_to__organization"].(int64)
	if org == 0 {
		return api.Errorf(api.Invalid, `a role needs "belongs_to__organization"`)
	}
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM application_membership_role WHERE belongs_to__organization = ?`, org).Scan(&n)
	if err != nil {
		return fmt.Errorf("create role: %w", err)
	}
	if n >= maxRoles {
		return api.Errorf(api.Invalid, "an organization has at most %d roles", maxRoles)
	}
	return nil
}

// checkRoleName keeps the names of levels to the levels: the built-in ones are addressed by them.
func checkRoleName(c *odata.Change) error {
	name, _ := c.Values["name"].(string)
	if _, err := access.ParseLevel(name); err == nil {
		return api.Errorf(api.Conflict, `"name": there is a built-in role %q`, name)
	}
	return nil
}

func roleVerbs(given any) (access.Verbs, error) {
	var names []string
	text, ok := given.(json.RawMessage)
	if s, isText := given.(string); isText { // clients may send the list as text
		text, ok = json.RawMessage(s), true
	}
	if !ok || json.Unmarshal(text, &names) != nil || len(names) == 0 {
		return access.NoVerbs, api.Errorf(api.Invalid, `"verbs" is a list of names: %s`, access.Given)
	}
	verbs, err := access.ParseVerbs(names)
	if err != nil {
		return access.NoVerbs, api.Errorf(api.Invalid, `"verbs": %v`, err)
	}
	if !access.Given.Has(verbs) {
		return access.NoVerbs, api.Errorf(api.Invalid, `"verbs": %s is for administrators of the organization alone`, verbs&^access.Given)
	}
	return verbs, nil
}

// roleUnused refuses to delete a role that somebody has. An invitation that has expired is in nobody's way.
func roleUnused(ctx context.Context, tx *db.Tx, roles []int64) error {
	these, args := db.In(roles)
	if _, err := tx.ExecContext(ctx, `DELETE FROM application_invite WHERE application_membership_role IN `+these+` AND expires_at <= ?`,
		append(args, tx.NowText())...); err != nil {
		return fmt.Errorf("delete role: %w", err)
	}
	var members, teams, invited int
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM user_application_membership WHERE application_membership_role IN `+these+`),
		(SELECT count(*) FROM team_application_access WHERE application_membership_role IN `+these+`),
		(SELECT count(*) FROM application_invite WHERE application_membership_role IN `+these+`)`,
		slices.Concat(args, args, args)...).Scan(&members, &teams, &invited)
	if err != nil {
		return fmt.Errorf("delete role: %w", err)
	}
	if members+teams+invited > 0 {
		return api.Errorf(api.Conflict, "the role is in use: %d members, %d teams and %d invitations have it; give them another first",
			members, teams, invited)
	}
	return nil
}

// CheckRole refuses a role of another organization than the fleet's. It is asked of a new row, whose values say the fleet, and of rows
// of a table that are given another role.
func CheckRole(ctx context.Context, tx *db.Tx, c *odata.Change, table, toFleet string) error {
	role, given := c.Values["application_membership_role"].(int64)
	if !given {
		return nil
	}
	var of sql.NullInt64
	err := tx.QueryRowContext(ctx, `SELECT belongs_to__organization FROM application_membership_role WHERE id = ?`, role).Scan(&of)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !of.Valid {
		return nil // built in; or none, of which the reference tells
	}
	if err != nil {
		return fmt.Errorf("role: %w", err)
	}
	query, args := `SELECT count(*) FROM application WHERE organization <> ? AND id = ?`, []any{of.Int64, c.Values[toFleet]}
	if c.Op == odata.Update {
		these, ids := db.In(c.IDs)
		query = `SELECT count(*) FROM ` + table + ` m JOIN application f ON f.id = m.` + toFleet + ` WHERE f.organization <> ? AND m.id IN ` + these
		args = append([]any{of.Int64}, ids...)
	}
	var strange int
	if err := tx.QueryRowContext(ctx, query, args...).Scan(&strange); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if strange > 0 {
		return api.Errorf(api.Invalid, `"application_membership_role" is of another organization than the fleet`)
	}
	return nil
}
