package signin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// enrol makes a user a member of what the claims of an identity say, and ends what they say no more.
func (s *SignIn) enrol(ctx context.Context, tx *db.Tx, by access.Caller, p *provider, identity, user int64, who proven) error {
	want := map[int64]bool{} // organization → administrator
	for _, m := range p.Organizations {
		if !holds(who.claims[m.Claim], m.Value) {
			continue
		}
		org, err := account.OrganizationByHandle(ctx, tx, m.Organization)
		if err != nil {
			return err
		}
		if org == 0 {
			s.cfg.Log.WarnContext(ctx, "a sign-in provider's mapping names an organization that is not there", "provider", p.Name, "organization", m.Organization)
			continue
		}
		want[org] = want[org] || m.Role == "administrator"
	}
	return s.settle(ctx, tx, by, identity, user, want)
}

// holds reports whether a claim, a text or a list of texts, holds a value.
func holds(claim any, value string) bool {
	switch c := claim.(type) {
	case string:
		return c == value
	case []any:
		return slices.Contains(c, any(value))
	}
	return false
}

// made is a membership that an identity made.
type made struct {
	membership, organization int64
	gave, has                bool // the role administrator
}

// settle brings the memberships that an identity made to what is wanted. What people gave or changed stays as it is, and an
// organization keeps its last administrator.
func (s *SignIn) settle(ctx context.Context, tx *db.Tx, by access.Caller, identity, user int64, want map[int64]bool) error {
	have, err := memberships(ctx, tx, identity)
	if err != nil {
		return err
	}
	record := func(act string, organization int64, administrator bool) error {
		return audit.Record(ctx, tx, by, change(act, identity, user, organization, administrator))
	}
	mine := map[int64]bool{}
	for _, m := range have {
		mine[m.organization] = true
		administrator, wanted := want[m.organization]
		switch {
		case m.gave != m.has: // somebody has changed it since: it is people's now
			_, err := tx.ExecContext(ctx, `DELETE FROM identity_membership WHERE identity = ? AND membership = ?`, identity, m.membership)
			if err != nil {
				return fmt.Errorf("memberships of an identity: %w", err)
			}
		case !wanted:
			done, err := s.cfg.Accounts.EndMembership(ctx, tx, m.membership)
			if err != nil {
				return err
			}
			if done {
				if err := record("member.remove", m.organization, m.gave); err != nil {
					return err
				}
			}
		case administrator != m.gave:
			done, err := s.cfg.Accounts.ChangeMembership(ctx, tx, m.membership, administrator)
			if err != nil {
				return err
			}
			if !done { // the last administrator stays, and what follows is settled all the same
				continue
			}
			_, err = tx.ExecContext(ctx, `UPDATE identity_membership SET is_administrator = ? WHERE identity = ? AND membership = ?`,
				administrator, identity, m.membership)
			if err != nil {
				return fmt.Errorf("memberships of an identity: %w", err)
			}
			if err := record("member.change", m.organization, administrator); err != nil {
				return err
			}
		}
	}
	for _, org := range slices.Sorted(maps.Keys(want)) {
		if mine[org] {
			continue
		}
		membership, err := s.cfg.Accounts.Join(ctx, tx, org, user, want[org])
		if errors.Is(err, api.ErrForbidden) { // it asks for a second factor, which the user has not; with one, the next sign-in makes them a member
			entry := change("member.add", identity, user, org, want[org])
			entry.Result, entry.Detail["reason"] = audit.Refused, api.AsError(err).Text
			if err := audit.Record(ctx, tx, by, entry); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if membership == 0 { // a member already, by somebody's hand
			continue
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO identity_membership (identity, membership, is_administrator) VALUES (?, ?, ?)`,
			identity, membership, want[org])
		if err != nil {
			return fmt.Errorf("memberships of an identity: %w", err)
		}
		if err := record("member.add", org, want[org]); err != nil {
			return err
		}
	}
	return nil
}

// change is the record of what an identity does to a membership.
func change(act string, identity, user, organization int64, administrator bool) audit.Entry {
	return audit.Entry{
		Act: act, Kind: "organization_membership", User: user, Organization: organization,
		Detail: map[string]any{"by_identity": identity, "administrator": administrator},
	}
}

func memberships(ctx context.Context, tx *db.Tx, identity int64) ([]made, error) {
	rows, err := tx.QueryContext(ctx, `SELECT m.id, m.is_member_of__organization, i.is_administrator = 1, r.name = 'administrator'
		FROM identity_membership i JOIN organization_membership m ON m.id = i.membership
		JOIN organization_membership_role r ON r.id = m.organization_membership_role
		WHERE i.identity = ? ORDER BY m.id`, identity)
	if err != nil {
		return nil, fmt.Errorf("memberships of an identity: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var list []made
	for rows.Next() {
		var m made
		if err := rows.Scan(&m.membership, &m.organization, &m.gave, &m.has); err != nil {
			return nil, fmt.Errorf("memberships of an identity: %w", err)
		}
		list = append(list, m)
	}
	return list, rows.Err()
}
