package rights

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Administrator and Member are the rows of organization_membership_role, see the first migration of account.
const (
	Administrator = 1
	Member        = 2
)

// Maker is somebody who is not there to be asked: who made an invitation or an offer that stands for what they may. A user who is
// disabled, or gone, is nobody.
func Maker(ctx context.Context, tx *db.Tx, user int64) (access.Caller, error) {
	var active bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE id = ? AND is_disabled = 0)`, user).Scan(&active)
	if err != nil || !active {
		return access.Nobody(), err
	}
	return access.Caller{Kind: access.User, User: user}, nil
}

// Administers reports whether a user administers an organization.
func Administers(ctx context.Context, tx *db.Tx, by access.Caller, organization int64) (administers bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization_membership WHERE "user" = ?
		AND is_member_of__organization = ? AND organization_membership_role = ? AND (end_date IS NULL OR end_date > ?))`, by.User, organization, Administrator, tx.NowText()).Scan(&administers)
	return administers && by.Kind == access.User, err
}

// MayGiveAway refuses to take what belongs to one organization into another, but for an administrator of the first: members
// come and go, and must not leave with a fleet or a device that then answers to them alone.
func MayGiveAway(ctx context.Context, tx *db.Tx, by access.Caller, from, to int64) error {
	if from == to || by.Kind == access.System {
		return nil
	}
	administers, err := Administers(ctx, tx, by, from)
	if err != nil {
		return fmt.Errorf("give away: %w", err)
	}
	if !administers {
		return api.Errorf(api.Forbidden, "Only an administrator of an organization can move what it has into another.")
	}
	return nil
}

// RequireAdministrator refuses whoever does not administer an organization in a session or with a whole key of theirs; to those who are no
// members of it, it is not there.
func RequireAdministrator(ctx context.Context, tx *db.Tx, by access.Caller, organization int64) error {
	if by.Kind == access.System {
		return nil
	}
	if by.Kind != access.User {
		return api.Errorf(api.Forbidden, "this is for administrators of the organization")
	}
	var role int
	err := tx.QueryRowContext(ctx, `SELECT organization_membership_role FROM organization_membership WHERE "user" = ?
		AND is_member_of__organization = ? AND (end_date IS NULL OR end_date > ?)`, by.User, organization, tx.NowText()).Scan(&role)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return api.ErrNotFound
	case err != nil:
		return fmt.Errorf("administrator: %w", err)
	case role != Administrator:
		return api.Errorf(api.Forbidden, "this is for administrators of the organization")
	}
	return nil
}

// RequireService refuses whoever does not administer the organization of a service account. Everything else is no such user.
func RequireService(ctx context.Context, tx *db.Tx, by access.Caller, user int64) error {
	var org sql.NullInt64
	err := tx.QueryRowContext(ctx, `SELECT is_service_account_of__organization FROM "user" WHERE id = ?`, user).Scan(&org)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("service account: %w", err)
	}
	if org.Valid {
		err = RequireAdministrator(ctx, tx, by, org.Int64)
	}
	if !org.Valid || errors.Is(err, api.ErrNotFound) {
		return api.Errorf(api.NotFound, "there is no such user")
	}
	return err
}
