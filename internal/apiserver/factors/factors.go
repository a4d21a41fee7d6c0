// Package factors is the routes of the api role about second factors, and about the sessions and the password of whoever asks.
package factors

import (
	"context"
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/account/operator"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// routes serves them.
type routes struct {
	accounts *account.Accounts
	factors  *factor.Factors
	operator *operator.Desk
	db       *db.DB
}

// Who gets in where a session may be half. What it waits for the data functions look at.
var (
	halfOrWhole = []access.Kind{access.User, access.HalfUser}
	half        = []access.Kind{access.HalfUser}
)

// Routes lists them.
func Routes(accounts *account.Accounts, factors *factor.Factors, desk *operator.Desk, d *db.DB) []route.Route {
	s := &routes{accounts, factors, desk, d}
	return append(s.adminRoutes(), []route.Route{
		{Method: "POST", Path: "/user/v1/password", Handle: s.changePassword, Who: route.Users, Login: rights.AnyLogin},
		{Method: "DELETE", Path: "/user/v1/sessions", Handle: s.endSessions, Who: route.Users, Login: rights.AnyLogin},
		{Method: "GET", Path: "/user/v1/factors", Handle: s.list, Who: route.Users, Login: rights.AnyLogin},

		{Method: "POST", Path: "/auth/totp/verify", Handle: s.verify, Who: halfOrWhole, Login: rights.AnyLogin},
		{Method: "GET", Path: "/auth/totp/setup", Handle: s.setup, Who: halfOrWhole, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/totp/enable", Handle: s.enable, Who: halfOrWhole, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/totp/disable", Handle: s.disable, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/totp/recovery-codes", Handle: s.renewCodes, Who: route.Users, Login: rights.FreshLogin},

		{Method: "POST", Path: "/auth/webauthn/register/start", Handle: s.registerStart, Who: halfOrWhole, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/webauthn/register", Handle: s.register, Who: halfOrWhole, Login: rights.FreshLogin},
		{Method: "DELETE", Path: "/auth/webauthn/{id}", Handle: s.remove, Who: route.Users, Login: rights.FreshLogin},
		{Method: "POST", Path: "/auth/webauthn/verify/start", Handle: s.verifyStart, Who: half},
		{Method: "POST", Path: "/auth/webauthn/verify", Handle: s.verifyPasskey, Who: half},
		{Method: "POST", Path: "/auth/webauthn/login/start", Handle: s.loginStart, Who: route.Anybody},
		{Method: "POST", Path: "/auth/webauthn/login", Handle: s.login, Who: route.Anybody},
	}...)
}

// token answers with a session's token, or says when to come again.
func token(w http.ResponseWriter, text string, err error) error {
	if err != nil {
		return route.RetryAfter(w, err)
	}
	return route.WriteSecret(w, text)
}

// secret answers with JSON that no cache may keep.
func secret(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return route.RetryAfter(w, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, v)
}

func (s *routes) changePassword(w http.ResponseWriter, r *http.Request) error {
	var req api.ChangePassword
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	text, err := s.accounts.ChangePassword(r.Context(), access.From(r.Context()), req, route.From(r))
	return token(w, text, err)
}

// endSessions ends all other sessions of the caller, and with ?all=true the one that asks.
func (s *routes) endSessions(w http.ResponseWriter, r *http.Request) error {
	return route.Write(r.Context(), s.db, func(tx *db.Tx) error {
		return s.accounts.EndSessions(r.Context(), tx, access.From(r.Context()), r.URL.Query().Get("all") == "true")
	}, route.Done(w))
}

func (s *routes) list(w http.ResponseWriter, r *http.Request) error {
	return route.Read(w, r, s.db, s.factors.List)
}

// code reads the code of a request.
func code(r *http.Request) (string, error) {
	var req api.FactorCode
	if err := web.Decode(r, &req); err != nil {
		return "", err
	}
	return req.Code, nil
}

func (s *routes) verify(w http.ResponseWriter, r *http.Request) error {
	given, err := code(r)
	if err != nil {
		return err
	}
	text, err := s.factors.Verify(r.Context(), access.From(r.Context()), given, route.From(r))
	return token(w, text, err)
}

func (s *routes) setup(w http.ResponseWriter, r *http.Request) error {
	var seed string
	err := s.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		seed, err = s.factors.Setup(r.Context(), tx, access.From(r.Context()))
		return err
	})
	return secret(w, seed, err)
}

func (s *routes) enable(w http.ResponseWriter, r *http.Request) error {
	given, err := code(r)
	if err != nil {
		return err
	}
	out, err := s.factors.Enable(r.Context(), access.From(r.Context()), given, route.From(r))
	return secret(w, out, err)
}

func (s *routes) disable(w http.ResponseWriter, r *http.Request) error {
	given, err := code(r)
	if err != nil {
		return err
	}
	text, err := s.factors.Disable(r.Context(), access.From(r.Context()), given, route.From(r))
	return token(w, text, err)
}

func (s *routes) renewCodes(w http.ResponseWriter, r *http.Request) error {
	given, err := code(r)
	if err != nil {
		return err
	}
	codes, err := s.factors.RenewCodes(r.Context(), access.From(r.Context()), given, route.From(r))
	return secret(w, codes, err)
}

// start answers with what a browser is asked with.
func (s *routes) start(w http.ResponseWriter, r *http.Request, make func(context.Context, *db.Tx, access.Caller) (factor.Options, error)) error {
	var options factor.Options
	err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		options, err = make(r.Context(), tx, access.From(r.Context()))
		return err
	})
	return secret(w, options, err)
}

func (s *routes) registerStart(w http.ResponseWriter, r *http.Request) error {
	return s.start(w, r, s.factors.RegisterStart)
}

func (s *routes) verifyStart(w http.ResponseWriter, r *http.Request) error {
	return s.start(w, r, s.factors.VerifyStart)
}

func (s *routes) loginStart(w http.ResponseWriter, _ *http.Request) error {
	return secret(w, s.factors.LoginStart(time.Now()), nil)
}

func (s *routes) register(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Name       string            `json:"name"`
		Credential factor.Credential `json:"credential"`
	}
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	var out api.Enrolled
	err := s.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		out, err = s.factors.Register(r.Context(), tx, access.From(r.Context()), req.Name, req.Credential, route.From(r))
		return err
	})
	return secret(w, out, err)
}

func (s *routes) verifyPasskey(w http.ResponseWriter, r *http.Request) error {
	var c factor.Credential
	if err := web.Decode(r, &c); err != nil {
		return err
	}
	text, err := s.factors.VerifyPasskey(r.Context(), access.From(r.Context()), c, route.From(r))
	return token(w, text, err)
}

func (s *routes) login(w http.ResponseWriter, r *http.Request) error {
	var c factor.Credential
	if err := web.Decode(r, &c); err != nil {
		return err
	}
	text, err := s.factors.Login(r.Context(), c, route.From(r))
	return token(w, text, err)
}

// remove takes a passkey away; the answer is the token of the session that takes the place of the one that asked.
func (s *routes) remove(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Passkey id must be a number")
	if err != nil {
		return err
	}
	var text string
	err = s.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		text, err = s.factors.Remove(r.Context(), tx, access.From(r.Context()), id, route.From(r))
		return err
	})
	return token(w, text, err)
}
