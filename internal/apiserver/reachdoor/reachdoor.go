// Package reachdoor is the routes on which the vpn role asks about connections to devices, and those on which people look after the public
// addresses of theirs.
package reachdoor

import (
	"context"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
	"github.com/roadstead-io/roadstead/internal/reach"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is what the routes work with.
type Config struct {
	DB       *db.DB
	Reach    *reach.Reach
	Accounts *account.Accounts
	Site     api.Site
}

// Routes lists them.
func Routes(cfg Config) []route.Route {
	d := door{cfg}
	vpn := []string{api.RoleVPN}
	return []route.Route{
		{Method: "POST", Path: "/internal/reach/permit", Handle: answer(cfg.Reach.Permit), Roles: vpn},
		{Method: "POST", Path: "/internal/reach/still", Handle: answer(cfg.Reach.Still), Roles: vpn},
		{Method: "POST", Path: "/internal/reach/visit", Handle: answer(cfg.Reach.Visit), Roles: vpn},

		{Method: "GET", Path: "/device-url/v1/{uuid}", Handle: d.show, Who: route.People},
		{Method: "PUT", Path: "/device-url/v1/{uuid}", Handle: d.set, Who: route.People, Verb: access.Devices},
		{Method: "POST", Path: "/device-url/v1/{uuid}/visit", Handle: d.visit, Who: route.Users, Login: rights.AnyLogin},
	}
}

type door struct{ cfg Config }

// answer reads what a role asks, and writes what there is to say.
func answer[In, Out any](do func(ctx context.Context, in In) (Out, error)) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := web.Decode(r, &in); err != nil {
			return err
		}
		out, err := do(r.Context(), in)
		if err != nil {
			return err
		}
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusOK, out)
	}
}

// uuid is the device that a path names.
func uuid(r *http.Request) (api.DeviceUUID, error) {
	if u := api.DeviceUUID(r.PathValue("uuid")); u.Valid() {
		return u, nil
	}
	return "", api.ErrNotFound
}

func (d door) show(w http.ResponseWriter, r *http.Request) error {
	u, err := uuid(r)
	if err != nil {
		return err
	}
	return route.Read(w, r, d.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.PublicURL, error) {
		return publicurl.Show(ctx, tx, by, d.cfg.Site, u)
	})
}

func (d door) set(w http.ResponseWriter, r *http.Request) error {
	u, err := uuid(r)
	if err != nil {
		return err
	}
	var change api.PublicURLChange
	if err := web.Decode(r, &change); err != nil {
		return err
	}
	var now api.PublicURL
	return route.Write(r.Context(), d.cfg.DB, func(tx *db.Tx) (err error) {
		now, err = publicurl.Set(r.Context(), tx, access.From(r.Context()), d.cfg.Accounts.Hasher(), d.cfg.Site, u, change)
		return err
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusOK, now)
	})
}

// visit lets whoever is logged in open the address of a device in their browser.
func (d door) visit(w http.ResponseWriter, r *http.Request) error {
	u, err := uuid(r)
	if err != nil {
		return err
	}
	var ask api.ReachVisit
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return route.Read(w, r, d.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.ReachVisit, error) {
		return d.cfg.Reach.Code(ctx, tx, by, u, ask.State)
	})
}
