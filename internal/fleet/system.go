package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

// System is a fleet of the server itself, which holds the releases of an operating system or of a supervisor. To clients it is an
// ordinary public fleet; nobody is a member of it, and no device.
type System struct {
	Name       string // of the fleet, in the organization of operating systems
	DeviceType int64
	Host       bool              // an operating system, not a supervisor
	Tags       map[string]string // of the fleet
}

// EnsureSystem finds a fleet of the server itself and makes it the first time.
func EnsureSystem(ctx context.Context, tx *db.Tx, s System) (id int64, slug string, err error) {
	slug = account.SystemHandle + "/" + s.Name
	err = tx.QueryRowContext(ctx, `SELECT id FROM application WHERE slug = ?`, slug).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		id, err = makeSystem(ctx, tx, s, slug)
	}
	if err != nil {
		return 0, "", fmt.Errorf("fleet %s: %w", slug, err)
	}
	for key, value := range s.Tags {
		if _, err := tx.ExecContext(ctx, `
INSERT INTO application_tag (application, tag_key, value) VALUES (?, ?, ?)
ON CONFLICT (application, tag_key) DO UPDATE SET value = excluded.value`, id, key, value); err != nil {
			return 0, "", fmt.Errorf("fleet %s: tag %s: %w", slug, key, err)
		}
	}
	return id, slug, nil
}

func makeSystem(ctx context.Context, tx *db.Tx, s System, slug string) (id int64, err error) {
	org, err := account.SystemOrganization(ctx, tx)
	if err != nil {
		return 0, err
	}
	actor, err := account.NewActor(ctx, tx)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, `
INSERT INTO application (created_at, actor, should_track_latest_release, is_of__class, organization, app_name, slug,
    is_for__device_type, application_type, is_host, uuid, is_public)
VALUES (?, ?, 0, 'app', ?, ?, ?, ?, (SELECT id FROM application_type WHERE slug = 'default'), ?, ?, 1)
RETURNING id`, tx.NowText(), actor, org, s.Name, slug, s.DeviceType, s.Host, newUUID()).Scan(&id)
	return id, err
}
