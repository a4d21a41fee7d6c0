package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Proof is what a person showed at the beginning of something that goes on by itself, a build say: it ends with the proof.
type Proof struct {
	Key   sql.NullInt64  // a key
	Login sql.NullString // or a login. A session that is refreshed is another row of the same login
	SSH   sql.NullInt64  // or an SSH key
}

// ProofOf says what a caller has shown.
func ProofOf(ctx context.Context, tx *db.Tx, by access.Caller) (p Proof, err error) {
	if by.Key != 0 {
		p.Key = sql.NullInt64{Int64: by.Key, Valid: true}
	}
	if by.SSHKey != 0 {
		p.SSH = sql.NullInt64{Int64: by.SSHKey, Valid: true}
	}
	if by.Session == 0 {
		return p, nil
	}
	if err := tx.QueryRowContext(ctx, `SELECT login FROM session WHERE id = ?`, by.Session).Scan(&p.Login); err != nil {
		return p, fmt.Errorf("proof of %s: %w", by.Name, err)
	}
	return p, nil
}

// Holds says who a proof of a user stands for now; false: it is gone, or the user is. It holds while the key or the session of that login
// would be let in.
func (a *Accounts) Holds(ctx context.Context, tx *db.Tx, p Proof, user int64) (by access.Caller, holds bool, err error) {
	switch {
	case p.Key.Valid:
		by, _, err = a.key(ctx, tx, `k.id = ?`, p.Key.Int64)
	case p.SSH.Valid:
		by, err = a.sshKey(ctx, tx, `k.id = ?`, p.SSH.Int64)
	case p.Login.Valid:
		by, _, _, err = a.session(ctx, tx, `s."user" = ? AND s.login = ? AND s.awaits = ''`, user, p.Login.String)
	default: // from before there were proofs
		by = access.Caller{Kind: access.User, User: user}
		err = tx.QueryRowContext(ctx, `SELECT 1 FROM "user" u WHERE u.id = ? AND u.is_disabled = 0`, user).Scan(new(int))
	}
	if errors.Is(err, api.ErrUnauthorized) || errors.Is(err, sql.ErrNoRows) {
		return access.Nobody(), false, nil
	}
	if err != nil {
		return access.Nobody(), false, fmt.Errorf("proof of user %d: %w", user, err)
	}
	if by.User != user {
		return access.Nobody(), false, nil
	}
	return by, true, nil
}

// OnBehalf says who a user is for what goes on in their name without them. While they lack a second factor that an organization asks for
// nothing does, as with their keys.
func (a *Accounts) OnBehalf(ctx context.Context, tx *db.Tx, user int64) (by access.Caller, err error) {
	by.Kind = access.User
	var strict bool
	err = tx.QueryRowContext(ctx, `SELECT u.id, u.actor, u.username, `+keyStrict+` FROM "user" u WHERE u.id = ? AND u.is_disabled = 0`, tx.NowText(), user).
		Scan(&by.User, &by.Actor, &by.Name, &strict)
	if err == nil && strict {
		var has bool
		if has, err = a.HasFactor(ctx, tx, by.User); err == nil && !has {
			err = api.ErrUnauthorized
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = api.ErrUnauthorized
	}
	if err != nil {
		return access.Nobody(), fmt.Errorf("on behalf of user %d: %w", user, err)
	}
	return by, nil
}

// BySSHKey says who somebody is who has the private half of an SSH key, by the key's fingerprint. It counts as no use: whoever does
// something with it is told of by [Accounts.UsedFrom].
func (a *Accounts) BySSHKey(ctx context.Context, tx *db.Tx, fingerprint string) (access.Caller, error) {
	return a.sshKey(ctx, tx, `k.fingerprint = ?`, fingerprint)
}

// sshKey says who the SSH key k stands for, if it holds: like a named key it is refused while its user lacks a second factor that an
// organization asks for.
func (a *Accounts) sshKey(ctx context.Context, tx *db.Tx, which string, arg any) (by access.Caller, err error) {
	by.Kind = access.User
	var strict bool
	err = tx.QueryRowContext(ctx, `SELECT k.id, u.id, u.actor, u.username, `+keyStrict+`
		FROM user__has__public_key k JOIN "user" u ON u.id = k."user" AND u.is_disabled = 0 WHERE `+which, tx.NowText(), arg).
		Scan(&by.SSHKey, &by.User, &by.Actor, &by.Name, &strict)
	if errors.Is(err, sql.ErrNoRows) {
		return access.Nobody(), api.ErrUnauthorized
	}
	if err != nil {
		return access.Nobody(), fmt.Errorf("authenticate SSH key: %w", err)
	}
	if strict {
		has, err := a.HasFactor(ctx, tx, by.User)
		if err != nil {
			return access.Nobody(), fmt.Errorf("authenticate SSH key: %w", err)
		}
		if !has {
			return access.Nobody(), api.ErrUnauthorized
		}
	}
	return by, nil
}
