package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Moving hears, in the transaction, that a device goes to another fleet. A device that checks what it runs goes only when the fleet that it
// comes from says so: a fleet that the server holds says it when the device asks, an owner has to have signed it.
func (t *Trust) Moving(ctx context.Context, tx *db.Tx, device, from, to int64) error {
	v, ok, err := t.Orders.Verifying(ctx, tx, device)
	if err != nil || !ok {
		return err
	}
	f, err := readFleet(ctx, tx, `f.id = ?`, from)
	if err != nil || !f.known {
		return err
	}
	there, err := readFleet(ctx, tx, `f.id = ?`, to)
	if err != nil {
		return err
	}
	switch ok, err := lets(ctx, tx, f, v.UUID, there); {
	case err != nil:
		return err
	case !ok && !v.Said:
		return nil // it has not said that it checks, and most that say nothing do not
	case !ok:
		return api.Errorf(api.Conflict, "The device %s checks what it runs, and the owner of %s has not signed that it may go to %s: roadstead trust transfer.", v.UUID, f.slug, there.slug)
	}
	if v.Said {
		if err := follows(ctx, tx, device, v.UUID, f, there); err != nil {
			return err
		}
	}
	// A device that is off may have missed other moves: wherever it came from, it is sent to where it is to be now.
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_leave WHERE device = ? AND application = ?`, device, to); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE trust_leave SET goes_to = ? WHERE device = ?`, to, device); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO trust_leave (created_at, application, device, goes_to) VALUES (?, ?, ?, ?)
		ON CONFLICT (application, device) DO UPDATE SET goes_to = excluded.goes_to`, tx.NowText(), from, device, to)
	if err != nil {
		return fmt.Errorf("move: %w", err)
	}
	return nil
}

// lets says whether a fleet lets a device go to another one: the server does, an owner has to have signed it.
func lets(ctx context.Context, tx *db.Tx, f fleetRow, device api.DeviceUUID, there fleetRow) (bool, error) {
	if f.heldBy != api.HeldByOwner {
		return true, nil
	}
	files, err := readFiles(ctx, tx, f.id, ` AND f.role = ?`, api.TrustTargets)
	if err != nil {
		return false, err
	}
	l, ok := leaveOf(files[api.TrustTargets], device)
	return ok && l.To == there.uuid, nil
}

// follows refuses to send a device further that may believe a fleet still whose owner has signed that it may go elsewhere: it would follow nobody.
func follows(ctx context.Context, tx *db.Tx, device int64, uuid api.DeviceUUID, from, there fleetRow) error {
	left, err := db.Column[int64](ctx, tx, `SELECT application FROM trust_leave WHERE device = ? AND application <> ? AND application <> ? ORDER BY id`, device, from.id, there.id)
	if err != nil {
		return fmt.Errorf("move: %w", err)
	}
	for _, id := range left {
		f, err := readEvenGone(ctx, tx, id)
		if err != nil {
			return err
		}
		if ok, err := lets(ctx, tx, f, uuid, there); err != nil {
			return err
		} else if !ok {
			return api.Errorf(api.Conflict, "The device %s came from %s and has not asked since it was moved to %s, and the owner of %s has not signed that it may go to %s: wait until it has.",
				uuid, f.slug, from.slug, f.slug, there.slug)
		}
	}
	return nil
}

// leaveOf finds what targets say of a device that may go.
func leaveOf(targets *storedFile, uuid api.DeviceUUID) (api.TrustLeave, bool) {
	if targets == nil {
		return api.TrustLeave{}, false
	}
	x, err := tuf.ReadTargets(targets.data)
	if err != nil {
		return api.TrustLeave{}, false
	}
	i := slices.IndexFunc(x.Mark.Transfers, func(l api.TrustLeave) bool { return l.Device == uuid })
	if i < 0 {
		return api.TrustLeave{}, false
	}
	return x.Mark.Transfers[i], true
}

// goer is a device that went from a fleet.
type goer struct {
	uuid api.DeviceUUID
	to   int64
	api.TrustLeave
}

// letGo has a fleet that the server holds say where its former devices may go, with the first root there.
func (t *Trust) letGo(ctx context.Context, fleet int64) error {
	list, err := t.goers(ctx, fleet)
	if err != nil || len(list) == 0 {
		return err
	}
	for i := range list {
		if err := t.firstRoot(ctx, &list[i]); err != nil {
			return err
		}
	}
	return t.bringOnceWith(ctx, fleet, want{targets: func(x *tuf.Targets) (changes bool) {
		for _, g := range list {
			at := slices.IndexFunc(x.Mark.Transfers, func(l api.TrustLeave) bool { return l.Device == g.uuid })
			switch {
			case at < 0:
				x.Mark.Transfers, changes = append(x.Mark.Transfers, g.TrustLeave), true
			case x.Mark.Transfers[at] != g.TrustLeave:
				x.Mark.Transfers[at], changes = g.TrustLeave, true
			}
		}
		return changes
	}})
}

func (t *Trust) goers(ctx context.Context, fleet int64) (list []goer, err error) {
	err = t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, `SELECT d.uuid, l.goes_to, f.uuid FROM trust_leave l JOIN device d ON d.id = l.device JOIN application f ON f.id = l.goes_to
			WHERE l.application = ? ORDER BY l.id`, fleet)
		if err != nil {
			return fmt.Errorf("devices that went: %w", err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var g goer
			if err := rows.Scan(&g.uuid, &g.to, &g.To); err != nil {
				return fmt.Errorf("devices that went: %w", err)
			}
			g.Device = g.uuid
			list = append(list, g)
		}
		return rows.Err()
	})
	return list, err
}

// firstRoot finds the first root of the fleet that a device goes to, which is made if there is none.
func (t *Trust) firstRoot(ctx context.Context, g *goer) error {
	for range lookTries {
		var roots []string
		err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			roots, err = db.Column[string](ctx, tx, `SELECT data FROM trust_file WHERE application = ? AND role = 'root' ORDER BY version LIMIT 1`, g.to)
			return err
		})
		if err != nil {
			return fmt.Errorf("root of fleet %s: %w", g.To, err)
		}
		if len(roots) == 1 {
			g.Root = tuf.Digest([]byte(roots[0]))
			return nil
		}
		if err := t.bringOnce(ctx, g.to, want{}); err != nil {
			return err
		}
	}
	return errors.New("trust: the fleet's root is not there")
}

// bringOnceWith is for what cannot be told apart by numbers: one after the other.
func (t *Trust) bringOnceWith(ctx context.Context, fleet int64, w want) error {
	return t.once.Do(ctx, fmt.Sprintf("%d targets", fleet), func(ctx context.Context) error { return t.bring(ctx, fleet, w) })
}
