package rights

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// SupportColumn is the column of fleets and devices that says until when support staff may reach them.
const SupportColumn = "is_accessible_by_support_until__date"

// LongestSupport bounds how far ahead support is let in: a grant that nobody remembers must end by itself.
const LongestSupport = 30 * 24 * time.Hour

// ClosedColumn is the column of fleets that says that support is shut out for good. It is set once.
const ClosedColumn = "is_closed_to_support"

// BoundSupport is the hook that keeps support grants on fleets, or on devices, short, and out of where support is shut out for good.
func BoundSupport(resource string) odata.Hook {
	return func(ctx context.Context, tx *db.Tx, c *odata.Change) error {
		closing, given := c.Values[ClosedColumn].(bool)
		if given && closing {
			c.Values[SupportColumn] = nil
		}
		until, opening := c.Values[SupportColumn].(string)
		if opening {
			if err := boundUntil(tx, until); err != nil {
				return err
			}
		}
		if c.Op != odata.Update || !opening && (!given || closing) {
			return nil
		}
		of := `x.id`
		if resource == "device" {
			of = `x.belongs_to__application`
		}
		list, args := db.In(c.IDs)
		var closed int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM "`+resource+`" x JOIN application f ON f.id = `+of+` WHERE f.is_closed_to_support = 1 AND x.id IN `+list, args...).
			Scan(&closed)
		if err != nil {
			return fmt.Errorf("support: %w", err)
		}
		if closed > 0 {
			return api.Errorf(api.Forbidden, "The fleet has shut support out for good; nobody can undo that.")
		}
		return nil
	}
}

func boundUntil(tx *db.Tx, until string) error {
	// A minute more than told: the clocks of those who ask need not agree with ours.
	if until > db.FormatTime(tx.Now.Add(LongestSupport+time.Minute)) {
		return api.Errorf(api.Invalid, "%q: support is let in for at most %d days", SupportColumn, int(LongestSupport/(24*time.Hour)))
	}
	return nil
}

// ByGrant reports whether the caller has a verb on a fleet not by right of their own but, if at all, by a support grant.
func ByGrant(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, v access.Verbs) (bool, error) {
	if !by.Staff {
		return false, nil
	}
	text, args := Bind(fleetTable.may(v, odata.Shape{Scoped: true}), "x", tx, by)
	var own int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM application x WHERE x.id = ? AND `+text, append([]any{fleet}, args...)...).Scan(&own); err != nil {
		return false, fmt.Errorf("verbs of support: %w", err)
	}
	return own == 0, nil
}

// SupportStaff lists the people who give support.
func SupportStaff(ctx context.Context, tx *db.Tx) ([]api.User, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, username, email FROM "user" WHERE is_support_staff = 1 ORDER BY username`)
	if err != nil {
		return nil, fmt.Errorf("support staff: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	list := []api.User{}
	for rows.Next() {
		var u api.User
		if err := rows.Scan(&u.ID, &u.Username, &u.Email); err != nil {
			return nil, fmt.Errorf("support staff: %w", err)
		}
		list = append(list, u)
	}
	return list, rows.Err()
}

// SeesEntry is the condition under which a person reads an entry {t} of the audit log: it is of an organization that they administer, or of
// a fleet of theirs where no organization was written down; about them, or by them. What support staff did is also read by those who hold the
// fleet's keys, which no support grant gives. What was done in a fleet before it came to its organization stays with the former one.
func SeesEntry() string {
	fleets := func(may string) string {
		return `SELECT sf.id FROM application sf WHERE ` + strings.NewReplacer("{t}", "sf", "{in}", "IN (", "{end}", ")").Replace(may)
	}
	return `({t}.about_user = @user OR {t}.by_user = @user OR {t}.organization IN (` + administered + `)
		OR {t}.organization = 0 AND {t}.application IN (` + fleets(FleetSQL(access.Members)) + `)
		OR {t}.is_support = 1 AND {t}.application IN (` + fleets(FleetSQL(access.Keys)) + `)
			AND EXISTS (SELECT 1 FROM application so WHERE so.id = {t}.application AND so.organization = {t}.organization))`
}
