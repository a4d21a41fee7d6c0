package device

import (
	"context"
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Connection is the control channel of a device: one that is up has an address.
type Connection struct {
	Device            int64
	Address, Identity string
}

// Connected writes down of devices that their control channels came up or went down. Package channel, which knows it, says so.
func Connected(ctx context.Context, tx *db.Tx, all []Connection) error {
	for part := range slices.Chunk(all, beatsAtOnce) {
		var up []int64
		values := make([][]any, 0, len(part))
		for _, c := range part {
			if c.Address != "" {
				up = append(up, c.Device)
			}
			values = append(values, []any{c.Device, c.Address, c.Identity})
		}
		sleeping, err := inactive(ctx, tx, up)
		if err != nil {
			return fmt.Errorf("device: connected: %w", err)
		}
		list, args := db.Values("(CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT))", values)
		_, err = tx.ExecContext(ctx, `UPDATE device SET is_connected_to_vpn = CASE WHEN c.column2 = '' THEN 0 ELSE 1 END, last_vpn_event = ?,
			is_active = CASE WHEN c.column2 = '' THEN is_active ELSE 1 END,
			channel_address = NULLIF(c.column2, ''), channel_identity = NULLIF(c.column3, '')
			FROM (VALUES `+list+`) AS c WHERE device.id = c.column1`, append([]any{tx.NowText()}, args...)...)
		if err != nil {
			return fmt.Errorf("device: connected: %w", err)
		}
		for id, actor := range sleeping {
			if err := record(ctx, tx, access.Caller{Kind: access.Device, Device: id, Actor: actor}, id); err != nil {
				return err
			}
		}
	}
	return nil
}
