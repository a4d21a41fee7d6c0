package apiserver_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
)

func itoa(v any) string {
	if f, ok := v.(float64); ok {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprint(v)
}

// open are the routes that need no token. Everything else answers 401 without one.
var open = map[string]bool{
	"GET /ping": true, "GET /connectivity-check": true, "GET /config": true, "GET /config/vars": true, "POST /login_": true,
	"GET /device-types/v1": true, "GET /device-types/v1/{slug}": true, "GET /download": true,
	"GET /device-types/v1/{slug}/images/{version}/download-size": true, "GET /os/v1/config": true, "GET /.well-known/security.txt": true,
	"POST /user/v1/password/forgot": true, "POST /user/v1/password/reset": true,
	"GET /audit/v1/keys": true, "GET /provenance/v1/keys": true,
	"GET /auth/v1/providers": true, "POST /auth/v1/providers/{name}/start": true, "POST /auth/v1/providers/{name}/finish": true,
	"POST /auth/v1/device/code": true, "POST /auth/v1/device/token": true,
	"GET /ssh/v1/authorities": true, "POST /device/v3/ssh/end": true, "PUT /device/v3/ssh/session/{id}/recording": true,
	"POST /auth/webauthn/login/start": true, "POST /auth/webauthn/login": true,
}

func TestEveryRouteWithoutATokenIsRefused(t *testing.T) {
	s := newServer(t)
	routes := apiserver.Routes()
	if len(routes) < 20 {
		t.Fatalf("only %d routes", len(routes))
	}
	for _, rt := range routes {
		path := strings.NewReplacer("{$}", "", "{id}", "1", "{uuid}", strings.Repeat("a", 32), "{slug}", "generic-amd64", "{version}", "6.0.0",
			"{upload}", strings.Repeat("a", 32), "{part}", "1", "{path...}", "v1/blink", "{name}", "nothing", "{username}", "alice", "{token}", "x",
			"{digest}", "sha256:x", "{what}", "sbom", "{fleet}", "alice%2Fhello", "{file}", "root.json", "{commit}", strings.Repeat("c", 32), "{document}", "x.json").Replace(rt.Path)
		if strings.ContainsAny(path, "{}") {
			t.Errorf("%s %s: the test does not know this wildcard", rt.Method, rt.Path)
			continue
		}
		method := rt.Method
		if method == "" {
			method, path = "GET", path+"device"
		}
		switch {
		case rt.Path == "/healthz": // for every role, the edge too
		case rt.Internal:
			s.do("", method, path, nil).want(http.StatusNotFound)
			s.do(s.admin.APIKey, method, path, nil).want(http.StatusNotFound)
		case strings.HasPrefix(rt.Path, "/blobs/"): // let in whom a signed address lets in, and no token
			s.do("", method, path, nil).want(http.StatusForbidden)
			s.do(s.admin.APIKey, method, path, nil).want(http.StatusForbidden)
		case open[rt.Method+" "+rt.Path]:
			if got := s.do("", method, path, nil); got.status == http.StatusForbidden || (got.status == http.StatusUnauthorized && path != "/login_") {
				t.Errorf("%s: got %d, want it open", got.what, got.status)
			}
		default:
			s.do("", method, path, nil).want(http.StatusUnauthorized)
			s.do("not-a-token", method, path, nil).want(http.StatusUnauthorized)
		}
	}
}

func TestRolesReachOnlyTheirRoutes(t *testing.T) {
	s := newServer(t)
	for _, role := range []string{api.RoleSigner, api.RoleRegistry, api.RoleBuilder, api.RoleParent, api.RoleAdmin} {
		s.role(role, "GET", "/ping", nil).want(http.StatusForbidden)
		s.role(role, "GET", "/actor/v1/whoami", nil, "Authorization: Bearer "+s.admin.APIKey).want(http.StatusForbidden)
		if role != api.RoleAdmin {
			s.role(role, "POST", "/internal/v1/backup", nil).want(http.StatusNotFound)
			s.role(role, "POST", "/internal/v1/users", api.NewUser{Email: "eve@example.com"}).want(http.StatusNotFound)
		}
		if role != api.RoleParent {
			s.role(role, "POST", "/internal/v1/bootstrap", nil).want(http.StatusNotFound)
		}
		s.role(role, "GET", "/healthz", nil).want(http.StatusOK)
	}
	s.role(api.RoleEdge, "GET", "/healthz", nil).want(http.StatusOK)
}

func TestUnknownPaths(t *testing.T) {
	s := newServer(t)
	for _, what := range []string{"GET /", "GET /nothing", "GET /v8/device", "POST /ping", "GET /login_", "DELETE /user/v1/whoami", "GET /resin/device"} {
		method, path, _ := strings.Cut(what, " ")
		for _, token := range []string{"", s.admin.APIKey} {
			if got := s.do(token, method, path, nil).want(http.StatusNotFound); got.body != "" {
				t.Errorf("%s: got %q", what, got.body)
			}
		}
	}
	s.do(s.admin.APIKey, "GET", "/v7/nothing", nil).want(http.StatusUnauthorized)
}

func TestWhatNeedsNoToken(t *testing.T) {
	s := newServer(t)
	s.do("not-a-token", "GET", "/ping", nil).want(http.StatusOK)
	for _, method := range []string{"GET", "HEAD"} {
		if got := s.do("", method, "/connectivity-check", nil).want(http.StatusNoContent); got.header.Get("Date") == "" || got.header.Get("Etag") != "" {
			t.Errorf("connectivity check: got %v", got.header)
		}
	}
	var vars struct {
		ReservedNames, ReservedNamespaces, WhiteListedNames, WhiteListedNamespaces, BlackListedNames []string
		InvalidRegex, ConfigVarInvalidRegex                                                          string
		ConfigVarSchema                                                                              struct{ Properties map[string]any }
	}
	s.do("", "GET", "/config/vars", nil).want(http.StatusOK).into(&vars)
	if len(vars.ReservedNamespaces) != 2 || vars.ConfigVarSchema.Properties["BALENA_SUPERVISOR_HARDWARE_METRICS"] == nil ||
		vars.ConfigVarSchema.Properties["BALENA_HOST_CONFIG_hdmi_mode"] != nil || vars.InvalidRegex == "" {
		t.Errorf("vars: got %+v", vars)
	}
	s.do("", "GET", "/config/vars?deviceType=raspberrypi4-64", nil).want(http.StatusOK).into(&vars)
	if vars.ConfigVarSchema.Properties["BALENA_HOST_CONFIG_hdmi_mode"] == nil {
		t.Errorf("vars of a Pi: got %+v", vars)
	}
	var config map[string]any
	s.do("", "GET", "/config", nil).want(http.StatusOK).into(&config)
	if config["deviceUrlsBase"] != "devices.roadstead.test" {
		t.Errorf("config: got %v", config)
	}
}

func TestAnswersAreCompressedWhenAsked(t *testing.T) {
	s := newServer(t)
	plain := s.do("", "GET", "/config/vars", nil, "Accept-Encoding: identity").want(http.StatusOK)
	small := s.do("", "GET", "/config/vars", nil, "Accept-Encoding: gzip, deflate, br").want(http.StatusOK)
	if plain.header.Get("Content-Encoding") != "" || small.header.Get("Content-Encoding") != "gzip" || len(small.body) > len(plain.body)/2 {
		t.Errorf("compression: %d bytes %q, %d bytes %q", len(plain.body), plain.header.Get("Content-Encoding"), len(small.body),
			small.header.Get("Content-Encoding"))
	}
	for _, h := range []string{"Accept-Encoding: gzip;q=0", "Accept-Encoding: br"} {
		if got := s.do("", "GET", "/config/vars", nil, h).header.Get("Content-Encoding"); got != "" {
			t.Errorf("%s: got %q", h, got)
		}
	}
	if got := s.do("", "GET", "/ping", nil, "Accept-Encoding: gzip").want(http.StatusOK); got.header.Get("Content-Encoding") != "" || got.body != "OK" {
		t.Errorf("a short answer: got %q %q", got.header.Get("Content-Encoding"), got.body)
	}
}

func TestTheRequestIDFollows(t *testing.T) {
	s := newServer(t)
	if got := s.do("", "GET", "/ping", nil, "X-Request-Id: from-the-edge").header.Get("X-Request-Id"); got != "from-the-edge" {
		t.Errorf("request id: got %q", got)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "request=from-the-edge") {
		t.Errorf("log: %s", s.log)
	}
}

func TestPlainConnectionsAreRefused(t *testing.T) {
	s := newServer(t)
	if resp, err := http.Get("http://" + s.addr + "/ping"); err == nil {
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: got %d", resp.StatusCode)
		}
	}
}

func TestBigInput(t *testing.T) {
	s := newServer(t)
	s.do("", "POST", "/login_", `{"username":"`+strings.Repeat("a", 600<<10)+`"}`).want(http.StatusRequestEntityTooLarge)
	s.do("", "POST", "/login_", `{}`, "Content-Type: text/html").want(http.StatusUnsupportedMediaType)
	s.do(strings.Repeat("a", 20<<10), "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do("", "GET", "/ping", nil, "X-Long: "+strings.Repeat("a", 80<<10)).want(http.StatusRequestHeaderFieldsTooLarge)
}

func TestBackupIsADatabase(t *testing.T) {
	s := newServer(t)
	if s.sql != "" { // a server's database is copied by its own programs
		s.role(api.RoleAdmin, "POST", "/internal/v1/backup", nil).want(http.StatusBadRequest)
		return
	}
	got := s.role(api.RoleAdmin, "POST", "/internal/v1/backup", nil).want(http.StatusOK)
	if !strings.HasPrefix(got.body, "SQLite format 3\x00") || got.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
		t.Errorf("backup: %d bytes, %v", len(got.body), got.header)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, api.RoleAPI, "backup-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What was acknowledged is there after a restart, and the first administrator is made once.
func TestARestartKeepsEverything(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	s.stop()
	s.start()
	s.do(session, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(s.admin.APIKey, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	var again api.Admin
	s.role(api.RoleParent, "POST", "/internal/v1/bootstrap", nil).want(http.StatusOK).into(&again)
	if again.Password != "" || again.APIKey != "" || again.URL != "https://api.roadstead.test" {
		t.Errorf("second bootstrap: got %+v", again)
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	s := newServer(t)
	s.stop()
	good := apiserver.Config{Dir: filepath.Join(s.dir, api.RoleAPI), Site: api.Site{Domain: "roadstead.test"}}
	for field, change := range map[string]func(c *apiserver.Config){
		"dir":           func(c *apiserver.Config) { c.Dir = "" },
		"site.domain":   func(c *apiserver.Config) { c.Site.Domain = "" },
		"site.port":     func(c *apiserver.Config) { c.Site.Port = 70000 },
		"poll_interval": func(c *apiserver.Config) { c.PollInterval = -1 },
		"public_ca":     func(c *apiserver.Config) { c.PublicCA = filepath.Join(s.dir, "missing.pem") },
	} {
		c := good
		change(&c)
		if _, err := apiserver.New(c, quiet()); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
	s.must(os.Remove(filepath.Join(s.dir, api.RoleAPI, "pepper")))
	if _, err := apiserver.New(good, quiet()); err == nil || !strings.Contains(err.Error(), "pepper") {
		t.Errorf("no pepper: got %v", err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
