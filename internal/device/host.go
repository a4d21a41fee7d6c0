package device

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/version"
)

// A device's operating system and supervisor are releases too: of a host fleet of its device type, and of the public fleet
// balena_os/<architecture>-supervisor. Which it should have, people decide; what it says that it has raises the choice.

// The texts below are matched by balena's clients and their tests.
const (
	textHost = "It is necessary that each release that should operate a device, has a status that is equal to \"success\", is not " +
		"invalidated, and belongs to an application that is host and is for the device type of the device."
	textSupervisor = "It is necessary that each release that should manage a device, has a status that is equal to \"success\", is not " +
		"invalidated, and belongs to a public application that is the supervisor for the CPU architecture of the device."
	textHostDowngrade       = "Attempt to downgrade hostapp, which is not allowed"
	textSupervisorDowngrade = "Attempt to downgrade supervisor, which is not allowed"
)

// The parts of a query that say which releases may operate or manage device d.
const (
	canOperate = `r.status = 'success' AND r.is_invalidated = 0 AND f.is_host = 1 AND f.is_for__device_type = d.is_of__device_type`
	canManage  = `r.status = 'success' AND r.is_invalidated = 0 AND f.is_public = 1 AND f.is_host = 0 AND f.slug =
		(SELECT 'balena_os/' || c.slug || '-supervisor' FROM device_type t JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
			WHERE t.id = d.is_of__device_type)`
)

// checkHost refuses an operating system that is not for the device, or older than the one that it has.
func checkHost(ctx context.Context, tx *db.Tx, device, release int64) error {
	return checkTarget(ctx, tx, device, release, `d.os_version`, canOperate, textHost, textHostDowngrade)
}

// checkSupervisor refuses a supervisor that is not for the device, or older than the one that it should have.
func checkSupervisor(ctx context.Context, tx *db.Tx, device, release int64) error {
	const current = `coalesce((SELECT p.raw_version FROM "release" p WHERE p.id = d.should_be_managed_by__release), d.supervisor_version)`
	return checkTarget(ctx, tx, device, release, current, canManage, textSupervisor, textSupervisorDowngrade)
}

func checkTarget(ctx context.Context, tx *db.Tx, device, release int64, current, may, textWrong, textOlder string) error {
	var now sql.NullString
	var next string
	err := tx.QueryRowContext(ctx, `SELECT `+current+`, r.raw_version FROM device d, "release" r
		JOIN application f ON f.id = r.belongs_to__application WHERE d.id = ? AND r.id = ? AND `+may, device, release).Scan(&now, &next)
	if noRows(err) {
		return api.Errorf(api.Invalid, "%s", textWrong)
	}
	if err != nil {
		return fmt.Errorf("device: host: %w", err)
	}
	has, known := version.Parse(now.String)
	gets, ok := version.Parse(next)
	if known && ok && gets.Compare(has) < 0 {
		return api.Errorf(api.Invalid, "%s", textOlder)
	}
	return nil
}

// versions is what a device says that it has, and what it should have already.
type versions struct {
	os, variant, supervisor string
	managed                 bool   // whether it is known which supervisor it should have
	target                  string // the version of the operating system that it should have
}

// followVersions looks up the releases of what a device says that it has, and installs what is in them.
func followVersions(ctx context.Context, tx *db.Tx, device int64) error {
	var v versions
	err := tx.QueryRowContext(ctx, `SELECT coalesce(d.os_version, ''), coalesce(d.os_variant, ''), coalesce(d.supervisor_version, ''),
		d.should_be_managed_by__release IS NOT NULL,
		coalesce((SELECT r.raw_version FROM "release" r WHERE r.id = d.should_be_operated_by__release), '') FROM device d WHERE d.id = ?`, device).
		Scan(&v.os, &v.variant, &v.supervisor, &v.managed, &v.target)
	if err != nil {
		return fmt.Errorf("device: host: %w", err)
	}
	changed, err := v.follow(ctx, tx, device)
	if err != nil || !changed {
		return err
	}
	return installServices(ctx, tx, `d.id = ?`, device)
}

// follow makes a device be to have what it has: a supervisor once, an operating system whenever it is newer than the one that it
// should have. changed says that there are such releases.
func (v versions) follow(ctx context.Context, tx *db.Tx, device int64) (changed bool, err error) {
	if has, ok := version.Parse(v.supervisor); ok && !v.managed {
		if changed, err = follow(ctx, tx, device, has, "should_be_managed_by__release", canManage); err != nil {
			return false, err
		}
	}
	has, ok := version.Parse(v.os)
	should, given := version.Parse(v.target)
	if !ok || (given && has.Compare(should) <= 0) {
		return changed, nil
	}
	if has.Variant == "" {
		has.Variant = v.variant
	}
	found, err := follow(ctx, tx, device, has, "should_be_operated_by__release", canOperate)
	return changed || found, err
}

// follow makes the release of a version the one that a device should have, if there is one.
func follow(ctx context.Context, tx *db.Tx, device int64, has version.Version, column, may string) (bool, error) {
	rows, err := tx.QueryContext(ctx, `SELECT r.id, r.raw_version FROM device d, "release" r
		JOIN application f ON f.id = r.belongs_to__application WHERE d.id = ? AND r.is_final = 1 AND r.semver_major = ?
		AND r.semver_minor = ? AND r.semver_patch = ? AND `+may+` ORDER BY r.id DESC`, device, has.Major, has.Minor, has.Patch)
	if err != nil {
		return false, fmt.Errorf("device: host: %w", err)
	}
	var id int64
	for rows.Next() {
		var candidate int64
		var raw string
		if err := rows.Scan(&candidate, &raw); err != nil {
			_ = rows.Close()
			return false, fmt.Errorf("device: host: %w", err)
		}
		v, ok := version.Parse(raw)
		if ok && v.Compare(has) == 0 && (v.Variant == "" || v.Variant == has.Variant) {
			id = candidate
			break
		}
	}
	if err := cmp.Or(rows.Close(), rows.Err()); err != nil {
		return false, fmt.Errorf("device: host: %w", err)
	}
	if id == 0 {
		return false, nil
	}
	if _, err := tx.ExecContext(ctx, `UPDATE device SET `+column+` = ? WHERE id = ?`, id, device); err != nil {
		return false, fmt.Errorf("device: host: %w", err)
	}
	return true, nil
}
