package reach

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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
		if !inPorts(list, port) {
			return false, nil
		}
	}
	return true, nil
}

// inPorts reports whether a port is in a list. What cannot be read opens nothing.
func inPorts(list string, port int) bool {
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		if strings.EqualFold(part, "all") {
			return true
		}
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			continue
		}
		to, err := strconv.ParseUint(high, 10, 16)
		if err == nil && uint64(port) >= from && uint64(port) <= to {
			return true
		}
	}
	return false
}
