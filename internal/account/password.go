package account

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// At most maxHashing passwords are hashed at once, so that logins cannot take the server's memory or both of its cores.
const (
	maxHashing = 2
	maxWaiting = 64 // passwords being hashed or waiting for it

	maxPassword = password.MaxLength
)

// CheckPassword says whether a new password is good enough: long, not a common one, not made of the user's own name.
func CheckPassword(given string, names ...string) error { return password.Check(given, names...) }

// hashing runs f, which hashes a password, when fewer than maxHashing others do. When many wait already, it is refused at
// once: a flood of logins shall not hold requests open.
func (a *Accounts) hashing(ctx context.Context, f func()) error {
	if a.waiting.Add(1) > maxWaiting {
		a.waiting.Add(-1)
		return api.Errorf(api.Unavailable, "too many logins at once; try again")
	}
	defer a.waiting.Add(-1)
	select {
	case a.verify <- struct{}{}:
		defer func() { <-a.verify }()
		f()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hashNew hashes a new password at today's cost.
func (a *Accounts) hashNew(ctx context.Context, given string) (hash string, err error) {
	err = a.hashing(ctx, func() { hash = a.cfg.PasswordCost.Hash(given) })
	return hash, err
}

// rehash gives a user whose password was right a hash of today's cost, if theirs is less. It is no part of the login: should it fail,
// the next one does it.
func (a *Accounts) rehash(ctx context.Context, user int64, hash, given string) {
	if !a.cfg.PasswordCost.Weaker(hash) {
		return
	}
	stronger, err := a.hashNew(ctx, given)
	if err == nil {
		err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE "user" SET password = ? WHERE id = ? AND password = ?`, stronger, user, hash)
			return err
		})
	}
	if err != nil {
		a.cfg.Log.ErrorContext(ctx, "make a password's hash anew", "user", user, "error", err)
	}
}

// ChangePassword gives the caller a new password. The current one must be right; without it the session must be fresh. All sessions
// end, and the answer is the token of a new one. Keys stay.
func (a *Accounts) ChangePassword(ctx context.Context, by access.Caller, req api.ChangePassword, from From) (string, error) {
	if by.Session == 0 || by.Kind != access.User {
		return "", api.Errorf(api.Forbidden, "an API key may not change the password; log in")
	}
	var email, old string
	err := a.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		if req.Current == "" {
			if err := rights.RequireFresh(ctx, tx, by); err != nil {
				return err
			}
		}
		return tx.QueryRowContext(ctx, `SELECT email, password FROM "user" WHERE id = ?`, by.User).Scan(&email, &old)
	})
	if err != nil {
		return "", fmt.Errorf("change password: %w", err)
	}
	if req.Current != "" {
		if err := a.proves(ctx, by, old, req.Current, from.Address); err != nil {
			return "", err
		}
	}
	local, _, _ := strings.Cut(email, "@")
	if err := CheckPassword(req.New, by.Name, local); err != nil {
		return "", err
	}
	if req.New == req.Current {
		return "", api.Errorf(api.Invalid, "the new password is the current one")
	}
	hash, err := a.hashNew(ctx, req.New)
	if err != nil {
		return "", err
	}
	var token string
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		token, err = a.putPassword(ctx, tx, by, old, hash, req.Current != "", from)
		if err != nil {
			return err
		}
		return a.Notify(ctx, tx, Notice{To: email, Kind: "password changed", Data: map[string]string{"username": by.Name, "address": from.Address}})
	})
	if err != nil {
		return "", fmt.Errorf("change password: %w", err)
	}
	return token, nil
}

// putPassword puts a hash in the place of the one that was read, and a new session in the place of all others.
func (a *Accounts) putPassword(ctx context.Context, tx *db.Tx, by access.Caller, old, hash string, proven bool, from From) (string, error) {
	s, err := takeSession(ctx, tx, by)
	if err != nil {
		return "", err
	}
	if proven { // with what proves nothing where an organization wants no passwords
		if err := mayUsePassword(ctx, tx, by.User); err == nil {
			s.authenticated = tx.Now
		} else if !errors.Is(err, api.ErrForbidden) {
			return "", err
		}
	}
	ok, err := changedOne(tx.ExecContext(ctx, `UPDATE "user" SET password = ? WHERE id = ? AND password = ?`, hash, by.User, old))
	if err != nil {
		return "", err
	}
	if !ok {
		return "", api.Errorf(api.Conflict, "the password was changed meanwhile")
	}
	a.Revoked(tx, "session", by.Session)
	if err := a.EndSessionsOf(ctx, tx, by.User); err != nil {
		return "", err
	}
	if err := audit.Record(ctx, tx, by, audit.Entry{Act: "password.change", Kind: "user", ID: by.User, Name: by.Name, User: by.User}); err != nil {
		return "", err
	}
	return a.insertSession(ctx, tx, by.User, s, from)
}

// proves holds a password against the hash of a caller who has a session, and records a wrong one.
func (a *Accounts) proves(ctx context.Context, by access.Caller, hash, given, address string) error {
	if len(given) > maxPassword {
		return api.ErrUnauthorized
	}
	err := a.checkPassword(ctx, counted(by.User, by.Name), hash, given, address)
	if errors.Is(err, api.ErrUnauthorized) {
		a.refused(ctx, by, "password.prove", by.User, by.Name, "wrong password")
		return api.Errorf(api.Unauthorized, "the password is wrong")
	}
	return err
}
