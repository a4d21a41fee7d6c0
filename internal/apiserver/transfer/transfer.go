// Package transfer is the routes by which a fleet goes from one organization to another: one side offers it, the other one accepts.
package transfer

import (
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/web"
)

type routes struct {
	fleets *fleet.Fleets
	db     *db.DB
}

// Routes lists them.
func Routes(fleets *fleet.Fleets, d *db.DB) []route.Route {
	s := &routes{fleets, d}
	return []route.Route{
		{Method: "GET", Path: "/transfer/v1", Handle: s.list, Who: route.Users},
		{Method: "POST", Path: "/transfer/v1", Handle: s.offer, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/transfer/v1/{id}/accept", Handle: s.accept, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/transfer/v1/{id}/decline", Handle: s.decline, Who: route.Users},
		{Method: "DELETE", Path: "/transfer/v1/{id}", Handle: s.withdraw, Who: route.Users},
	}
}

func (s *routes) list(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, s.fleets.Transfers)
}

// offer answers 201 with the offer, or 200 when the fleet is there already.
func (s *routes) offer(w http.ResponseWriter, r *http.Request) error {
	var want api.NewTransfer
	if err := web.Decode(r, &want); err != nil {
		return err
	}
	var out api.Transfer
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		out, err = s.fleets.Offer(r.Context(), tx, access.From(r.Context()), want)
		return err
	}, func() error {
		if out.Moved {
			return web.WriteJSON(w, http.StatusOK, out)
		}
		return web.WriteJSON(w, http.StatusCreated, out)
	})
}

const notNumber = "Transfer id must be a number"

func (s *routes) accept(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	var out api.Transfer
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		out, err = s.fleets.Accept(r.Context(), tx, access.From(r.Context()), id)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, out) })
}

func (s *routes) decline(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.db, notNumber, s.fleets.Decline)
}

func (s *routes) withdraw(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.db, notNumber, s.fleets.Withdraw)
}
