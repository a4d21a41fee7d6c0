// Package workers is the routes about machines that build for this server and are not its own: the operator's, and those by which the
// builder asks who may come and who may stay.
package workers

import (
	"context"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/workers"
	"github.com/roadstead-io/roadstead/internal/web"
)

type routes struct {
	rows *workers.Rows
	db   *db.DB
}

// Routes lists them.
func Routes(rows *workers.Rows, d *db.DB) []route.Route {
	s := &routes{rows, d}
	admin, builder := []string{api.RoleAdmin}, []string{api.RoleBuilder}
	return []route.Route{
		{Method: "POST", Path: "/internal/v1/workers/add", Handle: s.add, Roles: admin},
		{Method: "POST", Path: "/internal/v1/workers/list", Handle: s.list, Roles: admin},
		{Method: "POST", Path: "/internal/v1/workers/remove", Handle: s.remove, Roles: admin},
		{Method: "POST", Path: "/internal/v1/workers/join", Handle: s.join, Roles: builder},
		{Method: "POST", Path: "/internal/v1/workers/open", Handle: s.open, Roles: builder},
		{Method: "POST", Path: "/internal/v1/workers/live", Handle: s.live, Roles: builder},
	}
}

func (s *routes) add(w http.ResponseWriter, r *http.Request) error {
	var ask api.NewWorker
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var made api.WorkerInvitation
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		made, err = s.rows.Add(r.Context(), tx, access.From(r.Context()), ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, made) })
}

func (s *routes) list(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) ([]api.Worker, error) {
		return s.rows.List(ctx, tx)
	})
}

func (s *routes) remove(w http.ResponseWriter, r *http.Request) error {
	var ask api.WorkerName
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		return s.rows.Remove(r.Context(), tx, access.From(r.Context()), ask.Name)
	}, func() error { return web.WriteJSON(w, http.StatusOK, ask) })
}

func (s *routes) join(w http.ResponseWriter, r *http.Request) error {
	var ask api.WorkerJoin
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var admitted api.WorkerAdmitted
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		admitted, err = s.rows.Join(r.Context(), tx, access.From(r.Context()), ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, admitted) })
}

func (s *routes) open(w http.ResponseWriter, r *http.Request) error {
	var ask api.WorkerJoin
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.WorkerAdmitted, error) {
		return s.rows.Open(ctx, tx, ask.Key)
	})
}

// live is asked every second while a worker is connected: it writes only when there is news, and answers "not modified" when all may stay
// and nothing is new.
func (s *routes) live(w http.ResponseWriter, r *http.Request) error {
	var ask api.WorkersLive
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var stay api.WorkersStay
	var news bool
	err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		stay, news, err = s.rows.Stay(r.Context(), tx, ask)
		return err
	})
	if err == nil && !news && len(stay.IDs) == len(ask.Workers) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if err == nil && news {
		err = s.db.Write(r.Context(), func(tx *db.Tx) (err error) {
			stay, err = s.rows.Live(r.Context(), tx, ask)
			return err
		})
	}
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, stay)
}
