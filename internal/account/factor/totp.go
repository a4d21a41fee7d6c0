package factor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238 as every app that makes codes does it
	"crypto/subtle"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	period    = 30 // seconds of one code
	digits    = 6
	seedBytes = 20
	window    = 1 // codes before and after the one of now that are taken, too: clocks differ
)

// Code is the code of a seed for a step of time, as RFC 6238 makes it. We make it ourselves, in ten lines: what must be kept is the
// step that a code was of, which libraries do not tell.
func Code(seed []byte, step int64) string {
	m := hmac.New(sha1.New, seed)
	_ = binary.Write(m, binary.BigEndian, step) // a hash takes everything
	sum := m.Sum(nil)
	n := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&0xf:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, n%1_000_000)
}

// Step is the step of a time.
func Step(t time.Time) int64 { return t.Unix() / period }

// stepOf finds the step that a code is of, around a time.
func stepOf(seed []byte, code string, now time.Time) (step int64, ok bool) {
	for s := Step(now) - window; s <= Step(now)+window; s++ {
		if subtle.ConstantTimeCompare([]byte(Code(seed, s)), []byte(code)) == 1 {
			step, ok = s, true
		}
	}
	return step, ok
}

// take takes a code of a user's seed, once: the step of the last one is in the row, and only the statement that moves it forward has
// taken the code, of however many that come at once.
func (f *Factors) take(ctx context.Context, tx *db.Tx, user int64, code string, confirmed bool) error {
	var sealed string
	err := tx.QueryRowContext(ctx, `SELECT seed FROM totp WHERE "user" = ? AND is_confirmed = ?`, user, confirmed).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return errWrong
	}
	if err != nil {
		return fmt.Errorf("take a code: %w", err)
	}
	seed, err := f.keys.open(user, sealed)
	if err != nil {
		return err
	}
	step, ok := stepOf(seed, code, tx.Now)
	if !ok {
		return errWrong
	}
	res, err := tx.ExecContext(ctx, `UPDATE totp SET last_step = ?1, last_used_at = ?2, is_confirmed = 1
		WHERE "user" = ?3 AND last_step < ?1 AND is_confirmed = ?4 AND seed = ?5`, step, tx.NowText(), user, confirmed, sealed)
	return one(res, err)
}

// one says errWrong when a statement changed nothing.
func one(res sql.Result, err error) error {
	if err != nil {
		return fmt.Errorf("take a code: %w", err)
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = errWrong
	}
	return err
}

// proof takes what a user types: a code of six digits, or a recovery code.
func (f *Factors) proof(ctx context.Context, tx *db.Tx, by access.Caller, typed string) error {
	typed = strings.ReplaceAll(strings.TrimSpace(typed), " ", "")
	if len(typed) == digits && strings.Trim(typed, "0123456789") == "" {
		return f.take(ctx, tx, by.User, typed, true)
	}
	return f.recover(ctx, tx, by, typed)
}

// Setup gives the caller a new seed, as the text that apps take. It counts for nothing until a code confirms it, and an older one that
// was not confirmed is gone.
func (f *Factors) Setup(ctx context.Context, tx *db.Tx, by access.Caller) (string, error) {
	if err := f.mayEnrol(ctx, tx, by); err != nil {
		return "", err
	}
	seed := make([]byte, seedBytes)
	_, _ = rand.Read(seed) // never fails, see crypto/rand
	res, err := tx.ExecContext(ctx, `INSERT INTO totp ("user", created_at, seed) VALUES (?, ?, ?)
		ON CONFLICT ("user") DO UPDATE SET created_at = excluded.created_at, seed = excluded.seed, last_step = 0 WHERE totp.is_confirmed = 0`,
		by.User, tx.NowText(), f.keys.seal(by.User, seed))
	if err := one(res, err); errors.Is(err, errWrong) {
		return "", errHasOne
	} else if err != nil {
		return "", err
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(seed), nil
}

var errHasOne = api.Errorf(api.Conflict, "one-time codes are set up already; disable them first")

// mayEnrol refuses a second enrolment over the first.
func (f *Factors) mayEnrol(ctx context.Context, tx *db.Tx, by access.Caller) error {
	if err := f.cfg.Accounts.MayEnrol(ctx, tx, by); err != nil {
		return err
	}
	var confirmed bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM totp WHERE "user" = ? AND is_confirmed = 1)`, by.User).Scan(&confirmed)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	if confirmed {
		return errHasOne
	}
	return nil
}

// Enable confirms the seed of Setup with a code. All other sessions of the user end, which were opened without the factor.
func (f *Factors) Enable(ctx context.Context, by access.Caller, code string, from account.From) (api.Enrolled, error) {
	var out api.Enrolled
	err := f.prove(ctx, by, from, func(tx *db.Tx) error {
		if err := f.mayEnrol(ctx, tx, by); err != nil {
			return err
		}
		if err := f.take(ctx, tx, by.User, strings.TrimSpace(code), false); err != nil {
			return err
		}
		return f.added(ctx, tx, by, from, "totp", "", &out)
	})
	if err != nil {
		return api.Enrolled{}, fmt.Errorf("enable one-time codes: %w", err)
	}
	return out, nil
}

// added finishes an enrolment: recovery codes with the first factor, the record, and a session that has proved it.
func (f *Factors) added(ctx context.Context, tx *db.Tx, by access.Caller, from account.From, kind, name string, out *api.Enrolled) error {
	var left int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM recovery_code WHERE "user" = ?`, by.User).Scan(&left)
	if err != nil {
		return fmt.Errorf("recovery codes: %w", err)
	}
	if left == 0 {
		if out.RecoveryCodes, err = f.newCodes(ctx, tx, by.User); err != nil {
			return err
		}
	}
	if err := record(ctx, tx, by, "factor.add", map[string]any{"kind": kind, "name": name}); err != nil {
		return err
	}
	if err := f.warn(ctx, tx, by, "second factor added", kind, name); err != nil {
		return err
	}
	out.Token, err = f.cfg.Accounts.Passed(ctx, tx, by, from, true)
	return err
}

// Verify makes a session whole that waits for a code. In a whole session, it confirms the seed of Setup: so older clients enable codes.
func (f *Factors) Verify(ctx context.Context, by access.Caller, code string, from account.From) (token string, err error) {
	if by.Session == 0 {
		return "", api.Errorf(api.Forbidden, "an API key has no second factor")
	}
	if by.Kind == access.User {
		out, err := f.Enable(ctx, by, code, from)
		return out.Token, err
	}
	err = f.prove(ctx, by, from, func(tx *db.Tx) error {
		if err := f.proof(ctx, tx, by, code); err != nil {
			return err
		}
		token, err = f.cfg.Accounts.Passed(ctx, tx, by, from, false)
		if err != nil {
			return err
		}
		return record(ctx, tx, by, "factor.prove", nil)
	})
	if err != nil {
		return "", fmt.Errorf("verify: %w", err)
	}
	return token, nil
}

// Disable takes the one-time codes away. It needs a code, or a recovery code: a password alone, which is what a thief has, is not enough.
func (f *Factors) Disable(ctx context.Context, by access.Caller, code string, from account.From) (token string, err error) {
	if code == "" {
		return "", api.Errorf(api.Invalid, "code: disabling one-time codes needs one of them, or a recovery code; the password alone does not do")
	}
	err = f.proved(ctx, by, code, from, func(tx *db.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM totp WHERE "user" = ?`, by.User); err != nil {
			return fmt.Errorf("disable: %w", err)
		}
		if err := record(ctx, tx, by, "factor.remove", map[string]any{"kind": "totp"}); err != nil {
			return err
		}
		if err := f.warn(ctx, tx, by, "second factor removed", "totp", ""); err != nil {
			return err
		}
		token, err = f.leave(ctx, tx, by, from)
		return err
	})
	return token, err
}

// proved does something in a fresh session with a code.
func (f *Factors) proved(ctx context.Context, by access.Caller, code string, from account.From, do func(tx *db.Tx) error) error {
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not change second factors; log in")
	}
	return f.prove(ctx, by, from, func(tx *db.Tx) error {
		if err := rights.RequireFresh(ctx, tx, by); err != nil {
			return err
		}
		if err := f.proof(ctx, tx, by, code); err != nil {
			return err
		}
		return do(tx)
	})
}
