package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A fleet either tracks its newest good release or stays on the one that somebody chose. The statements here read the release
// package's table, which the fleet's own column points into; they never write it.

// Track moves a tracking fleet to its newest release that is successful, final, passing its tests and not invalidated. "Newest"
// is the one whose build started last, so that of two builds at once the later push wins, whichever ends first. A fleet that
// does not track stays where it is.
func (f *Fleets) Track(ctx context.Context, tx *db.Tx, fleet int64) error {
	var tracks bool
	var newest sql.NullInt64
	err := tx.QueryRowContext(ctx, `
SELECT a.should_track_latest_release, (
    SELECT r.id FROM "release" r
    WHERE r.belongs_to__application = a.id AND r.status = 'success' AND r.is_final = 1 AND r.is_passing_tests = 1
      AND r.is_invalidated = 0
    ORDER BY r.start_timestamp DESC, r.id DESC LIMIT 1)
FROM application a WHERE a.id = $1`, fleet).Scan(&tracks, &newest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // deleted meanwhile, with everything that it had
	}
	if err != nil {
		return fmt.Errorf("fleet %d: newest release: %w", fleet, err)
	}
	if !tracks {
		return nil
	}
	return f.SetTarget(ctx, tx, fleet, newest.Int64)
}

// SetTarget makes a release the one that a fleet should run; 0 means none. Devices hear of it only when it changed.
func (f *Fleets) SetTarget(ctx context.Context, tx *db.Tx, fleet, release int64) error {
	res, err := tx.ExecContext(ctx, `
UPDATE application SET should_be_running__release = NULLIF(CAST($1 AS BIGINT), 0)
WHERE id = $2 AND COALESCE(should_be_running__release, 0) <> $1`, release, fleet)
	if err != nil {
		return fmt.Errorf("fleet %d: target release %d: %w", fleet, release, err)
	}
	changed, err := res.RowsAffected()
	if err != nil || changed == 0 {
		return err
	}
	return f.targetChanged(ctx, tx, fleet)
}

func (f *Fleets) targetChanged(ctx context.Context, tx *db.Tx, fleet int64) error {
	if f.cfg.TargetChanged == nil {
		return nil
	}
	return f.cfg.TargetChanged(ctx, tx, fleet)
}

// checkTarget refuses a target that a fleet cannot run.
func checkTarget(ctx context.Context, tx *db.Tx, fleet, release int64) error {
	var n int
	err := tx.QueryRowContext(ctx, `
SELECT count(*) FROM "release" WHERE id = $1 AND belongs_to__application = $2 AND status = 'success'`, release, fleet).Scan(&n)
	if err != nil {
		return fmt.Errorf("fleet %d: check release %d: %w", fleet, release, err)
	}
	if n == 0 {
		return api.Errorf(api.Invalid, "It is necessary that each release that should be running on an application, has a "+
			`status that is equal to "success" and belongs to the application.`)
	}
	return nil
}
