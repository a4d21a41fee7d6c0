package device

import (
	"context"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Selector says which devices an action is for: those of which everything given holds. Zero values are not given.
type Selector struct {
	UUID   api.DeviceUUID
	Device int64
	Fleet  int64
}

// Reachable is a device that can be talked to just now.
type Reachable struct {
	ID    int64
	UUID  api.DeviceUUID
	Fleet int64
}

const (
	textNoOnline   = "No online device(s) found"
	maxReachable   = 10_000 // devices of one action
	actionNeeds    = access.Actions
	textNoSelector = "It is necessary to say which device: give uuid, deviceId or appId."
)

// Reach gives the devices that a selector means, that the caller may see and whose control channel is up. Whoever wants to change
// something (act) must also have that verb on their fleets; a device acts on itself. None is 404, as clients know it.
func (d *Devices) Reach(ctx context.Context, tx *db.Tx, by access.Caller, s Selector, act bool) ([]Reachable, error) {
	found, err := reachable(ctx, tx, s)
	if err != nil {
		return nil, fmt.Errorf("reach devices: %w", err)
	}
	verbs := map[int64]access.Verbs{}
	var out []Reachable
	for _, f := range found {
		if by.Kind == access.Device {
			if f.ID == by.Device {
				out = append(out, f)
			}
			continue
		}
		may, known := verbs[f.Fleet]
		if !known {
			if may, err = rights.FleetVerbs(ctx, tx, by, f.Fleet); err != nil {
				return nil, fmt.Errorf("reach devices: %w", err)
			}
			verbs[f.Fleet] = may
		}
		if !may.Has(access.Read | actionNeeds) { // support may have been let in on this device alone
			if may, err = rights.DeviceVerbs(ctx, tx, by, f.ID); err != nil {
				return nil, fmt.Errorf("reach devices: %w", err)
			}
		}
		switch {
		case !may.Has(access.Read): // does not exist for them
		case act && !may.Has(actionNeeds):
			return nil, rights.Needs(may, actionNeeds)
		default:
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil, api.Errorf(api.NotFound, textNoOnline)
	}
	return out, nil
}

func reachable(ctx context.Context, tx *db.Tx, s Selector) ([]Reachable, error) {
	var where []string
	var args []any
	for _, c := range []struct {
		column string
		given  bool
		value  any
	}{
		{"uuid", s.UUID != "", s.UUID}, {"id", s.Device != 0, s.Device}, {"belongs_to__application", s.Fleet != 0, s.Fleet},
	} {
		if c.given {
			where, args = append(where, c.column+" = ?"), append(args, c.value)
		}
	}
	if len(where) == 0 {
		return nil, api.Errorf(api.Invalid, textNoSelector)
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, uuid, belongs_to__application FROM device
		WHERE is_connected_to_vpn = 1 AND is_frozen = 0 AND `+strings.Join(where, " AND ")+` ORDER BY id LIMIT ?`, append(args, maxReachable)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Reachable
	for rows.Next() {
		var r Reachable
		if err := rows.Scan(&r.ID, &r.UUID, &r.Fleet); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}
