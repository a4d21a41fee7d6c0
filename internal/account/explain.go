package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// ExplainKey says what a key is: for whom, limited to what, made by whom, used when, and whether it still opens anything. The engine
// has found the key to be one that the caller may see.
func (a *Accounts) ExplainKey(ctx context.Context, tx *db.Tx, id int64) (api.KeyExplanation, error) {
	out := api.KeyExplanation{ID: id, Fleets: []string{}}
	var k keyRow
	var level int
	var some bool
	var slug, creator, expiry, used sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT coalesce(k.name, ''), coalesce(k.description, ''), k.kind, k.created_at, k.expiry_date, k.last_used_at,
			k.max_level, k.is_for_some_fleets, k.max_uses, k.uses, c.username, k.is_created_by__user,
			u.id, u.username, f.id, f.slug, d.id, d.uuid, d.belongs_to__application, coalesce(d.is_frozen, 0)
		FROM api_key k
		LEFT JOIN "user" c ON c.id = k.is_created_by__user
		LEFT JOIN "user" u ON k.kind = 'user' AND u.actor = k.is_of__actor
		LEFT JOIN application f ON k.kind IN ('provisioning', 'fleet') AND f.actor = k.is_of__actor
		LEFT JOIN device d ON k.kind = 'device' AND d.actor = k.is_of__actor
		WHERE k.id = ?`, id).
		Scan(&out.Name, &out.Description, &k.kind, &out.CreatedAt, &expiry, &used, &level, &some, &out.MaxUses, &out.Uses, &creator, &k.creator,
			&k.user, &k.name, &k.fleet, &slug, &k.device, &k.uuid, &k.within, &k.frozen)
	if err != nil {
		return out, fmt.Errorf("explain key: %w", err)
	}
	out.ExpiryDate, out.LastUsedAt, out.CreatedBy = expiry.String, used.String, creator.String
	k.scoped = some || level < int(access.Administrator)
	var c access.Caller
	switch err := k.who(&c); {
	case err != nil:
		out.Ended = "what it was for is gone"
	case expiry.Valid && expiry.String <= tx.NowText():
		out.Ended = "it has expired"
	case k.fleet.Valid && k.creator.Valid:
		if err := stillEntrusted(ctx, tx, k.creator.Int64, k.fleet.Int64); errors.Is(err, api.ErrUnauthorized) {
			out.Ended = "who made it does not operate the fleet any more"
		} else if err != nil {
			return out, err
		}
	}
	out.Principal = string(c.Kind)
	switch {
	case k.user.Valid:
		out.Of = k.name.String
	case k.fleet.Valid:
		out.Of = slug.String
	case k.device.Valid:
		out.Of = k.uuid.String
	}
	if c.Kind != access.ScopedKey {
		return out, nil
	}
	out.Level = access.Level(level).String()
	out.AllFleets = !some
	rows, err := tx.QueryContext(ctx, `SELECT f.slug FROM api_key_fleet s JOIN application f ON f.id = s.application WHERE s.api_key = ? ORDER BY f.slug`, id)
	if err != nil {
		return out, fmt.Errorf("explain key: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	for rows.Next() {
		var slug string
		if err := rows.Scan(&slug); err != nil {
			return out, fmt.Errorf("explain key: %w", err)
		}
		out.Fleets = append(out.Fleets, slug)
	}
	return out, rows.Err()
}
