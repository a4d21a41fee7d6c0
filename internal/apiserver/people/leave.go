package people

import (
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/closing"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// leaveRoutes end accounts.
func (s *routes) leaveRoutes() []route.Route {
	return []route.Route{
		{Method: "POST", Path: "/user/v1/delete", Handle: s.deleteOwn, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/internal/v1/users/delete", Handle: s.deleteUser, Roles: []string{api.RoleAdmin}},
	}
}

// deleteOwn deletes the account of whoever asks.
func (s *routes) deleteOwn(w http.ResponseWriter, r *http.Request) error {
	var req api.DeleteAccount
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) error {
		return closing.Own(r.Context(), tx, s.cfg.Accounts, access.From(r.Context()), req.Username)
	}, route.Done(w))
}

func (s *routes) deleteUser(w http.ResponseWriter, r *http.Request) error {
	var req api.UserChange
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	var name string
	return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) (err error) {
		name, err = closing.ByOperator(r.Context(), tx, s.cfg.Accounts, access.From(r.Context()), req.User)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, api.UserInfo{Username: name}) })
}
