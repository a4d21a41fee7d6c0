// Package operator is what the server's operator sees of users and does to them. It checks no right: the command of the operator is the
// only road to it.
package operator

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
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Desk is the running part of the package.
type Desk struct{ accounts *account.Accounts }

// New makes it; it starts nothing.
func New(accounts *account.Accounts) *Desk { return &Desk{accounts} }

// Users lists all users of the server.
func (d *Desk) Users(ctx context.Context, tx *db.Tx) ([]api.UserInfo, error) {
	return d.users(ctx, tx, `1 = 1`)
}

// User tells of one user, with the sessions and the keys.
func (d *Desk) User(ctx context.Context, tx *db.Tx, who string) (api.UserInfo, error) {
	id, _, err := userID(ctx, tx, who)
	if err != nil {
		return api.UserInfo{}, err
	}
	list, err := d.users(ctx, tx, `u.id = ?`, id)
	if err != nil {
		return api.UserInfo{}, err
	}
	u := list[0] // it is there, in this transaction
	if u.Sessions, err = d.accounts.SessionsOf(ctx, tx, id, 0); err != nil {
		return u, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT o.handle, r.name FROM organization_membership m JOIN organization o ON o.id = m.is_member_of__organization
		JOIN organization_membership_role r ON r.id = m.organization_membership_role WHERE m."user" = ? ORDER BY o.handle`, id)
	if err != nil {
		return u, fmt.Errorf("show user: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	u.Organizations = map[string]string{}
	for rows.Next() {
		var handle, role string
		if err := rows.Scan(&handle, &role); err != nil {
			return u, fmt.Errorf("show user: %w", err)
		}
		u.Organizations[handle] = role
	}
	return u, rows.Err()
}

func (d *Desk) users(ctx context.Context, tx *db.Tx, where string, args ...any) ([]api.UserInfo, error) {
	rows, err := tx.QueryContext(ctx, `SELECT u.id, u.username, u.email, u.created_at, u.is_disabled = 1, u.is_support_staff = 1, u.password <> '',
			(SELECT count(*) FROM session s WHERE s."user" = u.id AND s.expires_at > ? AND coalesce(s.last_used_at, s.created_at) > ?),
			(SELECT count(*) FROM api_key k WHERE k.is_of__actor = u.actor)
		FROM "user" u WHERE `+where+` ORDER BY u.username`, append([]any{tx.NowText(), d.accounts.IdleSince(tx.Now)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	list := []api.UserInfo{}
	for rows.Next() {
		var u api.UserInfo
		err := rows.Scan(&u.ID, &u.Username, &u.Email, &u.CreatedAt, &u.Disabled, &u.Support, &u.HasPassword, &u.SessionCount, &u.KeyCount)
		if err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		list = append(list, u)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	for i := range list {
		if list[i].SecondFactor, err = d.accounts.HasFactor(ctx, tx, list[i].ID); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// userID finds a user by e-mail address or user name.
func userID(ctx context.Context, tx *db.Tx, who string) (id int64, name string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id, username FROM "user" WHERE email = ?1 OR username = ?1`, strings.ToLower(who)).Scan(&id, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", api.Errorf(api.NotFound, "there is no user %q", who)
	}
	if err != nil {
		return 0, "", fmt.Errorf("find user: %w", err)
	}
	return id, name, nil
}

// Change does to a user what the operator says. resetFactor takes the second factors away, which belong to a package above.
func (d *Desk) Change(
	ctx context.Context, tx *db.Tx, by access.Caller, want api.UserChange, resetFactor func(user int64, name string) error,
) error {
	id, name, err := userID(ctx, tx, want.User)
	if err != nil {
		return err
	}
	entry := audit.Entry{Act: "user." + want.Act, Kind: "user", ID: id, Name: name, User: id}
	switch want.Act {
	case api.UserDisable:
		err = d.disable(ctx, tx, id)
	case api.UserEnable:
		_, err = tx.ExecContext(ctx, `UPDATE "user" SET is_disabled = 0 WHERE id = ?`, id)
	case api.UserRevoke:
		err = d.revokeAll(ctx, tx, id)
	case api.UserResetFactor:
		if err = resetFactor(id, name); err == nil {
			err = d.accounts.EndSessionsOf(ctx, tx, id)
		}
	case api.UserMakeAdministrator:
		entry.Organization, err = d.makeAdministrator(ctx, tx, id, name, want.Organization)
		entry.Detail = map[string]any{"organization": want.Organization}
	default:
		return api.Errorf(api.Invalid, "act: %q is nothing that is done to a user", want.Act)
	}
	if err != nil {
		return fmt.Errorf("%s user: %w", want.Act, err)
	}
	return audit.Record(ctx, tx, by, entry)
}

// disable lets a user use nothing any more, and keeps everything. Keys that they made for fleets end with them.
func (d *Desk) disable(ctx context.Context, tx *db.Tx, user int64) error {
	if _, err := tx.ExecContext(ctx, `UPDATE "user" SET is_disabled = 1 WHERE id = ?`, user); err != nil {
		return err
	}
	d.accounts.Revoked(tx, "user", user)
	return d.accounts.EndSessionsOf(ctx, tx, user)
}

// revokeAll ends all sessions of a user, and deletes the user's keys, SSH keys too, and those that the user made for fleets and service
// accounts and so knows.
func (d *Desk) revokeAll(ctx context.Context, tx *db.Tx, user int64) error {
	ids, err := db.Column[int64](ctx, tx, `DELETE FROM api_key WHERE is_of__actor = (SELECT actor FROM "user" WHERE id = ?1)
		OR is_created_by__user = ?1 AND kind <> 'device' RETURNING id`, user)
	if err != nil {
		return err
	}
	d.accounts.Revoked(tx, "key", ids...)
	if err := sshkey.Drop(ctx, tx, d.accounts, user); err != nil {
		return err
	}
	return d.accounts.EndSessionsOf(ctx, tx, user)
}

// makeAdministrator gives an organization an administrator who stays: a membership that was to end does not.
func (d *Desk) makeAdministrator(ctx context.Context, tx *db.Tx, user int64, name, handle string) (organization int64, err error) {
	var service bool
	err = tx.QueryRowContext(ctx, `SELECT is_service_account_of__organization IS NOT NULL FROM "user" WHERE id = ?`, user).Scan(&service)
	if err != nil {
		return 0, err
	}
	if service {
		return 0, api.Errorf(api.Invalid, "%s is a service account, which administers nothing", name)
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = ?`, strings.ToLower(handle)).Scan(&organization)
	if errors.Is(err, sql.ErrNoRows) || strings.EqualFold(handle, account.SystemHandle) {
		return 0, api.Errorf(api.NotFound, "there is no organization %q", handle)
	}
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
		VALUES (?, ?, ?, ?) ON CONFLICT ("user", is_member_of__organization)
		DO UPDATE SET organization_membership_role = excluded.organization_membership_role, end_date = NULL`,
		tx.NowText(), user, organization, rights.Administrator)
	if err != nil {
		return 0, err
	}
	return organization, d.accounts.Fit(ctx, tx, user, organization)
}
