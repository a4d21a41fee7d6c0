package account

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/db"
)

// SystemHandle is the organization that operating systems and supervisors belong to. Clients know it by this name: the fleet
// balena_os/<architecture>-supervisor holds the releases of a supervisor. It has no members: the operator of the server alone
// fills it, and nobody else can take the name.
const SystemHandle = "balena_os"

// SystemOrganization gives the id of that organization and makes it the first time.
func SystemOrganization(ctx context.Context, tx *db.Tx) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO organization (created_at, name, handle) VALUES (?, 'Operating systems', ?)
		ON CONFLICT (handle) DO UPDATE SET handle = excluded.handle RETURNING id`, tx.NowText(), SystemHandle).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("organization %s: %w", SystemHandle, err)
	}
	return id, nil
}
