package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const maxTag = 1000 // bytes of a tag's key or value

// limitKey ties a new key to fleets, which the caller must see, and to tags of fleets and of devices.
func limitKey(ctx context.Context, tx *db.Tx, by access.Caller, key int64, spec KeySpec) error {
	for _, slug := range spec.Fleets {
		may, args := rights.Bind(rights.FleetSQL(access.Read), "f", tx, by)
		if by.Kind == access.System {
			may, args = "1 = 1", nil
		}
		var fleet int64
		err := tx.QueryRowContext(ctx, `SELECT f.id FROM application f WHERE f.slug = ? AND `+may,
			append([]any{strings.ToLower(slug)}, args...)...).Scan(&fleet)
		if errors.Is(err, sql.ErrNoRows) {
			return api.Errorf(api.NotFound, "fleets: there is no fleet %q", slug)
		}
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO api_key_fleet (api_key, application) VALUES (?, ?) ON CONFLICT (api_key, application) DO NOTHING`,
			key, fleet)
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
	}
	if err := tagKey(ctx, tx, tagsOfFleets, key, "tags", spec.Tags); err != nil {
		return err
	}
	return tagKey(ctx, tx, tagsOfDevices, key, "deviceTags", spec.Devices)
}

// The tables of the tags that a key is for.
const (
	tagsOfFleets  = "api_key_tag"
	tagsOfDevices = "api_key_device_tag"
)

// tagKey ties a key to tags.
func tagKey(ctx context.Context, tx *db.Tx, table string, key int64, field string, tags []string) error {
	seen := map[string]bool{}
	for _, tag := range tags {
		name, value, valued := strings.Cut(tag, "=")
		switch {
		case name == "" || len(name) > maxTag || len(value) > maxTag:
			return api.Errorf(api.Invalid, "%s: %.100q is no tag: write key or key=value", field, tag)
		case seen[tag]:
			continue
		}
		seen[tag] = true
		_, err := tx.ExecContext(ctx, `INSERT INTO `+table+` (api_key, tag_key, value) VALUES (?, ?, ?)`,
			key, name, sql.NullString{String: value, Valid: valued})
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
	}
	return nil
}

// keyTags lists the tags of a table that a key is for, as they were given.
func keyTags(ctx context.Context, tx *db.Tx, table string, key int64) ([]string, error) {
	list, err := db.Column[string](ctx, tx, `SELECT CASE WHEN value IS NULL THEN tag_key ELSE tag_key || '=' || value END
		FROM `+table+` WHERE api_key = ? ORDER BY id`, key)
	return append([]string{}, list...), err
}

// checkLife refuses an end of keys of users that is later than their organizations allow, and none at all.
func checkLife(ctx context.Context, tx *db.Tx, actors []int64, end *time.Time) error {
	these, args := db.In(actors)
	var days sql.NullInt64
	err := tx.QueryRowContext(ctx, `SELECT min(o.max_key_days) FROM organization o WHERE o.max_key_days IS NOT NULL AND (
		o.id IN (SELECT u.is_service_account_of__organization FROM "user" u WHERE u.actor IN `+these+`)
		OR o.id IN (SELECT m.is_member_of__organization FROM organization_membership m JOIN "user" u ON u.id = m."user"
			WHERE (m.end_date IS NULL OR m.end_date > ?) AND u.actor IN `+these+`))`,
		slices.Concat(args, []any{tx.NowText()}, args)...).Scan(&days)
	if err != nil {
		return fmt.Errorf("life of a key: %w", err)
	}
	if days.Valid && (end == nil || end.After(tx.Now.AddDate(0, 0, int(days.Int64)))) {
		return api.Errorf(api.Invalid, "expiryDate: your organization lets keys live for %d days at most; give a date before that", days.Int64)
	}
	return nil
}

// checkNewEnd holds a changed end of keys to the same. To let a user's key live longer, or again, is as much as to make one.
func checkNewEnd(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	these, args := db.In(c.IDs)
	actors, err := db.Column[int64](ctx, tx, `SELECT is_of__actor FROM api_key WHERE kind = 'user' AND id IN `+these, args...)
	if err != nil || len(actors) == 0 {
		return err
	}
	var longer bool
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM api_key WHERE kind = 'user' AND id IN `+these+`
		AND expiry_date IS NOT NULL AND expiry_date < coalesce(CAST(? AS TEXT), '~'))`, append(args, c.Values["expiry_date"])...).Scan(&longer)
	if err != nil {
		return fmt.Errorf("life of a key: %w", err)
	}
	if longer {
		if err := rights.RequireFresh(ctx, tx, c.Caller); err != nil {
			return err
		}
	}
	var end *time.Time
	if text, given := c.Values["expiry_date"].(string); given {
		at, err := db.ParseTime(text)
		if err != nil {
			return api.Errorf(api.Invalid, `"expiry_date" is no time`)
		}
		end = &at
	}
	return checkLife(ctx, tx, actors, end)
}
