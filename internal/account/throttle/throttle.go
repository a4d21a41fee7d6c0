// Package throttle makes those wait who guess: it counts failed attempts, of passwords and of second factors, in the tables that package
// account owns.
package throttle

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/db"
)

// TryLaterError refuses a login before the password is looked at.
type TryLaterError struct{ After time.Duration }

func (e *TryLaterError) Error() string { return "too many failed logins; try again later" }

// Unwrap makes it an api.RateLimited error.
func (e *TryLaterError) Unwrap() error { return api.Errorf(api.RateLimited, "%s", e.Error()) }

// Seconds is the delay in whole seconds, at least one: what a Retry-After header says.
func (e *TryLaterError) Seconds() int64 { return max(1, int64((e.After+time.Second-1)/time.Second)) }

// How failures turn into delays. Each counter lets some failures pass and then asks for a delay that doubles up to a bound.
// A stranger who fails on somebody's account from his own address makes his own address wait, for all accounts. Only
// many failures from everywhere make an account itself wait; then for a short time, and not for addresses that its
// user has logged in from before.
var (
	perPair    = limit{free: 10, first: 2 * time.Second, most: time.Hour, forget: 2 * time.Hour}        // account from one address
	perAddress = limit{free: 30, first: 2 * time.Second, most: 15 * time.Minute, forget: 2 * time.Hour} // any account
	perAccount = limit{free: 50, first: time.Second, most: 30 * time.Second, forget: time.Hour}         // any address
	perFactor  = limit{free: 5, first: 5 * time.Second, most: time.Hour, forget: 24 * time.Hour}        // for all of them
)

type limit struct {
	free        int
	first, most time.Duration
	forget      time.Duration // after the last failure
}

func (l limit) delay(failures int) time.Duration {
	if failures < l.free {
		return 0
	}
	n := min(failures-l.free, 30)
	return min(l.first<<n, l.most)
}

// Throttle counts failed logins in the database: whichever process of the server is asked counts them all, and a restart forgets
// none. Each costs its maker the work of a password's hash, which bounds how fast the table grows; see [Throttle.Forget].
type Throttle struct {
	db   *db.DB
	hash token.Hasher
	limits
}

// limits are what a throttle holds attempts against, and where it counts them.
type limits struct {
	table                           string // login_attempt, or one like it
	domain                          string // of the counters' keys
	strict                          bool   // who is known at an address waits as well
	perPair, perAddress, perAccount limit
}

var (
	ofLogins = limits{table: "login_attempt", domain: "login", perPair: perPair, perAddress: perAddress, perAccount: perAccount}
	// Codes of six digits are guessed far sooner than passwords: of one user, from wherever and in whatever session, a few are tried in an hour.
	ofFactors = limits{table: "factor_attempt", domain: "factor", strict: true, perPair: perFactor, perAddress: perAddress, perAccount: perFactor}
)

// Logins counts failed logins.
func Logins(d *db.DB, hash token.Hasher) *Throttle { return &Throttle{d, hash, ofLogins} }

// Factors counts what is proved in a session that is there already, apart from logins.
func Factors(d *db.DB, hash token.Hasher) *Throttle { return &Throttle{d, hash, ofFactors} }

// counter is one count of failed logins.
type counter struct {
	name, key string
	limit     limit
	failures  int
	last      time.Time // of the last failure; zero when there is none to remember
}

// rememberKnown is how long a user is known at an address after a login from there.
const rememberKnown = 90 * 24 * time.Hour

const known = "known"

// Network is what counts as one address: a host of IPv4, a /64 of IPv6.
func Network(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// counters are those of an attempt, and the key under which a user is known at an address.
func (t *Throttle) counters(account, address string) (all []*counter, pair string) {
	from := Network(address).String()
	key := func(parts ...string) string {
		return hex.EncodeToString(t.hash.MAC(t.domain+"\x00", strings.Join(parts, "\x00")))
	}
	pair = key(from, account)
	return []*counter{
		{name: "pair", key: pair, limit: t.perPair},
		{name: "address", key: key(from), limit: t.perAddress},
		{name: "account", key: key("", account), limit: t.perAccount},
	}, pair
}

// Attempt is one that counts as failed until it is taken back.
type Attempt struct {
	throttle *Throttle
	before   []*counter // as they were
	pair     string
	at       time.Time
}

// Try counts an attempt as failed before it is made, so that attempts side by side see each other, or refuses it.
func (t *Throttle) Try(ctx context.Context, account, address string, now time.Time) (*Attempt, error) {
	all, pair := t.counters(account, address)
	var counted []*counter
	look := func(tx *db.Tx) (err error) {
		if counted, err = t.read(ctx, tx, all, pair, now); err != nil {
			return err
		}
		for _, c := range counted {
			if wait := c.limit.delay(c.failures) - now.Sub(c.last); c.failures > 0 && wait > 0 {
				return &TryLaterError{After: wait}
			}
		}
		return nil
	}
	if err := t.db.Read(ctx, look); err != nil { // a refusal writes nothing
		return nil, err
	}
	err := t.db.Write(ctx, func(tx *db.Tx) error {
		if err := look(tx); err != nil {
			return err
		}
		for _, c := range counted {
			if err := t.write(ctx, tx, c.name, c.key, c.failures+1, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Attempt{t, counted, pair, now}, nil
}

// Right takes an attempt back that was right: it ends what was held against its user at this address, where they are known from now on.
func (a *Attempt) Right(ctx context.Context) error {
	t := a.throttle
	return t.db.Write(ctx, func(tx *db.Tx) error {
		if err := a.takeBack(ctx, tx, "pair"); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM `+t.table+` WHERE counter = 'pair' AND key = ?`, a.pair); err != nil {
			return fmt.Errorf("forgive a login: %w", err)
		}
		return t.write(ctx, tx, known, a.pair, 0, a.at)
	})
}

// Untried takes an attempt back that was not looked at. Nothing else is forgiven: whoever guesses can have their guesses not looked at, by
// hanging up or by making the server busy.
func (a *Attempt) Untried(ctx context.Context) error {
	return a.throttle.db.Write(ctx, func(tx *db.Tx) error { return a.takeBack(ctx, tx, "") })
}

// takeBack takes the attempt out of the counters, but for one.
func (a *Attempt) takeBack(ctx context.Context, tx *db.Tx, but string) error {
	t := a.throttle
	for _, c := range a.before {
		var failures int
		var last string
		err := tx.QueryRowContext(ctx, `SELECT failures, last_at FROM `+t.table+` WHERE counter = ? AND key = ?`, c.name, c.key).
			Scan(&failures, &last)
		if errors.Is(err, sql.ErrNoRows) || (err == nil && c.name == but) {
			continue
		}
		if err != nil {
			return fmt.Errorf("forgive a login: %w", err)
		}
		at, err := db.ParseTime(last)
		if err != nil {
			return err
		}
		if last == db.FormatTime(a.at) && !c.last.IsZero() { // no other failed since
			at = c.last
		}
		if err := t.write(ctx, tx, c.name, c.key, max(0, failures-1), at); err != nil {
			return err
		}
	}
	return nil
}

// read gives the counters that count for an attempt as they are. One whose last failure is long past starts anew.
func (t *Throttle) read(ctx context.Context, tx *db.Tx, all []*counter, pair string, now time.Time) ([]*counter, error) {
	var out []*counter
	isKnown, err := t.lookUp(ctx, tx, &counter{name: known, key: pair, limit: limit{forget: rememberKnown}}, now)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.name == "account" && isKnown && !t.strict {
			continue // strangers' failures do not keep a user out where he has been before
		}
		fresh := *c
		if _, err := t.lookUp(ctx, tx, &fresh, now); err != nil {
			return nil, err
		}
		out = append(out, &fresh)
	}
	return out, nil
}

func (t *Throttle) lookUp(ctx context.Context, tx *db.Tx, c *counter, now time.Time) (found bool, err error) {
	var failures int
	var last string
	err = tx.QueryRowContext(ctx, `SELECT failures, last_at FROM `+t.table+` WHERE counter = ? AND key = ?`, c.name, c.key).
		Scan(&failures, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("failed logins: %w", err)
	}
	at, err := db.ParseTime(last)
	if err != nil || now.Sub(at) >= c.limit.forget {
		return false, err
	}
	c.failures, c.last = failures, at
	return true, nil
}

func (t *Throttle) write(ctx context.Context, tx *db.Tx, name, key string, failures int, at time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO `+t.table+` (counter, key, failures, last_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (counter, key) DO UPDATE SET failures = excluded.failures, last_at = excluded.last_at`,
		name, key, failures, db.FormatTime(at))
	if err != nil {
		return fmt.Errorf("count a login: %w", err)
	}
	return nil
}

// Forget removes what counts no more.
func (t *Throttle) Forget(ctx context.Context, tx *db.Tx, now time.Time) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM `+t.table+` WHERE last_at <= ? AND (counter <> 'known' OR last_at <= ?)`,
		db.FormatTime(now.Add(-max(t.perPair.forget, t.perAddress.forget, t.perAccount.forget))), db.FormatTime(now.Add(-rememberKnown)))
	if err != nil {
		return fmt.Errorf("forget failed logins: %w", err)
	}
	return nil
}
