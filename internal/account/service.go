package account

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Service accounts have a package of their own, internal/account/service. What accounts must know of them is here.

// endServiceAccounts ends those of organizations that are about to be deleted.
func (a *Accounts) endServiceAccounts(ctx context.Context, tx *db.Tx, organizations []int64) error {
	these, args := db.In(organizations)
	keys, err := db.Column[int64](ctx, tx, `SELECT k.id FROM api_key k JOIN "user" u ON u.actor = k.is_of__actor
		WHERE u.is_service_account_of__organization IN `+these, args...)
	if err != nil {
		return fmt.Errorf("delete service accounts: %w", err)
	}
	actors, err := db.Column[int64](ctx, tx, `DELETE FROM "user" WHERE is_service_account_of__organization IN `+these+` RETURNING actor`, args...)
	if err != nil {
		return fmt.Errorf("delete service accounts: %w", err)
	}
	for _, actor := range actors {
		if err := DeleteActor(ctx, tx, actor); err != nil {
			return err
		}
	}
	a.Revoked(tx, "key", keys...)
	return nil
}

// refuseService keeps service accounts from being members of an organization, whose administrators are people.
func refuseService(ctx context.Context, tx *db.Tx, user any) error {
	var service bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE id = ? AND is_service_account_of__organization IS NOT NULL)`, user).Scan(&service)
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	if service {
		return api.Errorf(api.Invalid, "A service account is no member of an organization; give it a role in its fleets.")
	}
	return nil
}

// AtHome keeps a service account to the organization that a query finds.
func AtHome(ctx context.Context, tx *db.Tx, user any, query string, id any) error {
	var away bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE id = ? AND is_service_account_of__organization NOT IN (`+query+`))`,
		user, id).Scan(&away)
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	if away {
		return api.Errorf(api.Invalid, "A service account works in the fleets of its own organization only.")
	}
	return nil
}

// DropOrganizations deletes organizations that hold no fleet, with everything that is theirs alone. It checks no right.
func (a *Accounts) DropOrganizations(ctx context.Context, tx *db.Tx, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	if err := a.endServiceAccounts(ctx, tx, ids); err != nil {
		return err
	}
	these, args := db.In(ids)
	if _, err := tx.ExecContext(ctx, `DELETE FROM organization WHERE id IN `+these, args...); err != nil {
		return fmt.Errorf("delete organizations: %w", err)
	}
	a.Revoked(tx, "organization", ids...)
	return nil
}
