package deviceapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/appkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Bounds of what the API takes.
const (
	maxBody   = 1 << 20
	maxHeader = 16 << 10
	maxBusy   = 32 // requests at once
	maxConns  = 64 // connections at once to one address; more are closed at once
)

// Server answers the API.
type Server struct {
	acts Acts
	keys *appkey.Keys
	log  *slog.Logger
	busy chan struct{}
	mux  *http.ServeMux // for containers
	far  *http.ServeMux // for who comes by the tunnel

	// Commanded checks the signed command of a request: that it is for just this, and was not done before. Whoever has the
	// device's key or comes by the tunnel needs one; nil: nobody does.
	Commanded func(what api.TrustCommand, command []byte) error
}

// ErrCommand says that a device which verifies was not given the command for what it is to do.
var ErrCommand = errors.New("not commanded")

// New makes a server; it listens nowhere yet.
func New(acts Acts, keys *appkey.Keys, log *slog.Logger) *Server {
	s := &Server{acts: acts, keys: keys, log: log, busy: make(chan struct{}, maxBusy), mux: http.NewServeMux(), far: http.NewServeMux()}
	for _, r := range s.routes() {
		s.mux.HandleFunc(r.pattern, s.handle(r, false))
		s.far.HandleFunc(r.pattern, s.handle(r, true))
	}
	return s
}

// Serve answers on a listener of the tunnel until the context ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.serve(ctx, ln, s.far) }

// ServeFrom is Serve for those within a network only: a packet for one of a device's addresses may come by any of its interfaces.
func (s *Server) ServeFrom(ctx context.Context, ln net.Listener, from netip.Prefix) error {
	return s.serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Contains(peer.Addr().Unmap()) {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		s.mux.ServeHTTP(w, r)
	}))
}

func (s *Server) serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 30 * time.Second,
		WriteTimeout: 10 * time.Minute, // an act may take long; so does nobody's reading
		ErrorLog:     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	defer func() { <-ended }()
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	defer close(ended)
	err := srv.Serve(&bounded{Listener: ln, free: make(chan struct{}, maxConns)})
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return err
}

// bounded closes connections that are too many: whoever holds them all locks out nobody but those who come by the same address.
type bounded struct {
	net.Listener
	free chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.free <- struct{}{}:
			return &held{Conn: conn, release: sync.OnceFunc(func() { <-b.free })}, nil
		default:
			_ = conn.Close()
		}
	}
}

type held struct {
	net.Conn
	release func()
}

func (h *held) Close() error {
	defer h.release()
	return h.Conn.Close()
}

// route is one way to ask.
type route struct {
	pattern string
	open    bool           // without a key
	changes api.ActionVerb // what it does to the device: where commands are needed, it needs one
	do      func(*request) error
}

// request is a request whose key was checked.
type request struct {
	w     http.ResponseWriter
	r     *http.Request
	scope appkey.Scope
	state State
	body  map[string]any

	changes api.ActionVerb
	far     bool
	server  *Server
}

// handle checks the key and renders errors. Each request ends up in the log at most once.
func (s *Server) handle(rt route, far bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.busy <- struct{}{}:
			defer func() { <-s.busy }()
		default:
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			return
		}
		q := &request{w: w, r: r, changes: rt.changes, far: far, server: s}
		var err error
		if !rt.open {
			if q.state, err = s.acts.State(r.Context()); err == nil && !q.authenticate(s.keys) {
				http.Error(w, "Unauthorized", http.StatusUnauthorized)
				return
			}
		}
		if err == nil {
			err = q.read()
		}
		if err == nil && !rt.changes.OfService() {
			err = q.commanded("") // a service is known later
		}
		if err == nil {
			err = rt.do(q)
		}
		if err != nil {
			s.fail(q, err)
		}
	}
}

// commanded checks the signed command of a request that needs one.
func (q *request) commanded(service string) error {
	s := q.server
	if s.Commanded == nil || q.changes == "" || !q.far && !q.scope.Device {
		return nil
	}
	what := api.TrustCommand{Verb: q.changes, Service: service, Force: q.force()}
	if q.changes == api.ActHostConfig {
		if _, err := ReadHostChange(q.body["network"]); err != nil {
			return err // before a command is used up for it
		}
		var err error
		if what.Digest, err = tuf.CanonicalDigest(q.body["network"]); err != nil {
			return fmt.Errorf("%w: network: %w", ErrInvalid, err)
		}
	}
	if !what.Verb.NeedsCommand(what.Force) {
		return nil
	}
	given := q.r.Header.Get(api.TrustCommandHeader)
	if given == "" {
		return fmt.Errorf("%w: this device does what its fleet's key signed, and the header %s is missing", ErrCommand, api.TrustCommandHeader)
	}
	command, err := base64.StdEncoding.DecodeString(given)
	if err != nil {
		return fmt.Errorf("%w: the header %s is not base64", ErrCommand, api.TrustCommandHeader)
	}
	if err := s.Commanded(what, command); err != nil {
		return fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return nil
}

// authenticate finds out what the request's key reaches.
func (q *request) authenticate(keys *appkey.Keys) bool {
	key := q.r.URL.Query().Get("apikey")
	if kind, given, ok := strings.Cut(q.r.Header.Get("Authorization"), " "); ok && (strings.EqualFold(kind, "Bearer") || strings.EqualFold(kind, "ApiKey")) {
		key = strings.TrimSpace(given)
	}
	var fleets []string
	for _, f := range q.state.Fleets {
		fleets = append(fleets, f.UUID)
	}
	var ok bool
	q.scope, ok = keys.Check(key, fleets)
	return ok
}

// read decodes the body: an object of JSON, or a form.
func (q *request) read() error {
	q.body = map[string]any{}
	if q.r.Body == nil || q.r.ContentLength == 0 {
		return nil
	}
	text, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, maxBody))
	if err != nil || len(text) == 0 {
		return err
	}
	kind, _, _ := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
	if kind == "application/x-www-form-urlencoded" {
		q.r.Body = io.NopCloser(strings.NewReader(string(text)))
		if err := q.r.ParseForm(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		for name := range q.r.PostForm {
			q.body[name] = q.r.PostForm.Get(name)
		}
		return nil
	}
	if err := json.Unmarshal(text, &q.body); err != nil {
		return fmt.Errorf("%w: the body is not an object of JSON", ErrInvalid)
	}
	return nil
}

// errUnauthorized says that the key is for another fleet.
var errUnauthorized = errors.New("the key is not for this")

func (s *Server) fail(q *request, err error) {
	var large *http.MaxBytesError
	switch {
	case errors.Is(err, errUnauthorized):
		http.Error(q.w, "Unauthorized", http.StatusUnauthorized)
	case errors.Is(err, ErrCommand):
		s.log.Warn("the device API refused what was asked", "path", q.r.URL.Path, "error", err)
		http.Error(q.w, err.Error(), http.StatusForbidden)
	case errors.Is(err, ErrLocked):
		q.json(http.StatusLocked, map[string]string{"status": "failed", "message": err.Error()})
	case errors.As(err, &large):
		http.Error(q.w, "the body is too large", http.StatusRequestEntityTooLarge)
	case errors.Is(err, ErrInvalid):
		http.Error(q.w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrNotFound):
		http.Error(q.w, err.Error(), http.StatusNotFound)
	default:
		s.log.Warn("the device API could not do what was asked", "path", q.r.URL.Path, "error", err)
		q.json(http.StatusServiceUnavailable, map[string]string{"status": "failed", "message": err.Error()})
	}
}

func (q *request) json(status int, val any) {
	q.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	q.w.WriteHeader(status)
	_ = json.NewEncoder(q.w).Encode(val) // who asked may be gone
}

func (q *request) ok() error {
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(q.w, "OK") // who asked may be gone
	return nil
}

// truthy reads a flag as balena's clients write them.
func truthy(v any) bool {
	switch t := v.(type) {
	case bool:
		return t
	case float64:
		return t == 1
	case string:
		switch strings.ToLower(t) {
		case "1", "true", "on":
			return true
		}
	}
	return false
}

// number reads a positive whole number; anything else is 0.
func number(v any) int64 {
	switch t := v.(type) {
	case float64:
		if t == float64(int64(t)) && t > 0 {
			return int64(t)
		}
	case string:
		if n, err := strconv.ParseInt(t, 10, 64); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

func (q *request) force() bool {
	return truthy(q.body["force"]) || truthy(q.r.URL.Query().Get("force"))
}

// fleet finds the fleet that a request names, and refuses a key of another one. Both answer alike for a fleet that is not on the device:
// a key that does not reach everything learns nothing of what else there is.
func (q *request) fleet() (*FleetState, error) {
	id := number(q.r.PathValue("app"))
	if q.r.PathValue("app") == "" {
		id = number(q.body["appId"])
	}
	if id == 0 {
		return nil, fmt.Errorf("%w: missing app id", ErrInvalid)
	}
	for i, f := range q.state.Fleets {
		if f.ID != id {
			continue
		}
		if !q.sees(f) {
			return nil, errUnauthorized
		}
		return &q.state.Fleets[i], nil
	}
	if !q.scope.Device {
		return nil, errUnauthorized
	}
	return nil, fmt.Errorf("%w: the device has no app %d", ErrNotFound, id)
}

func (q *request) sees(f FleetState) bool { return q.scope.Device || q.scope.Fleet == f.UUID }

// alone reports whether the key reaches everything that there is on the device.
func (q *request) alone() bool { return q.scope.Device || len(q.state.Fleets) == 1 }
