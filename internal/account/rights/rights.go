// Package rights says what a caller may do with fleets, devices and organizations, and how lately somebody must have proved who they are
// for it. It reads the tables of the packages above it, and writes none.
package rights

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

// table is how a verb is asked for of the rows of one table, {t}.
type table struct {
	fleet  string // the column with the id of the fleet that decides
	owned  string // the row is one of an organization that the caller administers, asked of a row at hand
	device bool   // its rows may be opened to support staff one by one
}

// administered lists the organizations that the caller (@user) administers.
var administered = `SELECT lm.is_member_of__organization FROM organization_membership lm
	WHERE lm."user" = @user AND lm.organization_membership_role = ` + fmt.Sprint(Administrator) + ` AND ` + Lasting("lm")

// Lasting holds for a membership that has not ended.
func Lasting(alias string) string {
	return `(` + alias + `.end_date IS NULL OR ` + alias + `.end_date > @now)`
}

// notLeft holds unless the caller's membership of the fleet's organization has ended: what came with it ends with it.
func notLeft(fleet string) string {
	return `NOT EXISTS (SELECT 1 FROM application la JOIN organization_membership lo ON lo.is_member_of__organization = la.organization
		WHERE la.id = ` + fleet + ` AND lo."user" = @user AND lo.end_date <= @now)`
}

var (
	fleetTable  = table{fleet: `{t}.id`, owned: `{t}.organization IN (` + administered + `)`}
	parentTable = table{fleet: `{t}.belongs_to__application`, owned: `EXISTS (SELECT 1 FROM application lo
		WHERE lo.id = {t}.belongs_to__application AND lo.organization IN (` + administered + `))`}
	deviceTable = table{fleet: parentTable.fleet, owned: parentTable.owned, device: true}
)

// general is the shape that fits every caller and every statement.
var general = odata.Shape{Scoped: true, Staff: true}

// may says whether the caller has a verb on a row, by right of their own or by a grant of its owner to support. To find rows,
// the fleets are written as a list, not as a condition on a row: both databases make it once per statement and find the rows
// of the caller by their index, so that what others have costs nothing. Of rows at hand the organization is asked for,
// so that an owner of a thousand fleets pays for no list of them.
func (t table) may(v access.Verbs, s odata.Shape) string {
	support := s.Staff && access.Support.Has(v)
	var may, lists []string
	if s.Asked {
		may = append(may, t.owned)
	} else {
		lists = append(lists, `SELECT lf.id FROM application lf JOIN (`+administered+`) la ON lf.organization = la.is_member_of__organization`)
	}
	if access.Given.Has(v) {
		lists = append(lists, granted(v))
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
		sql += ` AND ` + t.withinKey(v)
	}
	return `(` + sql + `)`
}

// granted lists the fleets on which the caller, or one of the caller's teams, was given a role with a verb. Every role reads.
func granted(v access.Verbs) string {
	with := func(alias string) string {
		if v == access.Read {
			return ``
		}
		return ` JOIN application_membership_role lr ON lr.id = ` + alias + `.application_membership_role AND (lr.mask & ` + fmt.Sprint(int(v)) + `) <> 0`
	}
	return `SELECT lm.is_member_of__application FROM user_application_membership lm` + with("lm") + `
			WHERE lm."user" = @user AND ` + Lasting("lm") + ` AND ` + notLeft("lm.is_member_of__application") + `
		UNION ALL SELECT lg.grants_access_to__application FROM team_membership lm
			JOIN team_application_access lg ON lg.team = lm.is_member_of__team` + with("lg") + `
			WHERE lm."user" = @user AND ` + Lasting("lg") + ` AND ` + notLeft("lg.grants_access_to__application")
}

// supported lists the rows of a table, fleets or devices, that their owner has opened to the caller just now, if that is support
// staff. Support needs a session: a key that lies about somewhere reaches no customer.
// A fleet that has shut support out for good stays shut, whatever its devices or somebody with the database say of a grant.
func supported(table string) string {
	open := `lf.is_closed_to_support = 0`
	if table == "device" {
		open = `NOT EXISTS (SELECT 1 FROM application lc WHERE lc.id = lf.belongs_to__application AND lc.is_closed_to_support = 1)`
	}
	return `SELECT lf.id FROM "user" ls JOIN ` + table + ` lf ON lf.is_accessible_by_support_until__date > @now AND ` + open + `
		WHERE ls.id = @user AND ls.is_support_staff = 1 AND CAST(@key AS BIGINT) = 0`
}

// withinKey keeps a scoped key to its verbs, to its fleets and to its devices. A key that is gone has none: its row must be there. Of what
// belongs to a fleet as a whole, and so touches every device, a key for some of them reads.
func (t table) withinKey(v access.Verbs) string {
	verb := `(lk.verbs & ` + fmt.Sprint(int(v)) + `) <> 0`
	if !t.device && v != access.Read {
		verb += ` AND lk.is_for_some_devices = 0`
	}
	sql := `(CAST(@key AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM api_key lk WHERE lk.id = @key AND ` + verb + `))
		AND (NOT EXISTS (SELECT 1 FROM api_key lk WHERE lk.id = @key AND lk.is_for_some_fleets = 1) OR ` + t.fleet + ` IN (` + keyFleets + `))`
	if t.device {
		sql += ` AND (` + forAllDevices + ` OR ` + carriesTag(`{t}.id`) + `)`
	}
	return sql
}

// forAllDevices holds unless the caller's key is for some devices only.
const forAllDevices = `NOT EXISTS (SELECT 1 FROM api_key lk WHERE lk.id = @key AND lk.is_for_some_devices = 1)`

// carriesTag says whether a device carries one of the tags of the caller's key just now. It is asked of the device: a list of all that do
// would be one of everybody's.
func carriesTag(device string) string {
	return `EXISTS (SELECT 1 FROM api_key_device_tag lk JOIN device_tag lt ON lt.device = ` + device + ` AND lt.tag_key = lk.tag_key
		AND (lk.value IS NULL OR lk.value = lt.value) WHERE lk.api_key = @key)`
}

// keyFleets lists the fleets that a key (@key) is for: those named, and those that carry one of its tags just now.
const keyFleets = `SELECT lk.application FROM api_key_fleet lk WHERE lk.api_key = @key
	UNION ALL SELECT lt.application FROM api_key_tag lk JOIN application_tag lt ON lt.tag_key = lk.tag_key
		AND (lk.value IS NULL OR lk.value = lt.value) WHERE lk.api_key = @key`

// FleetSQL says whether the caller has a verb on the fleet {t}; support staff have some for as long as the owner says.
func FleetSQL(v access.Verbs) string { return fleetTable.may(v, general) }

// ParentSQL says whether the caller has a verb on the fleet that {t} belongs to.
func ParentSQL(v access.Verbs) string { return parentTable.may(v, general) }

// FleetColumns are the hidden columns of a fleet that say what the caller may do with it, see [access.Verbs].
func FleetColumns() []odata.Column { return append(fleetTable.columns(), fleetTable.own()) }

// DeviceColumns are those of a device: those of its fleet, or of a support grant on the device alone.
func DeviceColumns() []odata.Column { return append(deviceTable.columns(), deviceTable.own()) }

// ParentColumns are those of what belongs to a fleet and has no support grant of its own.
func ParentColumns() []odata.Column { return parentTable.columns() }

func (t table) columns() (cols []odata.Column) {
	for _, v := range access.AllVerbs.Each() {
		shaped := func(s odata.Shape) string { return t.may(v, s) }
		cols = append(cols, odata.Column{Name: v.Columns()[0], Type: odata.Boolean, SQL: shaped(general), Shaped: shaped, Hidden: true})
	}
	return append(cols, odata.Column{Name: access.AllDevices, Type: odata.Boolean, SQL: forAllDevices, Hidden: true})
}

// own is the column [access.OwnDevices].
func (t table) own() odata.Column {
	shaped := func(s odata.Shape) string {
		s.Staff = false
		return t.may(access.Devices, s)
	}
	return odata.Column{Name: access.OwnDevices, Type: odata.Boolean, SQL: shaped(general), Shaped: shaped, Hidden: true}
}

// FleetVerbs is what the caller may do with a fleet, for code that asks outside of the resources' rules. A device and a fleet key read
// their own fleet and the server itself may do everything; a provisioning key has no verb.
func FleetVerbs(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64) (access.Verbs, error) {
	return fleetVerbs(ctx, tx, by, fleet, access.Support)
}

// OwnVerbs is the same without what a support grant gives: what the caller may do by right of their own.
func OwnVerbs(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64) (access.Verbs, error) {
	return fleetVerbs(ctx, tx, by, fleet, access.NoVerbs)
}

func fleetVerbs(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, support access.Verbs) (access.Verbs, error) {
	switch by.Kind {
	case access.System:
		return access.AllVerbs, nil
	case access.Device, access.FleetKey:
		if by.Fleet == fleet {
			return access.Read, nil
		}
	case access.User, access.ScopedKey:
		return verbs(ctx, tx, by, fleet, 0, support)
	}
	return access.NoVerbs, nil
}

// DeviceVerbs is what the caller may do with a device, by its fleet or by a support grant on it alone. A device reads itself.
func DeviceVerbs(ctx context.Context, tx *db.Tx, by access.Caller, device int64) (access.Verbs, error) {
	return deviceVerbs(ctx, tx, by, device, access.Support)
}

// OwnDeviceVerbs is the same without what a support grant gives.
func OwnDeviceVerbs(ctx context.Context, tx *db.Tx, by access.Caller, device int64) (access.Verbs, error) {
	return deviceVerbs(ctx, tx, by, device, access.NoVerbs)
}

func deviceVerbs(ctx context.Context, tx *db.Tx, by access.Caller, device int64, support access.Verbs) (access.Verbs, error) {
	switch by.Kind {
	case access.System:
		return access.AllVerbs, nil
	case access.Device:
		if by.Device == device {
			return access.Read, nil
		}
		return access.NoVerbs, nil
	case access.FleetKey, access.User, access.ScopedKey:
	default:
		return access.NoVerbs, nil
	}
	var fleet int64
	err := tx.QueryRowContext(ctx, `SELECT belongs_to__application FROM device WHERE id = ?`, device).Scan(&fleet)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return access.NoVerbs, nil
	case err != nil:
		return access.NoVerbs, fmt.Errorf("verbs of the caller: %w", err)
	case by.Kind == access.FleetKey && by.Fleet == fleet:
		return access.Read, nil
	case by.Kind == access.FleetKey:
		return access.NoVerbs, nil
	}
	return verbs(ctx, tx, by, fleet, device, support)
}

// verbs gathers what a person has on a fleet, and on one device of it, from wherever it comes, in one statement. The last part is
// what their key leaves of it; byGrant is what a support grant gives.
func verbs(ctx context.Context, tx *db.Tx, by access.Caller, fleet, device int64, byGrant access.Verbs) (access.Verbs, error) {
	const atFleet, atDevice = `CAST(@fleet AS BIGINT)`, `CAST(@device AS BIGINT)`
	all, support := fmt.Sprint(int(access.AllVerbs)), fmt.Sprint(int(byGrant))
	parts := []string{`SELECT ` + all + `, 0 FROM application lf WHERE lf.id = ` + atFleet + ` AND lf.organization IN (` + administered + `)`,
		`SELECT lr.mask, 0 FROM user_application_membership lm JOIN application_membership_role lr ON lr.id = lm.application_membership_role
			WHERE lm."user" = @user AND lm.is_member_of__application = ` + atFleet + ` AND ` + Lasting("lm") + ` AND ` + notLeft(atFleet),
		`SELECT lr.mask, 0 FROM team_membership lm JOIN team_application_access lg ON lg.team = lm.is_member_of__team
			JOIN application_membership_role lr ON lr.id = lg.application_membership_role
			WHERE lm."user" = @user AND lg.grants_access_to__application = ` + atFleet + ` AND ` + Lasting("lg") + ` AND ` + notLeft(atFleet),
		`SELECT ` + support + `, 0 FROM application ls WHERE ls.id = ` + atFleet + ` AND ls.id IN (` + supported("application") + `)`,
	}
	if device != 0 {
		parts = append(parts, `SELECT `+support+`, 0 FROM device ls WHERE ls.id = `+atDevice+` AND ls.id IN (`+supported("device")+`)`)
	}
	if by.Key != 0 {
		ofSome := `lq.verbs & ` + fmt.Sprint(int(access.Read)) // of the fleet as a whole
		if device != 0 {
			ofSome = `CASE WHEN ` + carriesTag(atDevice) + ` THEN lq.verbs ELSE 0 END`
		}
		parts = append(parts, `SELECT CASE WHEN lq.is_for_some_fleets = 1 AND `+atFleet+` NOT IN (`+keyFleets+`) THEN 0
				WHEN lq.is_for_some_devices = 1 THEN `+ofSome+` ELSE lq.verbs END, 1
			FROM api_key lq WHERE lq.id = @key`)
	}
	query, args := bind(strings.Join(parts, ` UNION ALL `), "", tx, by, fleet, device)
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return access.NoVerbs, fmt.Errorf("verbs of the caller: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	var have, left access.Verbs
	if by.Key == 0 {
		left = access.AllVerbs
	}
	for rows.Next() {
		var mask access.Verbs
		var ofKey bool
		if err := rows.Scan(&mask, &ofKey); err != nil {
			return access.NoVerbs, fmt.Errorf("verbs of the caller: %w", err)
		}
		if ofKey {
			left |= mask
		} else {
			have |= mask
		}
	}
	if err := rows.Err(); err != nil {
		return access.NoVerbs, fmt.Errorf("verbs of the caller: %w", err)
	}
	return have & left, nil
}

// Bind makes SQL of a computed column fit for a statement written by hand: {t} becomes the alias, {in} and {end} a list, and each @name a placeholder
// with its value. The text holds no literal with an @ in it.
func Bind(text, alias string, tx *db.Tx, by access.Caller) (string, []any) {
	return bind(text, alias, tx, by, 0, 0)
}

// bind also knows a fleet and a device that are asked about.
func bind(text, alias string, tx *db.Tx, by access.Caller, fleet, device int64) (string, []any) {
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
		case strings.HasPrefix(text, "fleet"):
			text, args = text[len("fleet"):], append(args, fleet)
		case strings.HasPrefix(text, "device"):
			text, args = text[len("device"):], append(args, device)
		case strings.HasPrefix(text, "now"):
			text, args = text[len("now"):], append(args, tx.NowText())
		default:
			panic("rights: SQL with an unknown parameter: " + text) // a constant of the program
		}
	}
}

// Require refuses a caller who has not some verbs on a fleet: what they may not even read is not found.
func Require(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, need access.Verbs) error {
	have, err := FleetVerbs(ctx, tx, by, fleet)
	if err != nil {
		return err
	}
	return Needs(have, need)
}

// Needs is the refusal of whoever has not some verbs; nil when they do.
func Needs(have, need access.Verbs) error {
	switch {
	case !have.Has(access.Read):
		return api.ErrNotFound
	case !have.Has(need):
		return api.Errorf(api.Forbidden, "this needs the verb %s on the fleet", need&^have)
	}
	return nil
}
