package apiserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// requestTime bounds a request that is no stream, body and answer included.
const requestTime = 60 * time.Second

// guard finds out who is asking, lets in whom the route names, and bounds the request. Handlers find the caller in the
// request's context.
func (s *Server) guard(rt route.Route) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		place, err := s.gates.enter(rt, w, r)
		if err != nil {
			return turnedAway(w, err)
		}
		defer place.leave()
		caller, err := s.admit(rt, r)
		if err != nil {
			if rt.Keyed && errors.Is(err, api.ErrUnauthorized) {
				return web.WriteJSON(w, http.StatusUnauthorized, map[string]string{"error": "API key required"})
			}
			s.note(rt, r, from(caller, r), err, false)
			return err
		}
		caller = from(caller, r)
		s.accounts.UsedFrom(caller)
		if err := place.become(rt, r, caller); err != nil {
			return turnedAway(w, err)
		}
		if caller.Key != 0 {
			s.accounts.Used(caller, s.verb(rt, r))
		}
		ctx, cancel := s.bound(access.With(r.Context(), caller), rt, w, r)
		defer cancel()
		r = r.WithContext(ctx)
		if rt.Stream {
			s.notes.Look(caller, r.URL)
			return rt.Handle(w, r)
		}
		gz := s.compress(w, r)
		defer gz.Close()
		err = rt.Handle(gz, r)
		told := err == nil || gz.wrote() // whoever breaks off in the middle has read some of it
		if !told {
			web.WriteError(gz, err) // here, so that a long error text is compressed like any answer; web.Handle logs it
		}
		s.note(rt, r, caller, err, told)
		return err
	}
}

// from says of a caller where the request comes from, for the audit log.
func from(by access.Caller, r *http.Request) access.Caller {
	by.Address, by.Request = route.From(r).Address, web.RequestID(r.Context())
	return by
}

// note tells the audit log, a moment later, what support staff looked at and what people were refused. told: the caller got an answer.
func (s *Server) note(rt route.Route, r *http.Request, by access.Caller, err error, told bool) {
	switch reads := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case reads && told:
		s.notes.Look(by, r.URL)
	case !reads && (errors.Is(err, api.ErrForbidden) || errors.Is(err, api.ErrUnauthorized)):
		s.notes.Refused(by, r.Method, rt.Path, web.ShownPath(r))
	}
}

// admit authenticates a request and holds it against the route's rule. Public routes are for the edge, internal ones for the
// roles they name; the certificate decides which of the two a connection can reach.
func (s *Server) admit(rt route.Route, r *http.Request) (access.Caller, error) {
	role := pki.PeerRole(r)
	if len(rt.Roles) > 0 {
		if !slices.Contains(rt.Roles, role) {
			return access.Nobody(), api.Errorf(api.NotFound, "") // the public does not learn what is internal
		}
		return access.Caller{Kind: access.Service, Role: role, Name: role}, nil
	}
	if !isPublic(r) {
		return access.Nobody(), api.Errorf(api.Forbidden, "this route is reached through the edge")
	}
	if slices.Equal(rt.Who, route.Anybody) {
		return access.Nobody(), nil
	}
	caller, err := s.authenticate(r, rt.Basic, rt.By())
	if err != nil {
		return caller, err
	}
	switch {
	case slices.Contains(rt.Who, caller.Kind) && (caller.Kind != access.User || rt.Login == rights.NoLogin):
		return caller, nil
	case slices.Contains(rt.Who, caller.Kind):
		ctx := s.db.Brief(r.Context())
		return caller, s.db.ReadOne(ctx, func(tx *db.Tx) error { return rt.Login.Require(ctx, tx, caller) })
	case caller.Kind == access.HalfUser:
		return caller, api.Errorf(api.Unauthorized, "this session waits for the second factor of its user")
	case slices.Contains([]access.Kind{access.Anonymous, access.Provisioning, access.FrozenDevice}, caller.Kind):
		return caller, api.ErrUnauthorized
	default:
		return caller, api.Errorf(api.Forbidden, "this is not for a %s", caller.Kind)
	}
}

// authenticate says who a request's credentials stand for; none at all is nobody, and ones that do not hold, or not on this channel or
// from this network, are an error.
func (s *Server) authenticate(r *http.Request, basic bool, by access.Channels) (access.Caller, error) {
	token, given := credentials(r, basic)
	if !given {
		return access.Nobody(), nil
	}
	sum := sha256.Sum256([]byte(token))
	caller, known, asked := s.callers.Find(sum)
	if known {
		return s.come(r, caller, by)
	}
	var expires time.Time
	ctx := s.db.Brief(r.Context())
	err := s.db.ReadOne(ctx, func(tx *db.Tx) (err error) {
		caller, expires, err = s.accounts.AuthenticateUntil(ctx, tx, token)
		return err
	})
	if err != nil {
		return caller, err
	}
	s.callers.Keep(sum, caller, expires, asked)
	return s.come(r, caller, by)
}

// come holds a caller against where the request comes from: with every request, for what is remembered is a token's, not a place's.
func (s *Server) come(r *http.Request, caller access.Caller, by access.Channels) (access.Caller, error) {
	if err := caller.Comes(by, route.From(r).Address); err != nil {
		return access.Nobody(), err
	}
	return caller, nil
}

// credentials finds the token of a request: a Bearer header, the apikey parameter, or where allowed a Basic password. The
// query is split by hand, because net/url drops parameters that hold a semicolon, as OData's do.
func credentials(r *http.Request, basic bool) (token string, given bool) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, rest, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(rest), true
		}
		if _, password, ok := r.BasicAuth(); ok && basic {
			return password, true
		}
		return "", true // something we do not take: never treat it as nobody
	}
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if value, ok := strings.CutPrefix(part, "apikey="); ok {
			token, err := url.QueryUnescape(value)
			if err != nil {
				return "", true
			}
			return token, true
		}
	}
	return "", false
}

// bound gives a stream a context that ends with the server, and everything else a time limit.
func (s *Server) bound(ctx context.Context, rt route.Route, w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	if !rt.Stream {
		deadline := time.Now().Add(requestTime)
		rc := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			_ = rc.SetReadDeadline(deadline) // not supported in some tests; then the context's deadline is left
		}
		_ = rc.SetWriteDeadline(deadline.Add(5 * time.Second))
		return context.WithDeadline(ctx, deadline)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with the request: the caller always calls the function returned
		defer close(done)
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// forgetRevoked hears of revocations by other processes, until the context ends.
func (s *Server) forgetRevoked(ctx context.Context) error {
	stop, err := s.bus.Subscribe("revoked.>", func(string, []byte) { s.callers.Forget() })
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	defer stop()
	<-ctx.Done()
	return nil
}
