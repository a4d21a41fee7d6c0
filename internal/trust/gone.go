package trust

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A device that checks what it runs leaves a fleet only by that fleet's own word. A fleet may be deleted before a device that was moved out of it has
// come and asked for the word: its trust is kept until then, and signed anew as if the fleet were there.

const maxLeaving = 50 // devices that a status lists

// FleetsDeleting hears, in the transaction, that fleets are deleted, after their devices were. What lets devices go that have still to ask is kept.
func (t *Trust) FleetsDeleting(ctx context.Context, tx *db.Tx, fleets []int64) error {
	for _, id := range fleets {
		res, err := tx.ExecContext(ctx, `INSERT INTO trust_gone (application, created_at, uuid, slug) SELECT f.id, ?, f.uuid, f.slug
			FROM application f JOIN trust_fleet t ON t.application = f.id
			WHERE f.id = ? AND EXISTS (SELECT 1 FROM trust_leave l WHERE l.application = f.id)`, tx.NowText(), id)
		if err != nil {
			return fmt.Errorf("keep what lets devices go: %w", err)
		}
		kept, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("keep what lets devices go: %w", err)
		}
		if kept == 0 {
			if err := forget(ctx, tx, id); err != nil {
				return err
			}
			continue
		}
		tx.OnCommit(func() {
			t.cfg.Log.InfoContext(ctx, "a fleet was deleted from which devices have still to go: what lets them is kept", "fleet", id)
		})
	}
	return nil
}

// forget deletes what is published of a fleet.
func forget(ctx context.Context, tx *db.Tx, fleet int64) error {
	for _, table := range []string{"trust_leave", "trust_file", "trust_fleet", "trust_gone"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE application = ?`, fleet); err != nil {
			return fmt.Errorf("forget the trust of fleet %d: %w", fleet, err)
		}
	}
	return nil
}

// ForgetGone deletes what is kept of fleets that are gone and that no device has still to leave.
func (t *Trust) ForgetGone(ctx context.Context) error { return t.cfg.DB.Write(ctx, forgetGone(ctx)) }

func forgetGone(ctx context.Context) func(tx *db.Tx) error {
	return func(tx *db.Tx) error {
		done, err := db.Column[int64](ctx, tx, `SELECT g.application FROM trust_gone g WHERE NOT EXISTS (SELECT 1 FROM trust_leave l WHERE l.application = g.application)
			ORDER BY g.application LIMIT 1000`)
		if err != nil {
			return fmt.Errorf("fleets that are gone: %w", err)
		}
		for _, id := range done {
			if err := forget(ctx, tx, id); err != nil {
				return err
			}
		}
		return nil
	}
}

// arrived takes note that a device believes the fleet that it is in: nothing needs to let it go any more.
func arrived(ctx context.Context, tx *db.Tx, p place, fleet string) error {
	res, err := tx.ExecContext(ctx, `DELETE FROM trust_leave WHERE device = ? AND EXISTS (SELECT 1 FROM application f WHERE f.id = ? AND f.uuid = ?)`, p.device, p.fleet, fleet)
	if err != nil {
		return fmt.Errorf("a device has come: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return forgetGone(ctx)(tx)
}

// readEvenGone is readFleet for a fleet that may be deleted already.
func readEvenGone(ctx context.Context, tx *db.Tx, id int64) (f fleetRow, err error) {
	if f, err = readFleet(ctx, tx, `f.id = ?`, id); !errors.Is(err, api.ErrNotFound) {
		return f, err
	}
	err = tx.QueryRowContext(ctx, `SELECT g.application, g.uuid, g.slug, t.changes, t.version, t.counter, t.held_by, t.shell, t.approval
		FROM trust_gone g JOIN trust_fleet t ON t.application = g.application WHERE g.application = ?`, id).
		Scan(&f.id, &f.uuid, &f.slug, &f.changes, &f.version, &f.counter, &f.heldBy, &f.shell, &f.approval)
	if errors.Is(err, sql.ErrNoRows) {
		return f, api.ErrNotFound
	}
	if err != nil {
		return f, fmt.Errorf("trust of a fleet that is gone: %w", err)
	}
	f.known = true
	return f, nil
}

// findLeft finds the fleet by whose word a device leaves. Another fleet may have the uuid of one that is gone by now.
func findLeft(ctx context.Context, tx *db.Tx, device int64, uuid string) (f fleetRow, err error) {
	left, err := db.Column[int64](ctx, tx, `SELECT l.application FROM trust_leave l LEFT JOIN application f ON f.id = l.application
		LEFT JOIN trust_gone g ON g.application = l.application WHERE l.device = ? AND coalesce(f.uuid, g.uuid) = ? ORDER BY l.id DESC LIMIT 1`, device, uuid)
	if err != nil {
		return f, fmt.Errorf("fleet that a device leaves: %w", err)
	}
	if len(left) == 0 { // its owner may have signed that it goes
		return readFleet(ctx, tx, `f.uuid = ?`, uuid)
	}
	return readEvenGone(ctx, tx, left[0])
}

// leaving lists devices that check what they run, were moved out of a fleet, and have not come since.
func leaving(ctx context.Context, tx *db.Tx, fleet int64) ([]api.TrustLeaving, error) {
	rows, err := tx.QueryContext(ctx, `SELECT d.uuid, l.created_at FROM trust_leave l JOIN device d ON d.id = l.device
		JOIN device_trust t ON t.device = d.id WHERE l.application = ? ORDER BY l.id LIMIT ?`, fleet, maxLeaving)
	if err != nil {
		return nil, fmt.Errorf("devices that leave: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.TrustLeaving{}
	for rows.Next() {
		var l api.TrustLeaving
		var at string
		if err := rows.Scan(&l.UUID, &at); err != nil {
			return nil, fmt.Errorf("devices that leave: %w", err)
		}
		if l.Since, err = db.ParseTime(at); err != nil {
			return nil, fmt.Errorf("devices that leave: %w", err)
		}
		list = append(list, l)
	}
	return list, rows.Err()
}

const forgetEvery = time.Hour
