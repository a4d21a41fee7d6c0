package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A service account is a user of its own kind: it belongs to an organization, has no password and no address, and acts by keys only.
// It is given roles in the organization's fleets like a person. Its keys are those of its organization's administrators.

const (
	maxServiceAccounts = 100 // of one organization
)

// CreateServiceAccount makes one in an organization, given by its handle, that the caller administers.
func (a *Accounts) CreateServiceAccount(ctx context.Context, tx *db.Tx, by access.Caller, want api.ServiceAccount) (api.ServiceAccount, error) {
	name := strings.ToLower(strings.TrimSpace(want.Name))
	if !userName.MatchString(name) {
		return want, api.Errorf(api.Invalid, "name: %.60q is no user name: 3 to 40 lower-case letters, digits, _ and -", want.Name)
	}
	var org int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = ?`, want.Organization).Scan(&org)
	if errors.Is(err, sql.ErrNoRows) {
		return want, api.Errorf(api.NotFound, "organization: there is no organization %q", want.Organization)
	}
	if err != nil {
		return want, fmt.Errorf("create service account: %w", err)
	}
	if err := rights.RequireAdministrator(ctx, tx, by, org); errors.Is(err, api.ErrNotFound) {
		return want, api.Errorf(api.NotFound, "organization: there is no organization %q", want.Organization)
	} else if err != nil {
		return want, err
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM "user" WHERE is_service_account_of__organization = ?`, org).Scan(&n); err != nil {
		return want, fmt.Errorf("create service account: %w", err)
	}
	if n >= maxServiceAccounts {
		return want, api.Errorf(api.Invalid, "an organization has at most %d service accounts", maxServiceAccounts)
	}
	actor, err := NewActor(ctx, tx)
	if err != nil {
		return want, err
	}
	made := api.ServiceAccount{Name: name, Organization: want.Organization, CreatedAt: tx.NowText()}
	// The address is no address: it has no @, so that nobody can sign in with it, be invited by it or get mail at it.
	err = tx.QueryRowContext(ctx, `INSERT INTO "user" (created_at, actor, username, email, password, is_service_account_of__organization)
		VALUES (?, ?, ?, ?, ?, ?) RETURNING id`, tx.NowText(), actor, name, fmt.Sprintf("service account %d", actor), NoPassword, org).Scan(&made.ID)
	if db.IsUnique(err) {
		return want, api.Errorf(api.Conflict, "name: there is a user %q already", name)
	}
	if err != nil {
		return want, fmt.Errorf("create service account: %w", err)
	}
	return made, audit.Record(ctx, tx, by, audit.Entry{Act: "service-account.create", Kind: "user", ID: made.ID, Name: name, Organization: org})
}

// ServiceAccounts lists those of the organizations that the caller is a member of.
func (a *Accounts) ServiceAccounts(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.ServiceAccount, error) {
	rows, err := tx.QueryContext(ctx, `SELECT u.id, u.username, u.created_at, o.handle,
			(SELECT count(*) FROM api_key k WHERE k.is_of__actor = u.actor), (SELECT max(k.last_used_at) FROM api_key k WHERE k.is_of__actor = u.actor)
		FROM organization_membership m JOIN "user" u ON u.is_service_account_of__organization = m.is_member_of__organization
		JOIN organization o ON o.id = m.is_member_of__organization
		WHERE m."user" = ? AND (m.end_date IS NULL OR m.end_date > ?) ORDER BY o.handle, u.username`, by.User, tx.NowText())
	if err != nil {
		return nil, fmt.Errorf("list service accounts: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	list := []api.ServiceAccount{}
	for rows.Next() {
		var s api.ServiceAccount
		var used sql.NullString
		if err := rows.Scan(&s.ID, &s.Name, &s.CreatedAt, &s.Organization, &s.Keys, &used); err != nil {
			return nil, fmt.Errorf("list service accounts: %w", err)
		}
		s.LastUsedAt = used.String
		list = append(list, s)
	}
	return list, rows.Err()
}

// DeleteServiceAccount ends one, its memberships and its keys, at once.
func (a *Accounts) DeleteServiceAccount(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	if err := rights.RequireService(ctx, tx, by, id); err != nil {
		return err
	}
	var actor, org int64
	var name string
	if err := tx.QueryRowContext(ctx, `SELECT actor, username, is_service_account_of__organization FROM "user" WHERE id = ?`, id).
		Scan(&actor, &name, &org); err != nil {
		return fmt.Errorf("delete service account: %w", err)
	}
	keys, err := db.Column[int64](ctx, tx, `DELETE FROM api_key WHERE is_of__actor = ? RETURNING id`, actor)
	if err != nil {
		return fmt.Errorf("delete service account: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM "user" WHERE id = ?`, id); err != nil {
		return fmt.Errorf("delete service account: %w", err)
	}
	if err := DeleteActor(ctx, tx, actor); err != nil {
		return err
	}
	a.Revoked(tx, "key", keys...)
	return audit.Record(ctx, tx, by, audit.Entry{Act: "service-account.delete", Kind: "user", ID: id, Name: name, Organization: org})
}

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

// atHome keeps a service account to the organization that a query finds.
func atHome(ctx context.Context, tx *db.Tx, user any, query string, id any) error {
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
