package people

import (
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/invite"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// inviteRoutes accept invitations, and give those who invite a link to hand on, with or without mail.
func (s *routes) inviteRoutes() []route.Route {
	var rs []route.Route
	for _, where := range []string{invite.ToOrganization, invite.ToFleet} {
		rs = append(rs,
			route.Route{Method: "POST", Path: "/" + where + "/v1/invitation/{token}", Handle: s.acceptInvite(where), Who: route.Users},
			route.Route{Method: "POST", Path: "/" + where + "/v1/invitations/{id}/link", Handle: s.inviteLink(where), Who: route.Users, Login: rights.FreshLogin})
	}
	return rs
}

func (s *routes) acceptInvite(where string) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) error {
			return s.cfg.Invites.Accept(r.Context(), tx, access.From(r.Context()), where, r.PathValue("token"))
		}, route.Done(w))
	}
}

func (s *routes) inviteLink(where string) web.HandlerFunc {
	resource := map[string]string{invite.ToOrganization: "organization_invite", invite.ToFleet: "application_invite"}[where]
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := route.PathID(r, "Invitation id must be a number")
		if err != nil {
			return err
		}
		var link api.Invitation
		return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) error {
			rows, err := s.cfg.Engine.Query(r.Context(), tx, access.From(r.Context()), fmt.Sprintf("%s(%d)?$select=id", resource, id))
			if err != nil {
				return err
			}
			if string(rows) == "[]" {
				return api.Errorf(api.NotFound, "there is no invitation %d", id)
			}
			link, err = s.cfg.Invites.Link(r.Context(), tx, access.From(r.Context()), where, id)
			return err
		}, func() error {
			w.Header().Set("Cache-Control", "no-store")
			return web.WriteJSON(w, http.StatusOK, link)
		})
	}
}
