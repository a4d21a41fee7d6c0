package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// This file is what sign-in providers need of accounts. What it changes it changes for whoever calls: the package signin decides
// whether a provider may.

// Delegate opens a second session of the caller's user, for another program: a command line that was authorized in the browser. It
// counts as authenticated when the caller's session was, which must be lately: a stolen token opens nothing that outlives it.
func (a *Accounts) Delegate(ctx context.Context, tx *db.Tx, by access.Caller, from From) (string, error) {
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return "", err
	}
	return a.DelegateApproved(ctx, tx, by.User, by.Session, from)
}

// DelegateApproved opens the session that a session approved some minutes ago, if that is still there.
func (a *Accounts) DelegateApproved(ctx context.Context, tx *db.Tx, user, session int64, from From) (string, error) {
	s := opening{way: ByDelegation}
	var text, name string
	err := tx.QueryRowContext(ctx, `SELECT s.authenticated_at, s.proved_by, s.is_proven = 1, u.username FROM session s JOIN "user" u ON u.id = s."user" AND u.is_disabled = 0
		WHERE s.id = ? AND s."user" = ? AND s.expires_at > ? AND s.awaits = ''`, session, user, tx.NowText()).Scan(&text, &s.proof, &s.proven, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.ErrUnauthorized
	}
	if err != nil {
		return "", fmt.Errorf("approved session: %w", err)
	}
	if s.authenticated, err = db.ParseTime(text); err != nil {
		return "", err
	}
	return a.openSession(ctx, tx, user, name, s, from)
}

// HasPassword reports whether a user can log in with a password: has one, and no organization of theirs that wants none.
func HasPassword(ctx context.Context, tx *db.Tx, user int64) (bool, error) {
	var hash string
	if err := tx.QueryRowContext(ctx, `SELECT password FROM "user" WHERE id = ?`, user).Scan(&hash); err != nil {
		return false, fmt.Errorf("has password: %w", err)
	}
	if hash == NoPassword {
		return false, nil
	}
	if err := mayUsePassword(ctx, tx, user); errors.Is(err, api.ErrForbidden) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

var notInUserName = pattern.New(`[^a-z0-9_-]+`)

// CreateUserOfProvider makes a user without a password, named like the wanted name or as near to it as is free. An e-mail address that
// somebody has is a conflict: it does not make the two the same person.
func CreateUserOfProvider(ctx context.Context, tx *db.Tx, email, wanted string) (id int64, name string, err error) {
	email = strings.ToLower(strings.TrimSpace(email))
	if parsed, err := mail.ParseAddress(email); err != nil || parsed.Address != email || len(email) > 254 {
		return 0, "", api.Errorf(api.Invalid, "the provider gave no e-mail address that can be used")
	}
	base := strings.Trim(notInUserName.ReplaceAllString(strings.ToLower(wanted), "_"), "_-")
	if base = clip(base, 34); len(base) < 3 {
		base = "user_" + base
		base = strings.TrimRight(base, "_-")
	}
	for n := 1; n < 1000; n++ {
		name = base
		if n > 1 {
			name += strconv.Itoa(n)
		}
		var mailTaken, nameTaken bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM "user" WHERE email = ?), EXISTS (SELECT 1 FROM "user" WHERE username = ?)`,
			email, name).Scan(&mailTaken, &nameTaken)
		if err != nil {
			return 0, "", fmt.Errorf("create user: %w", err)
		}
		if mailTaken {
			return 0, "", api.Errorf(api.Conflict, "somebody has an account with this e-mail address already; log in to it and link the provider there")
		}
		if !nameTaken && userName.MatchString(name) {
			id, err := insertUser(ctx, tx, email, name, NoPassword)
			return id, name, err
		}
	}
	return 0, "", api.Errorf(api.Conflict, "no free user name like %q is left", base)
}

// OrganizationByHandle finds an organization; 0 when there is none.
func OrganizationByHandle(ctx context.Context, tx *db.Tx, handle string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = ?`, handle).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id, err
}

// Join makes a user a member of an organization, whose rules about signing in hold for them from then on, see [Accounts.TakeIn]. Membership is
// 0 when the user is one already: that is left as it is. Who has no second factor joins none that asks for one; that is api.Forbidden.
func (a *Accounts) Join(ctx context.Context, tx *db.Tx, organization, user int64, administrator bool) (membership int64, err error) {
	var already bool
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM organization_membership WHERE "user" = ? AND is_member_of__organization = ?)`,
		user, organization).Scan(&already)
	if err != nil {
		return 0, fmt.Errorf("join organization: %w", err)
	}
	if already {
		return 0, nil
	}
	if err := a.TakeIn(ctx, tx, user, organization); err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization,
			organization_membership_role) VALUES (?, ?, ?, ?) ON CONFLICT ("user", is_member_of__organization) DO NOTHING RETURNING id`,
		tx.NowText(), user, organization, organizationRole(administrator)).Scan(&membership)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("join organization: %w", err)
	}
	return membership, nil
}

// ChangeMembership gives a membership another role. Done is false when the organization would lose its last administrator.
func (a *Accounts) ChangeMembership(ctx context.Context, tx *db.Tx, membership int64, administrator bool) (done bool, err error) {
	if !administrator {
		if err := keepsAdministrators(ctx, tx, []int64{membership}); err != nil {
			return false, refusedOnly(err)
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE organization_membership SET organization_membership_role = ? WHERE id = ?`,
		organizationRole(administrator), membership)
	if err != nil {
		return false, fmt.Errorf("change membership: %w", err)
	}
	a.Revoked(tx, "member", membership)
	return true, nil
}

// EndMembership takes a user out of an organization. Done is false when the organization would lose its last administrator.
func (a *Accounts) EndMembership(ctx context.Context, tx *db.Tx, membership int64) (done bool, err error) {
	if err := keepsAdministrators(ctx, tx, []int64{membership}); err != nil {
		return false, refusedOnly(err)
	}
	if err := leave(ctx, tx, []int64{membership}); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM organization_membership WHERE id = ?`, membership); err != nil {
		return false, fmt.Errorf("end membership: %w", err)
	}
	a.Revoked(tx, "member", membership)
	return true, nil
}

// refusedOnly is nil for a refusal, which is no failure here.
func refusedOnly(err error) error {
	if errors.Is(err, api.ErrInvalid) {
		return nil
	}
	return err
}

func organizationRole(administrator bool) int {
	if administrator {
		return rights.Administrator
	}
	return rights.Member
}
