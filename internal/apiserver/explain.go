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
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
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
	var verbs access.Verbs
	err := s.db.Read(r.Context(), func(tx *db.Tx) error {
		rows, err := s.engine.Query(r.Context(), tx, by, fmt.Sprintf("api_key(%d)?$select=id", id))
		if err != nil {
			return err
		}
		if string(rows) == "[]" {
			return api.Errorf(api.NotFound, "there is no key %d", id)
		}
		out, verbs, err = s.accounts.ExplainKey(r.Context(), tx, id)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.NotFound, "there is no key %d", id)
	}
	if err != nil {
		return err
	}
	s.allows(&out, access.Kind(out.Principal), verbs)
	return web.WriteJSON(w, http.StatusOK, out)
}

// allows lists what a key of a kind with at most some verbs may do, by resource and by route, on the channels that it has.
func (s *Server) allows(out *api.KeyExplanation, kind access.Kind, verbs access.Verbs) {
	out.Reads, out.Makes, out.Changes, out.Deletes, out.Routes = []string{}, []string{}, []string{}, []string{}, []string{}
	by := access.Caller{}
	by.Channels, _ = access.ParseChannels(out.Channels) // names of ours
	whole := len(out.DeviceTags) == 0
	s.opens(out, kind, verbs, by)
	if !slices.Contains(route.ByRules, kind) || !by.Uses(access.API) {
		return
	}
	for _, res := range s.model().Resources {
		rule := res.Rules[kind]
		for _, v := range []struct {
			filter string
			op     odata.Op // "" to read
			list   *[]string
		}{
			{rule.Read, "", &out.Reads}, {rule.Create, odata.Create, &out.Makes}, {rule.Update, odata.Update, &out.Changes},
			{rule.Delete, odata.Delete, &out.Deletes},
		} {
			if asksLogin, _ := rights.FreshWrite(res.Name, v.op); within(v.filter, verbs, whole) && !asksLogin {
				*v.list = append(*v.list, res.Name)
			}
		}
	}
}

// opens lists the routes that let a key of a kind in, without those that let everybody in.
func (s *Server) opens(out *api.KeyExplanation, kind access.Kind, verbs access.Verbs, by access.Caller) {
	for _, rt := range s.list() {
		if slices.Contains(rt.Who, kind) && rt.Login == rights.NoLogin && by.Uses(rt.By()) && (verbs.Has(rt.Verb) || kind != access.ScopedKey) {
			out.Routes = append(out.Routes, strings.TrimSpace(rt.Method+" "+strings.TrimSuffix(rt.Path, "{$}")))
		}
	}
}

// within reports whether a filter can hold for somebody who has at most some verbs, of all devices or of some. One with several ways to hold is held to the easiest.
func within(filter string, most access.Verbs, allDevices bool) bool {
	if filter == "" {
		return false
	}
	for _, way := range strings.Split(filter, " or ") {
		if most.Has(asked(way)) && (allDevices || !strings.Contains(way, access.AllDevices)) {
			return true
		}
	}
	return false
}

// asked is the verbs that a filter speaks of.
func asked(filter string) (v access.Verbs) {
	for _, one := range access.AllVerbs.Each() {
		if strings.Contains(filter, one.Columns()[0]) {
			v |= one
		}
	}
	return v
}

// verb is what a request uses of a person's key: what its route says, or what the rules ask of a write to its resource. A write that
// several verbs might allow counts for all of them, and one that is refused counts too: it tells what a key is used for, no more.
func (s *Server) verb(rt route.Route, r *http.Request) access.Verbs {
	if rt.Verb != access.NoVerbs || r.Method == http.MethodGet || !strings.HasPrefix(rt.Path, "/v") {
		return rt.Verb
	}
	name := strings.TrimPrefix(r.URL.Path, rt.Path)
	if i := strings.IndexAny(name, "(/?"); i >= 0 {
		if strings.HasSuffix(name, "/canAccess") {
			return access.Read
		}
		name = name[:i]
	}
	return s.writes[r.Method+" "+name]
}

// writesOf says which verbs a write needs, by method and resource: "PATCH device".
func writesOf(m odata.Model) map[string]access.Verbs {
	out := map[string]access.Verbs{}
	for _, res := range m.Resources {
		rule := res.Rules[access.ScopedKey]
		for _, name := range append([]string{res.Name}, res.Synonyms...) {
			out["POST "+name], out["PUT "+name] = asked(rule.Create), asked(rule.Update)
			out["PATCH "+name], out["DELETE "+name] = asked(rule.Update), asked(rule.Delete)
			for _, more := range rule.Needs { // for a column which nobody looks at here
				out["POST "+name] |= asked(more)
				out["PATCH "+name] |= asked(more)
			}
		}
	}
	return out
}
