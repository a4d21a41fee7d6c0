package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Fleet is what other packages need to know of one.
type Fleet struct {
	ID         int64
	Actor      int64
	UUID       string
	Name       string
	Slug       string
	Class      string
	DeviceType string   // its slug
	Arch       string   // of the device type
	Also       []string // further architectures that it is built for
}

// Builds are all architectures that the fleet is built for.
func (f *Fleet) Builds() []string { return append([]string{f.Arch}, f.Also...) }

// ForBuilder is what the builder and the git role are told of it.
func (f *Fleet) ForBuilder() api.BuildFleet {
	return api.BuildFleet{ID: f.ID, UUID: f.UUID, Slug: f.Slug, DeviceType: f.DeviceType, Arch: f.Arch, Also: BuildsAlso(strings.Join(f.Also, ","))}
}

const selectFleet = `
SELECT a.id, a.actor, a.uuid, a.app_name, a.slug, a.is_of__class, t.slug, c.slug, coalesce(a.is_also_built_for, '')
FROM application a JOIN device_type t ON t.id = a.is_for__device_type JOIN cpu_architecture c ON c.id = t.is_of__cpu_architecture
WHERE `

// maxSlug is longer than any slug: a handle, a slash and a name.
const maxSlug = 255

// visible is the part of a query that leaves the fleets a which a caller has to do with: people those that they read, a
// device and a key of a fleet their own. Public fleets of others are not among them.
func visible(tx *db.Tx, by access.Caller) (string, []any) {
	switch by.Kind {
	case access.System:
		return "1 = 1", nil
	case access.User, access.ScopedKey:
		return rights.Bind(rights.FleetSQL(access.Read), "a", tx, by)
	case access.Device, access.Provisioning, access.FleetKey:
		return "a.id = ?", []any{by.Fleet}
	default:
		return "1 = 0", nil
	}
}

// Find finds a fleet that the caller may see. What they may not see is not found.
func Find(ctx context.Context, tx *db.Tx, by access.Caller, id int64) (*Fleet, error) {
	which, args := visible(tx, by)
	found, err := query(ctx, tx, selectFleet+which+` AND a.id = ?`, append(args, id)...)
	if err != nil {
		return nil, fmt.Errorf("fleet %d: %w", id, err)
	}
	if len(found) == 0 {
		return nil, api.Errorf(api.NotFound, "There is no fleet %d.", id)
	}
	return found[0], nil
}

// FindBySlug finds a fleet by its slug, <organization>/<fleet>, or by its bare name as long as only one that the caller may
// see has it. Case does not matter.
func FindBySlug(ctx context.Context, tx *db.Tx, by access.Caller, slug string) (*Fleet, error) {
	column := "a.slug"
	if !strings.Contains(slug, "/") {
		column = "lower(a.app_name)"
	}
	if len(slug) > maxSlug {
		return nil, api.Errorf(api.NotFound, "There is no fleet %q.", strings.ToValidUTF8(slug[:maxSlug], "")+"…")
	}
	which, args := visible(tx, by)
	found, err := query(ctx, tx, selectFleet+which+` AND `+column+` = ? ORDER BY a.slug LIMIT 20`, append(args, strings.ToLower(slug))...)
	if err != nil {
		return nil, fmt.Errorf("fleet %q: %w", slug, err)
	}
	switch len(found) {
	case 0:
		return nil, api.Errorf(api.NotFound, "There is no fleet %q.", slug)
	case 1:
		return found[0], nil
	default:
		slugs := make([]string, len(found))
		for i, f := range found {
			slugs[i] = f.Slug
		}
		return nil, api.Errorf(api.Invalid, "Several fleets are called %q; say which one: %s.", slug, strings.Join(slugs, ", "))
	}
}

func query(ctx context.Context, tx *db.Tx, text string, args ...any) ([]*Fleet, error) {
	rows, err := tx.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	var found []*Fleet
	for rows.Next() {
		var f Fleet
		var also string
		if err := rows.Scan(&f.ID, &f.Actor, &f.UUID, &f.Name, &f.Slug, &f.Class, &f.DeviceType, &f.Arch, &also); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		f.Also = listed(also)
		found = append(found, &f)
	}
	return found, errors.Join(rows.Err(), rows.Close())
}

// EnsureService finds a service of a fleet by name and makes it when there is none. The caller has checked that the fleet may
// be changed.
func EnsureService(ctx context.Context, tx *db.Tx, fleet int64, name string) (int64, error) {
	if err := CheckServiceName(name); err != nil {
		return 0, err
	}
	var id int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM service WHERE application = $1 AND service_name = $2`, fleet, name).Scan(&id)
	if err == nil {
		return id, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("fleet %d: service %q: %w", fleet, name, err)
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO service (created_at, application, service_name) VALUES ($1, $2, $3) RETURNING id`,
		tx.NowText(), fleet, name).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("fleet %d: service %q: %w", fleet, name, err)
	}
	return id, nil
}
