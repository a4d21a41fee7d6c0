// Package reset owns forgotten passwords: whoever forgot one asks for a letter, and chooses another with the link in it.
package reset

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/letter"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/job"
)

// How often a letter to choose a new password is asked for, and how long it lets in.
const (
	resetLife         = time.Hour
	resetsOfAccount   = 5      // in an hour
	resetsOfNetwork   = 20     // in an hour
	resetsWaiting     = 10_000 // from everywhere, not looked at yet: what a flood can keep others out with is over in a minute
	resetLookEvery    = 2 * time.Second
	prefixReset       = "rst_"
	maxResetsAtATime  = 500
	resetWishRemember = time.Hour
)

// Config says what the resets work with.
type Config struct {
	DB       *db.DB
	Accounts *account.Accounts
	Log      *slog.Logger     // nil: slog's default
	Now      func() time.Time // nil: the clock
}

// Resets is the running part of the package.
type Resets struct{ cfg Config }

// New makes it; it starts nothing.
func New(cfg Config) *Resets {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Resets{cfg}
}

// Forgot has a letter sent to whose e-mail address it is, if it is somebody's. Who asks learns nothing: for every address the same is
// done, which is to write down the wish. [Resets.RunOnce] looks at it later.
func (r *Resets) Forgot(ctx context.Context, email string, from account.From) error {
	email = strings.ToLower(strings.TrimSpace(email))
	if !letter.IsAddress(email) {
		return api.Errorf(api.Invalid, "email: not an e-mail address")
	}
	if !r.cfg.Accounts.Mails() {
		return nil // nobody could be sent anything; the documents say whom to ask
	}
	person := hex.EncodeToString(r.cfg.Accounts.Hasher().MAC("reset\x00", email))
	net := hex.EncodeToString(r.cfg.Accounts.Hasher().MAC("reset network\x00", throttle.Network(from.Address).String()))
	err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var ofAccount, ofNetwork, all int
		since := db.FormatTime(tx.Now.Add(-resetWishRemember))
		err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM password_reset_wish WHERE account_key = ?1 AND created_at > ?3),
			(SELECT count(*) FROM password_reset_wish WHERE network_key = ?2 AND created_at > ?3),
			(SELECT count(*) FROM password_reset_wish WHERE email IS NOT NULL)`, person, net, since).Scan(&ofAccount, &ofNetwork, &all)
		if err != nil {
			return err
		}
		if ofAccount >= resetsOfAccount || ofNetwork >= resetsOfNetwork || all >= resetsWaiting {
			return nil // without a word: it would be one about the account
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO password_reset_wish (created_at, account_key, network_key, email, address) VALUES (?, ?, ?, ?, ?)`,
			tx.NowText(), person, net, email, from.Address)
		return err
	})
	if err != nil {
		return fmt.Errorf("forgot password: %w", err)
	}
	return nil
}

// RunOnce writes the letters that were asked for, to those who are there. Several processes may do so at the same time.
func (r *Resets) RunOnce(ctx context.Context) error {
	if !r.cfg.Accounts.Mails() {
		return nil
	}
	type wish struct {
		id             int64
		email, address string
	}
	var wishes []wish
	old := db.FormatTime(r.cfg.Now().Add(-resetWishRemember))
	var stale bool
	err := r.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		wishes = nil
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM password_reset_wish WHERE created_at <= ?)`, old).Scan(&stale)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT id, email, coalesce(address, '') FROM password_reset_wish WHERE email IS NOT NULL ORDER BY id LIMIT ?`, maxResetsAtATime)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var w wish
			if err := rows.Scan(&w.id, &w.email, &w.address); err != nil {
				return err
			}
			wishes = append(wishes, w)
		}
		return rows.Err()
	})
	if err != nil {
		return fmt.Errorf("password resets: %w", err)
	}
	for _, w := range wishes {
		err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			res, err := tx.ExecContext(ctx, `UPDATE password_reset_wish SET email = NULL, address = NULL WHERE id = ? AND email IS NOT NULL`, w.id)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 { // another process was faster
				return err
			}
			return r.send(ctx, tx, w.email, w.address)
		})
		if err != nil {
			return fmt.Errorf("password resets: %w", err)
		}
	}
	if !stale {
		return nil
	}
	err = r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM password_reset_wish WHERE created_at <= ?`, old); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM password_reset WHERE expires_at <= ?`, tx.NowText())
		return err
	})
	if err != nil {
		return fmt.Errorf("password resets: %w", err)
	}
	return nil
}

// send gives a user a new link, which ends a former one.
func (r *Resets) send(ctx context.Context, tx *db.Tx, email, address string) error {
	var id int64
	var username string
	err := tx.QueryRowContext(ctx, `SELECT id, username FROM "user" WHERE email = ? AND is_disabled = 0
		AND is_service_account_of__organization IS NULL`, email).Scan(&id, &username)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	secret, until := token.New(prefixReset), tx.Now.Add(resetLife)
	_, err = tx.ExecContext(ctx, `INSERT INTO password_reset ("user", token_hash, expires_at) VALUES (?, ?, ?)
		ON CONFLICT ("user") DO UPDATE SET token_hash = excluded.token_hash, expires_at = excluded.expires_at`,
		id, r.cfg.Accounts.Hasher().Token(secret), db.FormatTime(until))
	if err != nil {
		return err
	}
	by := access.Caller{Kind: access.Anonymous, Name: access.Nobody().Name, Address: address}
	if err := audit.Record(ctx, tx, by, audit.Entry{Act: "password.forgot", Kind: "user", ID: id, Name: username, User: id}); err != nil {
		return err
	}
	return r.cfg.Accounts.Notify(ctx, tx, account.Notice{To: email, Kind: "password reset", Until: until, Data: map[string]string{
		"username": username, "address": address, "token": secret, "until": letter.Time(until),
	}})
}

// errNoReset is said of every link that does not let in.
var errNoReset = api.Errorf(api.Unauthorized, "the link was used, is too old, or never was one; ask for another")

// Set sets a user's password with the token of a letter, once, and ends all sessions. It signs nobody in, and a second factor
// stays as it is.
func (r *Resets) Set(ctx context.Context, token, password string, from account.From) error {
	if token == "" || len(token) > 200 {
		return errNoReset
	}
	made := api.NewUser{}
	var id int64
	hash := r.cfg.Accounts.Hasher().Token(token)
	err := r.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT u.id, u.email, u.username FROM password_reset r JOIN "user" u ON u.id = r."user"
			WHERE r.token_hash = ? AND r.expires_at > ? AND u.is_disabled = 0`, hash, tx.NowText()).Scan(&id, &made.Email, &made.Username)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return errNoReset
	}
	if err != nil {
		return fmt.Errorf("reset password: %w", err)
	}
	hashed, err := r.cfg.Accounts.HashPassword(ctx, password, made)
	if err != nil { // a bad password does not spend the link
		return err
	}
	err = r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var user int64
		err := tx.QueryRowContext(ctx, `DELETE FROM password_reset WHERE token_hash = ? AND expires_at > ? RETURNING "user"`, hash, tx.NowText()).Scan(&user)
		if errors.Is(err, sql.ErrNoRows) || err == nil && user != id {
			return errNoReset // used meanwhile
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE "user" SET password = ? WHERE id = ?`, hashed, user); err != nil {
			return err
		}
		if err := r.cfg.Accounts.EndSessionsOf(ctx, tx, user); err != nil {
			return err
		}
		by := access.Caller{Kind: access.Anonymous, Name: access.Nobody().Name, Address: from.Address}
		if err := audit.Record(ctx, tx, by, audit.Entry{Act: "password.reset", Kind: "user", ID: user, Name: made.Username, User: user}); err != nil {
			return err
		}
		return r.cfg.Accounts.Notify(ctx, tx, account.Notice{To: made.Email, Kind: "password changed", Data: map[string]string{
			"username": made.Username, "address": from.Address, "at": letter.Time(tx.Now),
		}})
	})
	if err != nil {
		return fmt.Errorf("reset password: %w", err)
	}
	return nil
}

// Run repeats RunOnce until the context ends.
func (r *Resets) Run(ctx context.Context) error {
	return job.Every(ctx, r.cfg.Log, "password resets", resetLookEvery, r.RunOnce)
}
