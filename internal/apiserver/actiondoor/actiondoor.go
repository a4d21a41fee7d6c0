// Package actiondoor is the routes on which people have devices do something, and on which devices take what waits for them and say what
// became of it.
package actiondoor

import (
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Routes lists them.
func Routes(actions *action.Actions, d *db.DB) []route.Route {
	door := door{actions, d}
	return []route.Route{
		{Method: "POST", Path: "/device-actions/v1", Handle: door.create, Who: route.People, Verb: access.Actions},
		{Method: "POST", Path: "/device-actions/v1/{id}/cancel", Handle: door.cancel, Who: route.People, Verb: access.Actions},
		{Method: "GET", Path: "/device-actions/v1/{id}/result", Handle: door.result, Who: route.People, Verb: access.Actions},
		{Method: "POST", Path: "/device/v3/actions", Handle: door.exchange, Who: []access.Kind{access.Device}, Keyed: true},
	}
}

type door struct {
	actions *action.Actions
	db      *db.DB
}

const textNoID = "An action is named by its number."

func (d door) create(w http.ResponseWriter, r *http.Request) error {
	var want api.NewAction
	if err := web.Decode(r, &want); err != nil {
		return err
	}
	var made api.ActionsMade
	return route.Write(r.Context(), d.db, func(tx *db.Tx) (err error) {
		made, err = d.actions.Create(r.Context(), tx, access.From(r.Context()), want)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusAccepted, made) })
}

func (d door) cancel(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, d.db, textNoID, d.actions.Cancel)
}

func (d door) result(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, textNoID)
	if err != nil {
		return err
	}
	var text []byte
	err = d.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		text, err = d.actions.Result(r.Context(), tx, access.From(r.Context()), id)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteRawJSON(w, http.StatusOK, text)
}

func (d door) exchange(w http.ResponseWriter, r *http.Request) error {
	var said api.ActionExchange
	if err := web.Decode(r, &said); err != nil {
		return err
	}
	out, err := d.actions.Exchange(r.Context(), access.From(r.Context()), said)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, out)
}
