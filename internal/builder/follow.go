package builder

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/journal"
	"github.com/roadstead-io/roadstead/internal/web"
)

// asked finds out who asks for a build, and whether they may.
func (s *Server) asked(r *http.Request) (id int64, watch api.BuildWatch, err error) {
	id, err = strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, watch, api.Errorf(api.Invalid, "a build is named by the number of its release, not by %.50q", r.PathValue("id"))
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return 0, watch, api.Errorf(api.Unauthorized, "log in first: the request carries no token")
	}
	by := behalf{authorization, r.Header.Get("X-Forwarded-For")}
	err = s.api.call(r.Context(), fmt.Sprintf("/internal/v1/builds/%d/watch", id), by, struct{}{}, &watch)
	return id, watch, err
}

// notHere says that nothing is known of a build; its release may say more.
func notHere(id int64) error {
	return api.Errorf(api.NotFound, "build %d is not under way here: its release says how it ended", id)
}

// state tells where a build stands.
func (s *Server) state(w http.ResponseWriter, r *http.Request) error {
	id, _, err := s.asked(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	b, _ := s.live.find(id)
	if b == nil {
		return s.refuse(w, r, notHere(id))
	}
	out := api.BuildState{ID: id, Phase: api.PhaseBuild}
	if o := b.sending.Load(); o != nil && len(o.incoming.Lacks()) > 0 {
		out.Phase = api.PhaseUpload
	} else if b.ticket != nil { // a promotion waits for no build
		if p, ok := b.ticket.Place(); ok {
			out.Phase, out.Place, out.Of, out.Wait = api.PhaseWaiting, p.Number, p.Of, int64(p.Wait.Seconds())
		}
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// events hands on what a build says from a number on, as it is said: one JSON object a line. It ends with the build, with the
// right to follow it, or with the reader's patience; for a reader that is slow, nothing is kept but its place.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Get("after") != "" {
		return s.refuse(w, r, api.Errorf(api.Invalid, "after must be the number of a line, not %.50q", r.URL.Query().Get("after")))
	}
	follow := r.URL.Query().Get("follow") != "false"
	id, watch, err := s.asked(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	b, j := s.live.find(id)
	if j == nil {
		return s.refuse(w, r, notHere(id))
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if b != nil {
		remove, ok := b.followers.Add(watch.Follower, s.cfg.Limits.Followers, cancel)
		if !ok {
			return s.refuse(w, r, api.Errorf(api.RateLimited, "%d follow build %d already (limit followers_of_build=%d)",
				s.cfg.Limits.Followers, id, s.cfg.Limits.Followers))
		}
		defer remove()
	}
	w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	journal.Stream(ctx, w, j, after, follow)
	return nil
}
