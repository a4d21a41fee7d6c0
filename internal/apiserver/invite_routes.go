package apiserver

import (
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// inviteRoutes accept invitations, and give those who invite the link to hand on: the server sends no mail.
func (s *Server) inviteRoutes() []route {
	var rs []route
	for _, where := range []string{account.InviteToOrganization, account.InviteToFleet} {
		rs = append(rs,
			route{method: "POST", path: "/" + where + "/v1/invitation/{token}", handle: s.acceptInvite(where), who: users},
			route{method: "POST", path: "/" + where + "/v1/invitations/{id}/link", handle: s.inviteLink(where), who: users})
	}
	return rs
}

func (s *Server) acceptInvite(where string) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.write(r.Context(), func(tx *db.Tx) error {
			return s.accounts.AcceptInvite(r.Context(), tx, access.From(r.Context()), where, r.PathValue("token"))
		}, func() error {
			w.WriteHeader(http.StatusOK)
			return nil
		})
	}
}

func (s *Server) inviteLink(where string) web.HandlerFunc {
	resource := map[string]string{account.InviteToOrganization: "organization_invite", account.InviteToFleet: "application_invite"}[where]
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := pathID(r, "Invitation id must be a number")
		if err != nil {
			return err
		}
		var link api.Invitation
		return s.write(r.Context(), func(tx *db.Tx) error {
			rows, err := s.engine.Query(r.Context(), tx, access.From(r.Context()), fmt.Sprintf("%s(%d)?$select=id", resource, id))
			if err != nil {
				return err
			}
			if string(rows) == "[]" {
				return api.Errorf(api.NotFound, "there is no invitation %d", id)
			}
			link, err = s.accounts.InviteLink(r.Context(), tx, where, id)
			return err
		}, func() error {
			w.Header().Set("Cache-Control", "no-store")
			return web.WriteJSON(w, http.StatusOK, link)
		})
	}
}
