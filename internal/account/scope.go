package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

const maxTag = 1000 // bytes of a tag's key or value

// limitKey ties a new key to fleets, which the caller must see, and to tags of fleets.
func limitKey(ctx context.Context, tx *db.Tx, by access.Caller, key int64, spec KeySpec) error {
	for _, slug := range spec.Fleets {
		may, args := Bind(FleetSQL(access.Read), "f", tx, by)
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
	seen := map[string]bool{}
	for _, tag := range spec.Tags {
		name, value, valued := strings.Cut(tag, "=")
		switch {
		case name == "" || len(name) > maxTag || len(value) > maxTag:
			return api.Errorf(api.Invalid, "tags: %.100q is no tag: write key or key=value", tag)
		case seen[tag]:
			continue
		}
		seen[tag] = true
		_, err := tx.ExecContext(ctx, `INSERT INTO api_key_tag (api_key, tag_key, value) VALUES (?, ?, ?)`,
			key, name, sql.NullString{String: value, Valid: valued})
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
	}
	return nil
}

// keyTags lists the tags that a key is for, as they were given.
func keyTags(ctx context.Context, tx *db.Tx, key int64) ([]string, error) {
	return db.Column[string](ctx, tx, `SELECT CASE WHEN value IS NULL THEN tag_key ELSE tag_key || '=' || value END
		FROM api_key_tag WHERE api_key = ? ORDER BY id`, key)
}
