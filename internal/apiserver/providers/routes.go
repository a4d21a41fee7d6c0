// Package providers is the routes of the api role for the ways in besides a password: sign-in providers, and logins by code.
package providers

import (
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/signin"
	"github.com/roadstead-io/roadstead/internal/web"
)

// routes serves them.
type routes struct {
	signin   *signin.SignIn
	accounts *account.Accounts
	db       *db.DB
}

// maybeUser lets in people and those who are nobody yet.
var maybeUser = []access.Kind{access.Anonymous, access.User}

// Routes lists the routes.
func Routes(s *signin.SignIn, accounts *account.Accounts, d *db.DB) []route.Route {
	r := &routes{s, accounts, d}
	return []route.Route{
		{Method: "GET", Path: "/auth/v1/providers", Handle: r.list, Who: route.Anybody},
		{Method: "POST", Path: "/auth/v1/providers/{name}/start", Handle: r.start, Who: maybeUser},
		{Method: "POST", Path: "/auth/v1/providers/{name}/finish", Handle: r.finish, Who: maybeUser},
		{Method: "GET", Path: "/user/v1/identities", Handle: r.identities, Who: route.Users, Login: rights.AnyLogin},
		{Method: "DELETE", Path: "/user/v1/identities/{id}", Handle: r.unlink, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/user/v1/sessions", Handle: r.delegate, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/v1/device/code", Handle: r.newDevice, Who: route.Anybody},
		{Method: "POST", Path: "/auth/v1/device/token", Handle: r.takeDevice, Who: route.Anybody},
		{Method: "POST", Path: "/auth/v1/device/lookup", Handle: r.lookUpDevice, Who: route.Users, Login: rights.AnyLogin},
		{Method: "POST", Path: "/auth/v1/device/approve", Handle: r.answerDevice, Who: route.Users, Login: rights.AnyLogin},
	}
}

func (s *routes) list(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, s.signin.Providers())
}

func (s *routes) start(w http.ResponseWriter, r *http.Request) error {
	var req api.StartSignIn
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	started, err := s.signin.Start(r.Context(), access.From(r.Context()), r.PathValue("name"), req)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, started)
}

func (s *routes) finish(w http.ResponseWriter, r *http.Request) error {
	var req api.FinishSignIn
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	token, err := s.signin.Finish(r.Context(), access.From(r.Context()), r.PathValue("name"), req, route.From(r))
	if err != nil {
		return err
	}
	return route.WriteSecret(w, token)
}

func (s *routes) identities(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, s.signin.Identities)
}

func (s *routes) unlink(w http.ResponseWriter, r *http.Request) error {
	return route.ByID(w, r, s.db, "Identity id must be a number", s.signin.Unlink)
}

// delegate opens a second session, for a program of the caller's.
func (s *routes) delegate(w http.ResponseWriter, r *http.Request) error {
	var token string
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		token, err = s.accounts.Delegate(r.Context(), tx, access.From(r.Context()), route.From(r))
		return err
	}, func() error { return route.WriteSecret(w, token) })
}

// newDevice takes the form of RFC 8628, or the same as JSON.
func (s *routes) newDevice(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Client string `json:"client_id"`
	}
	if form, ok, err := route.FormBody(r); err != nil {
		return err
	} else if ok {
		req.Client = form.Get("client_id")
	} else if err := web.Decode(r, &req); err != nil {
		return err
	}
	if req.Client == "" {
		return api.Errorf(api.Invalid, "client_id: not given")
	}
	code, err := s.signin.NewDevice(r.Context(), req.Client, route.From(r))
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, code)
}

func (s *routes) takeDevice(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Device string `json:"device_code"`
	}
	if form, ok, err := route.FormBody(r); err != nil {
		return err
	} else if ok {
		req.Device = form.Get("device_code")
	} else if err := web.Decode(r, &req); err != nil {
		return err
	}
	answer, err := s.signin.TakeDevice(r.Context(), req.Device, route.From(r))
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	status := http.StatusOK
	if answer.Error != "" {
		status = http.StatusBadRequest
	}
	return web.WriteJSON(w, status, answer)
}

func (s *routes) lookUpDevice(w http.ResponseWriter, r *http.Request) error {
	var req api.DeviceApproval
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	waiting, err := s.signin.LookUpDevice(r.Context(), access.From(r.Context()), req.UserCode)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, waiting)
}

func (s *routes) answerDevice(w http.ResponseWriter, r *http.Request) error {
	var req api.DeviceApproval
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if err := s.signin.AnswerDevice(r.Context(), access.From(r.Context()), req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
