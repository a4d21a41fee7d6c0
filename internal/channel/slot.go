package channel

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/db"
)

// maxBits is the smallest network that devices get addresses in.
const maxBits = 28

// firstPlace is the number of the first device's address in a network: 0 is the network's own, 1 the server's.
const firstPlace = 2

// places is how many devices a network has room for. Its last address is for all.
func places(network netip.Prefix) int64 { return int64(1)<<(32-network.Bits()) - firstPlace - 1 }

// addressOf is the address of a place in a network.
func addressOf(network netip.Prefix, slot int64) (string, error) {
	if slot >= places(network) {
		return "", api.Errorf(api.Unavailable, "the network %s has no room for another device", network)
	}
	base := network.Masked().Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(slot+firstPlace)) //nolint:gosec // below 2^32, as the network has it
	return netip.AddrFrom4(out).String(), nil
}

// place gives a device a place that it keeps: behind the last one that was given, and when the network ends there, the first that is free.
// A place whose device is gone is used again late.
func place(ctx context.Context, tx *db.Tx, device, room int64) (slot int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT number FROM channel_slot WHERE device = ?`, device).Scan(&slot)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return slot, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number) + 1, 0) FROM channel_slot`).Scan(&slot); err != nil {
		return 0, err
	}
	if slot >= room {
		err := tx.QueryRowContext(ctx, `SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM channel_slot WHERE number = 0) THEN 0
			ELSE (SELECT min(s.number) + 1 FROM channel_slot s
				WHERE NOT EXISTS (SELECT 1 FROM channel_slot n WHERE n.number = s.number + 1)) END`).Scan(&slot)
		if err != nil {
			return 0, err
		}
	}
	if slot >= room {
		return 0, api.Errorf(api.Unavailable, "the network of the control channel has no room for another device")
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO channel_slot (device, number) VALUES (?, ?)`, device, slot); err != nil {
		return 0, fmt.Errorf("place of device %d: %w", device, err)
	}
	return slot, nil
}

// networkOf is what counts as one place that devices come from.
func networkOf(address string) string { return throttle.Network(address).String() }
