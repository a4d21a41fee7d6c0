package device

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// stateFormat is part of every ETag. It goes up whenever the same rows make another target state than before.
const stateFormat = "1"

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
	at        time.Time
	interval  time.Duration // how often the device polls; 0: unknown
	wasOnline bool
}

// Target says what a device should run. The device itself and people who may use its fleet may ask; known is the ETag of what the
// asker has. An unchanged target costs one row.
func (d *Devices) Target(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, known string) (Target, error) {
	var t Target
	var row stateRow
	if err := row.read(ctx, tx, uuid); noRows(err) {
		return t, unseen(by)
	} else if err != nil {
		return t, fmt.Errorf("target state: %w", err)
	}
	if err := maySee(ctx, tx, by, row.device, row.fleet); err != nil {
		return t, err
	}
	t = Target{ETag: d.etag(row), device: row.device, at: tx.Now, interval: row.interval, wasOnline: row.online}
	if holdsTag(known, t.ETag) {
		return t, nil
	}
	vars, err := readVariables(ctx, tx, row)
	if err != nil {
		return t, fmt.Errorf("target state: %w", err)
	}
	config := d.config(vars)
	t.interval = pollInterval(config)
	app := &api.AppTarget{ID: row.fleet, Name: row.appName, IsHost: row.isHost, Class: row.class}
	if row.release.Valid {
		release, err := releaseTarget(ctx, tx, row, vars, config)
		if err != nil {
			return t, fmt.Errorf("target state: release %d: %w", row.release.Int64, err)
		}
		app.Releases = map[string]*api.ReleaseTarget{row.commit.String: release}
	}
	t.State = api.TargetState{uuid: &api.DeviceTarget{Name: row.name, Config: config, Apps: map[string]*api.AppTarget{row.appUUID: app}}}
	return t, nil
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

// maySee lets a device see itself and people the devices of fleets they may use.
func maySee(ctx context.Context, tx *db.Tx, by access.Caller, device, fleetID int64) error {
	switch by.Kind {
	case access.Device:
		if by.Device == device {
			return nil
		}
	case access.User:
		ok, err := mayUseFleet(ctx, tx, by, fleetID)
		if ok || err != nil {
			return err
		}
	}
	return unseen(by)
}

// stateRow is what decides a device's target besides variables.
type stateRow struct {
	device, fleet           int64
	name, appName, appUUID  string
	class                   string
	isHost, online          bool
	deviceTag, fleetTag     string
	release                 sql.NullInt64
	commit                  sql.NullString
	interval                time.Duration
	lastSeen, heartbeatNext sql.NullString
}

func (s *stateRow) read(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID) error {
	err := tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, d.device_name, f.app_name, f.uuid, f.is_of__class, f.is_host,
			coalesce(d.heartbeat_due >= ?, 0), d.target_version, t.version, r.id, r."commit", d.last_seen, d.heartbeat_due
		FROM device d
		JOIN application f ON f.id = d.belongs_to__application
		JOIN fleet_target t ON t.application = f.id
		LEFT JOIN "release" r ON r.id = coalesce(d.is_pinned_on__release, f.should_be_running__release) AND r.status = 'success'
		WHERE d.uuid = ?`, tx.NowText(), uuid).Scan(&s.device, &s.fleet, &s.name, &s.appName, &s.appUUID, &s.class, &s.isHost,
		&s.online, &s.deviceTag, &s.fleetTag, &s.release, &s.commit, &s.lastSeen, &s.heartbeatNext)
	if err != nil {
		return err
	}
	s.interval = intervalBetween(s.lastSeen, s.heartbeatNext)
	return nil
}

// intervalBetween reads a device's poll interval from when it was seen and when its second poll after that was due.
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
// (see migration 0033), with the server's poll interval and with the format.
func (d *Devices) etag(row stateRow) string {
	sum := sha256.Sum256([]byte(stateFormat + "\x00" + d.cfg.PollInterval.String() + "\x00" + row.deviceTag + "\x00" + row.fleetTag))
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
func (d *Devices) config(vars variables) map[string]string {
	config := map[string]string{}
	for _, v := range vars {
		if v.rank <= configOfDevice {
			config[v.name] = v.value
		}
	}
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

// composition is what of a release's compose project concerns a device.
type composition struct {
	Services map[string]map[string]json.RawMessage `json:"services"`
	Networks map[string]json.RawMessage            `json:"networks"`
	Volumes  map[string]json.RawMessage            `json:"volumes"`
}
