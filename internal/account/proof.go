package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Proof is what a person showed at the beginning of something that goes on by itself, a build say: it ends with the proof.
type Proof struct {
	Key   sql.NullInt64  // a key
	Login sql.NullString // or the time of a login. A session that is refreshed is another row of the same login
}

// ProofOf says what a caller has shown.
func ProofOf(ctx context.Context, tx *db.Tx, by access.Caller) (p Proof, err error) {
	if by.Key != 0 {
		p.Key = sql.NullInt64{Int64: by.Key, Valid: true}
	}
	if by.Session == 0 {
		return p, nil
	}
	if err := tx.QueryRowContext(ctx, `SELECT authenticated_at FROM session WHERE id = ?`, by.Session).Scan(&p.Login); err != nil {
		return p, fmt.Errorf("proof of %s: %w", by.Name, err)
	}
	return p, nil
}

// Holds says who a proof of a user stands for now; false: it is gone, or the user is.
func (p Proof) Holds(ctx context.Context, tx *db.Tx, user int64) (by access.Caller, holds bool, err error) {
	by = access.Caller{Kind: access.User, User: user}
	query, args := `SELECT 0 FROM "user" u WHERE u.id = ? AND u.is_disabled = 0`, []any{user}
	switch {
	case p.Key.Valid:
		by.Key = p.Key.Int64
		query = `SELECT ` + keyScoped + ` FROM api_key k JOIN "user" u ON u.actor = k.is_of__actor
			WHERE u.id = ? AND u.is_disabled = 0 AND k.id = ? AND (k.expiry_date IS NULL OR k.expiry_date > ?)`
		args = append(args, p.Key.Int64, tx.NowText())
	case p.Login.Valid:
		query = `SELECT 0 FROM session s JOIN "user" u ON u.id = s."user" AND u.is_disabled = 0 WHERE s."user" = ? AND s.authenticated_at = ? AND s.expires_at > ?`
		args = append(args, p.Login.String, tx.NowText())
	}
	var scoped bool
	err = tx.QueryRowContext(ctx, query+` LIMIT 1`, args...).Scan(&scoped)
	if errors.Is(err, sql.ErrNoRows) {
		return by, false, nil
	}
	if err != nil {
		return by, false, fmt.Errorf("proof of user %d: %w", user, err)
	}
	if scoped {
		by.Kind = access.ScopedKey
	}
	return by, true, nil
}
