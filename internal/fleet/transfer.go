package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// offerLife is how long a fleet is offered.
const offerLife = 7 * 24 * time.Hour

// mayMove refuses to take a fleet from one organization to another, but for those who administer both. Everybody else needs the other
// side to agree, see [Fleets.Offer].
func mayMove(ctx context.Context, tx *db.Tx, by access.Caller, from, to int64) error {
	if err := rights.MayGiveAway(ctx, tx, by, from, to); err != nil || from == to || by.Kind == access.System {
		return err
	}
	both, err := rights.Administers(ctx, tx, by, to)
	if err != nil {
		return fmt.Errorf("move fleet: %w", err)
	}
	if !both {
		return api.Errorf(api.Forbidden, "Only an administrator of both organizations moves a fleet at once; offer it to the other one instead.")
	}
	return nil
}

// handedOver ends what the organization that a fleet was of had of it. Devices, releases, variables and images are the fleet's and stay.
// Whoever hands it over has logged in lately: it decides about people, and outlives a key that was found somewhere.
func (f *Fleets) handedOver(ctx context.Context, tx *db.Tx, by access.Caller, fleet int64) error {
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM fleet_transfer WHERE application = ?`,
		`UPDATE application SET is_accessible_by_support_until__date = NULL WHERE id = ? AND is_accessible_by_support_until__date IS NOT NULL`,
	} {
		if _, err := tx.ExecContext(ctx, query, fleet); err != nil {
			return fmt.Errorf("hand over fleet %d: %w", fleet, err)
		}
	}
	if f.cfg.HandedOver != nil {
		if err := f.cfg.HandedOver(ctx, tx, fleet); err != nil {
			return err
		}
	}
	return f.cfg.Accounts.FleetHandedOver(ctx, tx, fleet)
}

// offer is a row of fleet_transfer with what its ids mean.
type offer struct {
	api.Transfer
	fleet, from, to, maker int64
}

const selectOffer = `SELECT o.id, o.application, o.from_organization, o.to_organization, o.is_created_by__user, a.slug, f.handle, t.handle, u.username,
		o.created_at, o.expires_at
	FROM fleet_transfer o JOIN application a ON a.id = o.application AND a.organization = o.from_organization
	JOIN organization f ON f.id = o.from_organization JOIN organization t ON t.id = o.to_organization JOIN "user" u ON u.id = o.is_created_by__user
	WHERE o.expires_at > ? AND `

// offers reads offers that hold.
func offers(ctx context.Context, tx *db.Tx, where string, args ...any) ([]offer, error) {
	rows, err := tx.QueryContext(ctx, selectOffer+where+` ORDER BY o.id LIMIT 1000`, append([]any{tx.NowText()}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("transfers: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []offer
	for rows.Next() {
		var o offer
		var created, expires string
		if err := rows.Scan(&o.ID, &o.fleet, &o.from, &o.to, &o.maker, &o.Fleet, &o.From, &o.To, &o.OfferedBy, &created, &expires); err != nil {
			return nil, fmt.Errorf("transfers: %w", err)
		}
		o.CreatedAt, _ = db.ParseTime(created) // written by FormatTime
		o.ExpiresAt, _ = db.ParseTime(expires)
		list = append(list, o)
	}
	return list, rows.Err()
}

// Transfers lists the offers from and to the organizations that the caller administers.
func (f *Fleets) Transfers(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Transfer, error) {
	if by.Kind != access.User {
		return nil, api.ErrForbidden
	}
	list, err := offers(ctx, tx, `EXISTS (SELECT 1 FROM organization_membership m WHERE m."user" = ? AND m.organization_membership_role = ?
		AND (m.end_date IS NULL OR m.end_date > ?) AND m.is_member_of__organization IN (o.from_organization, o.to_organization))`,
		by.User, rights.Administrator, tx.NowText())
	out := make([]api.Transfer, len(list))
	for i, o := range list {
		out[i] = o.Transfer
	}
	return out, err
}

// Offer offers a fleet to another organization. Who administers both moves it at once.
func (f *Fleets) Offer(ctx context.Context, tx *db.Tx, by access.Caller, want api.NewTransfer) (out api.Transfer, err error) {
	if by.Kind != access.User {
		return out, api.ErrForbidden
	}
	found, err := FindBySlug(ctx, tx, by, want.Fleet)
	if err != nil {
		return out, err
	}
	o := offer{fleet: found.ID, Transfer: api.Transfer{Fleet: found.Slug, To: strings.ToLower(want.Organization), OfferedBy: by.Name, CreatedAt: tx.Now, ExpiresAt: tx.Now.Add(offerLife)}}
	err = tx.QueryRowContext(ctx, `SELECT o.id, o.handle FROM application a JOIN organization o ON o.id = a.organization WHERE a.id = ?`, found.ID).Scan(&o.from, &o.From)
	if err != nil {
		return out, fmt.Errorf("offer fleet %d: %w", found.ID, err)
	}
	if o.to, err = account.Organization(ctx, tx, o.To); err != nil {
		return out, err
	}
	if o.from == o.to {
		return out, api.Errorf(api.Invalid, "The fleet is of that organization already.")
	}
	if err := rights.MayGiveAway(ctx, tx, by, o.from, o.to); err != nil {
		return out, err
	}
	both, err := rights.Administers(ctx, tx, by, o.to)
	if err != nil {
		return out, fmt.Errorf("offer fleet %d: %w", found.ID, err)
	}
	if both {
		return f.moveTo(ctx, tx, by, o)
	}
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return out, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO fleet_transfer (created_at, expires_at, application, from_organization, to_organization, is_created_by__user)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (application) DO UPDATE SET created_at = excluded.created_at, expires_at = excluded.expires_at,
			from_organization = excluded.from_organization, to_organization = excluded.to_organization, is_created_by__user = excluded.is_created_by__user
		WHERE fleet_transfer.expires_at <= ?1 RETURNING id`,
		tx.NowText(), db.FormatTime(o.ExpiresAt), o.fleet, o.from, o.to, by.User).Scan(&o.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return out, api.Errorf(api.Conflict, "The fleet is offered to an organization already; withdraw that first.")
	}
	if err != nil {
		return out, fmt.Errorf("offer fleet %d: %w", found.ID, err)
	}
	err = f.cfg.Accounts.TellAdministrators(ctx, tx, o.to, account.Notice{Kind: "fleet offered", By: by.User, Until: o.ExpiresAt, Data: map[string]string{
		"by": by.Name, "what": o.Fleet, "organization": o.To, "id": fmt.Sprint(o.ID), "until": o.ExpiresAt.UTC().Format("2 January 2006 15:04 UTC"),
	}})
	if err != nil {
		return out, err
	}
	return o.Transfer, record(ctx, tx, by, "transfer.offer", o)
}

// record writes down what was done about a transfer, for both organizations to read.
func record(ctx context.Context, tx *db.Tx, by access.Caller, act string, o offer) error {
	for _, organization := range []int64{o.from, o.to} {
		err := audit.Record(ctx, tx, by, audit.Entry{
			Act: act, Kind: "application", ID: o.fleet, Name: o.Fleet, Organization: organization, Detail: map[string]any{"from": o.From, "to": o.To},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// side is who has to do with an offer.
type side int

const (
	giver side = iota
	taker
)

// take takes an offer out, for one who administers that side of it. Nobody else finds it.
func take(ctx context.Context, tx *db.Tx, by access.Caller, id int64, s side) (offer, error) {
	none := api.Errorf(api.NotFound, "There is no transfer %d.", id)
	if by.Kind != access.User {
		return offer{}, api.ErrForbidden
	}
	list, err := offers(ctx, tx, `o.id = ?`, id)
	if err != nil || len(list) == 0 {
		return offer{}, errors.Join(err, none)
	}
	o := list[0]
	gives, err := rights.Administers(ctx, tx, by, o.from)
	if err != nil {
		return o, fmt.Errorf("transfer %d: %w", id, err)
	}
	takes, err := rights.Administers(ctx, tx, by, o.to)
	if err != nil {
		return o, fmt.Errorf("transfer %d: %w", id, err)
	}
	switch {
	case !gives && !takes:
		return o, none
	case s == giver && !gives:
		return o, api.Errorf(api.Forbidden, "An offer is withdrawn by an administrator of %s; decline it instead.", o.From)
	case s == taker && !takes:
		return o, api.Errorf(api.Forbidden, "An offer is accepted or declined by an administrator of %s; withdraw it instead.", o.To)
	}
	var gone int64
	err = tx.QueryRowContext(ctx, `DELETE FROM fleet_transfer WHERE id = ? AND expires_at > ? RETURNING id`, id, tx.NowText()).Scan(&gone)
	if errors.Is(err, sql.ErrNoRows) {
		return o, none // somebody was faster
	}
	if err != nil {
		return o, fmt.Errorf("transfer %d: %w", id, err)
	}
	return o, nil
}

// Accept moves an offered fleet. Who offered it must still be one who may give it away.
func (f *Fleets) Accept(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (api.Transfer, error) {
	o, err := take(ctx, tx, by, id, taker)
	if err != nil {
		return api.Transfer{}, err
	}
	maker, err := rights.Maker(ctx, tx, o.maker)
	if err != nil {
		return api.Transfer{}, fmt.Errorf("transfer %d: %w", id, err)
	}
	still, err := rights.Administers(ctx, tx, maker, o.from)
	if err != nil {
		return api.Transfer{}, fmt.Errorf("transfer %d: %w", id, err)
	}
	if !still {
		return api.Transfer{}, api.Errorf(api.NotFound, "There is no transfer %d.", id)
	}
	return f.moveTo(ctx, tx, by, o)
}

// moveTo gives a fleet to the other organization.
func (f *Fleets) moveTo(ctx context.Context, tx *db.Tx, by access.Caller, o offer) (api.Transfer, error) {
	var name string
	if err := tx.QueryRowContext(ctx, `SELECT app_name FROM application WHERE id = ?`, o.fleet).Scan(&name); err != nil {
		return api.Transfer{}, fmt.Errorf("move fleet %d: %w", o.fleet, err)
	}
	slug, err := slugOf(ctx, tx, o.to, name)
	if err != nil {
		return api.Transfer{}, err
	}
	res, err := tx.ExecContext(ctx, `UPDATE application SET organization = ?, slug = ? WHERE id = ? AND organization = ?`, o.to, slug, o.fleet, o.from)
	if db.IsUnique(err) {
		return api.Transfer{}, api.Errorf(api.Conflict, "%s has a fleet %s already; one of the two needs another name first.", o.To, name)
	}
	if err != nil {
		return api.Transfer{}, fmt.Errorf("move fleet %d: %w", o.fleet, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return api.Transfer{}, errors.Join(err, api.Errorf(api.NotFound, "The fleet is not of %s any more.", o.From))
	}
	if err := f.handedOver(ctx, tx, by, o.fleet); err != nil {
		return api.Transfer{}, err
	}
	if err := record(ctx, tx, by, "transfer.accept", o); err != nil {
		return api.Transfer{}, err
	}
	o.Fleet, o.Moved = slug, true
	return o.Transfer, f.targetChanged(ctx, tx, o.fleet)
}

// Decline ends an offer, by the side that it is made to.
func (f *Fleets) Decline(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	o, err := take(ctx, tx, by, id, taker)
	if err != nil {
		return err
	}
	return record(ctx, tx, by, "transfer.decline", o)
}

// Withdraw ends an offer, by the side that made it.
func (f *Fleets) Withdraw(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error {
	o, err := take(ctx, tx, by, id, giver)
	if err != nil {
		return err
	}
	return record(ctx, tx, by, "transfer.withdraw", o)
}
