package factor

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	recoveryCodes  = 10
	recoveryDigits = 16                                 // of 5 bits: none is guessed
	alphabet       = "abcdefghjkmnpqrstuvwxyz023456789" // no i, l, o and 1, which people mix up
)

// newCodes gives a user ten recovery codes in the place of those there are.
func (f *Factors) newCodes(ctx context.Context, tx *db.Tx, user int64) ([]string, error) {
	if _, err := tx.ExecContext(ctx, `DELETE FROM recovery_code WHERE "user" = ?`, user); err != nil {
		return nil, fmt.Errorf("recovery codes: %w", err)
	}
	codes := make([]string, recoveryCodes)
	for i := range codes {
		var raw [recoveryDigits]byte
		_, _ = rand.Read(raw[:]) // never fails, see crypto/rand
		for j := range raw {
			raw[j] = alphabet[raw[j]%byte(len(alphabet))]
		}
		codes[i] = fmt.Sprintf("%s-%s-%s-%s", raw[:4], raw[4:8], raw[8:12], raw[12:])
		_, err := tx.ExecContext(ctx, `INSERT INTO recovery_code ("user", code_hash) VALUES (?, ?)`, user, f.codeHash(user, codes[i]))
		if err != nil {
			return nil, fmt.Errorf("recovery codes: %w", err)
		}
	}
	return codes, nil
}

// codeHash does not mind how a code was typed.
func (f *Factors) codeHash(user int64, code string) string {
	return f.keys.hash("recovery code", user, strings.ReplaceAll(strings.ToLower(code), "-", ""))
}

// recover takes a recovery code: the statement that deletes it has used it, and no other.
func (f *Factors) recover(ctx context.Context, tx *db.Tx, by access.Caller, code string) error {
	if len(code) > 100 {
		return errWrong
	}
	res, err := tx.ExecContext(ctx, `DELETE FROM recovery_code WHERE "user" = ? AND code_hash = ?`, by.User, f.codeHash(by.User, code))
	if err := one(res, err); err != nil {
		return err
	}
	return record(ctx, tx, by, "recovery_code.use", nil)
}

// RenewCodes gives ten new recovery codes, for a code or one of the old ones.
func (f *Factors) RenewCodes(ctx context.Context, by access.Caller, code string, from account.From) (codes []string, err error) {
	err = f.proved(ctx, by, code, from, func(tx *db.Tx) error {
		if codes, err = f.newCodes(ctx, tx, by.User); err != nil {
			return err
		}
		return record(ctx, tx, by, "recovery_code.renew", nil)
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}
