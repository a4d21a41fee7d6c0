package people

import (
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// serviceRoutes are about service accounts: for administrators of the organization, which the domain checks.
func (s *routes) serviceRoutes() []route.Route {
	return []route.Route{
		{Method: "GET", Path: "/service-account/v1", Handle: s.serviceAccounts, Who: route.Users},
		{Method: "POST", Path: "/service-account/v1", Handle: s.newServiceAccount, Who: route.Users},
		{Method: "DELETE", Path: "/service-account/v1/{id}", Handle: s.deleteServiceAccount, Who: route.Users},
		{Method: "POST", Path: "/service-account/v1/{id}/key", Handle: s.newServiceKey, Who: route.Users, Login: rights.FreshLogin},
	}
}

func (s *routes) serviceAccounts(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.cfg.DB, s.cfg.Services.List)
}

func (s *routes) newServiceAccount(w http.ResponseWriter, r *http.Request) error {
	var want, made api.ServiceAccount
	if err := web.Decode(r, &want); err != nil {
		return err
	}
	return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) (err error) {
		made, err = s.cfg.Services.Create(r.Context(), tx, access.From(r.Context()), want)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusCreated, made) })
}

func (s *routes) deleteServiceAccount(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.cfg.DB, "Service account id must be a number", s.cfg.Services.Delete)
}

// newServiceKey takes what POST /api-key/user/full takes, for a service account.
func (s *routes) newServiceKey(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Service account id must be a number")
	if err != nil {
		return err
	}
	var req api.NewKey
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if strings.TrimSpace(req.Name) == "" {
		return api.Errorf(api.Invalid, "A key needs a name.")
	}
	return s.makeUserKey(w, r, id, req)
}
