// Package sourcedoor is the routes about repositories elsewhere that fleets are built from: people's, the one on which forges tell of
// pushes, and those on which the git role asks what is to be built.
package sourcedoor

import (
	"context"
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/gitdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/gitsource"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config is what the routes work with.
type Config struct {
	DB      *db.DB
	Sources *gitsource.Sources
	Git     *gitdoor.Door // gives the tickets on which the git role has something built
}

type routes struct {
	Config
	rate *rate
}

const (
	// maxBody bounds what a forge sends. A push with hundreds of commits has some hundred kilobytes.
	maxBody = 2 << 20
	// lengthOfName is that of every webhook's.
	lengthOfName = 32
	// nextWait is how long the git role is kept waiting when there is nothing to do, and nextLook how often it is looked meanwhile: one
	// read of an index that holds what is open.
	nextWait = 10 * time.Second
	nextLook = 400 * time.Millisecond
)

// Routes lists them.
func Routes(cfg Config) []route.Route {
	s := &routes{cfg, newRate()}
	git := []string{api.RoleGit}
	return []route.Route{
		{Method: "GET", Path: "/build-source/v1", Handle: s.list, Who: route.People},
		{Method: "POST", Path: "/build-source/v1", Handle: s.add, Who: route.Users, Verb: access.Releases},
		{Method: "GET", Path: "/build-source/v1/{id}", Handle: s.get, Who: route.People},
		{Method: "DELETE", Path: "/build-source/v1/{id}", Handle: s.remove, Who: route.Users, Verb: access.Releases},
		{Method: "POST", Path: "/build-source/v1/{id}/rotate", Handle: s.rotate, Who: route.Users, Verb: access.Releases},
		{Method: "POST", Path: "/build-source/v1/{id}/build", Handle: s.build, Who: route.People, Verb: access.Releases},
		{Method: "GET", Path: "/build-source/v1/{id}/deliveries", Handle: s.deliveries, Who: route.People},

		{Method: "POST", Path: "/hooks/v1/{token}", Handle: s.hook, Who: route.Anybody},

		{Method: "POST", Path: "/internal/v1/sources/next", Handle: s.next, Roles: git, Stream: true},
		{Method: "POST", Path: "/internal/v1/sources/renew", Handle: s.renew, Roles: git},
		{Method: "POST", Path: "/internal/v1/sources/finish", Handle: s.finish, Roles: git},
	}
}

const notNumber = "Source id must be a number"

func (s *routes) list(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.BuildSource, error) {
		return s.Sources.List(ctx, tx, by, r.URL.Query().Get("fleet"))
	})
}

func (s *routes) add(w http.ResponseWriter, r *http.Request) error {
	var want api.NewBuildSource
	if err := web.Decode(r, &want); err != nil {
		return err
	}
	var made api.BuildSourceSecret
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		made, err = s.Sources.Add(r.Context(), tx, access.From(r.Context()), want)
		return err
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusCreated, made)
	})
}

func (s *routes) get(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (api.BuildSource, error) {
		return s.Sources.Get(ctx, tx, by, id)
	})
}

func (s *routes) remove(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.DB, notNumber, s.Sources.Remove)
}

func (s *routes) rotate(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	var out api.BuildSourceSecret
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		out, err = s.Sources.Rotate(r.Context(), tx, access.From(r.Context()), id)
		return err
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusOK, out)
	})
}

func (s *routes) build(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	var ask api.SourceBuild
	if r.ContentLength != 0 {
		if err := web.Decode(r, &ask); err != nil {
			return err
		}
	}
	var out api.Delivery
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		out, err = s.Sources.Ask(r.Context(), tx, access.From(r.Context()), id, ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusAccepted, out) })
}

func (s *routes) deliveries(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	return route.Read(w, r, s.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) ([]api.Delivery, error) {
		return s.Sources.Deliveries(ctx, tx, by, id)
	})
}

// hook takes what a forge sends. It is answered when it is written down; what it asks for is done later.
func (s *routes) hook(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("token")
	if len(name) != lengthOfName {
		name = "" // whatever it is, it is none
	}
	leave, err := s.rate.enter(name, route.From(r).Address, time.Now())
	if err != nil {
		w.Header().Set("Retry-After", "60")
		return err
	}
	defer leave()
	body, err := web.ReadBody(r, maxBody)
	if err != nil {
		return err
	}
	answer, err := s.Sources.Accept(r.Context(), name, r.Header, body, time.Now())
	if err != nil {
		return err
	}
	return web.WriteRawJSON(w, http.StatusAccepted, answer)
}

// next tells the git role what to build, as soon as there is something.
func (s *routes) next(w http.ResponseWriter, r *http.Request) error {
	// A server notices that a client goes away only when it has read the body; what is leased to one that is gone waits for nothing.
	if err := web.Decode(r, &struct{}{}); err != nil {
		return err
	}
	end := time.After(nextWait)
	look := time.NewTicker(nextLook)
	defer look.Stop()
	for {
		job, err := s.claim(r.Context())
		if err != nil {
			return err
		}
		if job.Delivery != 0 {
			return web.WriteJSON(w, http.StatusOK, job)
		}
		select {
		case <-r.Context().Done():
			return api.Errorf(api.Unavailable, "the api role is stopping")
		case <-end:
			return web.WriteJSON(w, http.StatusOK, job)
		case <-look.C:
		}
	}
}

func (s *routes) claim(ctx context.Context) (job api.SourceJob, err error) {
	waits, err := s.Sources.Waits(ctx)
	if err != nil || !waits {
		return job, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		var by access.Caller
		var fleet int64
		if job, by, fleet, err = s.Sources.Next(ctx, tx); err != nil || job.Delivery == 0 {
			return err
		}
		job.Open, err = s.Git.Claimed(ctx, tx, by, fleet, job.Claim)
		return err
	})
	return job, err
}

func (s *routes) renew(w http.ResponseWriter, r *http.Request) error {
	var ask api.SourceClaims
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var held api.SourceClaims
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) (err error) {
		held.Claims, err = s.Sources.Renew(r.Context(), tx, ask.Claims)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, held) })
}

func (s *routes) finish(w http.ResponseWriter, r *http.Request) error {
	var result api.SourceResult
	if err := web.Decode(r, &result); err != nil {
		return err
	}
	return route.Write(r.Context(), s.DB, func(tx *db.Tx) error { return s.Sources.Finish(r.Context(), tx, result) }, func() error {
		return web.WriteJSON(w, http.StatusOK, struct{}{})
	})
}
