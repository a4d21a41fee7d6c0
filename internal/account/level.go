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

// table is how a level is asked for of the rows of one table, {t}.
type table struct {
	fleet  string // the column with the id of the fleet that decides
	owned  string // the row is one of an organization that the caller administers, asked of a row at hand
	device bool   // its rows may be opened to support staff one by one
}

// administered lists the organizations that the caller (@user) administers.
var administered = `SELECT lm.is_member_of__organization FROM organization_membership lm
	WHERE lm."user" = @user AND lm.organization_membership_role = ` + fmt.Sprint(roleAdministrator)

var (
	fleetTable  = table{fleet: `{t}.id`, owned: `{t}.organization IN (` + administered + `)`}
	parentTable = table{fleet: `{t}.belongs_to__application`, owned: `EXISTS (SELECT 1 FROM application lo
		WHERE lo.id = {t}.belongs_to__application AND lo.organization IN (` + administered + `))`}
	deviceTable = table{fleet: parentTable.fleet, owned: parentTable.owned, device: true}
)

// general is the shape that fits every caller and every statement.
var general = odata.Shape{Scoped: true, Staff: true}

// level says whether the caller has a level on a row, by right of their own or, with support, by a grant of its owner. To find rows,
// the fleets are written as a list, not as a condition on a row: both databases make it once per statement and find the rows
// of the caller by their index, so that what others have costs nothing. Of rows at hand the organization is asked for,
// so that an owner of a thousand fleets pays for no list of them.
func (t table) level(l access.Level, support bool, s odata.Shape) string {
	support = support && s.Staff && l <= access.Operator
	var may, lists []string
	if s.Asked {
		may = append(may, t.owned)
	} else {
		lists = append(lists, `SELECT lf.id FROM application lf JOIN (`+administered+`) la ON lf.organization = la.is_member_of__organization`)
	}
	if l < access.Administrator {
		lists = append(lists, granted(l))
	}
	if support {
		lists = append(lists, supported("application"))
	}
	if len(lists) > 0 {
		may = append(may, t.fleet+` {in}`+strings.Join(lists, ` UNION ALL `)+`{end}`)
	}
	if support && t.device {
		may = append(may, `{t}.id {in}`+supported("device")+`{end}`)
	}
	sql := `(` + strings.Join(may, ` OR `) + `)`
	if s.Scoped {
		sql += ` AND ` + withinKey(l, t.fleet)
	}
	return `(` + sql + `)`
}

// granted lists the fleets on which the caller, or one of the caller's teams, was given a level.
func granted(l access.Level) string {
	role := fmt.Sprint(int(l))
	return `SELECT lm.is_member_of__application FROM user_application_membership lm
			WHERE lm."user" = @user AND lm.application_membership_role >= ` + role + `
		UNION ALL SELECT lg.grants_access_to__application FROM team_membership lm
			JOIN team_application_access lg ON lg.team = lm.is_member_of__team
			WHERE lm."user" = @user AND lg.application_membership_role >= ` + role
}

// supported lists the rows of a table, fleets or devices, that their owner has opened to the caller just now, if that is support
// staff. Support needs a session: a key that lies about somewhere reaches no customer.
func supported(table string) string {
	return `SELECT lf.id FROM "user" ls JOIN ` + table + ` lf ON lf.is_accessible_by_support_until__date > @now
		WHERE ls.id = @user AND ls.is_support_staff = 1 AND CAST(@key AS BIGINT) = 0`
}

// withinKey keeps a scoped key to its level, and to its fleets. A key that is gone has neither: its row must be there.
func withinKey(l access.Level, fleet string) string {
	return `(CAST(@key AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM api_key lk WHERE lk.id = @key AND lk.max_level >= ` + fmt.Sprint(int(l)) + `))
		AND (NOT EXISTS (SELECT 1 FROM api_key lk WHERE lk.id = @key AND lk.is_for_some_fleets = 1)
			OR ` + fleet + ` IN (SELECT lk.application FROM api_key_fleet lk WHERE lk.api_key = @key))`
}

// FleetSQL says whether the caller has a level on the fleet {t}; for as long as the owner says, support staff operate it.
func FleetSQL(l access.Level) string { return fleetTable.level(l, true, general) }

// DeviceSQL says whether the caller has a level on the device {t}: that of its fleet, or a support grant on the device alone.
func DeviceSQL(l access.Level) string { return deviceTable.level(l, true, general) }

// ParentSQL says whether the caller has a level on the fleet that {t} belongs to.
func ParentSQL(l access.Level) string { return parentTable.level(l, true, general) }

// entrustedSQL says whether the caller operates the fleet {t} by right of their own, not by a support grant: what they make, such as
// a key, may outlive every grant.
func entrustedSQL() string { return fleetTable.level(access.Operator, false, general) }

// FleetColumns are the hidden columns of a fleet that say what the caller may do with it, see [access.Level].
func FleetColumns() []odata.Column { return fleetTable.columns() }

// DeviceColumns are those of a device.
func DeviceColumns() []odata.Column { return deviceTable.columns() }

// ParentColumns are those of what belongs to a fleet and has no support grant of its own.
func ParentColumns() []odata.Column { return parentTable.columns() }

func (t table) columns() []odata.Column {
	column := func(name string, l access.Level, support bool) odata.Column {
		shaped := func(s odata.Shape) string { return t.level(l, support, s) }
		return odata.Column{Name: name, Type: odata.Boolean, SQL: shaped(general), Shaped: shaped, Hidden: true}
	}
	cols := []odata.Column{column("is_entrusted", access.Operator, false)}
	for _, l := range access.Levels() {
		cols = append(cols, column(l.Column(), l, true))
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

// Bind makes SQL of a computed column fit for a statement written by hand: {t} becomes the alias, {in} and {end} a list, and each @name a placeholder
// with its value. The text holds no literal with an @ in it.
func Bind(text, alias string, tx *db.Tx, by access.Caller) (string, []any) {
	var args []any
	var b strings.Builder
	text = strings.NewReplacer("{t}", alias, "{in}", "IN (", "{end}", ")").Replace(text)
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
