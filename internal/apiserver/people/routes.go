// Package people is the routes of the api role that are about people themselves: signing in, sessions, keys, invitations.
package people

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/invite"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config says what the routes work with.
type Config struct {
	DB       *db.DB
	Engine   *odata.Engine
	Accounts *account.Accounts
	Invites  *invite.Invites
	Services *service.Services
}

// routes serves them.
type routes struct{ cfg Config }

// Routes lists the routes about people.
func Routes(cfg Config) []route.Route {
	s := &routes{cfg}
	return append(slices.Concat(s.inviteRoutes(), s.serviceRoutes(), s.leaveRoutes()),
		route.Route{Method: "POST", Path: "/login_", Handle: s.login, Who: route.Anybody},
		route.Route{Method: "GET", Path: "/actor/v1/whoami", Handle: s.whoami, Who: route.Named},
		route.Route{Method: "GET", Path: "/user/v1/whoami", Handle: s.userWhoami, Who: route.People},
		route.Route{Method: "GET", Path: "/user/v1/refresh-token", Handle: s.refresh, Who: []access.Kind{access.User, access.HalfUser}, Login: rights.AnyLogin},
		route.Route{Method: "POST", Path: "/user/v1/refresh-token", Handle: s.refreshWithPassword, Who: route.Users, Login: rights.AnyLogin},
		route.Route{Method: "POST", Path: "/user/v1/logout", Handle: s.logout, Who: route.Users, Login: rights.AnyLogin},
		route.Route{Method: "GET", Path: "/user/v1/sessions", Handle: s.sessions, Who: route.Users, Login: rights.AnyLogin},
		route.Route{Method: "DELETE", Path: "/user/v1/sessions/{id}", Handle: s.endSession, Who: route.Users, Login: rights.AnyLogin},
		route.Route{Method: "POST", Path: "/api-key/user/full", Handle: s.newUserKey, Who: route.Users, Login: rights.FreshLogin},
		route.Route{Method: "POST", Path: "/api-key/v1", Handle: s.newKey, Who: route.People, Verb: access.Keys},
		route.Route{Method: "POST", Path: "/api-key/v1/{$}", Handle: s.newKey, Who: route.People, Verb: access.Keys},
		route.Route{Method: "POST", Path: "/api-key/v2", Handle: s.newKey, Who: route.People, Verb: access.Keys},
		route.Route{Method: "POST", Path: "/api-key/v2/{$}", Handle: s.newKey, Who: route.People, Verb: access.Keys},
		route.Route{Method: "POST", Path: "/api-key/application/{id}/provisioning", Handle: s.newProvisioningKey, Who: route.People, Verb: access.Keys},
		route.Route{Method: "POST", Path: "/api-key/device/{id}/device-key", Handle: s.newDeviceKey, Who: route.People, Verb: access.Keys})
}

func (s *routes) login(w http.ResponseWriter, r *http.Request) error {
	var req api.Login
	if form, ok, err := route.FormBody(r); err != nil {
		return err
	} else if ok {
		req = api.Login{Username: form.Get("username"), Password: form.Get("password")}
	} else if err := web.Decode(r, &req); err != nil {
		return err
	}
	token, err := s.cfg.Accounts.Login(r.Context(), req, route.From(r))
	if err != nil {
		return route.RetryAfter(w, err)
	}
	return route.WriteSecret(w, token)
}

func (s *routes) whoami(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.cfg.DB, s.cfg.Accounts.Whoami)
}

func (s *routes) userWhoami(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.cfg.DB, func(ctx context.Context, tx *db.Tx, by access.Caller) (u api.User, err error) {
		me, err := s.cfg.Accounts.Whoami(ctx, tx, by)
		if err != nil {
			return u, err
		}
		return api.User{ID: me.ActorTypeID, Username: me.Username, Email: me.Email}, nil
	})
}

func (s *routes) refresh(w http.ResponseWriter, r *http.Request) error {
	token, err := s.cfg.Accounts.Refresh(r.Context(), access.From(r.Context()), "", route.From(r))
	if err != nil {
		return err
	}
	return route.WriteSecret(w, token)
}

func (s *routes) refreshWithPassword(w http.ResponseWriter, r *http.Request) error {
	var req api.Login
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if req.Password == "" {
		return api.ErrUnauthorized
	}
	token, err := s.cfg.Accounts.Refresh(r.Context(), access.From(r.Context()), req.Password, route.From(r))
	if err != nil {
		return route.RetryAfter(w, err)
	}
	return route.WriteSecret(w, token)
}

func (s *routes) logout(w http.ResponseWriter, r *http.Request) error {
	return route.Write(r.Context(), s.cfg.DB, func(tx *db.Tx) error {
		return s.cfg.Accounts.EndSession(r.Context(), tx, access.From(r.Context()), 0)
	}, route.Done(w))
}

func (s *routes) sessions(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.cfg.DB, s.cfg.Accounts.Sessions)
}

func (s *routes) endSession(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.cfg.DB, "Session id must be a number", s.cfg.Accounts.EndSession)
}

// newUserKey is POST /api-key/user/full: a named key of the user who asks.
func (s *routes) newUserKey(w http.ResponseWriter, r *http.Request) error {
	var req api.NewKey
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if strings.TrimSpace(req.Name) == "" {
		return api.Errorf(api.Invalid, "A key needs a name.")
	}
	return s.makeUserKey(w, r, access.From(r.Context()).User, req)
}

// makeUserKey makes a key for a user, with what it is limited to.
func (s *routes) makeUserKey(w http.ResponseWriter, r *http.Request, user int64, req api.NewKey) error {
	spec := account.KeySpec{Of: account.OfUser, ID: user, Fleets: req.Fleets, Tags: req.Tags, Devices: req.Devices, Networks: req.Networks}
	if len(req.Verbs) > 0 {
		if req.Level != "" || req.ReadOnly {
			return api.Errorf(api.Invalid, "verbs: a key has verbs or a level, not both")
		}
		var err error
		if spec.Verbs, err = access.ParseVerbs(req.Verbs); err != nil {
			return api.Errorf(api.Invalid, "verbs: %v", err)
		}
	}
	if len(req.Channels) > 0 {
		var err error
		if spec.Channels, err = access.ParseChannels(req.Channels); err != nil {
			return api.Errorf(api.Invalid, "channels: %v", err)
		}
	}
	if req.ReadOnly && req.Level == "" {
		req.Level = access.Observer.String()
	}
	if req.Level != "" {
		var err error
		if spec.Level, err = access.ParseLevel(req.Level); err != nil {
			return api.Errorf(api.Invalid, "level: %v", err)
		}
		if req.ReadOnly && spec.Level != access.Observer {
			return api.Errorf(api.Invalid, "readOnly: a key of the level %s is not read-only", spec.Level)
		}
	}
	return s.makeKey(w, r, spec, req)
}

// fleetKeyRole is ours: a key that reads a fleet.
const fleetKeyRole = "fleet-api-key"

// The roles that newKey knows, and for which actors they are.
var keyRoles = map[string]account.Whose{
	"provisioning-api-key":   account.OfFleet,
	fleetKeyRole:             account.OfFleet,
	"device-api-key":         account.OfDevice,
	"named-user-api-key":     account.OfUser,
	"named-user-apikey-role": account.OfUser,
}

// newKey is POST /api-key/v1 and v2: a key with one role for the actor that the body names.
func (s *routes) newKey(w http.ResponseWriter, r *http.Request) error {
	var req api.NewKey
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	of := account.Whose(req.ActorType)
	switch {
	case of != account.OfUser && of != account.OfFleet && of != account.OfDevice:
		return api.Errorf(api.Invalid, "actorType must be user, application or device")
	case req.ActorTypeID <= 0:
		return api.Errorf(api.Invalid, "actorTypeId must be a number")
	case len(req.Roles) != 1:
		return api.Errorf(api.Invalid, "roles must hold exactly one role")
	case keyRoles[req.Roles[0]] != of:
		return api.Errorf(api.Invalid, "the role %q is not for a key of a %s", req.Roles[0], of)
	}
	if err := unlimited(req); err != nil {
		return err
	}
	return s.makeKey(w, r, account.KeySpec{Of: of, ID: req.ActorTypeID, Reader: req.Roles[0] == fleetKeyRole}, req)
}

// unlimited refuses limits where they would not be looked at: nobody should believe that a key has them.
func unlimited(req api.NewKey) error {
	if req.Level != "" || req.ReadOnly || len(req.Verbs)+len(req.Fleets)+len(req.Tags)+len(req.Devices)+len(req.Channels)+len(req.Networks) > 0 {
		return api.Errorf(api.Invalid, "limits are for keys of users, made at /api-key/user/full; this key is made without")
	}
	return nil
}

func (s *routes) newProvisioningKey(w http.ResponseWriter, r *http.Request) error {
	return s.newKeyOf(w, r, account.OfFleet, "Application id must be a number")
}

func (s *routes) newDeviceKey(w http.ResponseWriter, r *http.Request) error {
	return s.newKeyOf(w, r, account.OfDevice, "Device id must be a number")
}

func (s *routes) newKeyOf(w http.ResponseWriter, r *http.Request, of account.Whose, notNumber string) error {
	id, err := route.PathID(r, notNumber)
	if err != nil {
		return err
	}
	var req api.NewKey
	if r.ContentLength != 0 {
		if err := web.Decode(r, &req); err != nil {
			return err
		}
	}
	spec := account.KeySpec{Of: of, ID: id}
	if err := unlimited(req); err != nil {
		return err
	}
	if of == account.OfDevice {
		spec.Token = req.APIKey
	}
	return s.makeKey(w, r, spec, req)
}

// makeKey makes a key and shows it, this once.
func (s *routes) makeKey(w http.ResponseWriter, r *http.Request, spec account.KeySpec, req api.NewKey) error {
	spec.Name, spec.Description, spec.Expiry, spec.MaxUses = req.Name, req.Description, req.ExpiryDate, req.MaxUses
	var key string
	err := s.cfg.DB.Write(r.Context(), func(tx *db.Tx) (err error) {
		key, err = s.cfg.Accounts.CreateKey(r.Context(), tx, access.From(r.Context()), spec)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, key)
}
