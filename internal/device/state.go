package device

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// stateFormat is part of every ETag. It goes up whenever the same rows make another target state than before.
const stateFormat = "2"

const (
	pollVariable = "RESIN_SUPERVISOR_POLL_INTERVAL"
	// shortestPoll is the shortest interval that a variable may ask of devices, unless the server's own is shorter.
	shortestPoll = time.Minute
)

// Target is the answer to a device that asks what it should run.
type Target struct {
	ETag  string
	State api.TargetState // nil: the asker already has the state of that ETag

	device    int64
	fleet     int64
	at        time.Time
	interval  time.Duration // how often the device polls; 0: unknown
	wasOnline bool
}

// Target says what a device should run. The device itself and people who may see its fleet may ask; known is the ETag of what the
// asker has. An unchanged target costs one row.
func (d *Devices) Target(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, known string) (Target, error) {
	t, row, err := d.look(ctx, tx, by, uuid)
	if err != nil || holdsTag(known, t.ETag) {
		return t, err
	}
	state, config, err := d.assemble(ctx, tx, row)
	if err != nil {
		return t, fmt.Errorf("target state: %w", err)
	}
	t.interval = pollInterval(config)
	t.State = api.TargetState{uuid: state}
	return t, nil
}

// Unchanged is the common answer to a device that asks for itself, in one statement and so without a transaction: done when it
// has what it should run. Otherwise, and for everybody else, [Devices.Target] has the answer.
func (d *Devices) Unchanged(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, known string) (t Target, done bool, err error) {
	if by.Kind != access.Device || known == "" {
		return t, false, nil
	}
	t, _, err = d.look(ctx, tx, by, uuid)
	return t, err == nil && holdsTag(known, t.ETag), err
}

// look reads what decides a device's target, and whether the caller may know.
func (d *Devices) look(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (t Target, row stateRow, err error) {
	if err := row.read(ctx, tx, uuid); noRows(err) {
		return t, row, unseen(by)
	} else if err != nil {
		return t, row, fmt.Errorf("target state: %w", err)
	}
	if err := maySee(ctx, tx, by, row.device, row.fleet); err != nil {
		return t, row, err
	}
	if row.frozen && by.Kind == access.Device {
		return t, row, api.ErrUnauthorized
	}
	t = Target{ETag: d.etag(row.tags), device: row.device, fleet: row.fleet, at: tx.Now, interval: row.interval, wasOnline: row.online}
	return t, row, nil
}

// assemble puts a device's target together: its supervisor's app, its host's and its fleet's.
func (d *Devices) assemble(ctx context.Context, tx *db.Tx, row stateRow) (*api.DeviceTarget, map[string]string, error) {
	vars, err := readOwn(ctx, tx, row.device)
	if err != nil {
		return nil, nil, err
	}
	part, err := d.parts.get(ctx, tx, partKey{fleet: row.fleet, release: vars.release}, row.tags.fleet)
	if err != nil {
		return nil, nil, err
	}
	config := d.config(part.config, vars.config)
	out := &api.DeviceTarget{Name: vars.name, Config: config, Apps: map[string]*api.AppTarget{part.uuid: part.target(vars, config)}}
	for _, other := range []struct {
		of      partKey
		version string
	}{{row.supervisor, row.tags.supervisor}, {row.host, row.tags.host}} {
		if other.of.fleet == 0 || other.of.fleet == row.fleet {
			continue
		}
		other.of.bare = true
		part, err := d.parts.get(ctx, tx, other.of, other.version)
		if err != nil {
			return nil, nil, err
		}
		out.Apps[part.uuid] = part.target(vars, nil)
	}
	return out, config, nil
}

// FleetTarget says what a device of a fleet would run that has nothing of its own: the fleet's target release, or the one of a
// commit. Who does not observe a public fleet gets its releases without its variables. What the caller may not see is refused as a credential that does not hold, as clients know it.
func (d *Devices) FleetTarget(ctx context.Context, tx *db.Tx, by access.Caller, uuid, commit, known string) (Target, api.FleetState, error) {
	var t Target
	var id int64
	var public bool
	var target sql.NullInt64
	var version string
	err := tx.QueryRowContext(ctx, `SELECT f.id, f.is_public = 1, f.should_be_running__release, t.version
		FROM application f JOIN fleet_target t ON t.application = f.id WHERE f.uuid = ?`, uuid).Scan(&id, &public, &target, &version)
	if noRows(err) {
		return t, nil, api.ErrUnauthorized
	}
	if err != nil {
		return t, nil, fmt.Errorf("fleet state: %w", err)
	}
	level, err := account.FleetLevel(ctx, tx, by, id)
	if err != nil {
		return t, nil, fmt.Errorf("fleet state: %w", err)
	}
	key := partKey{fleet: id, bare: level < access.Observer}
	if key.bare && !public {
		return t, nil, api.ErrUnauthorized
	}
	if commit != "" {
		release, err := findRelease(ctx, tx, id, commit)
		if err != nil {
			return t, nil, err
		}
		target = sql.NullInt64{Int64: release, Valid: true}
	}
	key.release = target.Int64
	t.ETag = d.etag(stateTags{device: fmt.Sprint("fleet ", key.bare, commit), fleet: version})
	if holdsTag(known, t.ETag) {
		return t, nil, nil
	}
	part, err := d.parts.get(ctx, tx, key, version)
	if err != nil {
		return t, nil, fmt.Errorf("fleet state: %w", err)
	}
	config := d.config(part.config, nil)
	return t, api.FleetState{uuid: &api.DeviceTarget{Name: part.name, Config: config,
		Apps: map[string]*api.AppTarget{uuid: part.target(ownVariables{}, config)}}}, nil
}

// Heard counts a request for a target as the device's heartbeat. Call it after the transaction that gave the target, and only
// for the device's own requests.
func (d *Devices) Heard(ctx context.Context, t Target) {
	if t.interval <= 0 {
		t.interval = d.cfg.PollInterval
	}
	d.hearts.beat(ctx, t.device, beat{at: t.at, interval: t.interval}, t.wasOnline)
}

// unseen is the answer to whoever asks for a device that is not there, or not for them: a device key names just one device, so
// for it that is a credential which does not hold.
func unseen(by access.Caller) error {
	if by.Kind == access.Device {
		return api.ErrUnauthorized
	}
	return api.ErrNotFound
}

// maySee lets a device see itself and people the devices of fleets that they observe.
func maySee(ctx context.Context, tx *db.Tx, by access.Caller, device, fleetID int64) error {
	if by.Kind == access.Device {
		if by.Device == device {
			return nil
		}
		return unseen(by)
	}
	level, err := account.DeviceLevel(ctx, tx, by, device)
	if err != nil || level >= access.Observer {
		return err
	}
	return unseen(by)
}

// stateTags are what the ETag of a state is made of: one part for each row whose changes change it.
type stateTags struct{ device, fleet, supervisor, host string }

// stateRow is what a poll reads: enough to say that nothing has changed.
type stateRow struct {
	device, fleet  int64
	frozen, online bool
	tags           stateTags
	supervisor     partKey // the app that should manage the device; zero: none
	host           partKey // the app that should operate it; zero: none
	interval       time.Duration
}

func (s *stateRow) read(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID) error {
	var seen, due sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, d.is_frozen = 1, coalesce(d.heartbeat_due >= ?, 1 = 0),
			d.target_version, t.version, d.last_seen, d.heartbeat_due,
			coalesce(m.belongs_to__application, 0), coalesce(m.id, 0), coalesce(mt.version, ''),
			coalesce(o.belongs_to__application, 0), coalesce(o.id, 0), coalesce(ot.version, '')
		FROM device d
		JOIN fleet_target t ON t.application = d.belongs_to__application
		LEFT JOIN "release" m ON m.id = d.should_be_managed_by__release
		LEFT JOIN fleet_target mt ON mt.application = m.belongs_to__application
		LEFT JOIN "release" o ON o.id = d.should_be_operated_by__release
		LEFT JOIN fleet_target ot ON ot.application = o.belongs_to__application
		WHERE d.uuid = ?`, tx.NowText(), uuid).Scan(&s.device, &s.fleet, &s.frozen, &s.online, &s.tags.device, &s.tags.fleet, &seen, &due,
		&s.supervisor.fleet, &s.supervisor.release, &s.tags.supervisor, &s.host.fleet, &s.host.release, &s.tags.host)
	s.interval = intervalBetween(seen, due)
	return err
}

// intervalBetween reads back how often a device polls from when it was heard and when it is due.
func intervalBetween(seen, due sql.NullString) time.Duration {
	if !seen.Valid || !due.Valid {
		return 0
	}
	a, err1 := db.ParseTime(seen.String)
	b, err2 := db.ParseTime(due.String)
	if err1 != nil || err2 != nil {
		return 0
	}
	return b.Sub(a) / 2
}

// etag is weak: the same state may be written down in several ways. It changes with every write that may change the state
// (see migrations 0033 and 0071), with the server's poll interval and with the format.
func (d *Devices) etag(tags stateTags) string {
	sum := sha256.Sum256([]byte(stateFormat + "\x00" + d.cfg.PollInterval.String() + "\x00" + tags.device + "\x00" + tags.fleet +
		"\x00" + tags.supervisor + "\x00" + tags.host))
	return `W/"` + hex.EncodeToString(sum[:12]) + `"`
}

// holdsTag reads an If-None-Match header.
func holdsTag(header, tag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		if t = strings.TrimSpace(t); t != "" && strings.TrimPrefix(t, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// config gives the configuration variables of a device: its own over its fleet's, and always a poll interval.
func (d *Devices) config(ofFleet, ofDevice map[string]string) map[string]string {
	config := make(map[string]string, len(ofFleet)+len(ofDevice)+1)
	maps.Copy(config, ofFleet)
	maps.Copy(config, ofDevice)
	maps.DeleteFunc(config, func(name, _ string) bool {
		return strings.HasPrefix(name, "RESIN_UI") || strings.HasPrefix(name, "BALENA_UI") || name == "RESIN_HOST_LOG_TO_DISPLAY"
	})
	poll := d.cfg.PollInterval
	if ms, err := strconv.ParseInt(config[pollVariable], 10, 64); err == nil && ms > 0 {
		poll = max(time.Duration(min(ms, int64(24*time.Hour/time.Millisecond)))*time.Millisecond, min(shortestPoll, d.cfg.PollInterval))
	}
	config[pollVariable] = strconv.FormatInt(poll.Milliseconds(), 10)
	return config
}

// pollInterval is how often a device with a configuration polls: the newer name of the variable wins on the device.
func pollInterval(config map[string]string) time.Duration {
	for _, name := range []string{"BALENA_SUPERVISOR_POLL_INTERVAL", pollVariable} {
		if ms, err := strconv.ParseInt(config[name], 10, 64); err == nil && ms > 0 && ms <= int64(24*time.Hour/time.Millisecond) {
			return time.Duration(ms) * time.Millisecond
		}
	}
	return 0
}
