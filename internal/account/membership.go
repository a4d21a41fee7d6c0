package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Members of fleets, teams and roles have a package of their own, internal/account/member. What memberships of every kind have in common is
// here.

// Fixed refuses to change what ties a row to others: to move a membership is to end one and make another.
func Fixed(columns ...string) odata.Hook {
	return func(_ context.Context, _ *db.Tx, c *odata.Change) error {
		if c.Op != odata.Update {
			return nil
		}
		for _, name := range columns {
			if _, given := c.Values[name]; given {
				return api.Errorf(api.Invalid, "%q cannot be changed", name)
			}
		}
		return nil
	}
}

// UserByName takes the virtual field username instead of the user's id. It must be somebody whom the caller may know: one who
// shares an organization with them. Others are invited.
func UserByName(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	given, isGiven := c.Values["username"]
	if !isGiven {
		return nil
	}
	if c.Op != odata.Create {
		return api.Errorf(api.Invalid, `"username" cannot be changed`)
	}
	delete(c.Values, "username")
	name, isText := given.(string)
	if !isText {
		return api.Errorf(api.Invalid, `"username" is not a string`)
	}
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT u.id FROM "user" u WHERE u.username = ? AND (u.id = ? OR EXISTS (
			SELECT 1 FROM organization_membership theirs JOIN organization_membership mine
			ON mine.is_member_of__organization = theirs.is_member_of__organization WHERE theirs."user" = u.id AND mine."user" = ?)
			OR EXISTS (SELECT 1 FROM organization_membership mine
				WHERE mine.is_member_of__organization = u.is_service_account_of__organization AND mine."user" = ?))`,
		strings.ToLower(name), c.Caller.User, c.Caller.User, c.Caller.User).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.Invalid, "There is no member %q of your organizations; invite them by their e-mail address.", name)
	}
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	if other, both := c.Values["user"].(int64); both && other != id {
		return api.Errorf(api.Invalid, `"user" and "username" are not the same`)
	}
	c.Values["user"] = id
	return nil
}

// CheckEnd refuses an end in the past: to end a membership now is to delete it.
func CheckEnd(tx *db.Tx, c *odata.Change) error {
	if end, given := c.Values["end_date"].(string); given && c.Op != odata.Delete && end <= tx.NowText() {
		return api.Errorf(api.Invalid, `"end_date" lies in the past`)
	}
	return nil
}

// MembersChanged tells whoever holds connections open that rights have changed.
func (a *Accounts) MembersChanged(_ context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create {
		a.Revoked(tx, "member", c.IDs...)
	}
	return nil
}

// ClearEnded deletes a membership that has ended and is not yet swept away, before there is another of the same. What came with one of an
// organization goes along: who is taken in again begins anew.
func ClearEnded(ctx context.Context, tx *db.Tx, table, of string, a any, to string, b any) error {
	ended, err := db.Column[int64](ctx, tx, `SELECT id FROM `+table+` WHERE "`+of+`" = ? AND `+to+` = ? AND end_date <= ?`, a, b, tx.NowText())
	if err != nil {
		return fmt.Errorf("membership that has ended: %w", err)
	}
	if len(ended) == 0 {
		return nil
	}
	if table == "organization_membership" {
		if err := leave(ctx, tx, ended); err != nil {
			return err
		}
	}
	these, args := db.In(ended)
	if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE id IN `+these, args...); err != nil {
		return fmt.Errorf("membership that has ended: %w", err)
	}
	return nil
}

// endMemberships deletes memberships whose time is over, which give nothing any more, and says that they ended.
func (a *Accounts) endMemberships(ctx context.Context, tx *db.Tx) error {
	ended, err := db.Column[int64](ctx, tx, `SELECT id FROM organization_membership WHERE end_date <= ? ORDER BY id`, tx.NowText())
	if err != nil {
		return err
	}
	if len(ended) > 0 {
		if err := leave(ctx, tx, ended); err != nil {
			return err
		}
	}
	for _, table := range []string{"organization_membership", "user_application_membership", "team_application_access"} {
		ended, err := db.Column[int64](ctx, tx, `DELETE FROM `+table+` WHERE end_date <= ? RETURNING id`, tx.NowText())
		if err != nil {
			return err
		}
		a.Revoked(tx, "member", ended...)
	}
	return nil
}
