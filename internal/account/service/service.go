// Package service owns service accounts: users of their own kind, which belong to an organization, have no password and no address, and
// act by keys only. One is given roles in the organization's fleets like a person. Its keys are those of its organization's
// administrators, and are made by package account like those of people.
package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

const most = 100 // of one organization

// Services is the running part of the package.
type Services struct{ accounts *account.Accounts }

// New makes it; it starts nothing.
func New(accounts *account.Accounts) *Services { return &Services{accounts} }

// Create makes one in an organization, given by its handle, that the caller administers.
func (s *Services) Create(ctx context.Context, tx *db.Tx, by access.Caller, want api.ServiceAccount) (api.ServiceAccount, error) {
	name := strings.ToLower(strings.TrimSpace(want.Name))
	if !account.IsUserName(name) {
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
	if n >= most {
		return want, api.Errorf(api.Invalid, "an organization has at most %d service accounts", most)
	}
	actor, err := account.NewActor(ctx, tx)
	if err != nil {
		return want, err
	}
	made := api.ServiceAccount{Name: name, Organization: want.Organization, CreatedAt: tx.NowText()}
	// The address is no address: it has no @, so that nobody can sign in with it, be invited by it or get mail at it.
	err = tx.QueryRowContext(ctx, `INSERT INTO "user" (created_at, actor, username, email, password, is_service_account_of__organization)
		VALUES (?, ?, ?, ?, ?, ?) RETURNING id`, tx.NowText(), actor, name, fmt.Sprintf("service account %d", actor), account.NoPassword, org).Scan(&made.ID)
	if db.IsUnique(err) {
		return want, api.Errorf(api.Conflict, "name: there is a user %q already", name)
	}
	if err != nil {
		return want, fmt.Errorf("create service account: %w", err)
	}
	return made, audit.Record(ctx, tx, by, audit.Entry{Act: "service-account.create", Kind: "user", ID: made.ID, Name: name, Organization: org})
}

// List lists those of the organizations that the caller is a member of.
func (s *Services) List(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.ServiceAccount, error) {
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
		var one api.ServiceAccount
		var used sql.NullString
		if err := rows.Scan(&one.ID, &one.Name, &one.CreatedAt, &one.Organization, &one.Keys, &used); err != nil {
			return nil, fmt.Errorf("list service accounts: %w", err)
		}
		one.LastUsedAt = used.String
		list = append(list, one)
	}
	return list, rows.Err()
}

// Delete ends one, its memberships and its keys, at once.
func (s *Services) Delete(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
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
	if err := account.DeleteActor(ctx, tx, actor); err != nil {
		return err
	}
	s.accounts.Revoked(tx, "key", keys...)
	return audit.Record(ctx, tx, by, audit.Entry{Act: "service-account.delete", Kind: "user", ID: id, Name: name, Organization: org})
}
