package account

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	maxHandle  = 100
	maxKeyDays = 3650
)

var (
	handleForm  = pattern.New(`^[a-z0-9][a-z0-9_-]*$`)
	notInHandle = pattern.New(`[^a-z0-9]+`)
)

// freeHandle makes a handle of a name: lower case, and numbered when it is taken.
func freeHandle(ctx context.Context, tx *db.Tx, name string) (string, error) {
	base := strings.ToLower(name)
	if !handleForm.MatchString(base) {
		base = strings.Trim(notInHandle.ReplaceAllString(base, "_"), "_")
	}
	if base == "" {
		base = "organization"
	}
	base = clip(base, maxHandle-10)
	for n := 1; n < 10_000; n++ {
		handle := base
		if n > 1 {
			handle = fmt.Sprintf("%s%d", base, n)
		}
		var taken bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization WHERE handle = ?)`, handle).Scan(&taken)
		if err != nil {
			return "", err
		}
		if !taken && handle != SystemHandle {
			return handle, nil
		}
	}
	return "", api.Errorf(api.Conflict, "no free handle for %q is left; choose one", name)
}

func addMember(ctx context.Context, tx *db.Tx, organization, user int64, role int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization,
		organization_membership_role) VALUES (?, ?, ?, ?)`, tx.NowText(), user, organization, role)
	if err != nil {
		return fmt.Errorf("add member: %w", err)
	}
	return nil
}

// beforeOrganization names a new organization and keeps handles well formed.
func (a *Accounts) beforeOrganization(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return a.endServiceAccounts(ctx, tx, c.IDs)
	}
	name, named := c.Values["name"].(string)
	if named && strings.TrimSpace(name) == "" {
		return api.Errorf(api.Invalid, "an organization needs a name")
	}
	if c.Op == odata.Update && on(c.Values["is_forbidding_passwords"]) {
		if err := a.shutsNobodyOut(ctx, tx, c.IDs); err != nil {
			return err
		}
	}
	if days, given := c.Values["max_key_days"].(int64); given && (days < 1 || days > maxKeyDays) {
		return api.Errorf(api.Invalid, `"max_key_days" is a number of days, 1 to %d, or null`, maxKeyDays)
	}
	handle, given := c.Values["handle"].(string)
	switch {
	case given && handle == SystemHandle:
		return api.Errorf(api.Conflict, `"handle" must be unique.`) // taken, whether it is there yet or not
	case given && (!handleForm.MatchString(handle) || len(handle) > maxHandle):
		return api.Errorf(api.Invalid, "a handle has at most %d lower-case letters, digits, _ and -, and starts with a letter or digit",
			maxHandle)
	case c.Op == odata.Create && !named:
		return api.Errorf(api.Invalid, "an organization needs a name")
	case c.Op == odata.Create && !given:
		free, err := freeHandle(ctx, tx, name)
		if err != nil {
			return fmt.Errorf("create organization: %w", err)
		}
		c.Values["handle"] = free
	}
	return nil
}

// afterOrganization makes the creator its administrator, and lets names follow a new handle.
func (a *Accounts) afterOrganization(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	switch {
	case c.Op == odata.Create && c.Caller.Kind == access.User:
		return addMember(ctx, tx, c.IDs[0], c.Caller.User, rights.Administrator)
	case c.Op == odata.Update && a.cfg.HandleChanged != nil:
		handle, changed := c.Values["handle"].(string)
		if !changed {
			return nil
		}
		for _, id := range c.IDs {
			if err := a.cfg.HandleChanged(ctx, tx, id, handle); err != nil {
				return fmt.Errorf("change handle: %w", err)
			}
		}
	}
	return nil
}

// beforeMembership gives a new member the smaller role, keeps an organization from losing its last administrator, and takes with
// a membership what came with it. Deleting the organization itself takes its memberships along without coming here.
func (a *Accounts) beforeMembership(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	role, given := c.Values["organization_membership_role"].(int64)
	if err := CheckEnd(tx, c); err != nil {
		return err
	}
	if c.Op == odata.Create {
		if !given {
			c.Values["organization_membership_role"] = int64(rights.Member)
		}
		if err := refuseService(ctx, tx, c.Values["user"]); err != nil {
			return err
		}
		user, _ := c.Values["user"].(int64)
		organization, _ := c.Values["is_member_of__organization"].(int64)
		if err := a.MemberNeedsWayIn(ctx, tx, user, organization); err != nil {
			return err
		}
		return ClearEnded(ctx, tx, "organization_membership", "user", user, "is_member_of__organization", organization)
	}
	if end, ends := c.Values["end_date"]; c.Op == odata.Update && (!given || role == rights.Administrator) && (!ends || end == nil) {
		return nil
	}
	if err := keepsAdministrators(ctx, tx, c.IDs); err != nil {
		return err
	}
	if c.Op == odata.Delete {
		return leave(ctx, tx, c.IDs)
	}
	if !given || role == rights.Administrator {
		return nil
	}
	return notOwn(ctx, tx, c)
}

// notOwn says why nobody takes their own role away: a change must be one that its maker may make after it, too.
func notOwn(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	these, args := db.In(c.IDs)
	var own bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization_membership WHERE "user" = ? AND id IN `+these+`)`,
		append([]any{c.Caller.User}, args...)...).Scan(&own)
	if err != nil {
		return fmt.Errorf("change membership: %w", err)
	}
	if own {
		return api.Errorf(api.Invalid, `"organization_membership_role": another administrator makes you a member; or leave the organization`)
	}
	return nil
}

// keepsAdministrators refuses to take from an organization the last of its administrators who stays until somebody says otherwise. One who
// is disabled administers nothing.
func keepsAdministrators(ctx context.Context, tx *db.Tx, memberships []int64) error {
	these, args := db.In(memberships)
	var orphan bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization_membership m WHERE m.id IN `+these+`
		AND m.organization_membership_role = ? AND m.end_date IS NULL AND NOT EXISTS (SELECT 1 FROM organization_membership o
			JOIN "user" u ON u.id = o."user" AND u.is_disabled = 0
			WHERE o.is_member_of__organization = m.is_member_of__organization AND o.organization_membership_role = ? AND o.end_date IS NULL
				AND o.id NOT IN `+these+`))`,
		slices.Concat(args, []any{rights.Administrator, rights.Administrator}, args)...).Scan(&orphan)
	if err != nil {
		return fmt.Errorf("change membership: %w", err)
	}
	if orphan {
		return api.Errorf(api.Invalid, "an organization needs at least one administrator without an end date")
	}
	return nil
}

// leave ends what members had in the teams and the fleets of an organization that they are about to leave.
func leave(ctx context.Context, tx *db.Tx, memberships []int64) error {
	these, args := db.In(memberships)
	for _, query := range []string{
		`DELETE FROM team_membership WHERE EXISTS (SELECT 1 FROM organization_membership m
			JOIN team t ON t.belongs_to__organization = m.is_member_of__organization
			WHERE m.id IN ` + these + ` AND m."user" = team_membership."user" AND t.id = team_membership.is_member_of__team)`,
		`DELETE FROM user_application_membership WHERE EXISTS (SELECT 1 FROM organization_membership m
			JOIN application f ON f.organization = m.is_member_of__organization
			WHERE m.id IN ` + these + ` AND m."user" = user_application_membership."user"
			AND f.id = user_application_membership.is_member_of__application)`,
	} {
		if _, err := tx.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("leave organization: %w", err)
		}
	}
	return nil
}

// MemberNeedsWayIn refuses to make somebody a member of an organization that forbids passwords who has no other way to sign in: the
// organization would shut them out of the server, and they could not even leave it.
func (a *Accounts) MemberNeedsWayIn(ctx context.Context, tx *db.Tx, user, organization int64) error {
	var forbids bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization WHERE id = ? AND is_forbidding_passwords = 1)`, organization).Scan(&forbids)
	if err != nil {
		return fmt.Errorf("way in: %w", err)
	}
	if !forbids {
		return nil
	}
	other, err := a.otherWayIn(ctx, tx, user)
	if err == nil && !other {
		err = api.Errorf(api.Forbidden, "the organization allows no passwords; link an identity or add a passkey first")
	}
	return err
}

// maxNamed is how many people a refusal names.
const maxNamed = 5

// shutsNobodyOut refuses to forbid passwords in organizations while members have no other way to sign in.
func (a *Accounts) shutsNobodyOut(ctx context.Context, tx *db.Tx, organizations []int64) error {
	these, args := db.In(organizations)
	members, err := db.Column[int64](ctx, tx, `SELECT m."user" FROM organization_membership m
		JOIN organization o ON o.id = m.is_member_of__organization AND o.is_forbidding_passwords = 0
		WHERE o.id IN `+these+` AND (m.end_date IS NULL OR m.end_date > ?) ORDER BY m."user"`, append(args, tx.NowText())...)
	if err != nil {
		return fmt.Errorf("forbid passwords: %w", err)
	}
	var names []string
	for _, user := range members {
		if other, err := a.otherWayIn(ctx, tx, user); err != nil {
			return err
		} else if other {
			continue
		}
		if len(names) == maxNamed {
			names = append(names, "others")
			break
		}
		var name string
		if err := tx.QueryRowContext(ctx, `SELECT username FROM "user" WHERE id = ?`, user).Scan(&name); err != nil {
			return fmt.Errorf("forbid passwords: %w", err)
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		return api.Errorf(api.Invalid, "is_forbidding_passwords: no other way to sign in have %s; they link an identity or add a passkey first, or leave",
			strings.Join(names, ", "))
	}
	return nil
}
