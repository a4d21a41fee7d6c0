package apiserver

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// route is one entry of the role's list. Exactly one of who and roles says who may call it; a route with neither makes New
// fail.
type route struct {
	method string // "" for every method
	path   string // pattern of net/http.ServeMux, matched on the escaped path
	handle web.HandlerFunc
	who    []access.Kind // public route, reached through the edge: the kinds of callers that get in
	roles  []string      // internal route: the roles, by certificate, that get in
	stream bool          // no time limit, no compression; its context ends when the server stops
	basic  bool          // the token may also come as the password of Basic authentication
	keyed  bool          // who has no key that holds is told so in the words that devices know
}

// Who gets in.
var (
	anybody         = []access.Kind{access.Anonymous}                                                                   // no authentication is even tried
	users           = []access.Kind{access.User}                                                                        // sessions and whole named keys
	people          = []access.Kind{access.User, access.ScopedKey}                                                      // and limited ones, within their limits
	peopleAndDevice = []access.Kind{access.User, access.ScopedKey, access.Device}                                       // the handler decides by level or device
	named           = []access.Kind{access.User, access.ScopedKey, access.Device, access.FrozenDevice, access.FleetKey} // whoever is somebody
	byRules         = []access.Kind{access.Anonymous, access.User, access.ScopedKey, access.Device, access.FleetKey}    // the engine's rules decide, row by row
)

// list is every route of the role.
func (s *Server) list() []route {
	rs := []route{
		{method: "GET", path: "/ping", handle: ping, who: anybody},
		{method: "GET", path: "/connectivity-check", handle: connectivityCheck, who: anybody},
		{method: "GET", path: "/config", handle: s.siteConfig, who: anybody},
		{method: "POST", path: "/login_", handle: s.login, who: anybody},

		{path: "/v7/", handle: s.engine.Handler(), who: byRules},
		{path: "/v6/", handle: s.engine.Handler(), who: byRules},
		{path: "/v5/", handle: s.engine.Handler(), who: byRules},

		{method: "GET", path: "/actor/v1/whoami", handle: s.whoami, who: named},
		{method: "GET", path: "/user/v1/whoami", handle: s.userWhoami, who: people},
		{method: "GET", path: "/user/v1/refresh-token", handle: s.refresh, who: users},
		{method: "POST", path: "/user/v1/refresh-token", handle: s.refreshWithPassword, who: users},
		{method: "POST", path: "/user/v1/logout", handle: s.logout, who: users},
		{method: "GET", path: "/user/v1/sessions", handle: s.sessions, who: users},
		{method: "DELETE", path: "/user/v1/sessions/{id}", handle: s.endSession, who: users},

		{method: "POST", path: "/api-key/user/full", handle: s.newUserKey, who: users},
		{method: "POST", path: "/api-key/v1", handle: s.newKey, who: people},
		{method: "POST", path: "/api-key/v1/{$}", handle: s.newKey, who: people},
		{method: "POST", path: "/api-key/v2", handle: s.newKey, who: people},
		{method: "POST", path: "/api-key/v2/{$}", handle: s.newKey, who: people},
		{method: "POST", path: "/api-key/application/{id}/provisioning", handle: s.newProvisioningKey, who: people},
		{method: "GET", path: "/api-key/v1/{id}/explain", handle: s.explainKey, who: people},
		{method: "POST", path: "/api-key/device/{id}/device-key", handle: s.newDeviceKey, who: people},

		{method: "GET", path: "/healthz", handle: s.healthz, roles: allRoles},
		{method: "GET", path: "/internal/v1/load", handle: s.load, roles: []string{api.RoleParent, api.RoleAdmin}},
		{method: "POST", path: "/internal/v1/bootstrap", handle: s.bootstrap, roles: []string{api.RoleParent}},
		{method: "POST", path: "/internal/v1/users", handle: s.newUser, roles: []string{api.RoleAdmin}},
		{method: "POST", path: "/internal/v1/users/password", handle: s.setPassword, roles: []string{api.RoleAdmin}},
		{method: "POST", path: "/internal/v1/users/support", handle: s.setSupport, roles: []string{api.RoleAdmin}},
		{method: "POST", path: "/internal/v1/check", handle: s.check, roles: []string{api.RoleAdmin}, stream: true},
		{method: "POST", path: "/internal/v1/backup", handle: s.backup, roles: []string{api.RoleAdmin}, stream: true},
	}
	rs = append(rs, s.inviteRoutes()...)
	rs = append(rs, s.fleetRoutes()...)
	rs = append(rs, s.fileRoutes()...)
	return append(rs, s.deviceRoutes()...)
}

// allRoles may ask for the health of a role: every certificate that the internal authority gave out.
var allRoles = []string{
	api.RoleEdge, api.RoleAPI, api.RoleSigner, api.RoleRegistry, api.RoleBuilder, api.RoleBus, api.RoleParent,
	api.RoleAdmin,
}

// routes puts the list behind a mux.
func (s *Server) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	for _, rt := range s.list() {
		if err := rt.check(); err != nil {
			return nil, err
		}
		pattern := rt.path
		if rt.method != "" {
			pattern = rt.method + " " + rt.path
		}
		h := web.Handle(s.log, s.guard(rt))
		if rt.stream { // a refusal must not wait for the end of a log that goes on for hours
			h = web.FullDuplex(h)
		}
		mux.Handle(pattern, h)
	}
	// Unknown paths, and known ones with another method: an empty 404, as the clients expect.
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	return web.Logged(s.log, fromPeer, s.door(browsers(mux))), nil
}

// check is the default deny: a route that does not say who may call it is a mistake.
func (rt route) check() error {
	switch {
	case rt.handle == nil:
		return fmt.Errorf("route %s %s: no handler", rt.method, rt.path)
	case len(rt.who) == 0 && len(rt.roles) == 0:
		return fmt.Errorf("route %s %s: nobody is named who may call it", rt.method, rt.path)
	case len(rt.who) > 0 && len(rt.roles) > 0:
		return fmt.Errorf("route %s %s: it is either for the public or for roles", rt.method, rt.path)
	case slices.Contains(rt.who, access.Service) || slices.Contains(rt.who, access.System):
		return fmt.Errorf("route %s %s: name roles instead of a kind", rt.method, rt.path)
	}
	return nil
}

// fromPeer reports whether a request comes from another role; only then are headers about the request itself believed.
func fromPeer(r *http.Request) bool { return pki.PeerRole(r) != "" }
