// Package factor owns the second factors of people: one-time codes (TOTP) with their recovery codes, and passkeys. A session whose user
// has one waits for it, see package account, and is whole once it was given here.
package factor

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0102 to 0109; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Config says what the factors work with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Pepper   []byte // 32 random bytes that never enter the database
	Host     string // of the dashboard: passkeys are made for it
	Origin   string // of the dashboard, https://dashboard.example.com with its port
	Site     string // the name of the server, as an app that makes codes shows it
}

// Factors is the running part of the package. It holds nothing that is not in the database.
type Factors struct {
	cfg  Config
	keys keys
}

// New checks the configuration.
func New(cfg Config) (*Factors, error) {
	if cfg.DB == nil || cfg.Accounts == nil || len(cfg.Pepper) < 32 {
		return nil, errors.New("factor: no database, no accounts or no pepper")
	}
	return &Factors{cfg: cfg, keys: newKeys(cfg.Pepper)}, nil
}

// Enrolled says whether a user has a second factor.
func Enrolled(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	var has bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM totp WHERE "user" = ?1 AND is_confirmed = 1)
		OR EXISTS (SELECT 1 FROM passkey WHERE "user" = ?1)`, user).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("second factor: %w", err)
	}
	return has, nil
}

// WayIn says whether a user has a passkey that stands for a password.
func WayIn(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	var has bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM passkey WHERE "user" = ? AND is_way_in = 1)`, user).Scan(&has); err != nil {
		return false, fmt.Errorf("passkeys: %w", err)
	}
	return has, nil
}

// List tells what second factors the caller has.
func (f *Factors) List(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Factor, error) {
	if by.Session == 0 {
		return nil, api.Errorf(api.Forbidden, "an API key may not see second factors")
	}
	rows, err := tx.QueryContext(ctx, `SELECT 0, 'totp', '', created_at, last_used_at, 0, 0, 0 FROM totp WHERE "user" = ?1 AND is_confirmed = 1
		UNION ALL SELECT id, 'passkey', name, created_at, last_used_at, is_way_in, is_suspect, 0 FROM passkey WHERE "user" = ?1
		UNION ALL SELECT 0, 'recovery codes', '', NULL, NULL, 0, 0, count(*) FROM recovery_code WHERE "user" = ?1 HAVING count(*) > 0`, by.User)
	if err != nil {
		return nil, fmt.Errorf("list factors: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells what there is to tell
	list := []api.Factor{}
	for rows.Next() {
		var one api.Factor
		var created, used sql.NullString
		var wayIn, suspect int
		if err := rows.Scan(&one.ID, &one.Kind, &one.Name, &created, &used, &wayIn, &suspect, &one.Left); err != nil {
			return nil, fmt.Errorf("list factors: %w", err)
		}
		one.CreatedAt, one.LastUsedAt, one.WayIn, one.Suspect = created.String, used.String, wayIn == 1, suspect == 1
		list = append(list, one)
	}
	return list, rows.Err()
}

// Reset takes all second factors from a user who has lost them, on the word of the server's operator.
func (f *Factors) Reset(ctx context.Context, tx *db.Tx, by access.Caller, user int64, name string) error {
	for _, table := range []string{"totp", "passkey", "recovery_code"} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE "user" = ?`, user); err != nil {
			return fmt.Errorf("reset factors: %w", err)
		}
	}
	f.cfg.Accounts.Revoked(tx, "user", user) // an organization may ask for what the user has no more
	if err := f.cfg.Accounts.Warn(ctx, tx, user, "second factor removed", by, map[string]string{"factor": "all of them, by whoever runs the server"}); err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "factor.reset", Kind: "user", ID: user, Name: name, User: user})
}

// warn tells the caller by mail what was done with a factor of theirs.
func (f *Factors) warn(ctx context.Context, tx *db.Tx, by access.Caller, letter, kind, name string) error {
	said := "one-time codes"
	if kind == "passkey" {
		said = "the passkey " + name
	}
	return f.cfg.Accounts.Warn(ctx, tx, by.User, letter, by, map[string]string{"factor": said})
}

// record writes down what the caller did with a factor of theirs.
func record(ctx context.Context, tx *db.Tx, by access.Caller, act string, detail map[string]any) error {
	return audit.Record(ctx, tx, by, audit.Entry{Act: act, Kind: "user", ID: by.User, Name: by.Name, User: by.User, Detail: detail})
}

// leave ends the session that lost its factor, or keeps it: the last factor takes the recovery codes with it.
func (f *Factors) leave(ctx context.Context, tx *db.Tx, by access.Caller, from account.From) (string, error) {
	has, err := Enrolled(ctx, tx, by.User)
	if err != nil {
		return "", err
	}
	if has {
		return f.cfg.Accounts.Passed(ctx, tx, by, from, false)
	}
	if err := account.MayGiveUpFactor(ctx, tx, by.User); err != nil {
		return "", err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM recovery_code WHERE "user" = ?`, by.User); err != nil {
		return "", fmt.Errorf("recovery codes: %w", err)
	}
	return f.cfg.Accounts.Unproven(ctx, tx, by, from)
}

// prove spends one attempt of the user and the address on do, which says errWrong when what was given does not hold.
func (f *Factors) prove(ctx context.Context, by access.Caller, from account.From, do func(tx *db.Tx) error) error {
	attempt, err := f.cfg.Accounts.Throttle(ctx, "factor", by.User, from.Address)
	if err != nil {
		return err
	}
	err = f.cfg.DB.Write(ctx, do)
	switch {
	case errors.Is(err, errWrong):
		f.cfg.Accounts.Refused(ctx, by, "factor.prove", "wrong code")
		return errWrong
	case err != nil: // it was not about what was given
		return errors.Join(err, attempt.Untried(context.WithoutCancel(ctx)))
	}
	return attempt.Right(ctx)
}

var errWrong = api.Errorf(api.Unauthorized, "the code is wrong, or was used already")
