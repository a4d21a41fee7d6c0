package device

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// reportsAtOnce is how many reports are compared and written together at most.
const reportsAtOnce = 256

// plan is what a report changes.
type plan struct {
	device   int64
	serial   int64 // of the row that the report was compared with
	at       time.Time
	online   bool
	interval time.Duration
	beaten   bool           // what it sets tells that the device was heard
	set      map[string]any // columns of the device
	install  []install      // to insert or update
	gone     []int64        // image_install rows to mark deleted
}

func (p *plan) empty() bool { return len(p.set) == 0 && len(p.install) == 0 && len(p.gone) == 0 }

// known is what a report is compared with: the device's row, and the installs if the report says something of them.
type known struct {
	plan
	uuid      api.DeviceUUID
	frozen    bool
	home      home
	metricsAt sql.NullString
	columns   map[string]any // those that reports give
	installs  []installed
}

// installed is a row of image_install.
type installed struct {
	id int64
	install
}

// isNumber says which of the columns that a report may give are numbers.
var isNumber = func() map[string]bool {
	number := map[string]bool{"provisioning_progress": true, "download_progress": true, "is_undervolted": true, "is_running__release": true,
		report.PortColumn: true}
	for _, c := range report.Columns {
		number[c.Name] = c.Number
	}
	return number
}()

// takeAll stores reports. Most change nothing that is worth a write: they are compared before a transaction writes what the others
// change, and its statements see to it that nobody else has changed the device since.
func (d *Devices) takeAll(ctx context.Context, all []*batch.Ask[*told]) error {
	ctx = d.cfg.DB.Brief(ctx)
	if err := d.compareReports(ctx, all); err != nil {
		return err
	}
	var changed []*batch.Ask[*told]
	for _, a := range all {
		if a.Err == nil && !a.Of.plan.empty() {
			changed = append(changed, a)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return d.writeReports(ctx, changed)
}

// compareReports plans what reports change, for those of them that are their senders' own.
func (d *Devices) compareReports(ctx context.Context, all []*batch.Ask[*told]) error {
	read := d.cfg.DB.ReadOne
	for _, a := range all {
		if a.Of.report.Apps != nil || a.Of.report.Older != nil { // more than one statement
			read = d.cfg.DB.Read
		}
	}
	return read(ctx, func(tx *db.Tx) error {
		plans, err := d.planReports(ctx, tx, all)
		for i, p := range plans {
			all[i].Of.plan = p
		}
		return err
	})
}

// planReports compares reports with what is known; those that it refuses have no plan.
func (d *Devices) planReports(ctx context.Context, tx *db.Tx, all []*batch.Ask[*told]) ([]*plan, error) {
	var devices, saying []int64
	given := map[string]bool{}
	for _, a := range all {
		for name := range a.Of.report.Columns {
			given[name] = true
		}
		devices = append(devices, a.Of.by.Device)
		if r := a.Of.report; r.Apps != nil || (r.Older != nil && r.Older.Said) {
			saying = append(saying, a.Of.by.Device)
		}
	}
	rows, err := readKnown(ctx, tx, devices, slices.Sorted(maps.Keys(given)))
	if err != nil {
		return nil, err
	}
	if len(saying) > 0 {
		if err := readInstalls(ctx, tx, rows, saying); err != nil {
			return nil, err
		}
	}
	plans := make([]*plan, len(all))
	for i, a := range all {
		k := rows[a.Of.by.Device]
		a.Err = nil
		if k == nil || k.frozen || k.uuid != a.Of.uuid {
			a.Err = api.ErrUnauthorized
			continue
		}
		p, err := d.planReport(ctx, tx, k, a.Of.report)
		switch e := api.AsError(err); {
		case err == nil:
			plans[i] = p
		case e.Code == api.Unauthorized: // it names what is not its own
			a.Err = err
		default:
			return nil, err
		}
	}
	return plans, nil
}

// readKnown reads the rows of devices, with some columns that reports give: names of our own lists, never the devices'.
func readKnown(ctx context.Context, tx *db.Tx, devices []int64, names []string) (map[int64]*known, error) {
	list, args := db.In(devices)
	query := `SELECT d.id, d.report_serial, d.uuid, d.is_frozen = 1, d.belongs_to__application, f.uuid,
		coalesce(d.is_pinned_on__release, f.should_be_running__release, 0), t.version, coalesce(d.should_be_operated_by__release, 0),
		coalesce(d.should_be_managed_by__release, 0), d.last_seen, d.heartbeat_due, d.metrics_at, coalesce(d.update_status, ''),
		coalesce(d.is_running__release, 0), coalesce(d.heartbeat_due >= ?, 1 = 0)`
	for _, name := range names {
		query += ", d." + name
	}
	rows, err := tx.QueryContext(ctx, query+` FROM device d JOIN application f ON f.id = d.belongs_to__application JOIN fleet_target t ON t.application = f.id
		WHERE d.id IN `+list, append([]any{tx.NowText()}, args...)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := map[int64]*known{}
	for rows.Next() {
		k := &known{columns: make(map[string]any, len(names))}
		values := make([]any, len(names))
		k.at = tx.Now
		var seen, due sql.NullString
		scan := []any{&k.device, &k.serial, &k.uuid, &k.frozen, &k.home.fleet, &k.home.uuid, &k.home.target, &k.home.version,
			&k.home.operator, &k.home.manager, &seen, &due, &k.metricsAt, &k.home.update, &k.home.running, &k.online}
		for i := range values {
			scan = append(scan, &values[i])
		}
		if err := rows.Scan(scan...); err != nil {
			return nil, err
		}
		for i, name := range names {
			k.columns[name] = values[i]
		}
		k.interval = intervalBetween(seen, due)
		out[k.device] = k
	}
	return out, rows.Err()
}

// readInstalls reads what is known to be on devices.
func readInstalls(ctx context.Context, tx *db.Tx, known map[int64]*known, devices []int64) error {
	list, args := db.In(devices)
	rows, err := tx.QueryContext(ctx, `SELECT device, id, installs__image, is_provided_by__release, status, download_progress
		FROM image_install WHERE device IN `+list, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var device int64
		var i installed
		var progress sql.NullInt64
		if err := rows.Scan(&device, &i.id, &i.image, &i.release, &i.status, &progress); err != nil {
			return err
		}
		if progress.Valid {
			i.progress = progress.Int64
		}
		if k := known[device]; k != nil {
			k.installs = append(k.installs, i)
		}
	}
	return rows.Err()
}

// planReport compares a report with what is known.
func (d *Devices) planReport(ctx context.Context, tx *db.Tx, k *known, r *report.Report) (*plan, error) {
	p := k.plan
	p.set = map[string]any{}
	for name, v := range r.Columns {
		if !same(k.columns[name], v) {
			p.set[name] = v
		}
	}
	var err error
	switch {
	case r.Apps != nil:
		err = d.planApps(ctx, tx, &p, r.Apps, k)
	case r.Older != nil:
		err = planOlder(ctx, tx, &p, r.Older, k)
	}
	if err != nil {
		return nil, err
	}
	p.throttle(tx.Now, k.metricsAt)
	if _, ok := p.set["update_status"]; ok {
		p.set["last_update_status_event"] = db.FormatTime(tx.Now)
	}
	if !p.empty() && p.online { // the row is written anyhow: with the sign of life that the report is
		p.interval = cmp.Or(p.interval, d.cfg.PollInterval)
		p.beaten = true
		p.set["last_seen"], p.set["heartbeat_due"], p.set["heartbeat_until"] = beat{at: p.at, interval: p.interval}.columns()
	}
	return &p, nil
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
