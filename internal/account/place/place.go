// Package place remembers the networks that people sign in from, so that a sign-in from another one can be told of.
package place

import (
	"context"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	most   = 100                  // networks remembered of one user; those not seen for longest make room
	forget = 365 * 24 * time.Hour // a network that was not seen for so long is new again
)

// SignedIn remembers that a user signed in from an address, and says whether from a new place: the very first is none.
func SignedIn(ctx context.Context, tx *db.Tx, user int64, address string) (isNew bool, err error) {
	network := throttle.Network(address)
	if !network.IsValid() {
		return false, nil
	}
	from := network.String()
	if network.Addr().Is4() {
		from = network.Addr().String()
	}
	var places int
	var known bool
	since := db.FormatTime(tx.Now.Add(-forget))
	err = tx.QueryRowContext(ctx, `SELECT count(*), coalesce(max(CASE WHEN network = ? AND last_seen_at > ? THEN 1 ELSE 0 END), 0) = 1
		FROM sign_in_place WHERE "user" = ?`, from, since, user).Scan(&places, &known)
	if err != nil {
		return false, fmt.Errorf("places of user %d: %w", user, err)
	}
	if _, err = tx.ExecContext(ctx, `INSERT INTO sign_in_place ("user", network, last_seen_at) VALUES (?, ?, ?)
		ON CONFLICT ("user", network) DO UPDATE SET last_seen_at = excluded.last_seen_at`, user, from, tx.NowText()); err != nil {
		return false, fmt.Errorf("places of user %d: %w", user, err)
	}
	if places >= most {
		_, err = tx.ExecContext(ctx, `DELETE FROM sign_in_place WHERE "user" = ?1 AND network IN (SELECT network FROM sign_in_place WHERE "user" = ?1
			ORDER BY last_seen_at DESC, network LIMIT 1000000 OFFSET `+fmt.Sprint(most)+`)`, user)
		if err != nil {
			return false, fmt.Errorf("places of user %d: %w", user, err)
		}
	}
	return places > 0 && !known, nil
}
