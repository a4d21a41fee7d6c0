package apiserver

import (
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver/actiondoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/bases"
	"github.com/roadstead-io/roadstead/internal/apiserver/factors"
	"github.com/roadstead-io/roadstead/internal/apiserver/people"
	"github.com/roadstead-io/roadstead/internal/apiserver/providers"
	"github.com/roadstead-io/roadstead/internal/apiserver/reachdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/record"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/apiserver/sourcedoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/storage"
	"github.com/roadstead-io/roadstead/internal/apiserver/transfer"
	"github.com/roadstead-io/roadstead/internal/apiserver/trustdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/vpndoor"
	workerroutes "github.com/roadstead-io/roadstead/internal/apiserver/workers"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

// list is every route of the role.
func (s *Server) list() []route.Route {
	rs := []route.Route{
		{Method: "GET", Path: "/ping", Handle: ping, Who: route.Anybody},
		{Method: "GET", Path: "/connectivity-check", Handle: connectivityCheck, Who: route.Anybody},
		{Method: "GET", Path: securitytxt.Path, Handle: s.securityText, Who: route.Anybody},
		{Method: "GET", Path: "/config", Handle: s.siteConfig, Who: route.Anybody},

		{Path: "/v7/", Handle: s.engine.Handler(), Who: route.ByRules},
		{Path: "/v6/", Handle: s.engine.Handler(), Who: route.ByRules},
		{Path: "/v5/", Handle: s.engine.Handler(), Who: route.ByRules},

		{Method: "GET", Path: "/api-key/v1/{id}/explain", Handle: s.explainKey, Who: route.People},

		{Method: "GET", Path: "/healthz", Handle: s.healthz, Roles: allRoles},
		{Method: "GET", Path: "/internal/v1/load", Handle: s.load, Roles: []string{api.RoleParent, api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/bootstrap", Handle: s.bootstrap, Roles: []string{api.RoleParent}},
		{Method: "POST", Path: "/internal/v1/users", Handle: s.newUser, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/users/password", Handle: s.setPassword, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/users/support", Handle: s.setSupport, Roles: []string{api.RoleAdmin}},
		{Method: "POST", Path: "/internal/v1/check", Handle: s.check, Roles: []string{api.RoleAdmin}, Stream: true},
		{Method: "POST", Path: "/internal/v1/backup", Handle: s.backup, Roles: []string{api.RoleAdmin}, Stream: true},
	}
	rs = append(rs, people.Routes(people.Config{DB: s.db, Engine: s.engine, Accounts: s.accounts, Invites: s.invites, Services: s.services})...)
	rs = append(rs, record.Routes(record.Config{DB: s.db, Log: s.audit, Site: s.cfg.Site.Domain, Again: s.accounts.Again})...)
	rs = append(rs, factors.Routes(s.accounts, s.factors, s.operator, s.db)...)
	rs = append(rs, s.mail.Routes(s.resets)...)
	rs = append(rs, transfer.Routes(s.fleets, s.db)...)
	rs = append(rs, storage.Routes(s.stored, s.db)...)
	rs = append(rs, workerroutes.Routes(s.workers, s.db)...)
	rs = append(rs, providers.Routes(s.signin, s.accounts, s.db)...)
	rs = append(rs, s.git.Routes()...)
	rs = append(rs, s.ssh.Routes()...)
	rs = append(rs, sourcedoor.Routes(sourcedoor.Config{DB: s.db, Sources: s.sources, Git: s.git})...)
	rs = append(rs, actiondoor.Routes(s.actions, s.db)...)
	rs = append(rs, (&actiondoor.Supervisor{DB: s.db, Devices: s.devices, Caller: s.caller}).Routes()...)
	rs = append(rs, reachdoor.Routes(reachdoor.Config{DB: s.db, Reach: s.reach, Accounts: s.accounts, Site: s.cfg.Site})...)
	rs = append(rs, bases.Routes(s.cfg.Bases)...)
	rs = append(rs, vpndoor.Routes(vpndoor.Config{DB: s.db, Channel: s.channel, RootCA: s.rootCA, SSH: s.ssh.Host})...)
	rs = append(rs, trustdoor.Routes(s.trust, s.db)...)
	rs = append(rs, s.fleetRoutes()...)
	rs = append(rs, s.fileRoutes()...)
	return append(rs, s.deviceRoutes()...)
}

// allRoles may ask for the health of a role: every certificate that the internal authority gave out.
var allRoles = []string{
	api.RoleEdge, api.RoleAPI, api.RoleSigner, api.RoleRegistry, api.RoleBuilder, api.RoleBus, api.RoleParent,
	api.RoleAdmin, api.RoleDashboard, api.RoleGit, api.RoleVPN,
}

// routes puts the list behind a mux.
func (s *Server) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	for _, rt := range s.list() {
		if err := rt.Check(); err != nil {
			return nil, err
		}
		pattern := rt.Path
		if rt.Method != "" {
			pattern = rt.Method + " " + rt.Path
		}
		h := web.Handle(s.log, s.guard(rt))
		if rt.Stream { // a refusal must not wait for the end of a log that goes on for hours
			h = web.FullDuplex(h)
		}
		mux.Handle(pattern, h)
	}
	// Unknown paths, and known ones with another method: an empty 404, as the clients expect.
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	return web.Logged(s.log, fromPeer, s.door(browsers(mux))), nil
}

// fromPeer reports whether a request comes from another role; only then are headers about the request itself believed.
func fromPeer(r *http.Request) bool { return pki.PeerRole(r) != "" }
