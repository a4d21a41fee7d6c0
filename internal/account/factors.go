package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Second factors have a package of their own, internal/account/factor. What accounts must know of them is here.

// HasFactor says whether a user has a second factor.
func (a *Accounts) HasFactor(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	if a.cfg.SecondFactor == nil {
		return false, nil
	}
	return a.cfg.SecondFactor(ctx, tx, user)
}

// requiresFactor gives the handle of an organization of the user's that asks for a second factor, or nothing.
func requiresFactor(ctx context.Context, tx *db.Tx, user int64) (handle string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT o.handle FROM organization_membership m JOIN organization o ON o.id = m.is_member_of__organization
		WHERE m."user" = ? AND o.is_requiring_two_factor = 1 AND (m.end_date IS NULL OR m.end_date > ?) ORDER BY o.handle LIMIT 1`,
		user, tx.NowText()).Scan(&handle)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("second factor: %w", err)
	}
	return handle, nil
}

// MayGiveUpFactor refuses to leave a user without a second factor when an organization of theirs asks for one.
func MayGiveUpFactor(ctx context.Context, tx *db.Tx, user int64) error {
	handle, err := requiresFactor(ctx, tx, user)
	if err != nil {
		return err
	}
	if handle != "" {
		return api.Errorf(api.Forbidden, "the organization %s asks its members for a second factor; this is your last one", handle)
	}
	return nil
}

// MayEnrol refuses a first second factor to a session that waits for the one there is, and to keys. Others must be fresh.
func (a *Accounts) MayEnrol(ctx context.Context, tx *db.Tx, by access.Caller) error {
	if by.Kind != access.HalfUser {
		return rights.RequireFresh(ctx, tx, by)
	}
	var awaits string
	err := tx.QueryRowContext(ctx, `SELECT awaits FROM session WHERE id = ? AND "user" = ?`, by.Session, by.User).Scan(&awaits)
	if errors.Is(err, sql.ErrNoRows) || err == nil && awaits != awaitsEnrolment {
		return api.ErrUnauthorized
	}
	if err != nil {
		return fmt.Errorf("second factor: %w", err)
	}
	has, err := a.HasFactor(ctx, tx, by.User)
	if err == nil && has {
		return api.ErrUnauthorized // it has one meanwhile, and nobody proved it here
	}
	return err
}

// signInRulesOf says what an organization asks of how its members sign in.
func signInRulesOf(ctx context.Context, tx *db.Tx, organization int64) (forbids, requires bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT is_forbidding_passwords = 1, is_requiring_two_factor = 1 FROM organization WHERE id = ?`, organization).
		Scan(&forbids, &requires)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, false, fmt.Errorf("rules about signing in: %w", err)
	}
	return forbids, requires, nil
}

// TakeIn refuses to make somebody without a second factor a member of an organization that asks for one, and ends the sessions that the
// organization's other rule would not have let in.
func (a *Accounts) TakeIn(ctx context.Context, tx *db.Tx, user, organization int64) error {
	forbids, requires, err := signInRulesOf(ctx, tx, organization)
	if err != nil {
		return err
	}
	if requires {
		if has, err := a.HasFactor(ctx, tx, user); err != nil {
			return err
		} else if !has {
			return api.Errorf(api.Forbidden, "the organization asks its members for a second factor; set one up first")
		}
	}
	return a.endUnfit(ctx, tx, forbids, false, `"user" = ?`, user)
}

// Fit ends the sessions of a member whom the operator made, and nobody asked, that the organization's rules would not have let in.
func (a *Accounts) Fit(ctx context.Context, tx *db.Tx, user, organization int64) error {
	forbids, requires, err := signInRulesOf(ctx, tx, organization)
	if err != nil {
		return err
	}
	a.Revoked(tx, "user", user) // keys may be refused from now on
	return a.endUnfit(ctx, tx, forbids, requires, `"user" = ?`, user)
}

// newMember is the hook of TakeIn, after the write: only who may make the member learns what the member lacks.
func (a *Accounts) newMember(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	user, _ := c.Values["user"].(int64)
	organization, _ := c.Values["is_member_of__organization"].(int64)
	if c.Op != odata.Create || user == 0 || organization == 0 {
		return nil // the engine says what is missing
	}
	return a.TakeIn(ctx, tx, user, organization)
}

// signInRules is a hook over an organization's switches about how its members sign in, which is asked after [rights.FreshFor]. Whoever sets one must be able to come back
// themselves; sessions that would not be opened any more end.
func (a *Accounts) signInRules(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	forbids, requires := on(c.Values["is_forbidding_passwords"]), on(c.Values["is_requiring_two_factor"])
	_, given := c.Values["is_forbidding_passwords"]
	_, also := c.Values["is_requiring_two_factor"]
	if c.Op == odata.Delete || !given && !also {
		return nil
	}
	if c.Caller.Kind != access.User {
		return nil
	}
	if forbids {
		other, err := a.otherWayIn(ctx, tx, c.Caller.User)
		if err != nil {
			return err
		}
		if !other {
			return api.Errorf(api.Invalid, "is_forbidding_passwords: you have no other way to sign in; link an identity or add a passkey first")
		}
	}
	if requires {
		has, err := a.HasFactor(ctx, tx, c.Caller.User)
		if err != nil {
			return err
		}
		if !has {
			return api.Errorf(api.Invalid, "is_requiring_two_factor: set up a second factor of your own first")
		}
	}
	const members = `"user" IN (SELECT m."user" FROM organization_membership m WHERE m.is_member_of__organization = ?
		AND (m.end_date IS NULL OR m.end_date > ?)) AND id <> ?`
	for _, id := range c.IDs { // of a new organization the maker is the only member, who has what it asks for
		if requires {
			a.Revoked(tx, "organization", id) // keys of members without a second factor are refused from now on
		}
		if err := a.endUnfit(ctx, tx, forbids, requires, members, id, tx.NowText(), c.Caller.Session); err != nil {
			return err
		}
	}
	return nil
}

// on reads a switch.
func on(v any) bool { b, _ := v.(bool); return b }

// otherWayIn says whether a user can sign in otherwise than by a password.
func (a *Accounts) otherWayIn(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	for _, way := range a.cfg.WaysIn {
		if ok, err := way(ctx, tx, user); err != nil || ok {
			return ok, err
		}
	}
	return false, nil
}

// endUnfit ends those of some sessions that an organization's rules would not have let in.
func (a *Accounts) endUnfit(ctx context.Context, tx *db.Tx, forbids, requires bool, which string, args ...any) error {
	if forbids {
		if err := a.endSessions(ctx, tx, `proved_by = '`+ByPassword+`' AND `+which, args...); err != nil {
			return err
		}
	}
	if requires {
		return a.endSessions(ctx, tx, `is_proven = 0 AND awaits = '' AND `+which, args...)
	}
	return nil
}

// Throttle counts an attempt to prove something as a certain user, and refuses it when too many have failed: of the user, whatever
// session they come with, and from the address. what keeps the counts of different proofs apart.
func (a *Accounts) Throttle(ctx context.Context, what string, user int64, address string) (*throttle.Attempt, error) {
	return a.secondThrottle.Try(ctx, fmt.Sprintf("%s\x00%d", what, user), address, a.cfg.Now())
}

// Refused records that somebody failed to prove who they are. Not more than a few are recorded of each user in an hour.
func (a *Accounts) Refused(ctx context.Context, by access.Caller, act string, why string) {
	a.refused(ctx, by, act, by.User, by.Name, why)
}

const (
	maxRefused    = 20   // recorded of one user in an hour
	maxRefusedAll = 2000 // and of all users, by one process
)

// refusals bounds what a flood of wrong proofs can put into the audit log, and keeps what is to be written there a moment later.
type refusals struct {
	due chan struct{} // there is something to write

	mu      sync.Mutex // covers what follows
	since   time.Time
	of      map[int64]int
	all     int
	waiting []audit.By // never more than are recorded in an hour
}

func (r *refusals) take(user int64, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Hour || r.of == nil {
		r.since, r.of, r.all = now, map[int64]int{}, 0
	}
	if r.of[user] >= maxRefused || r.all >= maxRefusedAll {
		return false
	}
	r.of[user]++
	r.all++
	return true
}

func (a *Accounts) refused(ctx context.Context, by access.Caller, act string, user int64, name, why string) {
	if a.refusals.take(user, a.cfg.Now()) {
		a.writeRefusals(context.WithoutCancel(ctx), []audit.By{refusal(by, act, user, name, why)}) // whoever hangs up is recorded as well
	}
}

// refusedLater is for an answer that strangers get: only of somebody who is there is anything recorded, and an answer that waited for that
// would tell them who is.
func (a *Accounts) refusedLater(by access.Caller, act string, user int64, name, why string) {
	r := &a.refusals
	if !r.take(user, a.cfg.Now()) {
		return
	}
	r.mu.Lock()
	r.waiting = append(r.waiting, refusal(by, act, user, name, why))
	r.mu.Unlock()
	select {
	case r.due <- struct{}{}:
	default: // it is known already
	}
}

func refusal(by access.Caller, act string, user int64, name, why string) audit.By {
	return audit.By{Caller: by, Entry: audit.Entry{
		Act: act, Result: audit.Refused, Kind: "user", ID: user, Name: name, User: user, Detail: map[string]any{"reason": why},
	}}
}

// writeWaiting records what refusedLater left.
func (a *Accounts) writeWaiting(ctx context.Context) {
	a.refusals.mu.Lock()
	waiting := a.refusals.waiting
	a.refusals.waiting = nil
	a.refusals.mu.Unlock()
	if len(waiting) > 0 {
		a.writeRefusals(ctx, waiting)
	}
}

func (a *Accounts) writeRefusals(ctx context.Context, list []audit.By) {
	err := a.cfg.DB.Write(ctx, func(tx *db.Tx) error { return audit.RecordAll(ctx, tx, list) })
	if err != nil {
		a.cfg.Log.ErrorContext(ctx, "record a refusal", "act", list[0].Act, "of", len(list), "error", err)
	}
}
