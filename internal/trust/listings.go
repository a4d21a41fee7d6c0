package trust

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// listings says of the newest releases of a fleet whose list has them, with just the document that they have.
func listings(ctx context.Context, tx *db.Tx, fleet int64, files map[string]*storedFile) ([]api.TrustListing, error) {
	list := []api.TrustListing{}
	bins := map[string]tuf.Bin{}
	rows, err := tx.QueryContext(ctx, `SELECT r."commit", coalesce(d.sha256, ''), coalesce(d.counter, 0) FROM (SELECT id, "commit", created_at FROM "release"
		WHERE belongs_to__application = ? AND status = 'success' ORDER BY created_at DESC LIMIT ?) r LEFT JOIN trust_document d ON d."release" = r.id
		ORDER BY r.created_at DESC`, fleet, maxUnsigned)
	if err != nil {
		return nil, fmt.Errorf("who has signed: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var l api.TrustListing
		var digest string
		var counter int64
		if err := rows.Scan(&l.Commit, &digest, &counter); err != nil {
			return nil, fmt.Errorf("who has signed: %w", err)
		}
		if path, err := tuf.ReleasePath(l.Commit); err == nil && digest != "" {
			for by, listed := range map[string]*bool{api.TrustBuilder: &l.Builder, api.TrustOwner: &l.Owner} {
				role := tuf.BinRole(by, path)
				bin, ok := bins[role]
				if f := files[role]; f != nil && !ok {
					if bin, err = tuf.ReadBin(role, f.data); err != nil {
						return nil, err
					}
					bins[role] = bin
				}
				here, has := bin.Listed[path]
				*listed = has && here.SHA256 == digest && here.Counter == counter
			}
		}
		list = append(list, l)
	}
	return list, rows.Err()
}
