package account

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/db"
)

// usedEvery is how exactly times of last use are kept.
const usedEvery = time.Minute

// touch names a key or a session that was used.
type touch struct {
	table string // api_key, session or sshKeys
	id    int64
}

const sshKeys = "user__has__public_key"

func (t touch) compare(o touch) int {
	return cmp.Or(strings.Compare(t.table, o.table), cmp.Compare(t.id, o.id))
}

// use is when something was used, and from where if that is known.
type use struct {
	at      time.Time
	address string
}

// Authenticate says who a token is. Unknown, expired and revoked ones are api.ErrUnauthorized, without a word about which. A
// provisioning key whose uses are spent still authenticates, see [UseProvisioningKey].
func (a *Accounts) Authenticate(ctx context.Context, tx *db.Tx, token string) (access.Caller, error) {
	caller, _, err := a.AuthenticateUntil(ctx, tx, token)
	return caller, err
}

// AuthenticateUntil also says when the token ends by itself; zero means never.
func (a *Accounts) AuthenticateUntil(ctx context.Context, tx *db.Tx, text string) (access.Caller, time.Time, error) {
	if text == "" || len(text) > 4096 {
		return access.Nobody(), time.Time{}, api.ErrUnauthorized
	}
	if token.LooksSigned(text) {
		return a.bySession(ctx, tx, text)
	}
	if token.Forged(text) { // nobody was given it
		return access.Nobody(), time.Time{}, api.ErrUnauthorized
	}
	return a.byKey(ctx, tx, text)
}

// Again says who somebody is now who was let in before: what they showed then must hold as if they came with it anew, or it is
// api.ErrUnauthorized. It counts as no use.
func (a *Accounts) Again(ctx context.Context, tx *db.Tx, by access.Caller) (again access.Caller, err error) {
	switch {
	case by.Session != 0:
		again, _, _, err = a.session(ctx, tx, `s.id = ?`, by.Session)
	case by.Key != 0:
		again, _, err = a.key(ctx, tx, `k.id = ?`, by.Key)
	default:
		err = api.ErrUnauthorized
	}
	if err == nil && again.Kind == access.HalfUser {
		err = api.ErrUnauthorized
	}
	if err != nil {
		return access.Nobody(), err
	}
	return again, nil
}

func (a *Accounts) bySession(ctx context.Context, tx *db.Tx, token string) (access.Caller, time.Time, error) {
	c, err := a.hash.Read(token, tx.Now)
	if err != nil {
		return access.Nobody(), time.Time{}, err
	}
	caller, used, expires, err := a.session(ctx, tx, `s.token_hash = ? AND s."user" = ?`, a.hash.SessionID(c.JTI), c.ID)
	if err != nil {
		return access.Nobody(), time.Time{}, err
	}
	a.touch(touch{"session", caller.Session}, used, tx.Now)
	return caller, earlier(ending(expires), time.Unix(c.Expires, 0)), nil
}

// session says who the session s of a user u stands for, if it holds.
func (a *Accounts) session(ctx context.Context, tx *db.Tx, which string, args ...any) (caller access.Caller, used, expires sql.NullString, err error) {
	caller.Kind = access.User
	var awaits string
	err = tx.QueryRowContext(ctx, `SELECT s.id, s.last_used_at, s.expires_at, s.awaits, u.id, u.actor, u.username, u.is_support_staff = 1
		FROM session s JOIN "user" u ON u.id = s."user" AND u.is_disabled = 0
		WHERE `+which+` AND s.expires_at > ? AND coalesce(s.last_used_at, s.created_at) > ? ORDER BY s.id DESC LIMIT 1`,
		append(args, tx.NowText(), a.IdleSince(tx.Now))...).
		Scan(&caller.Session, &used, &expires, &awaits, &caller.User, &caller.Actor, &caller.Name, &caller.Staff)
	if errors.Is(err, sql.ErrNoRows) {
		return access.Nobody(), used, expires, api.ErrUnauthorized
	}
	if err != nil {
		return access.Nobody(), used, expires, fmt.Errorf("authenticate session: %w", err)
	}
	if awaits != awaitsNothing {
		caller.Kind, caller.Staff = access.HalfUser, false
	}
	return caller, used, expires, nil
}

// ending reads when something ends; zero means never. What cannot be read has ended.
func ending(text sql.NullString) time.Time {
	if !text.Valid {
		return time.Time{}
	}
	at, err := db.ParseTime(text.String)
	if err != nil {
		return time.Unix(0, 0)
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// keyRow is what authentication reads of a key and of what it belongs to.
type keyRow struct {
	kind                        string
	expiry, used, name, uuid    sql.NullString
	user, fleet, device, within sql.NullInt64
	scoped, frozen              bool
	orphan                      bool // nobody answers for it, or whoever does lacks what is asked of them
	strict                      bool // an organization of the user's asks for a second factor
	creator                     sql.NullInt64
	networks                    sql.NullString
}

func (a *Accounts) byKey(ctx context.Context, tx *db.Tx, token string) (access.Caller, time.Time, error) {
	caller, k, err := a.key(ctx, tx, `k.key_hash = ?`, a.hash.Token(token))
	if err != nil {
		return access.Nobody(), time.Time{}, err
	}
	a.touch(touch{"api_key", caller.Key}, k.used, tx.Now)
	return caller, ending(k.expiry), nil
}

// key says who the key k stands for, if it holds.
func (a *Accounts) key(ctx context.Context, tx *db.Tx, which string, arg any) (caller access.Caller, k keyRow, err error) {
	err = tx.QueryRowContext(ctx, `SELECT k.id, k.kind, k.is_of__actor, k.expiry_date, k.last_used_at, `+keyScoped+`, k.is_created_by__user,
			k.channels, k.networks, `+keyOrphan+`, `+keyStrict+`,
			u.id, u.username, f.id, d.id, d.uuid, d.belongs_to__application, coalesce(d.is_frozen, 0)
		FROM api_key k
		LEFT JOIN "user" u ON k.kind = 'user' AND u.actor = k.is_of__actor AND u.is_disabled = 0
		LEFT JOIN application f ON k.kind IN ('provisioning', 'fleet') AND f.actor = k.is_of__actor
		LEFT JOIN device d ON k.kind = 'device' AND d.actor = k.is_of__actor
		WHERE `+which, tx.NowText(), tx.NowText(), arg).
		Scan(&caller.Key, &k.kind, &caller.Actor, &k.expiry, &k.used, &k.scoped, &k.creator, &caller.Channels, &k.networks, &k.orphan, &k.strict,
			&k.user, &k.name, &k.fleet, &k.device, &k.uuid, &k.within, &k.frozen)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && k.expiry.Valid && k.expiry.String <= tx.NowText()) {
		return access.Nobody(), k, api.ErrUnauthorized
	}
	if err != nil {
		return access.Nobody(), k, fmt.Errorf("authenticate key: %w", err)
	}
	if err := k.who(&caller); err != nil {
		return access.Nobody(), k, err
	}
	if k.strict {
		has, err := a.HasFactor(ctx, tx, caller.User)
		if err != nil {
			return access.Nobody(), k, fmt.Errorf("authenticate key: %w", err)
		}
		k.orphan = k.orphan || !has
	}
	if k.orphan {
		return access.Nobody(), k, api.ErrUnauthorized
	}
	if caller.Networks = k.networks.String; caller.Channels == access.AllChannels {
		caller.Channels = 0
	}
	if k.fleet.Valid && k.creator.Valid {
		if err := stillEntrusted(ctx, tx, k.creator.Int64, k.fleet.Int64, k.kind); err != nil {
			return access.Nobody(), k, err
		}
	}
	return caller, k, nil
}

// who fills in the caller that a key stands for.
func (k keyRow) who(c *access.Caller) error {
	switch {
	case k.user.Valid:
		c.Kind, c.User, c.Name = access.User, k.user.Int64, k.name.String
		if k.scoped {
			c.Kind = access.ScopedKey
		}
	case k.fleet.Valid:
		c.Kind, c.Fleet, c.Name = access.Provisioning, k.fleet.Int64, fmt.Sprintf("f_%d", k.fleet.Int64)
		if k.kind == "fleet" {
			c.Kind = access.FleetKey
		}
	case k.device.Valid:
		c.Kind, c.Device, c.Fleet = access.Device, k.device.Int64, k.within.Int64
		c.Name = api.DeviceRegistryUser(api.DeviceUUID(k.uuid.String))
		if k.frozen {
			c.Kind = access.FrozenDevice
		}
	default: // the key outlived what it was for
		return api.ErrUnauthorized
	}
	return nil
}

// keyScoped says whether a key k of a user u is limited to some verbs or some fleets. Those of service accounts all are, by their kind: there is
// no account of a person behind them.
var keyScoped = `CASE WHEN k.verbs <> ` + fmt.Sprint(int(access.AllVerbs)) + ` OR k.is_for_some_fleets = 1 OR k.is_for_some_devices = 1
	OR u.is_service_account_of__organization IS NOT NULL THEN 1 ELSE 0 END`

// keyOrphan says whether a key k of a service account u has lost who answers for it: whoever made it knows it, and must administer the
// organization still. It takes the time.
var keyOrphan = `CASE WHEN u.is_service_account_of__organization IS NOT NULL AND k.is_created_by__user IS NOT NULL AND NOT EXISTS (
		SELECT 1 FROM organization_membership m JOIN "user" x ON x.id = m."user" AND x.is_disabled = 0 WHERE m."user" = k.is_created_by__user
			AND m.is_member_of__organization = u.is_service_account_of__organization
			AND m.organization_membership_role = ` + fmt.Sprint(rights.Administrator) + ` AND (m.end_date IS NULL OR m.end_date > ?)) THEN 1 ELSE 0 END`

// keyStrict says whether a key k is of a person u of whom an organization asks for a second factor: while they have none, keys from before
// are refused like a login would be. It takes the time.
const keyStrict = `CASE WHEN u.id IS NOT NULL AND u.is_service_account_of__organization IS NULL AND EXISTS (SELECT 1 FROM organization_membership m
		JOIN organization o ON o.id = m.is_member_of__organization AND o.is_requiring_two_factor = 1
		WHERE m."user" = u.id AND (m.end_date IS NULL OR m.end_date > ?)) THEN 1 ELSE 0 END`

// stillEntrusted ends the keys of a fleet with the right of whoever made them: somebody who left knows them still.
func stillEntrusted(ctx context.Context, tx *db.Tx, user, fleet int64, kind string) error {
	var disabled bool
	err := tx.QueryRowContext(ctx, `SELECT is_disabled FROM "user" WHERE id = ?`, user).Scan(&disabled)
	if errors.Is(err, sql.ErrNoRows) {
		return api.ErrUnauthorized
	}
	if err != nil {
		return fmt.Errorf("authenticate key: %w", err)
	}
	have, err := rights.FleetVerbs(ctx, tx, access.Caller{Kind: access.User, User: user}, fleet)
	if err != nil {
		return fmt.Errorf("authenticate key: %w", err)
	}
	if disabled || !have.Has(makerNeeds(kind)) {
		return api.ErrUnauthorized
	}
	return nil
}

// Used remembers that a key was used, from where and for which verb, to be written down later.
func (a *Accounts) Used(by access.Caller, verb access.Verbs) { a.uses.Add(by, verb, a.cfg.Now()) }

// touch remembers a use, to be written later: reading a page must not cost a write.
func (a *Accounts) touch(t touch, last sql.NullString, now time.Time) {
	if last.Valid {
		if at, err := db.ParseTime(last.String); err == nil && now.Sub(at) < usedEvery {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.touched[t]; !known {
		a.touched[t] = use{at: now}
	}
}

// Touch counts a use of the key of somebody who is known from before. It is for once a minute.
func (a *Accounts) Touch(by access.Caller) {
	if by.Key != 0 {
		a.touch(touch{"api_key", by.Key}, sql.NullString{}, a.cfg.Now())
	}
}

// UsedFrom says from where a session or an SSH key is used, for whoever reads the list of theirs. It is kept with
// the time of last use, which must be due for a session.
func (a *Accounts) UsedFrom(by access.Caller) {
	t := touch{"session", by.Session}
	if by.SSHKey != 0 {
		t = touch{sshKeys, by.SSHKey}
	} else if by.Session == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	u, due := a.touched[t]
	if by.SSHKey != 0 {
		u.at, due = a.cfg.Now(), true
	}
	if due {
		u.address = by.Address
		a.touched[t] = u
	}
}

// RunOnce writes down refusals and the times of last use, deletes memberships that have ended and forgets sessions that have expired and failed logins of long ago. Several
// processes may do so at the same time.
func (a *Accounts) RunOnce(ctx context.Context) error {
	a.writeWaiting(ctx)
	a.mu.Lock()
	uses := a.touched
	a.touched = map[touch]use{}
	a.mu.Unlock()
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for _, t := range slices.SortedFunc(maps.Keys(uses), touch.compare) { // in one order, whichever process writes
			query, args := `UPDATE api_key SET last_used_at = ?1 WHERE id = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)`,
				[]any{db.FormatTime(uses[t].at), t.id}
			if t.table == "session" {
				query = `UPDATE session SET last_used_at = ?1, last_address = coalesce(nullif(?3, ''), last_address)
					WHERE id = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)`
				args = append(args, uses[t].address)
			}
			if t.table == sshKeys {
				query = `UPDATE user__has__public_key SET last_used_at = ?1, last_used_from = coalesce(nullif(?3, ''), last_used_from)
					WHERE id = ?2 AND (last_used_at IS NULL OR last_used_at < ?1)`
				args = append(args, uses[t].address)
			}
			if _, err := tx.ExecContext(ctx, query, args...); err != nil {
				return err
			}
		}
		if err := a.uses.Write(ctx, tx); err != nil {
			return err
		}
		if err := a.endMemberships(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM session WHERE expires_at <= ? OR coalesce(last_used_at, created_at) <= ?`,
			tx.NowText(), a.IdleSince(tx.Now)); err != nil {
			return err
		}
		if err := a.throttle.Forget(ctx, tx, a.cfg.Now()); err != nil {
			return err
		}
		return a.secondThrottle.Forget(ctx, tx, a.cfg.Now())
	})
	if err != nil {
		a.mu.Lock()
		for t, at := range uses { // for the next time; what was used again meanwhile keeps its first use
			a.touched[t] = at
		}
		a.mu.Unlock()
		return fmt.Errorf("account: write down uses: %w", err)
	}
	a.uses.Wrote()
	return nil
}

// Run repeats RunOnce until the context ends, and once more then.
func (a *Accounts) Run(ctx context.Context) error {
	tick := time.NewTicker(usedEvery / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			return a.RunOnce(last)
		case <-a.refusals.due:
			a.writeWaiting(ctx)
		case <-tick.C:
			if err := a.RunOnce(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.ErrorContext(ctx, "accounts", "error", err)
			}
		}
	}
}
