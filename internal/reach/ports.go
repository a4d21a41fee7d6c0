package reach

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// portOpen says whether a port is open to tunnels, see [fleet.TunnelPorts].
func portOpen(ctx context.Context, tx *db.Tx, t target, port int) (bool, error) {
	lists, err := db.Column[string](ctx, tx, `SELECT value FROM application_config_variable WHERE application = ? AND name = ?
		UNION ALL SELECT value FROM device_config_variable WHERE device = ? AND name = ?`, t.fleet, fleet.TunnelPorts, t.id, fleet.TunnelPorts)
	if err != nil {
		return false, fmt.Errorf("reach: ports: %w", err)
	}
	for _, list := range lists {
		if !fleet.InPorts(list, port) {
			return false, nil
		}
	}
	return true, nil
}
