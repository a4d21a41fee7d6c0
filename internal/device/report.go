package device

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// metricsEvery is how often metrics alone are worth a write.
const metricsEvery = time.Minute

// metrics are what a device measures all the time: a report of nothing else may be dropped.
var metrics = []string{
	"memory_usage", "memory_total", "storage_usage", "storage_total", "storage_block_device", "cpu_usage", "cpu_temp",
}

const (
	maxUnsupported  = 200 // names of features that a device could not honour
	maxReportedInt  = math.MaxInt32
	maxAppsReported = 50
	maxInstalls     = 1000
)

// Report takes what a device says of itself: all of it or nothing. The body is {"<uuid>": {what changed}}; keys that mean
// nothing here are ignored, for newer and older devices send more and less. address is where the report came from.
func (d *Devices) Report(ctx context.Context, by access.Caller, body []byte, address string) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its state")
	}
	uuid, raw, err := splitReport(body)
	if err != nil {
		return err
	}
	r, err := readReport(raw)
	if err != nil {
		return err
	}
	return d.take(ctx, by, uuid, r, address)
}

// splitReport finds the one device that a report is about.
func splitReport(body []byte) (uuid api.DeviceUUID, raw json.RawMessage, err error) {
	var byUUID map[api.DeviceUUID]json.RawMessage
	if err := json.Unmarshal(body, &byUUID); err != nil || len(byUUID) == 0 {
		return "", nil, api.Errorf(api.Invalid, "a report is an object with the device's uuid as its only key")
	}
	if len(byUUID) > 1 { // no device speaks for another
		return "", nil, api.ErrUnauthorized
	}
	for uuid, raw = range byUUID {
	}
	return uuid, raw, nil
}

// take stores a report. It is compared with what is known before anything is written; the writes of several devices share a commit.
func (d *Devices) take(ctx context.Context, by access.Caller, uuid api.DeviceUUID, r *report, address string) error {
	if address != "" {
		r.columns["public_address"] = cut(address, 100)
	}
	var p *plan
	read := d.cfg.DB.Read
	if r.apps == nil && r.older == nil { // one statement
		read = d.cfg.DB.ReadOne
	}
	err := read(ctx, func(tx *db.Tx) (err error) {
		p, err = d.planReport(ctx, tx, by, uuid, r)
		return err
	})
	if err == nil && !p.empty() {
		err = d.reports.write(ctx, func(ctx context.Context, tx *db.Tx) error {
			done, err := p.apply(ctx, tx, by)
			if done || err != nil {
				return err
			}
			// The device was changed since it was read: compare again, with nobody else writing meanwhile.
			again, err := d.planReport(ctx, tx, by, uuid, r)
			if err != nil || again.empty() {
				return err
			}
			done, err = again.apply(ctx, tx, by)
			if err == nil && !done {
				err = fmt.Errorf("the device changes under its own report")
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("report of %s: %w", uuid, err)
	}
	d.Heard(ctx, Target{device: by.Device, at: p.at, interval: p.interval, wasOnline: p.online})
	return nil
}

// report is a decoded report: the columns it gives, and what it says of releases (nil: nothing).
type report struct {
	columns map[string]any // nil, int64 or string; bool for is_undervolted
	apps    map[string]*api.AppReport
	older   *olderApps // the same, from a device that speaks of ids
}

func readReport(raw json.RawMessage) (*report, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, api.Errorf(api.Invalid, "a device's report is an object")
	}
	r := &report{columns: map[string]any{}}
	if err := r.readColumns(fields); err != nil {
		return nil, err
	}
	return r, r.readApps(fields["apps"])
}

// readColumns reads what a report says of the device itself.
func (r *report) readColumns(fields map[string]json.RawMessage) error {
	for _, c := range reported {
		if raw, ok := fields[c.name]; ok {
			v, err := readColumn(raw, c.name, c.number, c.maxLen)
			if err != nil {
				return err
			}
			r.columns[c.name] = v
		}
	}
	for name, number := range map[string]bool{"provisioning_progress": true, "download_progress": true, "provisioning_state": false} {
		if raw, ok := fields[name]; ok {
			v, err := readColumn(raw, name, number, 1000)
			if err != nil {
				return err
			}
			if v == "" {
				v = nil
			}
			r.columns[name] = v
		}
	}
	if id, ok := r.columns["cpu_id"].(string); ok && strings.ContainsFunc(id, func(c rune) bool { return c < ' ' || c > '~' }) {
		delete(r.columns, "cpu_id") // some boards read noise
	}
	if raw, ok := fields["is_undervolted"]; ok {
		var v *bool
		if err := json.Unmarshal(raw, &v); err != nil {
			return api.Errorf(api.Invalid, "\"is_undervolted\" is not a boolean")
		}
		if v != nil {
			r.columns["is_undervolted"] = *v
		}
	}
	return r.readUnsupported(fields["unsupported_features"])
}

func readColumn(raw json.RawMessage, name string, number bool, maxLen int) (any, error) {
	if string(raw) == "null" {
		return nil, nil // null is a value here
	}
	if !number {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, api.Errorf(api.Invalid, "%q is not a string", name)
		}
		if name != "cpu_id" { // which is left out as a whole when it is noise
			s = plain(s)
		}
		return cut(s, maxLen), nil
	}
	var f float64
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, api.Errorf(api.Invalid, "%q is not a number", name)
	}
	return int64(math.Round(max(-maxReportedInt, min(f, maxReportedInt)))), nil
}

func (r *report) readUnsupported(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return api.Errorf(api.Invalid, "\"unsupported_features\" is not a list of names")
	}
	if len(names) == 0 {
		r.columns["unsupported_features"] = nil
		return nil
	}
	names = names[:min(len(names), maxUnsupported)]
	for i := range names {
		names[i] = cut(plain(names[i]), 200)
	}
	slices.Sort(names)
	text, err := json.Marshal(slices.Compact(names))
	if err != nil {
		return err
	}
	r.columns["unsupported_features"] = string(text)
	return nil
}

func (r *report) readApps(raw json.RawMessage) error {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &r.apps); err != nil {
		return api.Errorf(api.Invalid, "\"apps\" does not have the form of a report: %v", err)
	}
	n := 0
	for _, app := range r.apps {
		if app == nil {
			continue
		}
		for _, release := range app.Releases {
			if release != nil {
				n += 1 + len(release.Services)
			}
		}
	}
	if len(r.apps) > maxAppsReported || n > maxInstalls {
		return api.Errorf(api.TooLarge, "a report names at most %d releases and services", maxInstalls)
	}
	if r.apps == nil {
		r.apps = map[string]*api.AppReport{}
	}
	return nil
}

// plan is what a report changes.
type plan struct {
	device   int64
	serial   int64 // of the row that the report was compared with
	at       time.Time
	online   bool
	interval time.Duration
	set      map[string]any // columns of the device
	install  []install      // to insert or update
	gone     []int64        // image_install rows to mark deleted
}

func (p *plan) empty() bool { return len(p.set) == 0 && len(p.install) == 0 && len(p.gone) == 0 }

// planReport compares a report with what is known. It refuses what is not the caller's own.
func (d *Devices) planReport(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, r *report) (*plan, error) {
	names := slices.Sorted(maps.Keys(r.columns))
	p := &plan{at: tx.Now, set: map[string]any{}}
	var home home
	var frozen bool
	var seen, due, metricsAt sql.NullString
	scan := []any{&p.device, &p.serial, &frozen, &home.fleet, &home.uuid, &home.target, &home.version, &home.operator, &home.manager,
		&seen, &due, &metricsAt, &home.update, &home.running, &p.online}
	old := make([]any, len(names))
	query := `SELECT d.id, d.report_serial, d.is_frozen = 1, d.belongs_to__application, f.uuid,
		coalesce(d.is_pinned_on__release, f.should_be_running__release, 0), t.version, coalesce(d.should_be_operated_by__release, 0),
		coalesce(d.should_be_managed_by__release, 0), d.last_seen, d.heartbeat_due, d.metrics_at, coalesce(d.update_status, ''),
		coalesce(d.is_running__release, 0), coalesce(d.heartbeat_due >= ?, 1 = 0)`
	for i, name := range names { // names are of our own lists, never the device's
		query += ", d." + name
		scan = append(scan, &old[i])
	}
	err := tx.QueryRowContext(ctx, query+` FROM device d JOIN application f ON f.id = d.belongs_to__application
		JOIN fleet_target t ON t.application = f.id WHERE d.uuid = ?`, tx.NowText(), uuid).Scan(scan...)
	if noRows(err) || (err == nil && (p.device != by.Device || frozen)) {
		return nil, api.ErrUnauthorized
	}
	if err != nil {
		return nil, err
	}
	p.interval = intervalBetween(seen, due)
	for i, name := range names {
		if !same(old[i], r.columns[name]) {
			p.set[name] = r.columns[name]
		}
	}
	switch {
	case r.apps != nil:
		err = d.planApps(ctx, tx, p, r.apps, home)
	case r.older != nil:
		err = planOlder(ctx, tx, p, r.older, home)
	}
	if err != nil {
		return nil, err
	}
	p.throttle(tx.Now, metricsAt)
	return p, nil
}

// same compares a column's value in the database with a reported one.
func same(old, reported any) bool {
	if b, ok := reported.(bool); ok {
		n, _ := old.(int64)
		return (n != 0) == b
	}
	if b, ok := old.([]byte); ok {
		old = string(b)
	}
	return old == reported
}

// throttle drops metrics when nothing else changed and the last ones are fresh.
func (p *plan) throttle(now time.Time, last sql.NullString) {
	measured := 0
	for _, name := range metrics {
		if _, ok := p.set[name]; ok {
			measured++
		}
	}
	if measured == 0 {
		return
	}
	if last.Valid && measured == len(p.set) && len(p.install) == 0 && len(p.gone) == 0 {
		if at, err := db.ParseTime(last.String); err == nil && now.Sub(at) < metricsEvery {
			p.set = nil
			return
		}
	}
	p.set["metrics_at"] = db.FormatTime(now)
}

// apply writes what changed; false when the device has changed since the plan was made, and then nothing is written.
func (p *plan) apply(ctx context.Context, tx *db.Tx, by access.Caller) (bool, error) {
	if _, ok := p.set["update_status"]; ok {
		p.set["last_update_status_event"] = tx.NowText()
	}
	p.set["modified_at"] = tx.NowText()
	names := slices.Sorted(maps.Keys(p.set))
	args := make([]any, 0, len(names)+2)
	for _, name := range names {
		args = append(args, p.set[name])
	}
	res, err := tx.ExecContext(ctx, `UPDATE device SET `+strings.Join(names, " = ?, ")+` = ?, report_serial = report_serial + 1
		WHERE id = ? AND report_serial = ?`, append(args, p.device, p.serial)...)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	for _, i := range p.install {
		_, err := tx.ExecContext(ctx, `INSERT INTO image_install (created_at, device, installs__image, is_provided_by__release, install_date,
				status, download_progress) VALUES (?1, ?2, ?3, ?4, ?1, ?5, ?6)
			ON CONFLICT (device, installs__image) DO UPDATE SET is_provided_by__release = excluded.is_provided_by__release,
				install_date = CASE WHEN image_install.status = 'deleted' THEN excluded.install_date ELSE image_install.install_date END,
				status = excluded.status, download_progress = excluded.download_progress`,
			tx.NowText(), p.device, i.image, i.release, i.status, i.progress)
		if err != nil {
			return false, err
		}
	}
	for _, id := range p.gone {
		_, err := tx.ExecContext(ctx, `UPDATE image_install SET status = 'deleted', download_progress = NULL WHERE id = ?`, id)
		if err != nil {
			return false, err
		}
	}
	return true, p.follow(ctx, tx, by)
}

// follow does what some columns entail.
func (p *plan) follow(ctx context.Context, tx *db.Tx, by access.Caller) error {
	_, os := p.set["os_version"]
	_, manager := p.set["supervisor_version"]
	if os || manager {
		if err := followVersions(ctx, tx, p.device); err != nil {
			return err
		}
	}
	for _, name := range recorded {
		if _, ok := p.set[name]; ok {
			return record(ctx, tx, by, p.device)
		}
	}
	return nil
}
