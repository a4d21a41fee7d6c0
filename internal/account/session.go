package account

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/place"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	maxSessions = 1000             // of one user; the one that was idle longest makes room
	maxHalf     = 100              // beside those, that wait for a second factor: whoever has the password alone pushes no whole one out
	halfLife    = 30 * time.Minute // how long a session waits for its second factor, from the first proof on
)

// What a session waits for before it may do anything.
const (
	awaitsNothing   = ""
	awaitsCode      = "code"      // a proof by the user's second factor
	awaitsEnrolment = "enrolment" // an organization of the user's asks for a second factor, and they have none
)

// How a session was opened.
const (
	ByPassword = "password"
	ByProvider = "provider"
	ByPasskey  = "passkey"

	ByDelegation = "another session" // approved in a browser: a command line's
)

// NoPassword is kept in place of the hash of a user who has no password.
const NoPassword = ""

// From is where a login comes from, for the throttle and for the user's list of sessions.
type From struct {
	Address   string // IP address of the client
	UserAgent string // and what the client says of itself
	Way       string // how the user proved who they are: ByPassword, …; SignIn takes none for ByProvider

	Proved time.Time // when; zero: just now
}

// longAgo is more than the age of a proof that counts as fresh. That one is older says no more.
const longAgo = 24 * time.Hour

// proved is when the user proved who they are.
func (f From) proved(now time.Time) time.Time {
	if f.Proved.IsZero() || f.Proved.After(now) {
		return now
	}
	if early := now.Add(-longAgo); f.Proved.Before(early) {
		return early
	}
	return f.Proved
}

// client is the kind of client that a session is of, by what it says of itself.
func (f From) client() string {
	ua := strings.ToLower(f.UserAgent)
	for _, c := range [][2]string{
		{"balena-cli", "CLI"}, {"roadstead", "CLI"}, {"balena-sdk", "SDK"}, {"mozilla/", "browser"},
	} {
		if strings.Contains(ua, c[0]) {
			return c[1]
		}
	}
	return "other"
}

// somebody is the caller of an act by whom nobody is authenticated yet.
func (f From) somebody() access.Caller {
	return access.Caller{Kind: access.Anonymous, Name: "anonymous", Address: f.Address}
}

// opening is what a session is opened with, and what a refreshed one takes along.
type opening struct {
	authenticated time.Time // when the user last proved who they are
	way           string
	proof         string // how that login was proved; "": by the way
	awaits        string
	proven        bool   // a second factor was given, too
	login         string // names the login that all of them come from; "": it is a new one
}

// Login checks a password and opens a session; the answer is its token. An unknown user costs the same work and gives the same
// error as a wrong password. A *[throttle.TryLaterError] says that there were too many failures.
func (a *Accounts) Login(ctx context.Context, req api.Login, from From) (string, error) {
	return a.login(ctx, req, from, false)
}

// errChanged says that a password was changed while it was checked.
var errChanged = api.Errorf(api.Unauthorized, "the password was changed meanwhile")

func (a *Accounts) login(ctx context.Context, req api.Login, from From, again bool) (string, error) {
	if req.Username == "" || req.Password == "" || len(req.Password) > maxPassword || len(req.Username) > 254 {
		return "", api.ErrUnauthorized
	}
	name := strings.ToLower(strings.TrimSpace(req.Username))
	id, hash, err := a.passwordOf(ctx, `email = ?1 OR username = ?1`, name)
	if err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	if err := a.checkPassword(ctx, counted(id, name), hash, req.Password, from.Address); err != nil {
		if id != 0 && errors.Is(err, api.ErrUnauthorized) {
			a.refusedLater(from.somebody(), "session.open", id, name, "wrong password")
		}
		return "", err
	}
	from.Way = ByPassword
	var token string
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		// The password may have been changed while it was checked; that ended all sessions and must end this one.
		var same bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE id = ? AND password = ?)`, id, hash).Scan(&same)
		if err != nil {
			return err
		}
		if !same {
			return errChanged
		}
		if err := mayUsePassword(ctx, tx, id); err != nil {
			return err
		}
		token, err = a.SignIn(ctx, tx, id, from)
		return err
	})
	if errors.Is(err, errChanged) && !again { // perhaps only its hash was made anew, by another login
		return a.login(ctx, req, from, true)
	}
	if errors.Is(err, api.ErrForbidden) {
		a.refused(ctx, from.somebody(), "session.open", id, name, api.AsError(err).Text)
	}
	if err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	a.rehash(ctx, id, hash, req.Password)
	return token, nil
}

// mayUsePassword refuses a password, which was right, where an organization of its user's wants none. Whoever hears it has proved to be
// the user: it tells nobody else who is a member of what.
func mayUsePassword(ctx context.Context, tx *db.Tx, user int64) error {
	var forbidden bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization_membership m JOIN organization o ON o.id = m.is_member_of__organization
		WHERE m."user" = ? AND o.is_forbidding_passwords = 1 AND (m.end_date IS NULL OR m.end_date > ?))`, user, tx.NowText()).Scan(&forbidden)
	if err != nil {
		return fmt.Errorf("password: %w", err)
	}
	if forbidden {
		return api.Errorf(api.Forbidden, "your organization does not allow signing in with a password")
	}
	return nil
}

// SignIn opens a session for a user who has proved to be that user: through a sign-in provider, say, which may know them since this morning.
// When they have a second factor, or an organization asks for one, the session can do nothing but give or enrol it. A disabled user is
// refused.
func (a *Accounts) SignIn(ctx context.Context, tx *db.Tx, user int64, from From) (string, error) {
	var name string
	var disabled bool
	err := tx.QueryRowContext(ctx, `SELECT username, is_disabled = 1 FROM "user" WHERE id = ? AND is_service_account_of__organization IS NULL`, user).
		Scan(&name, &disabled)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.ErrUnauthorized
	}
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	if disabled {
		return "", api.Errorf(api.Forbidden, "this user is disabled; whoever runs the server can change that")
	}
	s := opening{authenticated: from.proved(tx.Now), way: from.Way}
	switch s.way {
	case "":
		s.way = ByProvider
	case ByPasskey: // the device was there and knew its user
		s.proven = true
	}
	if !s.proven {
		if s.awaits, err = a.awaits(ctx, tx, user); err != nil {
			return "", err
		}
		if s.awaits != awaitsNothing {
			s.authenticated = tx.Now // what it waits for is proved from now on
		}
	}
	return a.openSession(ctx, tx, user, name, s, from)
}

// awaits says what a user must still do after the first proof.
func (a *Accounts) awaits(ctx context.Context, tx *db.Tx, user int64) (string, error) {
	has, err := a.HasFactor(ctx, tx, user)
	if err != nil {
		return "", err
	}
	if has {
		return awaitsCode, nil
	}
	handle, err := requiresFactor(ctx, tx, user)
	if err != nil || handle == "" {
		return awaitsNothing, err
	}
	return awaitsEnrolment, nil
}

// passwordOf finds a user's id and hash; of nobody, and of a user without a password, one that nobody has a password for. It costs what the
// hash of some user costs, always the same one for a name: what hashes cost differs with the day on which they were made.
func (a *Accounts) passwordOf(ctx context.Context, where string, arg any) (id int64, hash string, err error) {
	var like string
	chance := a.hash.MAC("decoy\x00", fmt.Sprint(arg))
	err = a.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		like = a.decoy
		err := tx.QueryRowContext(ctx, `SELECT password FROM "user" WHERE password <> '' AND
			id >= 1 + (CAST(? AS BIGINT) % (SELECT coalesce(max(id), 1) FROM "user")) ORDER BY id LIMIT 1`, int64(binary.BigEndian.Uint32(chance))).Scan(&like)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT id, password FROM "user" WHERE `+where, arg).Scan(&id, &hash)
	})
	if errors.Is(err, sql.ErrNoRows) {
		id, hash, err = 0, "", nil
	}
	if hash == "" {
		hash = password.DecoyLike(like)
	}
	return id, hash, err
}

// counted is what the attempts on an account are counted under: one for a user, by whichever of their names they are called. A name of
// nobody's is its own. Both cost the same, and are told the same.
func counted(user int64, name string) string {
	if user != 0 {
		return fmt.Sprintf("user\x00%d", user)
	}
	return "name\x00" + name
}

// checkPassword spends one attempt of the account and the address.
func (a *Accounts) checkPassword(ctx context.Context, account, hash, given, address string) error {
	attempt, err := a.throttle.Try(ctx, account, address, a.cfg.Now())
	if err != nil {
		return err
	}
	var same bool
	if err := a.hashing(ctx, func() { same = a.samePassword(hash, given) }); err != nil {
		return errors.Join(err, attempt.Untried(context.WithoutCancel(ctx)))
	}
	if !same {
		return api.ErrUnauthorized
	}
	return attempt.Right(ctx)
}

// openSession opens a session for somebody who asked for one, and records it.
func (a *Accounts) openSession(ctx context.Context, tx *db.Tx, user int64, name string, s opening, from From) (string, error) {
	err := audit.Record(ctx, tx, from.somebody(), audit.Entry{
		Act: "session.open", Kind: "user", ID: user, Name: name, User: user, Detail: map[string]any{"by": s.way, "client": from.client(), "awaits": s.awaits},
	})
	if err != nil {
		return "", err
	}
	strange, err := place.SignedIn(ctx, tx, user, from.Address)
	if err != nil {
		return "", err
	}
	if strange {
		if err := a.Warn(ctx, tx, user, "new sign in", from.somebody(), map[string]string{"client": from.client()}); err != nil {
			return "", err
		}
	}
	return a.insertSession(ctx, tx, user, s, from)
}

func (a *Accounts) insertSession(ctx context.Context, tx *db.Tx, user int64, s opening, from From) (string, error) {
	if err := a.makeRoom(ctx, tx, user, s.awaits != awaitsNothing); err != nil {
		return "", err
	}
	jti, expires := token.New(""), s.authenticated.Add(a.cfg.SessionLife)
	if s.awaits != awaitsNothing {
		expires = s.authenticated.Add(halfLife)
	}
	if s.login == "" {
		s.login = token.New("")
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO session ("user", token_hash, created_at, authenticated_at, expires_at, address, user_agent,
			client, login, opened_by, proved_by, awaits, is_proven)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, user, a.hash.SessionID(jti), tx.NowText(), db.FormatTime(s.authenticated), db.FormatTime(expires),
		from.Address, clip(from.UserAgent, 200), from.client(), s.login, s.way, cmp.Or(s.proof, s.way), s.awaits, s.proven)
	if err != nil {
		return "", fmt.Errorf("open session: %w", err)
	}
	c := token.Claims{ID: user, AuthTime: s.authenticated.UnixMilli(), IssuedAt: tx.Now.Unix(), Expires: expires.Unix(), JTI: jti}
	if s.proven || s.awaits != awaitsNothing {
		c.TwoFactor = new(s.awaits != awaitsNothing)
	}
	return a.hash.Sign(c)
}

// makeRoom ends the sessions of a user that were idle longest when there are too many, among the half ones or among the whole ones.
func (a *Accounts) makeRoom(ctx context.Context, tx *db.Tx, user int64, half bool) error {
	which, most := `awaits = ''`, maxSessions
	if half {
		which, most = `awaits <> ''`, maxHalf
	}
	return a.endSessions(ctx, tx, `id IN (SELECT id FROM session WHERE "user" = ? AND `+which+`
		ORDER BY coalesce(last_used_at, created_at) DESC, id DESC LIMIT 1000000 OFFSET `+fmt.Sprint(most-1)+`)`, user)
}

// takeSession removes the caller's session and gives what the one that takes its place is opened with. Of two that come at once, the
// second comes too late.
func takeSession(ctx context.Context, tx *db.Tx, by access.Caller) (s opening, err error) {
	var at string
	err = tx.QueryRowContext(ctx, `DELETE FROM session WHERE id = ? AND "user" = ?
		RETURNING authenticated_at, login, opened_by, proved_by, awaits, is_proven = 1`,
		by.Session, by.User).Scan(&at, &s.login, &s.way, &s.proof, &s.awaits, &s.proven)
	if errors.Is(err, sql.ErrNoRows) {
		return s, api.ErrUnauthorized
	}
	if err != nil {
		return s, fmt.Errorf("session: %w", err)
	}
	s.authenticated, err = db.ParseTime(at)
	return s, err
}

// Refresh gives a session a new token; the old one dies. With a password, which must be right, the new session counts as a
// fresh login. Nothing else makes it last longer than the limit since its user proved who they are.
func (a *Accounts) Refresh(ctx context.Context, by access.Caller, given string, from From) (string, error) {
	if by.Session == 0 {
		return "", api.Errorf(api.Unauthorized, "only a session can be refreshed")
	}
	if given != "" {
		_, hash, err := a.passwordOf(ctx, `id = ?`, by.User)
		if err != nil {
			return "", fmt.Errorf("refresh: %w", err)
		}
		if err := a.proves(ctx, by, hash, given, from.Address); err != nil {
			return "", err
		}
	}
	var token string
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		s, err := takeSession(ctx, tx, by)
		if err != nil {
			return err
		}
		if given != "" {
			if err := mayUsePassword(ctx, tx, by.User); err != nil {
				return err
			}
			s.authenticated = tx.Now
		}
		a.Revoked(tx, "session", by.Session)
		token, err = a.insertSession(ctx, tx, by.User, s, from)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("refresh: %w", err)
	}
	return token, nil
}

// Passed puts a whole session in the place of the caller's, whose user has just proved a second factor. With others, all other
// sessions of the user end: they were opened without it.
func (a *Accounts) Passed(ctx context.Context, tx *db.Tx, by access.Caller, from From, others bool) (string, error) {
	s, err := takeSession(ctx, tx, by)
	if err != nil {
		return "", err
	}
	a.Revoked(tx, "session", by.Session)
	if others {
		if err := a.endSessions(ctx, tx, `"user" = ?`, by.User); err != nil {
			return "", err
		}
	}
	s.authenticated, s.awaits, s.proven = tx.Now, awaitsNothing, true
	return a.insertSession(ctx, tx, by.User, s, from)
}

// Unproven puts a session without a second factor in the place of the caller's, who has none any more.
func (a *Accounts) Unproven(ctx context.Context, tx *db.Tx, by access.Caller, from From) (string, error) {
	s, err := takeSession(ctx, tx, by)
	if err != nil {
		return "", err
	}
	a.Revoked(tx, "session", by.Session)
	s.proven = false
	return a.insertSession(ctx, tx, by.User, s, from)
}

// Sessions lists a user's own sessions, newest first.
func (a *Accounts) Sessions(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Session, error) {
	if by.Session == 0 {
		return nil, api.Errorf(api.Forbidden, "an API key may not see sessions")
	}
	return a.SessionsOf(ctx, tx, by.User, by.Session)
}

// SessionsOf lists the sessions of a user, of which one may be the current one. It checks no right.
func (a *Accounts) SessionsOf(ctx context.Context, tx *db.Tx, user, current int64) ([]api.Session, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, created_at, authenticated_at, expires_at, last_used_at, address, last_address, user_agent, client,
			opened_by, awaits <> ''
		FROM session WHERE "user" = ? AND expires_at > ? AND coalesce(last_used_at, created_at) > ? ORDER BY id DESC LIMIT 1000`,
		user, tx.NowText(), a.IdleSince(tx.Now))
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.Session{}
	for rows.Next() {
		var s api.Session
		var created, authenticated, expires string
		var used sql.NullString
		if err := rows.Scan(&s.ID, &created, &authenticated, &expires, &used, &s.Address, &s.LastAddress, &s.UserAgent, &s.Client,
			&s.OpenedBy, &s.Half); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		s.CreatedAt, _ = db.ParseTime(created) // written by FormatTime
		s.AuthenticatedAt, _ = db.ParseTime(authenticated)
		s.ExpiresAt, _ = db.ParseTime(expires)
		if at, err := db.ParseTime(used.String); err == nil {
			s.LastUsedAt = &at
		}
		s.Current = s.ID == current
		list = append(list, s)
	}
	return list, rows.Err()
}

// IdleSince is when a session must have been used last to hold.
func (a *Accounts) IdleSince(now time.Time) string { return db.FormatTime(now.Add(-a.cfg.SessionIdle)) }

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
	if err := a.recordEnd(ctx, tx, by, map[string]any{"session": id}); err != nil {
		return err
	}
	return a.endSessions(ctx, tx, `id = ?`, id)
}

// EndSessions ends all sessions of the caller but the one that asks; with the last, that one too.
func (a *Accounts) EndSessions(ctx context.Context, tx *db.Tx, by access.Caller, all bool) error {
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not end sessions")
	}
	if err := a.recordEnd(ctx, tx, by, map[string]any{"all": true, "current": all}); err != nil {
		return err
	}
	where := `"user" = ?`
	if !all {
		where += fmt.Sprintf(` AND id <> %d`, by.Session)
	}
	return a.endSessions(ctx, tx, where, by.User)
}

func (a *Accounts) recordEnd(ctx context.Context, tx *db.Tx, by access.Caller, detail map[string]any) error {
	return audit.Record(ctx, tx, by, audit.Entry{Act: "session.end", Kind: "user", ID: by.User, Name: by.Name, User: by.User, Detail: detail})
}

func (a *Accounts) endSessions(ctx context.Context, tx *db.Tx, where string, args ...any) error {
	ids, err := db.Column[int64](ctx, tx, `DELETE FROM session WHERE `+where+` RETURNING id`, args...)
	if err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	a.Revoked(tx, "session", ids...)
	return nil
}

// EndSessionsOf ends all sessions of a user, and the link to another password that may lie in a mailbox. It checks no right, and records
// nothing.
func (a *Accounts) EndSessionsOf(ctx context.Context, tx *db.Tx, user int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM password_reset WHERE "user" = ?`, user); err != nil {
		return fmt.Errorf("end sessions: %w", err)
	}
	return a.endSessions(ctx, tx, `"user" = ?`, user)
}

// changedOne reports whether a statement changed a row.
func changedOne(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// clip cuts a text that came from outside.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
