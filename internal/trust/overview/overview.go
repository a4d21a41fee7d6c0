// Package overview says in short how the trust of all fleets is that somebody reads.
package overview

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// maxFleets is how many one list has.
const maxFleets = 1000

// Fleets says in short how the trust of the fleets is that a caller reads. Nothing is signed for it: a fleet that nobody has asked about yet has none.
func Fleets(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.TrustFleet, error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return nil, api.ErrUnauthorized
	}
	may, args := rights.Bind(rights.FleetSQL(access.Read), "f", tx, by)
	list := []api.TrustFleet{}
	at := map[int64]int{}
	err := scan(ctx, tx, `SELECT f.id, f.uuid, f.slug, coalesce(t.held_by, ''), coalesce(t.approval, ''), coalesce(t.shell, '') FROM application f
		LEFT JOIN trust_fleet t ON t.application = f.id WHERE f.is_of__class = 'fleet' AND `+may+` ORDER BY f.slug LIMIT ?`, append(args, maxFleets), func(scan func(...any) error) error {
		f := api.TrustFleet{Devices: map[string]int64{}}
		var id int64
		if err := scan(&id, &f.Fleet, &f.Slug, &f.HeldBy, &f.Approval, &f.Shell); err != nil {
			return err
		}
		at[id] = len(list)
		list = append(list, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Of devices one sees what one sees of their fleet, so the same condition holds.
	may, args = rights.Bind(rights.FleetSQL(access.Read), "f", tx, by)
	err = scan(ctx, tx, `SELECT d.belongs_to__application, coalesce(t.state, 'unverified'), count(*) FROM device d JOIN application f ON f.id = d.belongs_to__application
		LEFT JOIN device_trust t ON t.device = d.id WHERE f.is_of__class = 'fleet' AND `+may+` GROUP BY d.belongs_to__application, coalesce(t.state, 'unverified')`, args,
		func(scan func(...any) error) error {
			var id, n int64
			var state string
			if err := scan(&id, &state, &n); err != nil {
				return err
			}
			if i, ok := at[id]; ok {
				list[i].Devices[state] = n
			}
			return nil
		})
	return list, err
}

// scan reads every row of a query.
func scan(ctx context.Context, tx *db.Tx, query string, args []any, each func(row func(...any) error) error) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("trust of fleets: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return fmt.Errorf("trust of fleets: %w", err)
		}
	}
	return rows.Err()
}
