package device

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const maxScopes = 100

// scope is repository:<name>[:tag|@digest]:<actions>; only names that the api role gives out are looked at.
var scope = pattern.New(`^repository:(v2/[0-9a-f]{32})(?::[\w.-]+|@sha256:[0-9a-f]{64})?:([a-z,*]+)$`)

// PullGrants says which of the asked scopes the caller may have: pulls of images of the release that the device should run, and of those of its host and supervisor; or
// of fleets that the user may use. Everything else is left out, and nobody may push. What a device says that it runs counts for
// nothing here: whoever has its key could say the name of any old release.
func (d *Devices) PullGrants(ctx context.Context, tx *db.Tx, by access.Caller, registry string, scopes []string) ([]api.Grant, error) {
	grants := []api.Grant{}
	for _, s := range scopes[:min(len(scopes), maxScopes)] {
		m := scope.FindStringSubmatch(s)
		if m == nil || !slices.Contains(strings.Split(m[2], ","), "pull") {
			continue
		}
		may, err := d.mayPull(ctx, tx, by, registry+"/"+m[1])
		if err != nil {
			return nil, fmt.Errorf("registry token: %w", err)
		}
		grant := api.Grant{Type: "repository", Name: m[1], Actions: []string{"pull"}}
		if may && !slices.ContainsFunc(grants, func(g api.Grant) bool { return g.Name == grant.Name }) {
			grants = append(grants, grant)
		}
	}
	return grants, nil
}

func (d *Devices) mayPull(ctx context.Context, tx *db.Tx, by access.Caller, location string) (bool, error) {
	const images = `SELECT 1 FROM image i JOIN release_image ri ON ri.image = i.id
		JOIN "release" r ON r.id = ri.is_part_of__release AND r.status = 'success' `
	switch by.Kind {
	case access.Device:
		if d.hands(by, location) {
			return true, nil
		}
		return found(tx.QueryRowContext(ctx, images+`WHERE i.is_stored_at__image_location = ? AND EXISTS (
			SELECT 1 FROM device d JOIN application f ON f.id = d.belongs_to__application WHERE d.id = ?
			AND r.id IN (coalesce(d.is_pinned_on__release, f.should_be_running__release), d.should_be_operated_by__release,
				d.should_be_managed_by__release)) LIMIT 1`, location, by.Device))
	case access.User, access.ScopedKey:
		may, args := rights.Bind(rights.ParentSQL(access.Read), "r", tx, by)
		return found(tx.QueryRowContext(ctx, images+`WHERE i.is_stored_at__image_location = ? AND `+may+` LIMIT 1`,
			append([]any{location}, args...)...))
	default:
		return false, nil
	}
}

// hands says that an image is part of a device's target, as far as that is known without asking: it was just given out, mostly.
func (d *Devices) hands(by access.Caller, location string) bool {
	f, ok, _ := d.memory.Find(by.Device)
	if !ok {
		return false
	}
	own := partKey{fleet: f.fleet, release: f.own.release}
	supervisor, host := f.supervisor, f.host
	supervisor.bare, host.bare = true, true
	return d.parts.hold(own, f.tags.fleet, location) || d.parts.hold(supervisor, f.tags.supervisor, location) ||
		d.parts.hold(host, f.tags.host, location)
}
