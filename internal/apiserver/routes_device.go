package apiserver

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/web"
)

// deviceRoutes are the routes that devices call, and those about one device.
func (s *Server) deviceRoutes() []route.Route {
	itself := []access.Kind{access.Device}
	registering := []access.Kind{access.Provisioning, access.User, access.ScopedKey}
	return []route.Route{
		{Method: "POST", Path: "/device/register", Handle: s.registerDevice, Who: registering, Verb: access.Devices | access.Keys},
		{Method: "GET", Path: "/device/v3/{uuid}/state", Handle: s.targetState, Who: route.PeopleAndDevice},
		{Method: "GET", Path: "/device/v2/{uuid}/state", Handle: s.targetStateV2, Who: route.PeopleAndDevice},
		{Method: "GET", Path: "/device/v3/fleet/{uuid}/state", Handle: s.fleetState, Who: route.ByRules},
		{Method: "GET", Path: "/device/v3/fleet/{uuid}/state/{$}", Handle: s.fleetState, Who: route.ByRules},
		{Method: "PATCH", Path: "/device/v3/state", Handle: s.reportState, Who: itself, Keyed: true},
		{Method: "PATCH", Path: "/device/v2/{uuid}/state", Handle: s.reportStateV2, Who: itself, Keyed: true},
		{Method: "PATCH", Path: "/device/v3/tags", Handle: s.reportTags, Who: itself, Keyed: true},
		{Method: "POST", Path: "/v7/device_config_variable", Handle: s.newConfigVariable, Who: route.ByRules, Verb: access.Devices},
		{Method: "POST", Path: "/v6/device_config_variable", Handle: s.newConfigVariable, Who: route.ByRules, Verb: access.Devices},

		{Method: "POST", Path: "/device/v2/{uuid}/log-stream", Handle: s.takeLog, Who: itself, Stream: true},
		{Method: "POST", Path: "/device/v2/{uuid}/logs", Handle: s.takeLogLines, Who: itself},
		{Method: "GET", Path: "/device/v2/{uuid}/logs", Handle: s.readLog, Who: route.PeopleAndDevice, Stream: true},

		{Method: "GET", Path: "/os/v1/config", Handle: s.osConfig, Who: route.Anybody},
		{Method: "GET", Path: "/auth/v1/public-keys/{username}", Handle: s.publicKeys, Who: route.PeopleAndDevice, Keyed: true},
		{Method: "GET", Path: "/access/v1/hostos/{uuid}", Handle: s.hostAccess, Who: route.People, Verb: access.Shell},

		{Method: "GET", Path: "/auth/v1/token", Handle: s.registryToken, Who: route.PeopleAndDevice, Basic: true, Channel: access.Registry},
	}
}

func deviceUUID(r *http.Request) api.DeviceUUID { return api.DeviceUUID(r.PathValue("uuid")) }

func (s *Server) registerDevice(w http.ResponseWriter, r *http.Request) error {
	req, err := readRegister(r)
	if err != nil {
		return err
	}
	made, err := s.devices.Register(r.Context(), access.From(r.Context()), req)
	if errors.Is(err, api.ErrConflict) { // as plain text, which old supervisors compare
		return web.WriteText(w, http.StatusConflict, api.AsError(err).Text)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusCreated, made)
}

// readRegister reads JSON from supervisors and forms from scripts. Numbers may come as text in both.
func readRegister(r *http.Request) (req api.Register, err error) {
	fields := map[string]any{}
	if form, ok, err := route.FormBody(r); err != nil {
		return req, err
	} else if ok {
		for name := range form {
			fields[name] = form.Get(name)
		}
	} else if err := web.Decode(r, &fields); err != nil {
		return req, err
	}
	texts := map[string]*string{
		"device_type": &req.DeviceType, "api_key": &req.APIKey, "supervisor_version": &req.SupervisorVersion,
		"os_version": &req.OSVersion, "os_variant": &req.OSVariant, "mac_address": &req.MACAddress, "uuid": (*string)(&req.UUID),
		"device_name": &req.DeviceName,
	}
	for name, to := range texts {
		switch v := fields[name].(type) {
		case nil:
		case string:
			*to = v
		default:
			return req, api.Errorf(api.Invalid, "%q is not a string", name)
		}
	}
	switch v := fields["application"].(type) {
	case float64:
		req.Application = int64(v)
		if float64(req.Application) != v {
			req.Application = 0
		}
	case string:
		req.Application, _ = strconv.ParseInt(v, 10, 64) // 0 is refused like everything that is no id
	}
	return req, nil
}

// targetState answers a device that asks what it should run; the common answer is that nothing has changed.
func (s *Server) targetState(w http.ResponseWriter, r *http.Request) error {
	t, err := s.target(r)
	if err != nil {
		return err
	}
	if t.Unchanged() {
		return writeState(w, t.ETag, true, nil)
	}
	text, err := t.JSON()
	if err != nil {
		return err
	}
	stateHeader(w, t.ETag)
	return web.WriteRawJSON(w, http.StatusOK, text)
}

// target is what a device should run, and the device's sign of life if it is the device that asks.
func (s *Server) target(r *http.Request) (t device.Target, err error) {
	by, uuid, known, done := access.From(r.Context()), deviceUUID(r), r.Header.Get("If-None-Match"), false
	brief := s.db.Brief(r.Context())
	err = s.db.ReadOne(brief, func(tx *db.Tx) (err error) {
		t, done, err = s.devices.Ask(brief, tx, by, uuid, known)
		return err
	})
	if err == nil && !done {
		err = s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
			t, err = s.devices.Target(r.Context(), tx, by, uuid, known)
			return err
		})
	}
	if err == nil && by.Kind == access.Device {
		s.devices.Heard(r.Context(), t)
	}
	return t, err
}

// targetStateV2 is the same for supervisors before version 13.
func (s *Server) targetStateV2(w http.ResponseWriter, r *http.Request) error {
	t, err := s.target(r)
	if err != nil {
		return err
	}
	older, err := t.V2()
	if err != nil {
		return err
	}
	return writeState(w, t.ETag, older == nil, older)
}

// fleetState says what a device of a fleet would run that has nothing of its own.
func (s *Server) fleetState(w http.ResponseWriter, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.Errorf(api.Invalid, "the query is not valid: %v", err)
	}
	var t device.Target
	var state api.FleetState
	err = s.db.Read(r.Context(), func(tx *db.Tx) (err error) {
		t, state, err = s.devices.FleetTarget(r.Context(), tx, access.From(r.Context()), r.PathValue("uuid"), query.Get("releaseUuid"),
			r.Header.Get("If-None-Match"))
		return err
	})
	if err != nil {
		return err
	}
	return writeState(w, t.ETag, state == nil, state)
}

func stateHeader(w http.ResponseWriter, tag string) {
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache")
}

func writeState(w http.ResponseWriter, tag string, unchanged bool, state any) error {
	stateHeader(w, tag)
	if unchanged {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return web.WriteJSON(w, http.StatusOK, state)
}

func (s *Server) reportState(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return err
	}
	if err := s.devices.Report(r.Context(), access.From(r.Context()), body, route.From(r).Address); err != nil {
		return busy(w, err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) reportStateV2(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return err
	}
	if err := s.devices.ReportV2(r.Context(), access.From(r.Context()), deviceUUID(r), body, route.From(r).Address); err != nil {
		return busy(w, err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// busy tells a device when to try again. Real supervisors take the number for milliseconds: they come back at once, and the next
// refusal makes them wait longer and longer by themselves.
func busy(w http.ResponseWriter, err error) error {
	if errors.Is(err, api.ErrUnavailable) && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "15")
	}
	return err
}

// reportTags takes the tags that supervisors send. A device's key writes its own state only, so nothing becomes of them unless the
// fleet allows it; a refusal would be repeated for ever.
func (s *Server) reportTags(w http.ResponseWriter, r *http.Request) error {
	var byUUID map[api.DeviceUUID]map[string]any
	if err := web.Decode(r, &byUUID); err != nil {
		return err
	}
	err := s.db.Write(r.Context(), func(tx *db.Tx) error {
		return s.devices.ReportTags(r.Context(), tx, access.From(r.Context()), byUUID)
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// newConfigVariable hands people's requests on to the engine. A supervisor that begins its life writes its current
// configuration here, and does not go on before it has been told that it was stored; it is told, and nothing is.
func (s *Server) newConfigVariable(w http.ResponseWriter, r *http.Request) error {
	by := access.From(r.Context())
	if by.Kind != access.Device {
		return s.engine.Handler()(w, r)
	}
	var v struct {
		Device int64  `json:"device"`
		Name   string `json:"name"`
		Value  string `json:"value"`
	}
	if err := web.Decode(r, &v); err != nil {
		return err
	}
	if v.Device != by.Device {
		return api.ErrUnauthorized
	}
	return web.WriteJSON(w, http.StatusCreated, map[string]any{
		"id": 0, "device": map[string]int64{"__id": v.Device}, "name": v.Name, "value": v.Value,
	})
}

// registryToken answers engines and clients that want to pull, and those that push into quarantine.
func (s *Server) registryToken(w http.ResponseWriter, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.Errorf(api.Invalid, "the query is not valid: %v", err)
	}
	var scopes []string
	for name, values := range query { // scope, scope[], scope[0], …
		if name == "scope" || strings.HasPrefix(name, "scope[") {
			for _, v := range values {
				scopes = append(scopes, strings.Fields(v)...)
			}
		}
	}
	by := access.From(r.Context())
	ask := api.PullTokenRequest{Subject: by.Name}
	ctx, read := r.Context(), s.db.Read
	if len(scopes) <= 1 && !strings.Contains(strings.Join(scopes, ""), "push") { // one statement
		ctx, read = s.db.Brief(ctx), s.db.ReadOne
	}
	err = read(ctx, func(tx *db.Tx) (err error) {
		if ask.Access, err = s.releases.PushGrants(ctx, tx, by, scopes); err != nil {
			return err
		}
		pull, err := s.devices.PullGrants(ctx, tx, by, s.cfg.Site.Host("registry2"), scopes)
		ask.Access = append(append([]api.Grant{}, ask.Access...), pull...)
		ask.Access = ask.Access[:min(len(ask.Access), api.MaxGrants)]
		return err
	})
	if err != nil {
		return err
	}
	token, err := s.tokens.sign(r.Context(), ask)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteJSON(w, http.StatusOK, api.RegistryToken{Token: token.Token})
}

// takeLog takes a device's log for as long as it sends. It says nothing before the end: devices take any early answer for a
// failure.
func (s *Server) takeLog(w http.ResponseWriter, r *http.Request) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-ndjson" {
		return api.Errorf(api.Unsupported, "a log is application/x-ndjson")
	}
	log, err := s.devices.Logs.Open(r.Context(), access.From(r.Context()), deviceUUID(r))
	if err != nil {
		return err
	}
	defer log.Close()
	var body io.Reader = r.Body
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		body = &unzip{from: r.Body}
	default:
		return api.Errorf(api.Unsupported, "a log is sent as it is or compressed with gzip")
	}
	rc := http.NewResponseController(w)
	stop := context.AfterFunc(log.Context(), func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) }) // ends a read that waits
	defer stop()
	if err := log.Copy(body); err != nil {
		w.Header().Set("Connection", "close")
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// unzip reads a gzip stream and begins with it only when asked for the first byte: gzip.NewReader waits for the header.
type unzip struct {
	from io.Reader
	zip  *gzip.Reader
}

func (u *unzip) Read(p []byte) (n int, err error) {
	if u.zip == nil {
		if u.zip, err = gzip.NewReader(u.from); err != nil {
			return 0, err
		}
	}
	return u.zip.Read(p)
}

func (s *Server) takeLogLines(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return err
	}
	if err := s.devices.Logs.Post(r.Context(), access.From(r.Context()), deviceUUID(r), body); err != nil {
		if errors.Is(err, api.ErrRateLimited) {
			w.Header().Set("Retry-After", "10")
		}
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}
