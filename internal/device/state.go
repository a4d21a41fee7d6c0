package device

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/channel/when"
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
	ETag string

	made      *made // nil: the asker already has the state of that ETag
	device    int64
	fleet     int64
	facts     *facts
	at        time.Time
	interval  time.Duration // how often the device polls; 0: unknown
	wasOnline bool
}

// Unchanged says that the asker already has the state of that ETag.
func (t Target) Unchanged() bool { return t.made == nil }

// Target says what a device should run. The device itself and people who may see its fleet may ask; known is the ETag of what the
// asker has.
func (d *Devices) Target(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, known string) (Target, error) {
	f, err := readFacts(ctx, tx, uuid)
	if err != nil {
		return Target{}, unseenOr(by, err)
	}
	if err := maySee(ctx, tx, by, f); err != nil {
		return Target{}, err
	}
	t := d.answer(f, tx.Now)
	if holdsTag(known, t.ETag) {
		return t, nil
	}
	return d.complete(t, f, func(key partKey, version string) (*part, error) { return d.parts.get(ctx, tx, key, version) })
}

// Ask is the common way of a device to ask for itself, in single statements and so without a transaction: done when that was enough.
// Otherwise, and for everybody else, [Devices.Target] has the answer. What PostgreSQL said of a device is remembered until it changes.
func (d *Devices) Ask(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, known string) (t Target, done bool, err error) {
	if by.Kind != access.Device {
		return t, false, nil
	}
	f, round := d.remembered(by, uuid, tx.Now)
	if f == nil && known != "" && !d.memory.Current() {
		if t, err = d.glance(ctx, tx, by, uuid); err != nil || holdsTag(known, t.ETag) {
			return t, err == nil, err
		}
	}
	if f == nil {
		if f, err = readFacts(ctx, tx, uuid); err != nil {
			return t, false, unseenOr(by, err)
		}
		if err := maySee(ctx, tx, by, f); err != nil {
			return t, false, err
		}
		d.remember(f, round)
	}
	if t = d.answer(f, tx.Now); holdsTag(known, t.ETag) {
		return t, true, nil
	}
	t, err = d.complete(t, f, d.parts.known)
	if errors.Is(err, errNotMade) {
		return t, false, nil
	}
	return t, err == nil, err
}

// answer is a device's answer without the state.
func (d *Devices) answer(f *facts, now time.Time) Target {
	return Target{ETag: d.etag(f.tags), device: f.device, fleet: f.fleet, facts: f, at: now, interval: f.interval, wasOnline: f.online(now)}
}

// complete puts a device's target together: its supervisor's app, its host's and its fleet's.
func (d *Devices) complete(t Target, f *facts, get func(key partKey, version string) (*part, error)) (Target, error) {
	m := &made{facts: f}
	var err error
	if m.fleet, err = get(partKey{fleet: f.fleet, release: f.own.release}, f.tags.fleet); err != nil {
		return t, fmt.Errorf("target state: %w", err)
	}
	for i, other := range []struct {
		of      partKey
		version string
	}{{f.supervisor, f.tags.supervisor}, {f.host, f.tags.host}} {
		if other.of.fleet == 0 || other.of.fleet == f.fleet {
			continue
		}
		other.of.bare = true
		if m.others[i], err = get(other.of, other.version); err != nil {
			return t, fmt.Errorf("target state: %w", err)
		}
	}
	if f.own.plain() {
		if m.shared, err = m.fleet.shared(m.others, d.config); err != nil {
			return t, fmt.Errorf("target state: %w", err)
		}
		m.config, t.interval = m.shared.config, m.shared.interval
	} else {
		m.config = d.config(m.fleet.config, f.own.config)
		t.interval = pollInterval(m.config)
	}
	t.made = m
	return t, nil
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
	may, err := rights.FleetVerbs(ctx, tx, by, id)
	if err != nil {
		return t, nil, fmt.Errorf("fleet state: %w", err)
	}
	key := partKey{fleet: id, bare: !may.Has(access.Read)}
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
		Apps: map[string]*api.AppTarget{uuid: part.target(&ownVariables{}, config)}}}, nil
}

// Heard counts a request for a target as the device's heartbeat. Call it after the transaction that gave the target, and only
// for the device's own requests.
func (d *Devices) Heard(ctx context.Context, t Target) {
	if t.interval <= 0 {
		t.interval = d.cfg.PollInterval
	}
	d.hearts.beat(ctx, t.device, beat{at: t.at, interval: t.interval}, t.wasOnline)
	if t.wasOnline {
		t.facts.heard(t.at.Add(2 * t.interval)) // pending, and sure to be written
	}
}

// unseen is the answer to whoever asks for a device that is not there, or not for them: a device key names just one device, so
// for it that is a credential which does not hold.
func unseen(by access.Caller) error {
	if by.Kind == access.Device {
		return api.ErrUnauthorized
	}
	return api.ErrNotFound
}

// unseenOr is that answer when there is no such row.
func unseenOr(by access.Caller, err error) error {
	if noRows(err) {
		return unseen(by)
	}
	return fmt.Errorf("target state: %w", err)
}

// maySee lets a device see itself, unless it is frozen, and people the devices of fleets that they read.
func maySee(ctx context.Context, tx *db.Tx, by access.Caller, f *facts) error {
	if by.Kind == access.Device {
		if by.Device == f.device && !f.frozen {
			return nil
		}
		return unseen(by)
	}
	may, err := rights.DeviceVerbs(ctx, tx, by, f.device)
	if err != nil || may.Has(access.Read) {
		return err
	}
	return unseen(by)
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
	return when.ForDevice(config)
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
