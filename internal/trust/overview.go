package trust

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// maxFleets is how many one list has.
const maxFleets = 1000

// Fleets says in short how the trust of the fleets is that a caller reads. Nothing is signed for it: a fleet that nobody has asked about yet has none.
func (t *Trust) Fleets(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.TrustFleet, error) {
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return nil, api.ErrUnauthorized
	}
	may, args := rights.Bind(rights.FleetSQL(access.Read), "f", tx, by)
	list := []api.TrustFleet{}
	at := map[int64]int{}
	err := scanAll(ctx, tx, `SELECT f.id, f.uuid, f.slug, coalesce(t.held_by, ''), coalesce(t.approval, ''), coalesce(t.shell, '') FROM application f
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
	err = scanAll(ctx, tx, `SELECT d.belongs_to__application, coalesce(t.state, 'unverified'), count(*) FROM device d JOIN application f ON f.id = d.belongs_to__application
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

// scanAll reads every row of a query.
func scanAll(ctx context.Context, tx *db.Tx, query string, args []any, each func(scan func(...any) error) error) error {
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

// listings says of the newest releases of a fleet whose list has them, with just the document that they have.
func listings(ctx context.Context, tx *db.Tx, fleet int64, files map[string]*storedFile) ([]api.TrustListing, error) {
	list := []api.TrustListing{}
	bins := map[string]tuf.Bin{}
	err := scanAll(ctx, tx, `SELECT r."commit", coalesce(d.sha256, ''), coalesce(d.counter, 0) FROM (SELECT id, "commit", created_at FROM "release"
		WHERE belongs_to__application = ? AND status = 'success' ORDER BY created_at DESC LIMIT ?) r LEFT JOIN trust_document d ON d."release" = r.id
		ORDER BY r.created_at DESC`, []any{fleet, maxUnsigned}, func(scan func(...any) error) error {
		var l api.TrustListing
		var digest string
		var counter int64
		if err := scan(&l.Commit, &digest, &counter); err != nil {
			return err
		}
		if path, err := tuf.ReleasePath(l.Commit); err == nil && digest != "" {
			for by, listed := range map[string]*bool{api.TrustBuilder: &l.Builder, api.TrustOwner: &l.Owner} {
				role := tuf.BinRole(by, path)
				bin, ok := bins[role]
				if f := files[role]; f != nil && !ok {
					if bin, err = tuf.ReadBin(role, f.data); err != nil {
						return err
					}
					bins[role] = bin
				}
				here, has := bin.Listed[path]
				*listed = has && here.SHA256 == digest && here.Counter == counter
			}
		}
		list = append(list, l)
		return nil
	})
	return list, err
}
