package device

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// facts are what decides a device's target, as one statement read it. Nothing but the heartbeat changes once they are read.
type facts struct {
	uuid          api.DeviceUUID
	device, fleet int64
	frozen        bool
	tags          stateTags
	supervisor    partKey // the app that should manage the device; zero: none
	host          partKey // the app that should operate it; zero: none
	own           ownVariables
	interval      time.Duration // how often the device polls; 0: unknown
	due           atomic.Int64  // Unix milliseconds; the device is online until then, and may be longer
}

// stateTags are what the ETag of a state is made of: one part for each row whose changes change it.
type stateTags struct{ device, fleet, supervisor, host string }

// ownVariables are what a device has of its own. They are stronger than everything of its fleet.
type ownVariables struct {
	name                string
	release             int64 // that it should run; 0: none
	config, environment map[string]string
	services            map[int64]map[string]string // by service
}

// plain says that it has nothing but a name and a release.
func (o *ownVariables) plain() bool { return len(o.config)+len(o.environment)+len(o.services) == 0 }

// tagList is a device's tags in one text: each further column of a row would cost more than to cut it again.
const (
	tagList  = `d.target_version || '/' || t.version || '/' || coalesce(mt.version, '') || '/' || coalesce(ot.version, '')`
	factRows = ` FROM device d
		JOIN fleet_target t ON t.application = d.belongs_to__application
		LEFT JOIN "release" m ON m.id = d.should_be_managed_by__release
		LEFT JOIN fleet_target mt ON mt.application = m.belongs_to__application
		LEFT JOIN "release" o ON o.id = d.should_be_operated_by__release
		LEFT JOIN fleet_target ot ON ot.application = o.belongs_to__application `
)

func (t *stateTags) cut(text string) {
	t.device, text, _ = strings.Cut(text, "/")
	t.fleet, text, _ = strings.Cut(text, "/")
	t.supervisor, t.host, _ = strings.Cut(text, "/")
}

// glance reads enough to say that nothing has changed.
func (d *Devices) glance(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID) (Target, error) {
	f := &facts{}
	var tags string
	var seen, due sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, d.is_frozen, `+tagList+`, d.last_seen, d.heartbeat_due`+
		factRows+`WHERE d.uuid = ?`, uuid).Scan(&f.device, &f.fleet, &f.frozen, &tags, &seen, &due)
	if err != nil {
		return Target{}, unseenOr(by, err)
	}
	if err := maySee(ctx, tx, by, f); err != nil {
		return Target{}, err
	}
	f.tags.cut(tags)
	f.hearts(seen, due)
	return d.answer(f, tx.Now), nil
}

// readFacts reads everything.
func readFacts(ctx context.Context, tx *db.Tx, uuid api.DeviceUUID) (*facts, error) {
	f := &facts{uuid: uuid}
	list, end := `(SELECT json_group_array(json_array(`, `))`
	if tx.Dialect() == db.Postgres {
		list, end = `(SELECT CAST(json_agg(json_build_array(`, `)) AS TEXT)`
	}
	var tags string
	var seen, due, config, environment, services sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT d.id, d.belongs_to__application, d.is_frozen, `+tagList+`, d.last_seen, d.heartbeat_due,
			coalesce(m.belongs_to__application, 0), coalesce(m.id, 0), coalesce(o.belongs_to__application, 0), coalesce(o.id, 0),
			coalesce(d.is_pinned_on__release, f.should_be_running__release, 0), d.device_name,
			`+list+`v.name, v.value`+end+` FROM device_config_variable v WHERE v.device = d.id),
			`+list+`v.name, v.value`+end+` FROM device_environment_variable v WHERE v.device = d.id),
			`+list+`v.name, v.value, CAST(s.installs__service AS TEXT)`+end+` FROM service_install s
				JOIN device_service_environment_variable v ON v.service_install = s.id WHERE s.device = d.id)`+
		factRows+`JOIN application f ON f.id = d.belongs_to__application WHERE d.uuid = ?`, uuid).
		Scan(&f.device, &f.fleet, &f.frozen, &tags, &seen, &due, &f.supervisor.fleet, &f.supervisor.release, &f.host.fleet, &f.host.release,
			&f.own.release, &f.own.name, &config, &environment, &services)
	if err != nil {
		return nil, err
	}
	f.tags.cut(tags)
	f.hearts(seen, due)
	return f, f.own.read(config, environment, services)
}

// read takes the variables of a device out of lists of [name, value] and of [name, value, service].
func (o *ownVariables) read(config, environment, services sql.NullString) error {
	var rows [][]string
	for _, list := range []struct {
		text sql.NullString
		into *map[string]string
	}{{config, &o.config}, {environment, &o.environment}, {services, nil}} {
		if !list.text.Valid || list.text.String == "[]" {
			continue
		}
		rows = rows[:0]
		if err := json.Unmarshal([]byte(list.text.String), &rows); err != nil {
			return fmt.Errorf("variables: %w", err)
		}
		into := map[string]string{}
		for _, row := range rows {
			if list.into == nil {
				into = o.ofService(row[2])
			}
			into[row[0]] = row[1]
		}
		if list.into != nil {
			*list.into = into
		}
	}
	return nil
}

func (o *ownVariables) ofService(id string) map[string]string {
	service, _ := strconv.ParseInt(id, 10, 64) // the database wrote it
	if o.services == nil {
		o.services = map[int64]map[string]string{}
	}
	if o.services[service] == nil {
		o.services[service] = map[string]string{}
	}
	return o.services[service]
}

// hearts takes over when the device was heard and when it is due.
func (f *facts) hearts(seen, due sql.NullString) {
	f.interval = intervalBetween(seen, due)
	if at, err := db.ParseTime(due.String); err == nil {
		f.due.Store(at.UnixMilli())
	}
}

// online says that the device's next sign of life is not overdue.
func (f *facts) online(now time.Time) bool { return f.due.Load() >= now.UnixMilli() }

// heard takes over a sign of life that is sure to be written. Without facts, as a report has none, there is nobody to tell.
func (f *facts) heard(due time.Time) {
	if f != nil {
		f.due.Store(due.UnixMilli())
	}
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

// rememberBytes bounds what is remembered of devices; some hundred bytes each.
const rememberBytes = 128 << 20

// targetChannel is what changes of targets are told on, see migration 0083.
const targetChannel = "device_target"

// remembered gives what is known of a device, if it is certainly what the database would say, and the device is online: of others a
// sign of life must be written at once. round is for what the database says instead.
func (d *Devices) remembered(by access.Caller, uuid api.DeviceUUID, now time.Time) (f *facts, round uint64) {
	f, found, round := d.memory.Find(by.Device)
	if !found || f.uuid != uuid || !f.online(now) {
		return nil, round
	}
	return f, round
}

func (d *Devices) remember(f *facts, round uint64) {
	size := 400 + len(f.own.name)
	for _, vars := range f.own.services {
		size += sizeOf(vars)
	}
	d.memory.Keep(f.device, f, size+sizeOf(f.own.config)+sizeOf(f.own.environment), round, "device "+strconv.FormatInt(f.device, 10),
		"fleet "+strconv.FormatInt(f.fleet, 10), "fleet "+strconv.FormatInt(f.supervisor.fleet, 10), "fleet "+strconv.FormatInt(f.host.fleet, 10))
}

func sizeOf(vars map[string]string) (size int) {
	for name, value := range vars {
		size += len(name) + len(value) + 50
	}
	return size
}
