package factors

import (
	"context"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// adminRoutes are for the command of the server's operator.
func (s *routes) adminRoutes() []route.Route {
	admin := []string{api.RoleAdmin}
	return []route.Route{
		{Method: "POST", Path: "/internal/v1/users/list", Handle: s.users, Roles: admin},
		{Method: "POST", Path: "/internal/v1/users/show", Handle: s.showUser, Roles: admin},
		{Method: "POST", Path: "/internal/v1/users/change", Handle: s.changeUser, Roles: admin},
	}
}

func (s *routes) users(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) ([]api.UserInfo, error) {
		return s.operator.Users(ctx, tx)
	})
}

func (s *routes) showUser(w http.ResponseWriter, r *http.Request) error {
	var req api.UserChange
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	return route.Read(w, r, s.db, func(ctx context.Context, tx *db.Tx, _ access.Caller) (api.UserInfo, error) {
		return s.operator.User(ctx, tx, req.User)
	})
}

func (s *routes) changeUser(w http.ResponseWriter, r *http.Request) error {
	var req api.UserChange
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	by := access.From(r.Context())
	var u api.UserInfo
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		err := s.operator.Change(r.Context(), tx, by, req, func(user int64, name string) error {
			return s.factors.Reset(r.Context(), tx, by, user, name)
		})
		if err != nil {
			return err
		}
		u, err = s.operator.User(r.Context(), tx, req.User)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, u) })
}
