package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

var userName = pattern.New(`^[a-z0-9][a-z0-9_-]{1,38}[a-z0-9]$`)

// IsUserName reports whether somebody may have a name: 3 to 40 lower-case letters, digits, _ and -.
func IsUserName(name string) bool { return userName.MatchString(name) }

// Bootstrap makes the first user of a server, with an organization and a named key. When somebody has used one already, it answers
// nil and changes nothing.
func (a *Accounts) Bootstrap(ctx context.Context, email, username string) (*api.Admin, error) {
	var exists bool
	look := func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user") AND NOT (`+untouched+`)`).Scan(&exists)
	}
	if err := a.cfg.DB.Read(ctx, look); err != nil || exists {
		return nil, err // before a password is hashed for nothing
	}
	admin := &api.Admin{Email: email, Username: username, Password: newPassword()}
	hash, err := a.hashNew(ctx, admin.Password)
	if err != nil {
		return nil, err
	}
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := look(tx); err != nil || exists {
			return err
		}
		id, err := firstUser(ctx, tx, admin, hash)
		if err != nil {
			return err
		}
		admin.APIKey, err = a.CreateKey(ctx, tx, access.Itself(), KeySpec{
			Of: OfUser, ID: id, Name: firstKey, Description: "made with the server, see admin.json",
		})
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, access.Itself(), audit.Entry{Act: "server.bootstrap", Kind: "user", ID: id, Name: admin.Username, User: id})
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if exists {
		return nil, nil //nolint:nilnil // documented: nobody was made
	}
	return admin, nil
}

// untouched says that there is the first user only, and that nobody has ever used what it was made with: its secrets were lost
// when a first start was cut off before they were written down, and nothing is lost by making them anew.
const untouched = `(SELECT count(*) FROM "user") = 1 AND NOT EXISTS (SELECT 1 FROM session)
	AND (SELECT count(*) = 1 AND max(last_used_at) IS NULL AND max(name) = '` + firstKey + `' FROM api_key)`

// firstKey is the name of the key that the first user is made with.
const firstKey = "first key"

// firstUser makes the first user, or gives the one that nobody could use yet a new password and no key.
func firstUser(ctx context.Context, tx *db.Tx, admin *api.Admin, hash string) (int64, error) {
	var id int64
	err := tx.QueryRowContext(ctx, `UPDATE "user" SET password = ? RETURNING id, email, username`, hash).Scan(&id, &admin.Email, &admin.Username)
	if errors.Is(err, sql.ErrNoRows) {
		return insertUser(ctx, tx, admin.Email, admin.Username, hash)
	}
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM api_key`)
	return id, err
}

// CreateUser makes a user with an organization of the same name. An empty password means an invented one, an empty user name
// one taken from the e-mail address. The answer holds the password only when it was invented.
func (a *Accounts) CreateUser(ctx context.Context, want api.NewUser) (api.NewUser, error) {
	made := api.NewUser{Email: strings.ToLower(strings.TrimSpace(want.Email)), Username: strings.ToLower(want.Username)}
	if parsed, err := mail.ParseAddress(made.Email); err != nil || parsed.Address != made.Email || len(made.Email) > 254 {
		return made, api.Errorf(api.Invalid, "%q is not an e-mail address", want.Email)
	}
	if made.Username == "" {
		made.Username, _, _ = strings.Cut(made.Email, "@")
		made.Username = strings.NewReplacer(".", "_", "+", "_").Replace(made.Username)
	}
	if !userName.MatchString(made.Username) {
		return made, api.Errorf(api.Invalid, "%q is not a user name: 3 to 40 lower-case letters, digits, _ and -", made.Username)
	}
	password, err := choosePassword(want.Password, &made)
	if err != nil {
		return made, err
	}
	hash, err := a.hashNew(ctx, password)
	if err != nil {
		return made, err
	}
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		id, err := insertUser(ctx, tx, made.Email, made.Username, hash)
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, access.Itself(), audit.Entry{Act: "user.create", Kind: "user", ID: id, Name: made.Username, User: id})
	})
	if err != nil {
		return api.NewUser{}, fmt.Errorf("create user: %w", err)
	}
	return made, nil
}

// SetPassword gives a user, named by e-mail address or user name, a new password and ends all sessions. Keys stay.
func (a *Accounts) SetPassword(ctx context.Context, who, password string) (api.NewUser, error) {
	var made api.NewUser
	var id int64
	err := a.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT id, email, username FROM "user" WHERE (email = ?1 OR username = ?1)
			AND is_service_account_of__organization IS NULL`, strings.ToLower(who)).
			Scan(&id, &made.Email, &made.Username)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return made, api.Errorf(api.NotFound, "there is no user %q", who)
	}
	if err != nil {
		return made, fmt.Errorf("set password: %w", err)
	}
	if password, err = choosePassword(password, &made); err != nil {
		return made, err
	}
	hash, err := a.hashNew(ctx, password)
	if err != nil {
		return made, err
	}
	err = a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE "user" SET password = ? WHERE id = ?`, hash, id); err != nil {
			return err
		}
		if err := audit.Record(ctx, tx, access.Itself(), audit.Entry{Act: "password.reset", Kind: "user", ID: id, Name: made.Username, User: id}); err != nil {
			return err
		}
		if err := a.Warn(ctx, tx, id, "password changed", access.Itself(), nil); err != nil {
			return err
		}
		return a.EndSessionsOf(ctx, tx, id)
	})
	if err != nil {
		return api.NewUser{}, fmt.Errorf("set password: %w", err)
	}
	return made, nil
}

// choosePassword checks a given password, or invents one and puts it into the answer.
func choosePassword(given string, made *api.NewUser) (string, error) {
	if given == "" {
		made.Password = newPassword()
		return made.Password, nil
	}
	local, _, _ := strings.Cut(made.Email, "@")
	return given, CheckPassword(given, made.Username, local)
}

// HashPassword checks a password that a user gives, and hashes it.
func (a *Accounts) HashPassword(ctx context.Context, given string, of api.NewUser) (hash string, err error) {
	if given == "" {
		return "", api.Errorf(api.Invalid, "password: not given")
	}
	if _, err := choosePassword(given, &of); err != nil {
		return "", err
	}
	return a.hashNew(ctx, given)
}

// newPassword invents a password: 24 base-62 digits, 142 bits.
func newPassword() string { return token.New("")[:24] }

// insertUser makes the actor, the user, and the organization that every user starts with.
func insertUser(ctx context.Context, tx *db.Tx, email, username, hash string) (int64, error) {
	actor, err := NewActor(ctx, tx)
	if err != nil {
		return 0, err
	}
	handle, err := freeHandle(ctx, tx, username)
	if err != nil {
		return 0, err
	}
	var org, id int64
	if err = tx.QueryRowContext(ctx, `INSERT INTO organization (created_at, name, handle) VALUES (?, ?, ?) RETURNING id`,
		tx.NowText(), username, handle).Scan(&org); err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, `
INSERT INTO "user" (created_at, actor, username, email, password, has_legacy_link_to__organization)
VALUES (?, ?, ?, ?, ?, ?) RETURNING id`, tx.NowText(), actor, username, email, hash, org).Scan(&id)
	if db.IsUnique(err) {
		return 0, api.Errorf(api.Conflict, "there is a user of that name or e-mail address already")
	}
	if err != nil {
		return 0, err
	}
	return id, addMember(ctx, tx, org, id, rights.Administrator)
}

// Whoami describes the actor that a caller is.
func (a *Accounts) Whoami(ctx context.Context, tx *db.Tx, by access.Caller) (*api.Whoami, error) {
	me := &api.Whoami{ID: by.Actor}
	var err error
	switch by.Kind {
	case access.User, access.ScopedKey:
		me.ActorType, me.ActorTypeID = string(OfUser), by.User
		err = tx.QueryRowContext(ctx, `SELECT u.username, CASE WHEN o.id IS NULL THEN u.email END, coalesce(o.handle, '') FROM "user" u
			LEFT JOIN organization o ON o.id = u.is_service_account_of__organization WHERE u.id = ?`, by.User).
			Scan(&me.Username, &me.Email, &me.ServiceAccountOf)
	case access.FleetKey:
		me.ActorType, me.ActorTypeID = string(OfFleet), by.Fleet
		err = tx.QueryRowContext(ctx, `SELECT slug FROM application WHERE id = ?`, by.Fleet).Scan(&me.Slug)
	case access.Device, access.FrozenDevice:
		me.ActorType, me.ActorTypeID = string(OfDevice), by.Device
		err = tx.QueryRowContext(ctx, `SELECT uuid FROM device WHERE id = ?`, by.Device).Scan(&me.UUID)
	default:
		return nil, api.ErrUnauthorized
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.ErrUnauthorized
	}
	if err != nil {
		return nil, fmt.Errorf("whoami: %w", err)
	}
	return me, nil
}

// SetSupport says whether a user gives support: customers may then open fleets and devices to them. It needs no level; the command
// of the server's operator is the only road here.
func (a *Accounts) SetSupport(ctx context.Context, tx *db.Tx, want api.SupportStaff) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `UPDATE "user" SET is_support_staff = ?1 WHERE email = ?2 OR username = ?2 RETURNING id`,
		want.Support, strings.ToLower(want.User)).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, api.Errorf(api.NotFound, "there is no user %q", want.User)
	}
	if err != nil {
		return 0, fmt.Errorf("set support: %w", err)
	}
	a.Revoked(tx, "support", id) // what is remembered of the user is not true any more
	return id, nil
}
