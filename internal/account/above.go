package account

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// This file is what the packages that own a part of accounts need of the whole: second factors, sign-in, the end of an account.

// Warn sends a user a letter about something that was done to the account, from where, and when. Without a mail server it does nothing.
func (a *Accounts) Warn(ctx context.Context, tx *db.Tx, user int64, kind string, by access.Caller, data map[string]string) error {
	return a.warn(ctx, tx, user, kind, by, data)
}

// Revoke ends, once the transaction is committed, every use of things whose rows it ended.
func (a *Accounts) Revoke(tx *db.Tx, what string, ids ...int64) { a.revoked(tx, what, ids...) }

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
	a.revoked(tx, "organization", ids...)
	return nil
}
