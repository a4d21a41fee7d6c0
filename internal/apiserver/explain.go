package apiserver

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// explainKey says what a key can do: GET /api-key/v1/{id}/explain. The id "self" is the key that asks. It is read from the same
// declaration that the server enforces.
func (s *Server) explainKey(w http.ResponseWriter, r *http.Request) error {
	by := access.From(r.Context())
	id := by.Key
	if r.PathValue("id") != "self" {
		var err error
		if id, err = route.PathID(r, "Key id must be a number or self"); err != nil {
			return err
		}
	} else if id == 0 {
		return api.Errorf(api.Invalid, "this is a session, not a key; say the id of one")
	}
	var out api.KeyExplanation
	err := s.db.Read(r.Context(), func(tx *db.Tx) error {
		rows, err := s.engine.Query(r.Context(), tx, by, fmt.Sprintf("api_key(%d)?$select=id", id))
		if err != nil {
			return err
		}
		if string(rows) == "[]" {
			return api.Errorf(api.NotFound, "there is no key %d", id)
		}
		out, err = s.accounts.ExplainKey(r.Context(), tx, id)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.NotFound, "there is no key %d", id)
	}
	if err != nil {
		return err
	}
	kind, level := access.Kind(out.Principal), access.Administrator
	if l, err := access.ParseLevel(out.Level); err == nil {
		level = l
	}
	s.allows(&out, kind, level)
	return web.WriteJSON(w, http.StatusOK, out)
}

// allows lists what a kind of caller with at most a level may do, by resource and by route.
func (s *Server) allows(out *api.KeyExplanation, kind access.Kind, level access.Level) {
	out.Reads, out.Makes, out.Changes, out.Deletes, out.Routes = []string{}, []string{}, []string{}, []string{}, []string{}
	if !slices.Contains(route.ByRules, kind) {
		s.opens(out, kind)
		return
	}
	for _, res := range s.model().Resources {
		rule := res.Rules[kind]
		for _, v := range []struct {
			filter string
			list   *[]string
		}{{rule.Read, &out.Reads}, {rule.Create, &out.Makes}, {rule.Update, &out.Changes}, {rule.Delete, &out.Deletes}} {
			if within(v.filter, level) {
				*v.list = append(*v.list, res.Name)
			}
		}
	}
	s.opens(out, kind)
}

// opens lists the routes that let a kind in, without those that let everybody in.
func (s *Server) opens(out *api.KeyExplanation, kind access.Kind) {
	for _, rt := range s.list() {
		if slices.Contains(rt.Who, kind) {
			out.Routes = append(out.Routes, strings.TrimSpace(rt.Method+" "+strings.TrimSuffix(rt.Path, "{$}")))
		}
	}
}

// within reports whether a filter can hold for somebody who has at most a level. One with several ways to hold is held to the lowest.
func within(filter string, most access.Level) bool {
	if filter == "" {
		return false
	}
	for _, way := range strings.Split(filter, " or ") {
		lowest := access.NoLevel
		for _, l := range access.Levels() {
			if strings.Contains(way, l.Column()) {
				lowest = max(lowest, l)
			}
		}
		if lowest <= most {
			return true
		}
	}
	return false
}
