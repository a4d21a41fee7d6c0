package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/keyuse"
	"github.com/roadstead-io/roadstead/internal/db"
)

// unusedAfter is how long a key may go without using a verb before it is said that it does not need it.
const unusedAfter = 30 * 24 * time.Hour

// ExplainKey says what a key is: for whom, limited to what, made by whom, used when and for what, and whether it still opens anything.
// The engine has found the key to be one that the caller may see. It also says the verbs that the key can ever use.
func (a *Accounts) ExplainKey(ctx context.Context, tx *db.Tx, id int64) (api.KeyExplanation, access.Verbs, error) {
	out := api.KeyExplanation{ID: id, Fleets: []string{}, Tags: []string{}, DeviceTags: []string{}, Networks: []string{}}
	var k keyRow
	var verbs access.Verbs
	var channels access.Channels
	var some bool
	var slug, creator, expiry, used, from sql.NullString
	var disabled bool
	err := tx.QueryRowContext(ctx, `SELECT coalesce(k.name, ''), coalesce(k.description, ''), k.kind, k.created_at, k.expiry_date, k.last_used_at,
			k.last_used_from, k.verbs, `+keyScoped+`, k.is_for_some_fleets, k.channels, k.networks, `+keyOrphan+`, k.max_uses, k.uses, c.username,
			k.is_created_by__user, u.id, u.username, f.id, f.slug, d.id, d.uuid, d.belongs_to__application, coalesce(d.is_frozen, 0), coalesce(u.is_disabled, 0)
		FROM api_key k
		LEFT JOIN "user" c ON c.id = k.is_created_by__user
		LEFT JOIN "user" u ON k.kind = 'user' AND u.actor = k.is_of__actor
		LEFT JOIN application f ON k.kind IN ('provisioning', 'fleet') AND f.actor = k.is_of__actor
		LEFT JOIN device d ON k.kind = 'device' AND d.actor = k.is_of__actor
		WHERE k.id = ?`, tx.NowText(), id).
		Scan(&out.Name, &out.Description, &k.kind, &out.CreatedAt, &expiry, &used, &from, &verbs, &k.scoped, &some, &channels, &k.networks, &k.orphan,
			&out.MaxUses, &out.Uses, &creator, &k.creator, &k.user, &k.name, &k.fleet, &slug, &k.device, &k.uuid, &k.within, &k.frozen, &disabled)
	if err != nil {
		return out, 0, fmt.Errorf("explain key: %w", err)
	}
	out.ExpiryDate, out.LastUsedAt, out.LastUsedFrom, out.CreatedBy = expiry.String, used.String, from.String, creator.String
	out.Channels, out.Networks = channels.Names(), append(out.Networks, strings.Fields(k.networks.String)...)
	var c access.Caller
	if out.Ended, err = k.ended(ctx, tx, &c, expiry); err != nil {
		return out, 0, err
	}
	switch _, err := a.Again(ctx, tx, access.Caller{Key: id}); {
	case errors.Is(err, api.ErrUnauthorized) && out.Ended == "":
		out.Ended = "an organization asks its user for a second factor, and there is none"
		if disabled {
			out.Ended = "its user is disabled"
		}
	case err != nil && !errors.Is(err, api.ErrUnauthorized):
		return out, 0, err
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
	if !k.user.Valid {
		return out, access.Read, nil
	}
	out.Verbs = verbs.Names()
	if err := a.explainUse(ctx, tx, &out, verbs); err != nil {
		return out, 0, err
	}
	if c.Kind != access.ScopedKey {
		return out, verbs, nil
	}
	out.Level, out.AllFleets = verbs.Level().String(), !some
	if out.Tags, err = keyTags(ctx, tx, tagsOfFleets, id); err != nil {
		return out, 0, fmt.Errorf("explain key: %w", err)
	}
	if out.DeviceTags, err = keyTags(ctx, tx, tagsOfDevices, id); err != nil {
		return out, 0, fmt.Errorf("explain key: %w", err)
	}
	slugs, err := db.Column[string](ctx, tx,
		`SELECT f.slug FROM api_key_fleet s JOIN application f ON f.id = s.application WHERE s.api_key = ? ORDER BY f.slug`, id)
	if err != nil {
		return out, 0, fmt.Errorf("explain key: %w", err)
	}
	out.Fleets = append(out.Fleets, slugs...)
	return out, verbs, nil
}

// ended says why a key opens nothing any more, and fills in the caller that it stands for.
func (k keyRow) ended(ctx context.Context, tx *db.Tx, c *access.Caller, expiry sql.NullString) (string, error) {
	switch err := k.who(c); {
	case err != nil:
		return "what it was for is gone", nil
	case expiry.Valid && expiry.String <= tx.NowText():
		return "it has expired", nil
	case k.orphan:
		return "who made it does not administer the organization any more", nil
	case k.fleet.Valid && k.creator.Valid:
		if err := stillEntrusted(ctx, tx, k.creator.Int64, k.fleet.Int64, k.kind); errors.Is(err, api.ErrUnauthorized) {
			return "who made it may not make it any more", nil
		} else if err != nil {
			return "", err
		}
	}
	return "", nil
}

// explainUse says when the key last used each of its verbs, and which it seems not to need. A key that is younger than that says nothing.
func (a *Accounts) explainUse(ctx context.Context, tx *db.Tx, out *api.KeyExplanation, verbs access.Verbs) error {
	rows, err := tx.QueryContext(ctx, `SELECT verb, last_on FROM api_key_use WHERE api_key = ?`, out.ID)
	if err != nil {
		return fmt.Errorf("explain key: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	out.LastUsedFor = map[string]string{}
	since := tx.Now.Add(-unusedAfter)
	var lately access.Verbs
	for rows.Next() {
		var verb access.Verbs
		var on string
		if err := rows.Scan(&verb, &on); err != nil {
			return fmt.Errorf("explain key: %w", err)
		}
		out.LastUsedFor[verb.String()] = on
		if on >= since.UTC().Format(keyuse.Day) {
			lately |= verb
		}
	}
	if made, err := db.ParseTime(out.CreatedAt); err == nil && made.Before(since) {
		out.Unused = (verbs &^ lately &^ access.Read).Names()
	}
	return rows.Err()
}
