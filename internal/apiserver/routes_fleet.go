package apiserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/gitdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxResult bounds the end of a build, which carries its log.
const maxResult = 16 << 20

// fleetRoutes are the routes of fleets, releases and builds.
func (s *Server) fleetRoutes() []route.Route {
	builder := []string{api.RoleBuilder}
	types := &deviceTypes{db: s.db}
	return []route.Route{
		{Method: "GET", Path: "/config/vars", Handle: types.configVars, Who: route.Anybody},
		{Method: "GET", Path: "/device-types/v1", Handle: types.list, Who: route.Anybody},
		{Method: "GET", Path: "/device-types/v1/{slug}", Handle: types.one, Who: route.Anybody},
		{Method: "GET", Path: "/device-types/v1/{slug}/images/{version}/download-size", Handle: types.downloadSize, Who: route.Anybody},
		{Method: "GET", Path: "/download", Handle: types.download, Who: route.Anybody},
		{Method: "GET", Path: "/download-config", Handle: s.deviceConfig, Who: route.People, Verb: access.Keys},
		{Method: "POST", Path: "/download-config", Handle: s.deviceConfig, Who: route.People, Verb: access.Keys},

		{Method: "GET", Path: "/provenance/v1/keys", Handle: statementKeysOf(s.statementKeys), Who: route.Anybody},

		{Method: "POST", Path: "/internal/v1/os-releases", Handle: s.importOS, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/builds", Handle: s.openBuild, Roles: builder},
		{Method: "GET", Path: "/internal/v1/builds/{id}", Handle: s.build, Roles: []string{api.RoleBuilder, api.RoleSigner}},
		{Method: "POST", Path: "/internal/v1/builds/{id}/images", Handle: s.addImages, Roles: builder},
		{Method: "POST", Path: "/internal/v1/builds/{id}/heartbeat", Handle: s.buildHeartbeat, Roles: builder},
		{Method: "POST", Path: "/internal/v1/builds/{id}/watch", Handle: s.watchBuild, Roles: builder},
		{Method: "POST", Path: "/internal/v1/builders/ask", Handle: s.askBuilders, Roles: builder},
		{Method: "POST", Path: "/internal/v1/builds/{id}/finish", Handle: s.finishBuild, Roles: builder},
		{Method: "POST", Path: "/internal/v1/builds/{id}/emptied", Handle: s.emptiedQuarantine, Roles: builder},
		{Method: "POST", Path: "/internal/v1/quarantine/next", Handle: s.quarantineChore, Roles: builder, Stream: true},
	}
}

// deviceConfig is /download-config: the config.json for a device of a fleet. The key in it is new with every call.
func (s *Server) deviceConfig(w http.ResponseWriter, r *http.Request) error {
	ask, err := answers(r)
	if err != nil {
		return err
	}
	root, err := s.configTrust(r, ask)
	if err != nil {
		return err
	}
	var config map[string]any
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		by := access.From(r.Context())
		if config, err = s.fleets.DeviceConfig(r.Context(), tx, by, ask); err != nil {
			return err
		}
		if root != nil {
			config["roadsteadTrust"] = root
		}
		return recordConfig(r.Context(), tx, by, ask)
	}, func() error {
		w.Header().Set("Cache-Control", "no-store")
		return web.WriteJSON(w, http.StatusOK, config)
	})
}

// configTrust is the root of trust for a config.json; nil: there is none, or the request is one that is refused anyway.
func (s *Server) configTrust(r *http.Request, ask fleet.Answers) (*api.ConfigTrust, error) {
	id, err := ask.Fleet()
	if err != nil || id == 0 {
		return nil, nil //nolint:nilerr,nilnil // said where the rest is looked at
	}
	root, err := s.trust.Root(r.Context(), access.From(r.Context()), id)
	if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrForbidden) {
		return nil, nil //nolint:nilnil // likewise
	}
	return root, err
}

// answers reads query and body together; the body, JSON or a form, wins.
func answers(r *http.Request) (fleet.Answers, error) {
	ask := fleet.Answers{}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "the query is not valid: %v", err)
	}
	add := func(from url.Values) {
		for name, values := range from {
			ask[name] = values[len(values)-1]
		}
	}
	add(query)
	if r.Method == http.MethodGet || r.ContentLength == 0 {
		return ask, nil
	}
	form, isForm, err := route.FormBody(r)
	switch {
	case err != nil:
		return nil, err
	case isForm:
		add(form)
		return ask, nil
	}
	return ask, web.Decode(r, &ask)
}

// openBuild begins a build for the person whose credentials the builder forwards.
func (s *Server) openBuild(w http.ResponseWriter, r *http.Request) error {
	ticket, ticketed := gitdoor.Ticketed(r)
	if ticketed {
		return s.openGitBuild(w, r, ticket)
	}
	pusher, err := s.authenticate(r, false, access.API)
	if err != nil {
		return err
	}
	pusher.Address, pusher.Request = route.From(r).Address, web.RequestID(r.Context())
	s.accounts.Used(pusher, access.Releases)
	if pusher.Kind == access.Anonymous || pusher.Kind == access.Provisioning { // its key opens one door, and not this one
		return api.ErrUnauthorized
	}
	var ask api.BuildRequest
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var build api.Build
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		build, err = s.releases.Open(r.Context(), tx, pusher, ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusCreated, build) })
}

// openGitBuild begins a build for who pushed to the repository of a fleet: of that fleet and of no other.
func (s *Server) openGitBuild(w http.ResponseWriter, r *http.Request, ticket string) error {
	var ask api.BuildRequest
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var build api.Build
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		pusher, of, opened, err := s.git.Holder(r.Context(), tx, ticket)
		if err != nil {
			return err
		}
		pusher.Request = web.RequestID(r.Context())
		if build, err = s.releases.Open(r.Context(), tx, pusher, ask); err != nil {
			return err
		}
		if build.Fleet.ID != of {
			return api.Errorf(api.Forbidden, "the ticket is for another fleet")
		}
		return opened(build.ID)
	}, func() error { return web.WriteJSON(w, http.StatusCreated, build) })
}

func (s *Server) build(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	var build api.Build
	if err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		build, err = s.releases.Get(r.Context(), tx, id)
		return err
	}); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, build)
}

func (s *Server) addImages(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	var ask api.BuildImagesRequest
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	var images []api.BuildImage
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		images, err = s.releases.AddImages(r.Context(), tx, id, ask)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, images) })
}

func (s *Server) buildHeartbeat(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	var beat api.BuildBeat
	if r.ContentLength != 0 {
		if err := web.Decode(r, &beat); err != nil {
			return err
		}
	}
	var build api.Build
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		if build, err = s.releases.Heartbeat(r.Context(), tx, id); err != nil {
			return err
		}
		build.Gone, err = s.releases.Gone(r.Context(), tx, id, beat.Followers)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, build) })
}

// watchBuild lets somebody follow a build, whose credentials the builder forwards.
func (s *Server) watchBuild(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	by, err := s.reader(r)
	if err != nil {
		return err
	}
	if by.Kind == access.Anonymous || by.Kind == access.Provisioning {
		return api.ErrUnauthorized
	}
	var watch api.BuildWatch
	if err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		watch, err = s.releases.Watch(r.Context(), tx, by, id)
		return err
	}); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, watch)
}

// reader is who reads something of another role's, by the credentials that this one passes on.
func (s *Server) reader(r *http.Request) (access.Caller, error) {
	by, err := s.authenticate(r, false, access.API)
	if err != nil {
		return by, err
	}
	by.Address, by.Request = route.From(r).Address, web.RequestID(r.Context())
	s.accounts.Used(by, access.Read)
	return by, nil
}

// askBuilders lets people, and no device, ask the builder what it builds for.
func (s *Server) askBuilders(w http.ResponseWriter, r *http.Request) error {
	by, err := s.reader(r)
	if err != nil {
		return err
	}
	if by.Kind != access.User && by.Kind != access.ScopedKey {
		return api.ErrUnauthorized
	}
	return web.WriteJSON(w, http.StatusOK, struct{}{})
}

func (s *Server) finishBuild(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Build id must be a number")
	if err != nil {
		return err
	}
	if ct := r.Header.Get("Content-Type"); ct != "" && !strings.HasPrefix(ct, "application/json") {
		return api.Errorf(api.Unsupported, "the body must be application/json, not %q", ct)
	}
	body, err := web.ReadBody(r, maxResult)
	if err != nil {
		return err
	}
	var result api.BuildResult
	if err := json.Unmarshal(body, &result); err != nil {
		return api.Errorf(api.Invalid, "the body is not valid JSON: %v", err)
	}
	var build api.Build
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		build, err = s.releases.Finish(r.Context(), tx, id, result)
		return err
	}, func() error { return web.WriteJSON(w, http.StatusOK, build) })
}
