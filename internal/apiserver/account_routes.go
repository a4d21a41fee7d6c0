package apiserver

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var req api.Login
	if form, ok, err := formBody(r); err != nil {
		return err
	} else if ok {
		req = api.Login{Username: form.Get("username"), Password: form.Get("password")}
	} else if err := web.Decode(r, &req); err != nil {
		return err
	}
	token, err := s.accounts.Login(r.Context(), req, from(r))
	if err != nil {
		return retryAfter(w, err)
	}
	return writeSecret(w, token)
}

// formBody reads a form-urlencoded body, which old scripts send instead of JSON; ok is false when the body is something else.
func formBody(r *http.Request) (form url.Values, ok bool, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, false, nil //nolint:nilerr // not a form: the JSON reader judges the content type
	}
	body, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return nil, true, err
	}
	form, err = url.ParseQuery(string(body))
	if err != nil {
		return nil, true, api.Errorf(api.Invalid, "the form is not valid: %v", err)
	}
	return form, true, nil
}

// retryAfter tells a throttled client when to come back.
func retryAfter(w http.ResponseWriter, err error) error {
	var later *account.TryLaterError
	if errors.As(err, &later) {
		w.Header().Set("Retry-After", strconv.FormatInt(later.Seconds(), 10))
	}
	return err
}

// writeSecret answers with a token as plain text, and keeps caches from keeping it.
func writeSecret(w http.ResponseWriter, token string) error {
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteText(w, http.StatusOK, token)
}

func (s *Server) whoami(w http.ResponseWriter, r *http.Request) error {
	var me *api.Whoami
	err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		me, err = s.accounts.Whoami(r.Context(), tx, access.From(r.Context()))
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, me)
}

func (s *Server) userWhoami(w http.ResponseWriter, r *http.Request) error {
	var me *api.Whoami
	err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		me, err = s.accounts.Whoami(r.Context(), tx, access.From(r.Context()))
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, api.User{ID: me.ActorTypeID, Username: me.Username, Email: me.Email})
}

func (s *Server) refresh(w http.ResponseWriter, r *http.Request) error {
	token, err := s.accounts.Refresh(r.Context(), access.From(r.Context()), "", from(r))
	if err != nil {
		return err
	}
	return writeSecret(w, token)
}

func (s *Server) refreshWithPassword(w http.ResponseWriter, r *http.Request) error {
	var req api.Login
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if req.Password == "" {
		return api.ErrUnauthorized
	}
	token, err := s.accounts.Refresh(r.Context(), access.From(r.Context()), req.Password, from(r))
	if err != nil {
		return retryAfter(w, err)
	}
	return writeSecret(w, token)
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	return s.write(r.Context(), func(tx *db.Tx) error {
		return s.accounts.EndSession(r.Context(), tx, access.From(r.Context()), 0)
	}, func() error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

func (s *Server) sessions(w http.ResponseWriter, r *http.Request) error {
	var list []api.Session
	err := s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		list, err = s.accounts.Sessions(r.Context(), tx, access.From(r.Context()))
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, list)
}

func (s *Server) endSession(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "Session id must be a number")
	if err != nil {
		return err
	}
	return s.write(r.Context(), func(tx *db.Tx) error {
		return s.accounts.EndSession(r.Context(), tx, access.From(r.Context()), id)
	}, func() error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

// write runs a transaction and answers when it is durable.
func (s *Server) write(ctx context.Context, f func(tx *db.Tx) error, answer func() error) error {
	if err := s.db.Write(ctx, f); err != nil {
		return err
	}
	return answer()
}

func pathID(r *http.Request, text string) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, api.Errorf(api.Invalid, "%s", text)
	}
	return id, nil
}

// newUserKey is POST /api-key/user/full: a named key of the user who asks.
func (s *Server) newUserKey(w http.ResponseWriter, r *http.Request) error {
	var req api.NewKey
	if err := web.Decode(r, &req); err != nil {
		return err
	}
	if strings.TrimSpace(req.Name) == "" {
		return api.Errorf(api.Invalid, "A key needs a name.")
	}
	spec := account.KeySpec{Of: account.OfUser, ID: access.From(r.Context()).User, Fleets: req.Fleets}
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
func (s *Server) newKey(w http.ResponseWriter, r *http.Request) error {
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
	return s.makeKey(w, r, account.KeySpec{Of: of, ID: req.ActorTypeID, Reader: req.Roles[0] == fleetKeyRole}, req)
}

func (s *Server) newProvisioningKey(w http.ResponseWriter, r *http.Request) error {
	return s.newKeyOf(w, r, account.OfFleet, "Application id must be a number")
}

func (s *Server) newDeviceKey(w http.ResponseWriter, r *http.Request) error {
	return s.newKeyOf(w, r, account.OfDevice, "Device id must be a number")
}

func (s *Server) newKeyOf(w http.ResponseWriter, r *http.Request, of account.Whose, notNumber string) error {
	id, err := pathID(r, notNumber)
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
	if of == account.OfDevice {
		spec.Token = req.APIKey
	}
	return s.makeKey(w, r, spec, req)
}

// makeKey makes a key and shows it, this once.
func (s *Server) makeKey(w http.ResponseWriter, r *http.Request, spec account.KeySpec, req api.NewKey) error {
	spec.Name, spec.Description, spec.Expiry, spec.MaxUses = req.Name, req.Description, req.ExpiryDate, req.MaxUses
	var key string
	err := s.db.Write(r.Context(), func(tx *db.Tx) (err error) {
		key, err = s.accounts.CreateKey(r.Context(), tx, access.From(r.Context()), spec)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, key)
}
