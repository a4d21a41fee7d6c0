package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// FleetHandedOver ends what the people of the organization that a fleet was of had of it: who was a member, what teams had, open
// invitations, and the keys that they made and may know. The administrators of its new organization have everything, and give it anew.
func (a *Accounts) FleetHandedOver(ctx context.Context, tx *db.Tx, fleet int64) error {
	for _, query := range []string{
		`DELETE FROM user_application_membership WHERE is_member_of__application = ?`,
		`DELETE FROM team_application_access WHERE grants_access_to__application = ?`,
		`DELETE FROM application_invite WHERE is_invited_to__application = ?`,
		`DELETE FROM api_key_fleet WHERE application = ?`, // a key that was for this fleet alone is for none now
	} {
		if _, err := tx.ExecContext(ctx, query, fleet); err != nil {
			return fmt.Errorf("hand over fleet %d: %w", fleet, err)
		}
	}
	keys, err := db.Column[int64](ctx, tx, `DELETE FROM api_key WHERE kind IN ('provisioning', 'fleet')
		AND is_of__actor = (SELECT f.actor FROM application f WHERE f.id = ?) RETURNING id`, fleet)
	if err != nil {
		return fmt.Errorf("hand over fleet %d: %w", fleet, err)
	}
	a.Revoked(tx, "key", keys...)
	a.Revoked(tx, "fleet", fleet)
	return nil
}

// Organization finds an organization by its handle. Handles are no secret: whoever makes an organization learns which are taken.
func Organization(ctx context.Context, tx *db.Tx, handle string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = ? AND handle <> ?`, handle, SystemHandle).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, api.Errorf(api.NotFound, "There is no organization %q.", clip(handle, maxHandle))
	}
	if err != nil {
		return 0, fmt.Errorf("organization %q: %w", clip(handle, maxHandle), err)
	}
	return id, nil
}

// TellAdministrators sends a letter to everybody who administers an organization.
func (a *Accounts) TellAdministrators(ctx context.Context, tx *db.Tx, organization int64, n Notice) error {
	if a.cfg.Notify == nil {
		return nil
	}
	addresses, err := db.Column[string](ctx, tx, `SELECT u.email FROM organization_membership m JOIN "user" u ON u.id = m."user"
		WHERE m.is_member_of__organization = ? AND m.organization_membership_role = ?
			AND (m.end_date IS NULL OR m.end_date > ?) ORDER BY u.id LIMIT 50`, organization, rights.Administrator, tx.NowText())
	if err != nil {
		return fmt.Errorf("tell administrators: %w", err)
	}
	for _, to := range addresses {
		n.To = to
		if err := a.Notify(ctx, tx, n); err != nil {
			return err
		}
	}
	return nil
}
