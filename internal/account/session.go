package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// From is where a login comes from, for the throttle and for the user's list of sessions.
type From struct {
	Address   string // IP address of the client
	UserAgent string
}

// Login checks a password and opens a session; the answer is its token. An unknown user costs the same work and gives the same
// error as a wrong password. A *[TryLaterError] says that there were too many failures.
func (a *Accounts) Login(ctx context.Context, req api.Login, from From) (string, error) {
	if req.Username == "" || req.Password == "" || len(req.Password) > maxPassword || len(req.Username) > 254 {
		return "", api.ErrUnauthorized
	}
	name := strings.ToLower(strings.TrimSpace(req.Username))
	id, hash, err := a.passwordOf(ctx, `email = ?1 OR username = ?1`, name)
	if err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	if err := a.checkPassword(ctx, name, hash, req.Password, from.Address); err != nil {
		return "", err
	}
	var token string
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		// The password may have been changed while it was checked; that ended all sessions and must end this one.
		var same bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE id = ? AND password = ?)`, id, hash).Scan(&same)
		if err != nil {
			return err
		}
		if !same {
			return api.ErrUnauthorized
		}
		token, err = a.openSession(ctx, tx, id, tx.Now, from)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	return token, nil
}

// SignIn opens a session for a user who has proved to be that user otherwise than by a password, just now: through a sign-in provider,
// say. It checks nothing but that the user is there.
func (a *Accounts) SignIn(ctx context.Context, tx *db.Tx, user int64, from From) (string, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM "user" WHERE id = ?`, user).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.ErrUnauthorized
	}
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	return a.openSession(ctx, tx, id, tx.Now, from)
}

// passwordOf finds a user's id and hash; of nobody, the decoy's.
func (a *Accounts) passwordOf(ctx context.Context, where string, arg any) (id int64, hash string, err error) {
	err = a.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT id, password FROM "user" WHERE `+where, arg).Scan(&id, &hash)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, a.decoy, nil
	}
	return id, hash, err
}

// checkPassword spends one attempt of the account and the address.
func (a *Accounts) checkPassword(ctx context.Context, account, hash, password, address string) error {
	right, err := a.throttle.try(ctx, account, address, a.cfg.Now())
	if err != nil {
		return err
	}
	var same bool
	if err := a.hashing(ctx, func() { same = samePassword(hash, password) }); err != nil {
		return errors.Join(err, right(context.WithoutCancel(ctx))) // nothing was tried
	}
	if !same {
		return api.ErrUnauthorized
	}
	return right(ctx)
}

func (a *Accounts) openSession(ctx context.Context, tx *db.Tx, user int64, authenticated time.Time, from From) (string, error) {
	jti, expires := newToken(""), tx.Now.Add(a.cfg.SessionLife)
	_, err := tx.ExecContext(ctx, `INSERT INTO session ("user", token_hash, created_at, authenticated_at, expires_at, address, user_agent)
		VALUES (?, ?, ?, ?, ?, ?, ?)`, user, a.hash.sessionID(jti), tx.NowText(), db.FormatTime(authenticated), db.FormatTime(expires),
		from.Address, clip(from.UserAgent, 200))
	if err != nil {
		return "", fmt.Errorf("open session: %w", err)
	}
	return a.hash.sign(claims{
		ID: user, AuthTime: authenticated.UnixMilli(), IssuedAt: tx.Now.Unix(), Expires: expires.Unix(), JTI: jti,
	})
}

// Refresh gives a session a new token; the old one dies. With a password, which must be right, the new session counts as a
// fresh login.
func (a *Accounts) Refresh(ctx context.Context, by access.Caller, password string, from From) (string, error) {
	if by.Session == 0 {
		return "", api.Errorf(api.Unauthorized, "only a session can be refreshed")
	}
	if password != "" {
		if len(password) > maxPassword {
			return "", api.ErrUnauthorized
		}
		_, hash, err := a.passwordOf(ctx, `id = ?`, by.User)
		if err != nil {
			return "", fmt.Errorf("refresh: %w", err)
		}
		if err := a.checkPassword(ctx, by.Name, hash, password, from.Address); err != nil {
			return "", err
		}
	}
	var token string
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var at string
		err := tx.QueryRowContext(ctx, `DELETE FROM session WHERE id = ? AND "user" = ? RETURNING authenticated_at`, by.Session, by.User).Scan(&at)
		if errors.Is(err, sql.ErrNoRows) {
			return api.ErrUnauthorized // two refreshes at once: the second one comes too late
		}
		if err != nil {
			return err
		}
		authenticated := tx.Now
		if password == "" {
			if authenticated, err = db.ParseTime(at); err != nil {
				return err
			}
		}
		a.revoked(tx, "session", by.Session)
		token, err = a.openSession(ctx, tx, by.User, authenticated, from)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("refresh: %w", err)
	}
	return token, nil
}

// Sessions lists a user's own sessions, newest first.
func (a *Accounts) Sessions(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Session, error) {
	if by.Session == 0 {
		return nil, api.Errorf(api.Forbidden, "an API key may not see sessions")
	}
	rows, err := tx.QueryContext(ctx, `SELECT id, created_at, expires_at, last_used_at, address, user_agent FROM session
		WHERE "user" = ? AND expires_at > ? ORDER BY id DESC LIMIT 1000`, by.User, tx.NowText())
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.Session{}
	for rows.Next() {
		var s api.Session
		var created, expires string
		var used sql.NullString
		if err := rows.Scan(&s.ID, &created, &expires, &used, &s.Address, &s.UserAgent); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		s.CreatedAt, _ = db.ParseTime(created) // written by FormatTime
		s.ExpiresAt, _ = db.ParseTime(expires)
		if at, err := db.ParseTime(used.String); err == nil {
			s.LastUsedAt = &at
		}
		s.Current = s.ID == by.Session
		list = append(list, s)
	}
	return list, rows.Err()
}

// EndSession ends one of the caller's sessions; id 0 means the one that asks.
func (a *Accounts) EndSession(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not end sessions")
	}
	if id == 0 {
		id = by.Session
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM session WHERE id = ? AND "user" = ?`, id, by.User).Scan(&n); err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	if n == 0 {
		return api.Errorf(api.NotFound, "there is no such session")
	}
	return a.endSessions(ctx, tx, `id = ?`, id)
}

func (a *Accounts) endSessions(ctx context.Context, tx *db.Tx, where string, arg any) error {
	rows, err := tx.QueryContext(ctx, `DELETE FROM session WHERE `+where+` RETURNING id`, arg)
	if err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
		ids = append(ids, id)
	}
	a.revoked(tx, "session", ids...)
	return rows.Err()
}

// clip cuts a text that came from outside.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
