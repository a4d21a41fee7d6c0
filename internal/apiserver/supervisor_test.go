package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/apiserver/actiondoor"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// calls plays the control channel: every device's supervisor is one real HTTP server.
type calls struct {
	url string

	mu   sync.Mutex // covers seen
	seen []string
}

func (c *calls) CallDevice(ctx context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error) {
	if strings.HasSuffix(string(dev.UUID), "dead") {
		return nil, errors.New("no route")
	}
	c.mu.Lock()
	c.seen = append(c.seen, fmt.Sprintf("%s %s %s", method, path, body))
	c.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// supervised is an api role with a fleet of devices whose control channels are up.
type supervised struct {
	*testing.T
	*Server
	calls   *calls
	alice   access.Caller
	bob     access.Caller
	fleet   int64
	devices []api.Registered
}

func newSupervised(t *testing.T, uuids ...string) *supervised {
	t.Helper()
	dir := t.TempDir()
	s := &supervised{T: t}
	s.must(pki.NewTestIdentities(dir, api.RoleAPI))
	role := filepath.Join(dir, api.RoleAPI)
	s.must(os.WriteFile(filepath.Join(role, "pepper"), make([]byte, 32), 0o600))
	var err error
	s.Server, err = New(Config{Dir: role, Site: api.Site{Domain: "roadstead.test"}}, slog.New(slog.DiscardHandler))
	s.must(err)
	t.Cleanup(func() { _ = s.Close() })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, body := "application/json", `{"Data":"OK"}`
		switch r.URL.Path {
		case "/ping":
			kind, body = "text/html", "OK"
		case "/script":
			kind, body = "text/html", "<script>alert(1)</script>"
		case "/picture":
			kind, body = "image/png", "x"
		case "/nothing":
			return
		case "/broken":
			body = `{"Data"`
		case "/long":
			body = `"` + strings.Repeat("x", 1<<20) + `"`
		case "/locked":
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusLocked)
			body = `{"status":"failed","message":"locked"}`
		}
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	s.calls = &calls{url: srv.URL}
	s.alice, s.bob = s.person("alice"), s.person("bob")
	ctx := t.Context()
	s.must(s.db.Write(ctx, func(tx *db.Tx) error {
		var org, typ int64
		err := errors.Join(tx.QueryRowContext(ctx, `SELECT id FROM organization WHERE handle = 'alice'`).Scan(&org),
			tx.QueryRowContext(ctx, `SELECT id FROM device_type WHERE slug = 'generic-amd64'`).Scan(&typ))
		if err != nil {
			return err
		}
		s.fleet, err = s.engine.Insert(ctx, tx, s.alice, "application", map[string]any{"app_name": "harbour", "organization": org, "is_for__device_type": typ})
		return err
	}))
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Server.devices.Run(run) }()
	defer func() {
		stop()
		s.must(<-done)
	}()
	for _, uuid := range uuids {
		made, err := s.Server.devices.Register(ctx, s.alice, api.Register{Application: s.fleet, UUID: api.DeviceUUID(uuid), DeviceType: "generic-amd64"})
		s.must(err)
		s.devices = append(s.devices, made)
	}
	s.must(s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE device SET is_connected_to_vpn = 1`)
		return err
	}))
	return s
}

func (s *supervised) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *supervised) person(name string) (by access.Caller) {
	s.Helper()
	ctx := s.Context()
	_, err := s.accounts.CreateUser(ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: "correct horse battery " + name})
	s.must(err)
	s.must(s.db.Write(ctx, func(tx *db.Tx) error {
		var id int64
		if err := tx.QueryRowContext(ctx, `SELECT id FROM "user" WHERE username = ?`, name).Scan(&id); err != nil {
			return err
		}
		token, err := s.accounts.CreateKey(ctx, tx, access.Itself(), account.KeySpec{Of: account.OfUser, ID: id, Name: "tests"})
		if err != nil {
			return err
		}
		by, err = s.accounts.Authenticate(ctx, tx, token)
		return err
	}))
	return by
}

// do sends one request as a caller.
func (s *supervised) do(by access.Caller, path, body string) *httptest.ResponseRecorder {
	s.Helper()
	mux := http.NewServeMux()
	for _, rt := range (&actiondoor.Supervisor{DB: s.db, Devices: s.Server.devices, Caller: s.caller}).Routes() {
		mux.Handle(rt.Method+" "+rt.Path, web.Handle(slog.New(slog.DiscardHandler), rt.Handle))
	}
	r := httptest.NewRequestWithContext(access.With(s.Context(), by), "POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, r)
	return rec
}

func (s *supervised) want(by access.Caller, path, body string, status int, text string) {
	s.Helper()
	rec := s.do(by, path, body)
	if rec.Code != status || !strings.Contains(rec.Body.String(), text) {
		s.Errorf("POST %s %s: got %d %s, want %d %s", path, body, rec.Code, rec.Body, status, text)
	}
}

const (
	oneUUID = "00000000000000000000000000000001"
	twoUUID = "00000000000000000000000000000002"
)

func TestActionsWithoutAControlChannel(t *testing.T) {
	s := newSupervised(t, oneUUID)
	const none = `"No online device(s) found"`
	s.want(s.alice, "/supervisor/v1/reboot", fmt.Sprintf(`{"deviceId":%d,"data":{"force":false}}`, s.devices[0].ID), 404, none)
	s.want(s.alice, fmt.Sprintf("/application/%d/restart", s.fleet), "", 404, none)
	s.want(s.alice, "/application/x/restart", "", 400, "Application id must be a number")
	for body, text := range map[string]string{
		`{}`: "at least one", `{"deviceId":null}`: "at least one", `{"deviceId":"x"}`: "deviceId", `{"appId":-1}`: "appId", `{"appId":1.5}`: "appId",
		`{"uuid":"../1"}`: "uuid", `{"uuid":""}`: "uuid", `{"deviceId":1,"method":"BREW"}`: "method", `{"deviceId":1,"data":[1]}`: "data",
		`{"uuid":7}`: "uuid", `[]`: "", `x`: "JSON", `{"deviceId":99999999999999999999}`: "deviceId",
	} {
		s.want(s.alice, "/supervisor/v1/blink", body, 400, text)
	}
}

func TestActionsOnDevices(t *testing.T) {
	s := newSupervised(t, oneUUID, twoUUID, strings.Repeat("0", 28)+"dead")
	s.caller = s.calls
	one := fmt.Sprintf(`{"deviceId":"%d","appId":%d,"data":{"appId":7}}`, s.devices[0].ID, s.fleet)
	s.want(s.alice, "/supervisor/v1/restart", one, 200, `{"Data":"OK"}`)
	if got := s.calls.seen[0]; got != `POST /v1/restart {"appId":7}` {
		t.Errorf("the device got %s", got)
	}
	uuid := func(path, method string, status int, text string) {
		t.Helper()
		s.want(s.alice, "/supervisor"+path, fmt.Sprintf(`{"uuid":%q,"method":%q}`, oneUUID, method), status, text)
	}
	uuid("/ping", "get", 200, "OK")
	uuid("/nothing", "GET", 200, "")
	uuid("/locked", "POST", 423, `"locked"`)
	for _, bad := range []string{"/script", "/picture", "/broken", "/long"} {
		uuid(bad, "GET", 500, "Bad API response from supervisor")
	}
	s.want(s.alice, "/supervisor/v1/blink", fmt.Sprintf(`{"deviceId":%d}`, s.devices[2].ID), 502, "could not be reached")
	rec := s.do(s.alice, "/supervisor/v1/device", fmt.Sprintf(`{"appId":%d,"method":"GET"}`, s.fleet))
	var list []struct {
		StatusCode int
		Body       any
	}
	s.must(json.Unmarshal(rec.Body.Bytes(), &list))
	if rec.Code != http.StatusMultiStatus || len(list) != 3 || list[0].StatusCode != 200 || list[2].StatusCode != 502 ||
		fmt.Sprint(list[0].Body) != "map[Data:OK]" {
		t.Errorf("of a fleet: %d %s", rec.Code, rec.Body)
	}
}

func TestWhoActsOnDevices(t *testing.T) {
	s := newSupervised(t, oneUUID, twoUUID)
	s.caller = s.calls
	ctx := t.Context()
	carol := s.person("carol")
	level := func(role access.Level) {
		s.must(s.db.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO user_application_membership (created_at, "user", is_member_of__application,
				application_membership_role) VALUES ('', ?, ?, ?) ON CONFLICT ("user", is_member_of__application) DO UPDATE
				SET application_membership_role = excluded.application_membership_role`, carol.User, s.fleet, int(role))
			return err
		}))
	}
	body := fmt.Sprintf(`{"deviceId":%d}`, s.devices[0].ID)
	get := fmt.Sprintf(`{"deviceId":%d,"method":"GET"}`, s.devices[0].ID)
	s.want(carol, "/supervisor/v1/blink", body, 404, "No online device(s) found")
	level(access.Observer)
	s.want(carol, "/supervisor/v1/blink", body, 403, "actions")
	s.want(carol, "/supervisor/v1/device", get, 200, "OK")
	head := strings.Replace(get, "GET", "HEAD", 1)
	for _, path := range []string{"/v2/cleanup-volumes", "/v2/cleanup-volumes/", "/v2/Cleanup-Volumes", "/v2/clean%2575p-volumes", "/v2/cleanup-volumes%3F", "/v1/nothing"} {
		for _, body := range []string{get, head} { // it deletes what the device keeps, though it is asked with GET
			s.want(carol, "/supervisor"+path, body, 403, "actions")
		}
	}
	for _, path := range []string{"/ping", "/v1/healthy", "/v1/device/host-config", "/v1/apps/7", "/v2/applications/state", "/v2/applications/7/state", "/v2/state/status", "/v2/containerId", "/v2/device/tags"} {
		s.want(carol, "/supervisor"+path, get, 200, "")
	}
	level(access.Operator)
	s.want(carol, "/supervisor/v1/blink", body, 200, "OK")
	s.want(s.bob, "/supervisor/v1/device", get, 404, "No online device(s) found")
	s.want(s.bob, fmt.Sprintf("/application/%d/restart", s.fleet), "", 404, "No online device(s) found")
	itself := access.Caller{Kind: access.Device, Device: s.devices[0].ID, Fleet: s.fleet}
	s.want(itself, "/supervisor/v1/blink", body, 200, "OK")
	s.want(itself, "/supervisor/v1/blink", fmt.Sprintf(`{"deviceId":%d}`, s.devices[1].ID), 404, "No online")
	s.want(itself, "/supervisor/v1/blink", fmt.Sprintf(`{"appId":%d}`, s.fleet), 200, "OK") // of its fleet it means itself
	s.must(s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE device SET is_frozen = 1`)
		return err
	}))
	s.want(s.alice, "/supervisor/v1/blink", body, 404, "No online device(s) found")
}

func TestBoundsOfLogs(t *testing.T) {
	for _, test := range []struct {
		logs  Logs
		names string // what a refusal names
	}{
		{Logs{}, ""}, {Logs{KeepAlive: time.Minute, OfUser: 1, OfDevice: 1}, ""}, {Logs{KeepAlive: time.Millisecond}, "keep_alive"},
		{Logs{KeepAlive: time.Hour}, "keep_alive"}, {Logs{OfUser: -1}, "of_user"}, {Logs{OfDevice: -1}, "of_device"},
	} {
		switch err := test.logs.Validate(); {
		case test.names == "" && err != nil:
			t.Errorf("%+v: %v", test.logs, err)
		case test.names != "" && (err == nil || !strings.Contains(err.Error(), test.names)):
			t.Errorf("%+v: got %v, want a refusal of %s", test.logs, err, test.names)
		}
	}
}

func FuzzRegister(f *testing.F) {
	f.Add("application/json", `{"application":"1","uuid":"x","device_type":"y","user":null}`)
	f.Add("application/x-www-form-urlencoded", "application=1&uuid=%zz")
	f.Fuzz(func(t *testing.T, kind, body string) {
		r := httptest.NewRequest("POST", "/device/register", strings.NewReader(body))
		r.Header["Content-Type"] = []string{kind}
		if _, err := readRegister(r); err != nil && api.AsError(err).Code == api.Internal {
			t.Errorf("readRegister(%q): %v", body, err)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add("appId=1&version=2.98.33", `{"deviceType":"generic-amd64","appUpdatePollInterval":10,"network":"wifi"}`)
	f.Fuzz(func(t *testing.T, query, body string) {
		r := httptest.NewRequest("POST", "/download-config", strings.NewReader(body))
		r.URL.RawQuery = query
		if _, err := answers(r); err != nil && api.AsError(err).Code == api.Internal {
			t.Errorf("answers(%q, %q): %v", query, body, err)
		}
	})
}

func FuzzLogQuery(f *testing.F) {
	f.Add("count=all&start=2026-01-01&stream=1&service=a,b&system=true")
	f.Fuzz(func(t *testing.T, raw string) {
		q, _, err := logQuery(raw, time.UnixMilli(1700000000000))
		if err != nil && api.AsError(err).Code == api.Internal {
			t.Errorf("logQuery(%q): %v", raw, err)
		}
		if q.Count < 0 || q.Count > maxLogLines || len(q.Services) > maxLogServices && err == nil {
			t.Errorf("logQuery(%q): %+v", raw, q)
		}
	})
}
