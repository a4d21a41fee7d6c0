// Package storage is the routes about what the registry keeps: those by which the registry asks, the operator's, and people's.
package storage

import (
	"context"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/web"
)

type routes struct {
	rows *stored.Rows
	db   *db.DB
}

// Routes lists them.
func Routes(rows *stored.Rows, d *db.DB) []route.Route {
	s := &routes{rows, d}
	registry, admin := []string{api.RoleRegistry}, []string{api.RoleAdmin}
	return []route.Route{
		{Method: "POST", Path: "/internal/v1/registry/room", Handle: s.room, Roles: registry},
		{Method: "POST", Path: "/internal/v1/registry/link", Handle: s.link, Roles: registry},
		{Method: "POST", Path: "/internal/v1/registry/collect", Handle: s.collect, Roles: registry},
		{Method: "POST", Path: "/internal/v1/registry/found", Handle: s.found, Roles: registry},
		{Method: "POST", Path: "/internal/v1/registry/usage", Handle: s.usage, Roles: admin},
		{Method: "POST", Path: "/internal/v1/registry/quota", Handle: s.quota, Roles: admin},
		{Method: "GET", Path: "/storage/v1/organization/{name}", Handle: s.use, Who: route.Users},
	}
}

func (s *routes) room(w http.ResponseWriter, r *http.Request) error {
	var ask api.RegistryPush
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.RegistryRoom, error) {
		return s.rows.Room(ctx, tx, ask.Repository)
	})
}

func (s *routes) link(w http.ResponseWriter, r *http.Request) error {
	var ask api.RegistryPush
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error { return s.rows.Link(r.Context(), tx, ask) }, route.Done(w))
}

func (s *routes) collect(w http.ResponseWriter, r *http.Request) error {
	var ask api.RegistryCollect
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var garbage api.RegistryGarbage
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		garbage, err = s.rows.Collect(r.Context(), tx, ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, garbage) })
}

func (s *routes) found(w http.ResponseWriter, r *http.Request) error {
	var found api.RegistryFound
	if err := web.Decode(r, &found); err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error { return s.rows.Found(r.Context(), tx, found) }, route.Done(w))
}

func (s *routes) usage(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.RegistryUsage, error) {
		return s.rows.Usage(ctx, tx)
	})
}

// quota gives an organization a quota of its own. The people of the organization read in their log that the operator did.
func (s *routes) quota(w http.ResponseWriter, r *http.Request) error {
	var ask api.SetQuota
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var use api.RegistryUse
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		id, now, err := s.rows.SetQuota(r.Context(), tx, ask)
		if err != nil {
			return err
		}
		use = now
		return audit.Record(r.Context(), tx, access.From(r.Context()), audit.Entry{Act: "organization.quota", Kind: "organization", ID: id,
			Name: ask.Organization, Organization: id, Detail: map[string]any{"bytes": now.Quota}})
	}, func() error { return web.WriteJSON(w, http.StatusOK, use) })
}

// use is what an organization keeps, for its people.
func (s *routes) use(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.RegistryUse, error) {
		return s.rows.UseOfMember(ctx, tx, by, r.PathValue("name"))
	})
}
