// Package account owns who acts and how they prove it: actors, users, organizations and their members, API keys and
// sessions. Tokens are kept as hashes only, and every use of one is looked up, so that a deleted row ends its use at once.
// Folders below it hold what is a story of its own: some know no table and serve it, others ask it, and own what they do in its tables.
//
// Fleets and devices are actors too. Their rows belong to packages above this one; account only reads, in [Accounts.Authenticate] and
// when it makes a key, which fleet or device an actor is.
package account

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/keyuse"
	"github.com/roadstead-io/roadstead/internal/account/letter"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/db"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0001 to 0009, 0040 to 0049, 0090 to 0094, 0100, 0101, 0121, 0123, 0125, 0130, 0133, 0139 and 0380; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Config says what the accounts work with.
type Config struct {
	DB     *db.DB
	Pepper []byte           // 32 random bytes that never enter the database
	Log    *slog.Logger     // nil: slog's default
	Now    func() time.Time // nil: the clock

	// SessionIdle is how long a session holds that nobody uses; 0 means 30 days.
	SessionIdle time.Duration
	// SessionLife is how long a session holds since its user proved who they are, however often it is refreshed; 0 means 90 days.
	SessionLife time.Duration
	// PasswordCost is how much work the hash of a password is; zero means [password.Floor].
	PasswordCost password.Cost
	// SamePassword, if set, compares in the place of [password.Same]: tests count what work is done.
	SamePassword func(hash, given string) bool
	// SecondFactor, if set, says whether a user has a second factor.
	SecondFactor func(ctx context.Context, tx *db.Tx, user int64) (bool, error)
	// WaysIn say whether a user can sign in otherwise than by a password, each for one way.
	WaysIn []func(ctx context.Context, tx *db.Tx, user int64) (bool, error)
	// Revoked, if set, hears of keys and sessions that ended before their time, after the commit: what is "key" or "session".
	Revoked func(what string, id int64)
	// Notify, if set, has a letter sent to a person, once the transaction is committed. Without it no mail is sent.
	Notify func(ctx context.Context, tx *db.Tx, n Notice) error
	// HandleChanged, if set, runs in the transaction that gives an organization another handle: names made of it follow.
	HandleChanged func(ctx context.Context, tx *db.Tx, organization int64, handle string) error
}

// Notice is a letter to a person: a template and what it speaks of.
type Notice struct {
	To   string            // e-mail address
	Kind string            // "invitation", "password reset", "password changed", "new sign in", …
	Data map[string]string // by name, see the template
	// Until is when the letter says nothing any more; zero: after a day.
	Until time.Time
	// By is the user who has it sent; 0: the server. Nobody has many sent.
	By int64
}

// Mails reports whether the server sends mail.
func (a *Accounts) Mails() bool { return a.cfg.Notify != nil }

// Hasher is what tokens are hashed with before they are kept.
func (a *Accounts) Hasher() token.Hasher { return a.hash }

// Notify sends a letter if the server sends mail.
func (a *Accounts) Notify(ctx context.Context, tx *db.Tx, n Notice) error {
	if a.cfg.Notify == nil {
		return nil
	}
	return a.cfg.Notify(ctx, tx, n)
}

// Warn sends a user a letter about something that was done to the account, from where, and when.
func (a *Accounts) Warn(ctx context.Context, tx *db.Tx, user int64, kind string, by access.Caller, data map[string]string) error {
	if a.cfg.Notify == nil {
		return nil
	}
	n := Notice{Kind: kind, Data: map[string]string{"address": by.Address, "at": letter.Time(tx.Now)}}
	var name string
	err := tx.QueryRowContext(ctx, `SELECT email, username FROM "user" WHERE id = ?`, user).Scan(&n.To, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("warn user %d: %w", user, err)
	}
	n.Data["username"] = name
	maps.Copy(n.Data, data)
	return a.Notify(ctx, tx, n)
}

// Accounts is the running part of the package: the hasher, the throttle of logins and the times of last use.
type Accounts struct {
	cfg            Config
	hash           token.Hasher
	throttle       *throttle.Throttle // of logins
	secondThrottle *throttle.Throttle // of what is proved in a session that is there already
	refusals       refusals
	verify         chan struct{} // bounds how many passwords are hashed at once
	waiting        atomic.Int64  // how many are, or wait for it
	samePassword   func(hash, given string) bool
	decoy          string // hash that no known password has; what is checked when a user does not exist is like it where nobody has a password

	uses keyuse.Uses // of keys

	mu      sync.Mutex // covers touched
	touched map[touch]use
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Accounts, error) {
	if cfg.DB == nil {
		return nil, errors.New("account: no database")
	}
	if len(cfg.Pepper) < 32 {
		return nil, fmt.Errorf("account: the pepper has %d bytes, not 32", len(cfg.Pepper))
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SessionIdle == 0 {
		cfg.SessionIdle = 30 * 24 * time.Hour
	}
	if cfg.SessionLife == 0 {
		cfg.SessionLife = 90 * 24 * time.Hour
	}
	if cfg.PasswordCost == (password.Cost{}) {
		cfg.PasswordCost = password.Floor
	}
	a := &Accounts{
		cfg: cfg, hash: token.NewHasher(cfg.Pepper), verify: make(chan struct{}, maxHashing),
		touched: map[touch]use{}, refusals: refusals{due: make(chan struct{}, 1)},
	}
	a.samePassword = password.Same
	if cfg.SamePassword != nil {
		a.samePassword = cfg.SamePassword
	}
	a.throttle = throttle.Logins(cfg.DB, a.hash)
	a.secondThrottle = throttle.Factors(cfg.DB, a.hash)
	a.decoy = cfg.PasswordCost.Decoy()
	return a, nil
}

// NewActor makes an actor, for a fleet or a device about to be inserted.
func NewActor(ctx context.Context, tx *db.Tx) (int64, error) {
	var id int64
	if err := tx.QueryRowContext(ctx, `INSERT INTO actor DEFAULT VALUES RETURNING id`).Scan(&id); err != nil {
		return 0, fmt.Errorf("account: new actor: %w", err)
	}
	return id, nil
}

// NewActors makes several at once.
func NewActors(ctx context.Context, tx *db.Tx, n int) ([]int64, error) {
	query := `INSERT INTO actor (id) VALUES ` + db.Rows(`(NULL)`, n) + ` RETURNING id`
	if tx.Dialect() == db.Postgres { // each asks for the next id in its own words
		query = `INSERT INTO actor (id) VALUES ` + db.Rows(`(DEFAULT)`, n) + ` RETURNING id`
	}
	ids, err := db.Column[int64](ctx, tx, query)
	if err != nil {
		return nil, fmt.Errorf("account: new actors: %w", err)
	}
	return ids, nil
}

// DeleteActor removes the actor of a deleted fleet or device, and with it every key it had.
func DeleteActor(ctx context.Context, tx *db.Tx, actor int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM actor WHERE id = ?`, actor); err != nil {
		return fmt.Errorf("account: delete actor %d: %w", actor, err)
	}
	return nil
}

// Revoked tells, once the transaction is committed, whoever holds connections open that something has ended before its time. See [Config].
func (a *Accounts) Revoked(tx *db.Tx, what string, ids ...int64) {
	if a.cfg.Revoked == nil || len(ids) == 0 {
		return
	}
	tx.OnCommit(func() {
		for _, id := range ids {
			a.cfg.Revoked(what, id)
		}
	})
}
