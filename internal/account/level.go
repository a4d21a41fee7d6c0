package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// LevelSQL says whether the caller (@user, with the key @key) has a level on the fleet whose row is {t}. Everything but the row
// itself is asked for in uncorrelated subqueries: both databases answer those once per statement, not once per row.
func LevelSQL(l access.Level) string {
	given := `{t}.organization IN (SELECT m.is_member_of__organization FROM organization_membership m
			WHERE m."user" = @user AND m.organization_membership_role = ` + fmt.Sprint(roleAdministrator) + `)`
	if l < access.Administrator {
		role := fmt.Sprint(int(l))
		given += ` OR {t}.id IN (SELECT m.is_member_of__application FROM user_application_membership m
			WHERE m."user" = @user AND m.application_membership_role >= ` + role + `)
		OR {t}.id IN (SELECT g.grants_access_to__application FROM team_membership m
			JOIN team_application_access g ON g.team = m.is_member_of__team
			WHERE m."user" = @user AND g.application_membership_role >= ` + role + `)`
	}
	return `((` + given + `) AND ` + keySQL(l) + `)`
}

// keySQL keeps a scoped key within its level and its fleets. A key that is gone has neither: its row must be there.
func keySQL(l access.Level) string {
	return `(CAST(@key AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM api_key k WHERE k.id = @key AND k.max_level >= ` + fmt.Sprint(int(l)) + `))
		AND (NOT EXISTS (SELECT 1 FROM api_key k WHERE k.id = @key AND k.is_for_some_fleets = 1)
			OR {t}.id IN (SELECT s.application FROM api_key_fleet s WHERE s.api_key = @key))`
}

// SupportSQL says whether the caller is support staff to whom the owner of {t}, a fleet or a device, has opened it just now.
// Support needs a session: a key that lies about somewhere reaches no customer.
const SupportSQL = `({t}.is_accessible_by_support_until__date > @now
		AND EXISTS (SELECT 1 FROM "user" s WHERE s.id = @user AND s.is_support_staff = 1)
		AND CAST(@key AS BIGINT) = 0)`

// FleetSQL is LevelSQL with what a support grant adds: for as long as the owner says, support staff operate the fleet.
func FleetSQL(l access.Level) string {
	if l > access.Operator {
		return LevelSQL(l)
	}
	return `(` + LevelSQL(l) + ` OR ` + SupportSQL + `)`
}

// DeviceSQL says whether the caller has a level on the device {t}: that of its fleet, or a support grant on the device alone.
func DeviceSQL(l access.Level) string {
	if l > access.Operator {
		return ParentSQL(l)
	}
	return `(` + ParentSQL(l) + ` OR ` + SupportSQL + `)`
}

// ParentSQL says whether the caller has a level on the fleet that {t} belongs to.
func ParentSQL(l access.Level) string {
	return `EXISTS (SELECT 1 FROM application lf WHERE lf.id = {t}.belongs_to__application
		AND ` + strings.ReplaceAll(FleetSQL(l), "{t}", "lf") + `)`
}

// LevelColumns are the hidden columns of a resource that say which levels the caller has on its rows; sql gives the condition
// of a level.
func LevelColumns(sql func(access.Level) string) []odata.Column {
	var cols []odata.Column
	for _, l := range access.Levels() {
		cols = append(cols, odata.Column{Name: l.Column(), Type: odata.Boolean, SQL: sql(l), Hidden: true})
	}
	return cols
}

// FleetLevel is the caller's level on a fleet, for code that asks outside of the resources' rules. A device and a fleet key observe
// their own fleet and the server itself may do everything; a provisioning key has no level.
func FleetLevel(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64) (access.Level, error) {
	switch by.Kind {
	case access.Device, access.FleetKey:
		if by.Fleet == fleet {
			return access.Observer, nil
		}
		return access.NoLevel, nil
	default:
		return level(ctx, tx, by, FleetSQL, "application", fleet)
	}
}

// DeviceLevel is the caller's level on a device, by its fleet or by a support grant on it alone. A device observes itself.
func DeviceLevel(ctx context.Context, tx *db.Tx, by access.Caller, device int64) (access.Level, error) {
	switch by.Kind {
	case access.Device:
		if by.Device == device {
			return access.Observer, nil
		}
		return access.NoLevel, nil
	case access.FleetKey:
		var level access.Level
		err := tx.QueryRowContext(ctx, `SELECT CASE WHEN belongs_to__application = ? THEN 1 ELSE 0 END FROM device WHERE id = ?`,
			by.Fleet, device).Scan(&level)
		return found(level, err)
	default:
		return level(ctx, tx, by, DeviceSQL, "device", device)
	}
}

func level(
	ctx context.Context, tx *db.Tx, by access.Caller, sql func(access.Level) string, table string, id int64,
) (access.Level, error) {
	switch by.Kind {
	case access.System:
		return access.Administrator, nil
	case access.User, access.ScopedKey:
	default:
		return access.NoLevel, nil
	}
	var cases strings.Builder
	var args []any
	for _, l := range []access.Level{access.Administrator, access.Developer, access.Operator, access.Observer} {
		text, values := Bind(sql(l), "x", tx, by)
		fmt.Fprintf(&cases, " WHEN %s THEN %d", text, l)
		args = append(args, values...)
	}
	var level access.Level
	err := tx.QueryRowContext(ctx, `SELECT CASE`+cases.String()+` ELSE 0 END FROM `+table+` x WHERE x.id = ?`, append(args, id)...).
		Scan(&level)
	return found(level, err)
}

func found(level access.Level, err error) (access.Level, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return access.NoLevel, nil
	}
	if err != nil {
		return access.NoLevel, fmt.Errorf("level of the caller: %w", err)
	}
	return level, nil
}

// Bind makes SQL of a computed column fit for a statement written by hand: {t} becomes the alias, and each @name a placeholder
// with its value. The text holds no literal with an @ in it.
func Bind(text, alias string, tx *db.Tx, by access.Caller) (string, []any) {
	var args []any
	var b strings.Builder
	text = strings.ReplaceAll(text, "{t}", alias)
	for {
		i := strings.IndexByte(text, '@')
		if i < 0 {
			b.WriteString(text)
			return b.String(), args
		}
		b.WriteString(text[:i] + "?")
		text = text[i+1:]
		switch {
		case strings.HasPrefix(text, "user"):
			text, args = text[len("user"):], append(args, by.User)
		case strings.HasPrefix(text, "key"):
			text, args = text[len("key"):], append(args, by.Key)
		case strings.HasPrefix(text, "now"):
			text, args = text[len("now"):], append(args, tx.NowText())
		default:
			panic("account: SQL with an unknown parameter: " + text) // a constant of the program
		}
	}
}

// Require refuses a caller who has less than a level on a fleet: what they may not even observe is not found.
func Require(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, need access.Level) error {
	have, err := FleetLevel(ctx, tx, by, fleet)
	switch {
	case err != nil:
		return err
	case have == access.NoLevel:
		return api.ErrNotFound
	case have < need:
		return api.Errorf(api.Forbidden, "this needs a %s of the fleet", need)
	}
	return nil
}
