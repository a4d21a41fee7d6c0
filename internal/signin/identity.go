package signin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// maxIdentities is how many ways in one user may link.
const maxIdentities = 20

// link gives the caller one more way in.
func (s *SignIn) link(ctx context.Context, tx *db.Tx, by access.Caller, p *provider, who proven) error {
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return err
	}
	identity, user, err := find(ctx, tx, who)
	switch {
	case err != nil:
		return err
	case identity != 0 && user != by.User:
		return api.Errorf(api.Conflict, "%s at %s is linked to another user already", who.label, p.label())
	case identity != 0:
		return nil
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM user_identity WHERE "user" = ?`, by.User).Scan(&n); err != nil {
		return err
	}
	if n >= maxIdentities {
		return api.Errorf(api.Conflict, "%d providers are linked already; remove one first", n)
	}
	if identity, err = insert(ctx, tx, p, who, by.User); err != nil {
		return err
	}
	if err := s.enrol(ctx, tx, by, p, identity, by.User, who); err != nil {
		return err
	}
	if err := s.cfg.Accounts.Warn(ctx, tx, by.User, "identity linked", by, map[string]string{"identity": who.label + " at " + p.label()}); err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{
		Act: "identity.link", Kind: "user_identity", ID: identity, Name: who.label, User: by.User, Detail: detail(p, who),
	})
}

// Identities lists the caller's ways in through providers.
func (s *SignIn) Identities(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Identity, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, provider, issuer, subject, label, created_at, last_used_at FROM user_identity
		WHERE "user" = ? ORDER BY id LIMIT 100`, by.User)
	if err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	list := []api.Identity{}
	for rows.Next() {
		var i api.Identity
		var created string
		var used sql.NullString
		if err := rows.Scan(&i.ID, &i.Provider, &i.Issuer, &i.Subject, &i.Label, &created, &used); err != nil {
			return nil, fmt.Errorf("list identities: %w", err)
		}
		i.CreatedAt, _ = db.ParseTime(created) // written by FormatTime
		if at, err := db.ParseTime(used.String); err == nil {
			i.LastUsedAt = &at
		}
		list = append(list, i)
	}
	return list, rows.Err()
}

// Unlink removes one of the caller's ways in, and with it the memberships that it made and all sessions but the one that asks: any of
// them may have been opened through it, or from one that was. The last way in stays.
func (s *SignIn) Unlink(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	var label, providerName, issuer, subject string
	err := tx.QueryRowContext(ctx, `SELECT label, provider, issuer, subject FROM user_identity WHERE id = ? AND "user" = ?`, id, by.User).
		Scan(&label, &providerName, &issuer, &subject)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.NotFound, "there is no such identity")
	}
	if err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return err
	}
	// In one row's lock, so that two at once do not each leave the other as the last one.
	if _, err := tx.ExecContext(ctx, `UPDATE "user" SET username = username WHERE id = ?`, by.User); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	password, err := account.HasPassword(ctx, tx, by.User)
	if err != nil {
		return err
	}
	passkey, err := factor.WayIn(ctx, tx, by.User)
	if err != nil {
		return err
	}
	other, err := s.wayIn(ctx, tx, by.User, id)
	if err != nil {
		return err
	}
	if !password && !passkey && !other {
		return api.Errorf(api.Conflict, "this is your only way in; set a password, add a passkey or link another provider first")
	}
	if err := s.settle(ctx, tx, by, id, by.User, nil); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM user_identity WHERE id = ?`, id); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	if err := s.cfg.Accounts.EndSessions(ctx, tx, by, false); err != nil {
		return err
	}
	if err := s.cfg.Accounts.Warn(ctx, tx, by.User, "identity unlinked", by, map[string]string{"identity": label + " at " + providerName}); err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{
		Act: "identity.unlink", Kind: "user_identity", ID: id, Name: label, User: by.User,
		Detail: map[string]any{"provider": providerName, "issuer": issuer, "subject": subject},
	})
}

// WayIn says whether a user has an identity to sign in with, at a provider that is there.
func (s *SignIn) WayIn(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	return s.wayIn(ctx, tx, user, 0)
}

// wayIn is WayIn without counting one identity.
func (s *SignIn) wayIn(ctx context.Context, tx *db.Tx, user, but int64) (has bool, err error) {
	var issuers []string
	for _, p := range s.cfg.Providers {
		issuers = append(issuers, p.issuer())
	}
	these, args := db.In(issuers)
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM user_identity WHERE "user" = ? AND id <> ? AND issuer IN `+these+`)`,
		append([]any{user, but}, args...)...).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("identities: %w", err)
	}
	return has, nil
}
