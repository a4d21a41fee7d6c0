package device

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/batch"
)

// rowsAtOnce is how many rows one statement of reports writes at most.
const rowsAtOnce = 64

// writeReports writes what reports change. Each is written whole, by a transaction that it shares with others.
func (d *Devices) writeReports(ctx context.Context, all []*batch.Ask[*told]) error {
	var first, rest []*batch.Ask[*told] // a second report of the same device was compared with what the first one changes
	var plans []*plan                   // of first
	seen := map[int64]bool{}
	for _, a := range all {
		if seen[a.Of.plan.device] {
			rest = append(rest, a)
			continue
		}
		seen[a.Of.plan.device] = true
		first, plans = append(first, a), append(plans, a.Of.plan)
	}
	write := d.cfg.DB.Write
	if oneStatement(plans) {
		write = d.cfg.DB.WriteOne
	}
	var done map[int64]bool
	err := write(ctx, func(tx *db.Tx) (err error) {
		done, err = apply(ctx, tx, first, plans)
		return err
	})
	if err != nil {
		return err
	}
	for i, a := range first {
		if !done[plans[i].device] {
			rest = append(rest, a)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return d.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, a := range rest {
			if err := d.writeAgain(ctx, tx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// oneStatement says whether plans are written by a single statement: all set the same columns of their devices, and that is all.
func oneStatement(plans []*plan) bool {
	for _, p := range plans {
		if len(plans) > rowsAtOnce || len(p.install) > 0 || len(p.gone) > 0 || p.columns() != plans[0].columns() {
			return false
		}
		for _, name := range recorded {
			if _, ok := p.set[name]; ok {
				return false
			}
		}
	}
	return true
}

// columns names what a plan sets, in one order.
func (p *plan) columns() string { return strings.Join(slices.Sorted(maps.Keys(p.set)), " ") }

// writeAgain compares a report anew whose device was changed since, with nobody else writing meanwhile.
func (d *Devices) writeAgain(ctx context.Context, tx *db.Tx, a *batch.Ask[*told]) error {
	alone := []*batch.Ask[*told]{a}
	plans, err := d.planReports(ctx, tx, alone)
	if err != nil || a.Err != nil {
		return err
	}
	if a.Of.plan = plans[0]; a.Of.plan.empty() {
		return nil
	}
	done, err := apply(ctx, tx, alone, plans)
	if err == nil && !done[plans[0].device] {
		err = errors.New("the device changes under its own report")
	}
	return err
}

// apply writes plans of different devices. done says for which: nothing is written of one whose device has changed since the plan
// was made.
func apply(ctx context.Context, tx *db.Tx, all []*batch.Ask[*told], plans []*plan) (done map[int64]bool, err error) {
	done = map[int64]bool{}
	bySet := map[string][]*plan{} // by the columns that they set
	for _, p := range plans {
		bySet[p.columns()] = append(bySet[p.columns()], p)
	}
	for _, names := range slices.Sorted(maps.Keys(bySet)) {
		for some := range slices.Chunk(bySet[names], rowsAtOnce) {
			if err := updateDevices(ctx, tx, strings.Fields(names), some, done); err != nil {
				return nil, err
			}
		}
	}
	var written []*plan
	for _, p := range plans {
		if done[p.device] {
			written = append(written, p)
		}
	}
	if err := writeInstalls(ctx, tx, written); err != nil {
		return nil, err
	}
	for i, p := range plans {
		if done[p.device] {
			if err := p.follow(ctx, tx, all[i].Of.by); err != nil {
				return nil, err
			}
		}
	}
	return done, nil
}

// updateDevices sets the same columns of several devices, where they are what the plans were made for.
func updateDevices(ctx context.Context, tx *db.Tx, names []string, plans []*plan, done map[int64]bool) error {
	var set, row strings.Builder
	row.WriteString("(CAST(? AS BIGINT), CAST(? AS BIGINT)")
	for i, name := range names {
		set.WriteString(name + " = b.column" + strconv.Itoa(i+3) + ", ")
		if isNumber[name] {
			row.WriteString(", CAST(? AS BIGINT)")
		} else {
			row.WriteString(", CAST(? AS TEXT)")
		}
	}
	row.WriteString(")")
	values := make([][]any, len(plans))
	for i, p := range plans {
		values[i] = append(values[i], p.device, p.serial)
		for _, name := range names {
			values[i] = append(values[i], p.set[name])
		}
	}
	list, args := db.Values(row.String(), values)
	rows, err := tx.QueryContext(ctx, `UPDATE device SET `+set.String()+`modified_at = ?, report_serial = report_serial + 1
		FROM (VALUES `+list+`) AS b WHERE device.id = b.column1 AND device.report_serial = b.column2 RETURNING id`,
		append([]any{tx.NowText()}, args...)...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		done[id] = true
	}
	return rows.Err()
}

// writeInstalls writes what is on devices now, and what no longer is.
func writeInstalls(ctx context.Context, tx *db.Tx, plans []*plan) error {
	var rows [][]any
	var gone []int64
	for _, p := range plans {
		for _, i := range p.install {
			rows = append(rows, []any{p.device, i.image, i.release, i.status, i.progress})
		}
		gone = append(gone, p.gone...)
	}
	for some := range slices.Chunk(rows, rowsAtOnce) {
		list, args := db.Values(`(CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS BIGINT))`, some)
		_, err := tx.ExecContext(ctx, `INSERT INTO image_install (created_at, device, installs__image, is_provided_by__release, install_date,
				status, download_progress)
			SELECT DISTINCT CAST(?1 AS TEXT), column1, column2, column3, CAST(?1 AS TEXT), column4, column5 FROM (VALUES `+list+`) AS b WHERE 1 = 1
			ON CONFLICT (device, installs__image) DO UPDATE SET is_provided_by__release = excluded.is_provided_by__release,
				install_date = CASE WHEN image_install.status = 'deleted' THEN excluded.install_date ELSE image_install.install_date END,
				status = excluded.status, download_progress = excluded.download_progress`, append([]any{tx.NowText()}, args...)...)
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(gone, rowsAtOnce) {
		list, args := db.In(some)
		_, err := tx.ExecContext(ctx, `UPDATE image_install SET status = 'deleted', download_progress = NULL WHERE id IN `+list, args...)
		if err != nil {
			return err
		}
	}
	return nil
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
