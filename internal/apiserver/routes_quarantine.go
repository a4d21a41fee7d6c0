package apiserver

import (
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	// choreWait is how long a builder that asks for something to do is kept waiting when there is nothing.
	choreWait = 10 * time.Second
	// choreLook is how often it is looked meanwhile: one read of an index that holds what is open.
	choreLook = 400 * time.Millisecond
)

// quarantineChore tells a builder what to do about quarantine, as soon as there is something.
func (s *Server) quarantineChore(w http.ResponseWriter, r *http.Request) error {
	// A server notices that a client goes away only when it has read the body; what is leased to one that is gone waits for nothing.
	if err := web.Decode(r, &struct{}{}); err != nil {
		return err
	}
	end := time.After(choreWait)
	look := time.NewTicker(choreLook)
	defer look.Stop()
	for {
		chore, err := s.releases.NextChore(r.Context())
		if err != nil {
			return err
		}
		if chore.Promote != nil || chore.Empty != nil {
			return web.WriteJSON(w, http.StatusOK, chore)
		}
		select {
		case <-r.Context().Done():
			return api.Errorf(api.Unavailable, "the api role is stopping")
		case <-end:
			return web.WriteJSON(w, http.StatusOK, chore)
		case <-look.C:
		}
	}
}

func (s *Server) emptiedQuarantine(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error { return s.releases.Emptied(r.Context(), tx, id) }, route.Done(w))
}
