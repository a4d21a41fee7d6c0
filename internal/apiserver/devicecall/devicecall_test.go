package devicecall_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/devicecall"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/release"
)

// serve plays the vpn role, in front of a device's HTTP server.
func serve(t *testing.T, id *pki.Identity, h http.HandlerFunc) string {
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = id.ServerTLS()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestDevicesAreCalledThroughTheVPNRole(t *testing.T) {
	dir := t.TempDir()
	must(t, pki.NewTestIdentities(dir, api.RoleAPI, api.RoleVPN))
	ours, err := pki.LoadIdentity(filepath.Join(dir, api.RoleAPI))
	must(t, err)
	theirs, err := pki.LoadIdentity(filepath.Join(dir, api.RoleVPN))
	must(t, err)
	d := dbtest.Open(t, nil, audit.Migrations(), account.Migrations(), fleet.Migrations(), release.Migrations(), device.Migrations())
	dev := newDevice(t, d)

	var reached atomic.Int32
	hostile := newHostile(t, &reached)
	var last api.DeviceCall
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	at := serve(t, theirs, func(w http.ResponseWriter, r *http.Request) {
		last = api.DeviceCall{}
		if err := json.NewDecoder(r.Body).Decode(&last); err != nil || r.URL.Path != "/device/call" || pki.PeerRole(r) != api.RoleAPI {
			t.Errorf("the vpn role is asked %s by %s: %v", r.URL, pki.PeerRole(r), err)
		}
		switch last.Path {
		case "/offline":
			w.WriteHeader(http.StatusNotFound)
			return
		case "/refused":
			http.Error(w, "nothing listens on that port of the device", http.StatusBadGateway)
			return
		case "/broken":
			http.Error(w, "unexpected EOF", http.StatusBadGateway)
			return
		case "/late":
			w.WriteHeader(http.StatusGatewayTimeout)
			return
		case "/flood":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), last.Method, hostile.URL+last.Path, strings.NewReader(string(last.Body)))
		if err != nil {
			t.Error(err)
			return
		}
		res, err := client.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusGatewayTimeout)
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, _ := io.ReadAll(io.LimitReader(res.Body, 2<<20))
		answer := api.DeviceCalled{Status: res.StatusCode, Body: body, Headers: map[string]string{}}
		for name := range res.Header {
			answer.Headers[name] = res.Header.Get(name)
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	c := devicecall.New(d, ours.Client(api.RoleVPN, at), nil)

	res, err := c.CallDevice(t.Context(), dev, http.MethodPost, "/v1/a b?c\r\nd", []byte(`{"force":true}`))
	must(t, err)
	if text, _ := io.ReadAll(res.Body); string(text) != "as it was asked for" {
		t.Errorf("the path became %q", last.Path)
	}
	if last.UUID != dev.UUID || last.Port != 4321 || last.Headers["Authorization"] != "Bearer s3cret" || strings.Contains(last.Path, "s3cret") ||
		string(last.Body) != `{"force":true}` || last.Timeout <= 0 || last.Timeout > 50_000 {
		t.Errorf("the vpn role is asked %+v", last)
	}
	for path, want := range map[string]int{"/v1/redirect": http.StatusTemporaryRedirect, "/v1/headers": http.StatusOK} {
		reached.Store(0)
		res, err := c.CallDevice(t.Context(), dev, http.MethodGet, path, nil)
		must(t, err)
		if res.StatusCode != want || reached.Load() != 1 {
			t.Errorf("%s: %d after %d requests", path, res.StatusCode, reached.Load())
		}
		for name := range res.Header {
			if name != "Content-Type" {
				t.Errorf("%s: the device's header %s comes through", path, name)
			}
		}
	}
	res, err = c.CallDevice(t.Context(), dev, http.MethodGet, "/v1/endless", nil)
	must(t, err)
	if text, _ := io.ReadAll(res.Body); len(text) > 1<<20+1 {
		t.Errorf("an endless answer has %d bytes", len(text))
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.CallDevice(short, dev, http.MethodGet, "/v1/never", nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, action.ErrNotSent) {
		t.Errorf("a device that never answers: %v", err)
	}
	for path, notSent := range map[string]bool{"/offline": true, "/refused": true, "/late": false, "/broken": false, "/flood": false} {
		if _, err := c.CallDevice(t.Context(), dev, http.MethodGet, path, nil); err == nil || errors.Is(err, action.ErrNotSent) != notSent {
			t.Errorf("%s: %v", path, err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	nobody := ln.Addr().String()
	must(t, ln.Close())
	if _, err := devicecall.New(d, ours.Client(api.RoleVPN, nobody), nil).CallDevice(t.Context(), dev, http.MethodGet, "/x", nil); !errors.Is(err, action.ErrNotSent) {
		t.Errorf("without a vpn role: %v", err)
	}
	if _, err := c.CallDevice(t.Context(), device.Reachable{ID: 999}, http.MethodGet, "/x", nil); !errors.Is(err, action.ErrNotSent) {
		t.Errorf("a device that is gone: %v", err)
	}
}

// newHostile is a device that answers with whatever it likes; it counts what reaches it.
func newHostile(t *testing.T, reached *atomic.Int32) *httptest.Server {
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		switch r.URL.Path {
		case "/v1/redirect":
			http.Redirect(w, r, "/v1/elsewhere", http.StatusTemporaryRedirect)
		case "/v1/headers":
			w.Header().Set("Set-Cookie", "session=stolen")
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("X-Huge", strings.Repeat("x", 100_000))
		case "/v1/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/v1/never":
			<-r.Context().Done()
		case "/v1/a b?c\r\nd":
			_, _ = io.WriteString(w, "as it was asked for")
		}
	}))
	t.Cleanup(hostile.Close)
	return hostile
}

func newDevice(t *testing.T, d *db.DB) device.Reachable {
	t.Helper()
	dev := device.Reachable{UUID: api.DeviceUUID(strings.Repeat("a", 32))}
	accounts, err := account.New(account.Config{DB: d, Pepper: []byte(strings.Repeat("p", 32)), Log: slog.New(slog.DiscardHandler),
		PasswordCost: password.Cost{Memory: 64, Passes: 1}})
	must(t, err)
	fleets := fleet.New(fleet.Config{Accounts: accounts, Site: api.Site{Domain: "roadstead.test", Port: 443}})
	_, err = accounts.CreateUser(t.Context(), api.NewUser{Email: "alice@example.com", Username: "alice", Password: "correct horse battery alice"})
	must(t, err)
	must(t, d.Write(t.Context(), func(tx *db.Tx) error {
		ctx := t.Context()
		if err := fleets.Prepare(ctx, tx); err != nil {
			return err
		}
		actor, err := account.NewActor(ctx, tx)
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `INSERT INTO application (created_at, actor, organization, app_name, slug, is_for__device_type, application_type, uuid)
			SELECT '', ?, o.id, 'harbour', 'alice/harbour', t.id, (SELECT min(id) FROM application_type), 'f' FROM organization o, device_type t
			WHERE o.handle = 'alice' AND t.slug = 'generic-amd64' RETURNING id`, actor).Scan(&dev.Fleet); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type, belongs_to__application,
				api_port, api_secret) SELECT '', '', actor, ?, 'device', is_for__device_type, id, 4321, 's3cret' FROM application WHERE id = ? RETURNING id`,
			string(dev.UUID), dev.Fleet).Scan(&dev.ID)
	}))
	return dev
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
