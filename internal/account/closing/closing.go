// Package closing owns the end of a person's account. What the person made for others stays: fleets, devices, releases, and the audit log
// with the name. What stands for the person ends at once.
package closing

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

// Own deletes the account of the caller, in a session with a fresh login. name is the caller's user name, typed once more.
func Own(ctx context.Context, tx *db.Tx, a *account.Accounts, by access.Caller, name string) error {
	if by.Kind != access.User || by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not delete an account; log in")
	}
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return err
	}
	if name != by.Name {
		return api.Errorf(api.Invalid, "username: type your own user name, %s, to delete your account", by.Name)
	}
	return end(ctx, tx, a, by, by.User)
}

// ByOperator deletes a person's account, named by e-mail address or user name. It checks no right: the command of the server's operator is
// the only road to it.
func ByOperator(ctx context.Context, tx *db.Tx, a *account.Accounts, by access.Caller, who string) (name string, err error) {
	var id int64
	err = tx.QueryRowContext(ctx, `SELECT id, username FROM "user" WHERE (email = ?1 OR username = ?1)
		AND is_service_account_of__organization IS NULL`, strings.ToLower(who)).Scan(&id, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.Errorf(api.NotFound, "there is no user %q", who)
	}
	if err != nil {
		return "", fmt.Errorf("delete account: %w", err)
	}
	return name, end(ctx, tx, a, by, id)
}

func end(ctx context.Context, tx *db.Tx, a *account.Accounts, by access.Caller, user int64) error {
	var actor int64
	var name string
	// The lock of the row keeps two at once, of one user, from both going on.
	err := tx.QueryRowContext(ctx, `UPDATE "user" SET is_disabled = 1 WHERE id = ? RETURNING actor, username`, user).Scan(&actor, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return api.ErrUnauthorized
	}
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	gone, handles, err := alone(ctx, tx, user)
	if err != nil {
		return err
	}
	detail := map[string]any{}
	if len(handles) > 0 {
		detail["organizations"] = handles
	}
	if err := audit.Record(ctx, tx, by, audit.Entry{Act: "user.delete", Kind: "user", ID: user, Name: name, User: user, Detail: detail}); err != nil {
		return err
	}
	if err := a.Warn(ctx, tx, user, "account deleted", by, nil); err != nil {
		return err
	}
	if err := a.DropOrganizations(ctx, tx, gone); err != nil {
		return err
	}
	return drop(ctx, tx, a, user, actor)
}

// alone gives the organizations that end with a user: of which nobody else is a member, and which hold no fleet. It refuses to leave one
// that others or fleets need without an administrator.
func alone(ctx context.Context, tx *db.Tx, user int64) (ids []int64, handles []string, err error) {
	const others = `SELECT 1 FROM organization_membership x JOIN "user" y ON y.id = x."user" WHERE x.is_member_of__organization = o.id
		AND x."user" <> ?1 AND (x.end_date IS NULL OR x.end_date > ?2)`
	rows, err := tx.QueryContext(ctx, `SELECT o.id, o.handle, m.organization_membership_role = 1, EXISTS (`+others+`),
			EXISTS (`+others+` AND x.organization_membership_role = 1 AND x.end_date IS NULL AND y.is_disabled = 0),
			EXISTS (SELECT 1 FROM application f WHERE f.organization = o.id)
		FROM organization_membership m JOIN organization o ON o.id = m.is_member_of__organization WHERE m."user" = ?1 ORDER BY o.handle`, user, tx.NowText())
	if err != nil {
		return nil, nil, fmt.Errorf("delete account: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	var needed []string
	for rows.Next() {
		var id int64
		var handle string
		var administers, shared, administered, holds bool
		if err := rows.Scan(&id, &handle, &administers, &shared, &administered, &holds); err != nil {
			return nil, nil, fmt.Errorf("delete account: %w", err)
		}
		switch {
		case !shared && !holds:
			ids, handles = append(ids, id), append(handles, handle)
		case !administered && (administers || !shared):
			needed = append(needed, handle)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("delete account: %w", err)
	}
	if len(needed) > 0 {
		return nil, nil, api.Errorf(api.Conflict, "the last administrator of %s cannot go while it has other members or fleets; make somebody else an administrator, or delete it, first",
			strings.Join(needed, ", "))
	}
	return ids, handles, nil
}

// drop deletes the row of a user and its actor; what hangs on them and ends with them goes along.
func drop(ctx context.Context, tx *db.Tx, a *account.Accounts, user, actor int64) error {
	// A device keeps the key that a person made for it: it belongs to the device. Keys of fleets and of service accounts are known to
	// whoever made them, and end.
	if _, err := tx.ExecContext(ctx, `UPDATE api_key SET is_created_by__user = NULL WHERE is_created_by__user = ? AND kind = 'device'`, user); err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	keys, err := db.Column[int64](ctx, tx, `DELETE FROM api_key WHERE is_of__actor = ? OR is_created_by__user = ? RETURNING id`, actor, user)
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	sessions, err := db.Column[int64](ctx, tx, `DELETE FROM session WHERE "user" = ? RETURNING id`, user)
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM "user" WHERE id = ?`, user); err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	if err := account.DeleteActor(ctx, tx, actor); err != nil {
		return err
	}
	a.Revoked(tx, "key", keys...)
	a.Revoked(tx, "session", sessions...)
	a.Revoked(tx, "user", user)
	return nil
}
