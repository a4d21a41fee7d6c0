package channel

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
)

// names is the list of an SQL condition: the variables of the channel.
var names = "('" + strings.Join(when.Names(), "', '") + "')"

const isBlock = `(f.is_of__class = 'block')`

// switches reads what is said of the channels of some devices d, by device.
func (c *Channel) switches(ctx context.Context, tx *db.Tx, which string, args ...any) (map[int64]when.Switch, error) {
	rows, err := tx.QueryContext(ctx, `SELECT d.id, CASE WHEN `+isBlock+` THEN 1 ELSE 0 END, v.name, v.value, 1 FROM device d
			JOIN application f ON f.id = d.belongs_to__application
			LEFT JOIN application_config_variable v ON v.application = f.id AND v.name IN `+names+` WHERE `+which+`
		UNION ALL SELECT d.id, 0, v.name, v.value, 2 FROM device d
			JOIN device_config_variable v ON v.device = d.id AND v.name IN `+names+` WHERE `+which+` ORDER BY 5`, append(args, args...)...)
	if err != nil {
		return nil, fmt.Errorf("switches: %w", err)
	}
	defer func() { _ = rows.Close() }()
	said, blocks := map[int64]map[string]string{}, map[int64]bool{}
	for rows.Next() {
		var id, rank int64
		var block bool
		var name, value sql.NullString
		if err := rows.Scan(&id, &block, &name, &value, &rank); err != nil {
			return nil, fmt.Errorf("switches: %w", err)
		}
		if said[id] == nil {
			said[id] = map[string]string{}
		}
		blocks[id] = blocks[id] || block
		if name.Valid {
			said[id][name.String] = value.String
		}
	}
	out := make(map[int64]when.Switch, len(said))
	for id, config := range said {
		out[id] = read(config, blocks[id])
	}
	return out, rows.Err()
}

// read reads variables. What says nothing shuts the channel, as it does on the device.
func read(config map[string]string, block bool) when.Switch {
	if block {
		config[when.Default] = "false"
	}
	s, _ := when.Read(config)
	return s
}

// unwanted lists the sessions of an instance whose devices are not to have a channel now.
func (c *Channel) unwanted(ctx context.Context, tx *db.Tx, instance string) ([]string, error) {
	// Of most devices nothing is said, and nothing of their fleets.
	said, err := c.switches(ctx, tx, `d.id IN (SELECT s.device FROM channel_session s WHERE s.instance = ? AND (
			EXISTS (SELECT 1 FROM device_config_variable x WHERE x.device = s.device AND x.name IN `+names+`)
			OR EXISTS (SELECT 1 FROM application_config_variable x WHERE x.application = s.application AND x.name IN `+names+`)
			OR EXISTS (SELECT 1 FROM application f WHERE f.id = s.application AND `+isBlock+`)))`, instance)
	if err != nil {
		return nil, err
	}
	var off []int64
	for id, s := range said {
		if on, _ := s.On(tx.Now); !on {
			off = append(off, id)
		}
	}
	slices.Sort(off)
	var out []string
	for part := range slices.Chunk(off, atOnce) {
		in, args := db.In(part)
		list, err := db.Column[string](ctx, tx, `SELECT session FROM channel_session WHERE instance = ? AND device IN `+in, append([]any{instance}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// owner is what has variables: a device or a fleet.
type owner struct {
	resource string // of its variables
	column   string
	kind     string // for the audit log
	id       int64
	name     string
	fleet    int64
	org      int64
}

// deviceMode says whether the channel of a device is wanted, and why. Who calls has seen to it that the caller sees the device.
func (c *Channel) deviceMode(ctx context.Context, tx *db.Tx, device int64) (api.ChannelMode, error) {
	said, err := c.switches(ctx, tx, `d.id = ?`, device)
	if err != nil {
		return api.ChannelMode{}, err
	}
	own, err := c.ownMode(ctx, tx, owner{resource: "device_config_variable", column: "device", id: device})
	return c.modeOf(said[device], own, tx.Now), err
}

// modeOf describes a switch.
func (c *Channel) modeOf(s when.Switch, own string, now time.Time) api.ChannelMode {
	m := api.ChannelMode{Mode: own, Server: c.cfg.Site.On()}
	m.Wanted, m.Why = s.On(now)
	if now.Before(s.Until) {
		m.Until = s.Until.UTC().Format(time.RFC3339)
	}
	if next := s.Next(now); !next.IsZero() {
		m.Next = next.UTC().Format(time.RFC3339)
	}
	m.Schedule = s.Schedule
	return m
}

// own are the variables of a device or a fleet itself: name → id and value.
func (o owner) own(ctx context.Context, tx *db.Tx) (ids map[string]int64, values map[string]string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, name, value FROM `+o.resource+` WHERE `+o.column+` = ? AND name IN `+names, o.id)
	if err != nil {
		return nil, nil, fmt.Errorf("switches: %w", err)
	}
	defer func() { _ = rows.Close() }()
	ids, values = map[string]int64{}, map[string]string{}
	for rows.Next() {
		var id int64
		var name, value string
		if err := rows.Scan(&id, &name, &value); err != nil {
			return nil, nil, fmt.Errorf("switches: %w", err)
		}
		ids[name], values[name] = id, value
	}
	return ids, values, rows.Err()
}

// ownMode says what was switched on a device or fleet itself.
func (c *Channel) ownMode(ctx context.Context, tx *db.Tx, o owner) (string, error) {
	_, values, err := o.own(ctx, tx)
	if err != nil {
		return "", err
	}
	s, _ := when.Read(values)
	switch {
	case s.Control == "false":
		return api.ChannelOff, nil
	case s.Control == "true" || len(s.Times) > 0:
		return api.ChannelOn, nil
	}
	return api.ChannelAuto, nil
}

// longest is the longest time for which a channel is switched on with an end.
const longest = 30 * 24 * time.Hour

// wants turns a switch into variables. One whose value is empty has none: a device then says nothing where its fleet does.
func wants(s api.ChannelSwitch, now time.Time) (map[string]string, error) {
	all := map[string]string{}
	for _, name := range when.Names() {
		all[name] = ""
	}
	switch {
	case s.Seconds < 0 || s.Seconds > int64(longest/time.Second):
		return nil, api.Errorf(api.Invalid, "seconds: a channel is on for at most %d days", longest/(24*time.Hour))
	case s.Mode != api.ChannelOn && (s.Seconds != 0 || s.Schedule != ""):
		return nil, api.Errorf(api.Invalid, "a time and a schedule go with the mode on only")
	case s.Seconds != 0 && s.Schedule != "":
		return nil, api.Errorf(api.Invalid, "give a time or a schedule, not both")
	}
	switch s.Mode {
	case api.ChannelOn:
		switch {
		case s.Seconds != 0: // whatever else is said stays for afterwards
			until := now.Add(time.Duration(s.Seconds) * time.Second).Truncate(time.Second)
			return map[string]string{when.Until: until.UTC().Format(time.RFC3339)}, nil
		case s.Schedule != "":
			if err := when.Check(when.Schedule, s.Schedule); err != nil {
				return nil, api.Errorf(api.Invalid, "%v", err)
			}
			all[when.Schedule] = s.Schedule
		}
		all[when.SupervisorControl] = "true"
	case api.ChannelOff:
		all[when.SupervisorControl] = "false"
	case api.ChannelAuto:
		return all, nil
	default:
		return nil, api.Errorf(api.Invalid, "mode: %.20q is none of on, off and auto", s.Mode)
	}
	return all, nil
}

// set writes the variables of a switch with the rights of who switches, as if they wrote them one by one, and one entry of the audit log.
func (c *Channel) set(ctx context.Context, tx *db.Tx, by access.Caller, o owner, s api.ChannelSwitch, above map[string]string) error {
	to, err := wants(s, tx.Now)
	if err != nil {
		return err
	}
	ids, values, err := o.own(ctx, tx)
	if err != nil {
		return err
	}
	for _, name := range when.Names() {
		value, given := to[name]
		id, has := ids[name]
		hides := value == "" && s.Mode != api.ChannelAuto && above[name] != "" // of the fleet's
		switch {
		case !given:
		case value == "" && !hides && has:
			err = c.engine.Remove(ctx, tx, by, o.resource, id)
		case (value != "" || hides) && !has:
			_, err = c.engine.Insert(ctx, tx, by, o.resource, map[string]any{o.column: o.id, "name": name, "value": value})
		case (value != "" || hides) && values[name] != value:
			err = c.engine.Update(ctx, tx, by, o.resource, id, map[string]any{"value": value})
		}
		if err != nil {
			return fmt.Errorf("switch the channel of %s %s: %w", o.kind, o.name, err)
		}
	}
	detail := map[string]any{"mode": s.Mode}
	if s.Seconds != 0 {
		detail["seconds"] = s.Seconds
	}
	if s.Schedule != "" {
		detail["schedule"] = s.Schedule
	}
	return audit.Record(ctx, tx, by, audit.Entry{
		Act: "channel.switch", Kind: o.kind, ID: o.id, Name: o.name, Fleet: o.fleet, Organization: o.org, Detail: detail,
	})
}

// SwitchDevice switches the channel of one device.
func (c *Channel) SwitchDevice(ctx context.Context, tx *db.Tx, by access.Caller, uuid string, s api.ChannelSwitch) error {
	o, err := deviceOf(ctx, tx, by, uuid, access.Devices)
	if err != nil {
		return err
	}
	_, above, err := owner{resource: "application_config_variable", column: "application", id: o.fleet}.own(ctx, tx)
	if err != nil {
		return err
	}
	return c.set(ctx, tx, by, o, s, above)
}

// SwitchFleet switches the channel of all devices of a fleet that have no switch of their own.
func (c *Channel) SwitchFleet(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, s api.ChannelSwitch) error {
	o, err := fleetOf(ctx, tx, by, fleet, access.Settings)
	if err != nil {
		return err
	}
	return c.set(ctx, tx, by, o, s, nil)
}

// FleetMode is how the channel is switched for a fleet.
func (c *Channel) FleetMode(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64) (m api.ChannelMode, err error) {
	o, err := fleetOf(ctx, tx, by, fleet, 0)
	if err != nil {
		return m, err
	}
	_, values, err := o.own(ctx, tx)
	if err != nil {
		return m, err
	}
	var block bool
	if err := tx.QueryRowContext(ctx, `SELECT CASE WHEN `+isBlock+` THEN 1 ELSE 0 END FROM application f WHERE f.id = ?`, fleet).Scan(&block); err != nil {
		return m, fmt.Errorf("channel of fleet %d: %w", fleet, err)
	}
	own, err := c.ownMode(ctx, tx, o)
	return c.modeOf(read(values, block), own, tx.Now), err
}

// deviceOf finds a device that the caller sees, and on which they have what is needed.
func deviceOf(ctx context.Context, tx *db.Tx, by access.Caller, uuid string, need access.Verbs) (o owner, err error) {
	o = owner{resource: "device_config_variable", column: "device", kind: "device", name: uuid}
	err = tx.QueryRowContext(ctx, `SELECT d.id, f.id, f.organization FROM device d JOIN application f ON f.id = d.belongs_to__application
		WHERE d.uuid = ?`, uuid).Scan(&o.id, &o.fleet, &o.org)
	if errors.Is(err, sql.ErrNoRows) {
		return o, api.ErrNotFound
	}
	if err != nil {
		return o, fmt.Errorf("channel of a device: %w", err)
	}
	may, err := rights.DeviceVerbs(ctx, tx, by, o.id)
	if err != nil {
		return o, fmt.Errorf("channel of a device: %w", err)
	}
	return o, rights.Needs(may, access.Read|need)
}

func fleetOf(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64, need access.Verbs) (o owner, err error) {
	o = owner{resource: "application_config_variable", column: "application", kind: "application", id: fleet, fleet: fleet}
	err = tx.QueryRowContext(ctx, `SELECT slug, organization FROM application WHERE id = ?`, fleet).Scan(&o.name, &o.org)
	if errors.Is(err, sql.ErrNoRows) {
		return o, api.ErrNotFound
	}
	if err != nil {
		return o, fmt.Errorf("channel of fleet %d: %w", fleet, err)
	}
	may, err := rights.FleetVerbs(ctx, tx, by, fleet)
	if err != nil {
		return o, fmt.Errorf("channel of fleet %d: %w", fleet, err)
	}
	return o, rights.Needs(may, access.Read|need)
}

// EndSwitchesOnce removes ends that have come: a device hears of it with its next poll, though our agent knew before.
func (c *Channel) EndSwitchesOnce(ctx context.Context) error {
	for _, table := range []string{"device_config_variable", "application_config_variable"} {
		var due []int64
		find := func(tx *db.Tx) error {
			rows, err := tx.QueryContext(ctx, `SELECT id, value FROM `+table+` WHERE name = '`+when.Until+`' AND value <> ''`) // as the index has it
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			due = nil
			for rows.Next() {
				var id int64
				var value string
				if err := rows.Scan(&id, &value); err != nil {
					return err
				}
				if until, err := time.Parse(time.RFC3339, value); err != nil || !tx.Now.Before(until) {
					due = append(due, id)
				}
			}
			return rows.Err()
		}
		if err := c.cfg.DB.ReadOne(ctx, find); err != nil {
			return fmt.Errorf("end switches: %w", err)
		}
		if len(due) == 0 {
			continue
		}
		err := c.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			if err := find(tx); err != nil {
				return err
			}
			for _, id := range due {
				if err := c.engine.Remove(ctx, tx, access.Itself(), table, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("end switches: %w", err)
		}
	}
	return nil
}

// Switches reads how the channels of some devices are switched, by device.
func (c *Channel) Switches(ctx context.Context, tx *db.Tx, devices []int64) (map[int64]when.Switch, error) {
	in, args := db.In(devices)
	return c.switches(ctx, tx, `d.id IN `+in, args...)
}
