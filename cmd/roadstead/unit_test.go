package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adrg/xdg"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"90d": "2026-07-30T12:00:00Z", "12h": "2026-05-02T00:00:00Z", "2027-01-31T12:00:00Z": "2027-01-31T12:00:00Z", "1h30m": "2026-05-01T13:30:00Z",
	} {
		got, err := cmdline.Expiry(text, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("cmdline.Expiry(%q): got %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "never"} {
		if got, err := cmdline.Expiry(text, now); got != nil || err != nil {
			t.Errorf("cmdline.Expiry(%q): got %v, %v, want none", text, got, err)
		}
	}
	for _, text := range []string{"d", "-1d", "1.5d", "0d", "soon", "2020-01-01", "-1h", "9999999999999999999d"} {
		if got, err := cmdline.Expiry(text, now); err == nil {
			t.Errorf("cmdline.Expiry(%q): got %v, want an error", text, got)
		}
	}
}

func TestWhatAWaitMisses(t *testing.T) {
	install := func(name, status, commit string) string {
		return fmt.Sprintf(`{"status":%q,"installs__image":[{"is_a_build_of__service":[{"service_name":%q}]}],"is_provided_by__release":[{"id":1,"commit":%q}]}`,
			status, name, commit)
	}
	device := func(target, running string, installs ...string) string {
		return fmt.Sprintf(`{"is_online":true,"overall_status":"updating","should_be_running__release":%s,"is_running__release":%s,"image_install":[%s]}`,
			target, running, strings.Join(installs, ","))
	}
	const a, b, none = `[{"id":1,"commit":"aaaaaaaaaa"}]`, `[{"id":2,"commit":"bbbbbbbbbb"}]`, `[]`
	for _, tt := range []struct {
		name string
		f    waitFlags
		row  string
		want string
	}{
		{"all is well", waitFlags{}, device(a, a, install("web", "Running", "aaaaaaaaaa")), ""},
		{"no release yet", waitFlags{}, device(none, none), "to have a release"},
		{"the old one still", waitFlags{}, device(a, b, install("web", "Running", "bbbbbbbbbb")), "release aaaaaaa to be applied"},
		{"one exits", waitFlags{}, device(a, a, install("web", "Running", "aaaaaaaaaa"), install("x", "exited", "aaaaaaaaaa")), "service x, which is exited"},
		{"the named one runs", waitFlags{running: []string{"web"}}, device(a, none, install("web", "running", "aaaaaaaaaa")), ""},
		{"the named one is old", waitFlags{running: []string{"web"}}, device(a, b, install("web", "Running", "bbbbbbbbbb")), "Running from bbbbbbb"},
		{"the named one is unknown", waitFlags{running: []string{"web"}}, device(a, a), "not reported yet"},
		{"an old release is wanted", waitFlags{release: "bbbbbbbbbb", running: []string{"web"}}, device(a, b, install("web", "Running", "bbbbbbbbbb")), ""},
		{"online only", waitFlags{online: true}, device(none, none), ""},
		{"offline", waitFlags{online: true}, `{"is_online":false}`, "come online"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d client.Device
			if err := json.Unmarshal([]byte(tt.row), &d); err != nil {
				t.Fatal(err)
			}
			if got := tt.f.missing(d); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPushTarget(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("project", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flag, env  string
		args       []string
		fleet, dir string
	}{
		{"", "", []string{"f"}, "f", "."},
		{"", "", []string{"f", "project"}, "f", "project"},
		{"", "e", []string{}, "e", "."},
		{"", "e", []string{"project"}, "e", "project"},
		{"", "e", []string{"other"}, "other", "."},
		{"", "e", []string{"f", "project"}, "f", "project"},
		{"f", "", []string{"project"}, "f", "project"},
		{"", "", []string{"project"}, "project", "."},
		{"f", "", []string{"g", "project"}, "", ""},
		{"", "", []string{}, "", ""},
	} {
		t.Setenv("ROADSTEAD_FLEET", tt.env)
		f := pushFlags{fleet: tt.flag}
		fleet, dir, err := f.target(tt.args)
		if fleet != tt.fleet || (err == nil) != (tt.fleet != "") || (err == nil && dir != tt.dir) {
			t.Errorf("--fleet %q, environment %q, %v: got %q, %q, %v, want %q, %q", tt.flag, tt.env, tt.args, fleet, dir, err, tt.fleet, tt.dir)
		}
	}
}

func TestAmendKeepsUnknownKeys(t *testing.T) {
	got, err := amend([]byte(`{"apiKey":"k","strange":{"a":[1.50]}}`), strings.Repeat("a", 32), initFlags{name: "kitchen", poll: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(got, &keys); err != nil {
		t.Fatal(err)
	}
	if string(keys["initialDeviceName"]) != `"kitchen"` || string(keys["appUpdatePollInterval"]) != "10000" || !strings.Contains(string(keys["strange"]), "1.50") {
		t.Errorf("got %s", got)
	}
	if _, err := amend([]byte(`{}`), strings.Repeat("a", 32), initFlags{}); err == nil {
		t.Error("a configuration without a key passed")
	}
}

// TestOldSessionIsRefreshed: a saved session that is a day old is exchanged before it is used, and saved again.
func TestOldSessionIsRefreshed(t *testing.T) {
	const old, fresh = "e30.eyJpYXQiOjE3MDAwMDAwMDB9.x", "rsu_fresh"
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch auth := r.Header.Get("Authorization"); {
		case r.URL.Path == "/user/v1/refresh-token" && auth == "Bearer "+old:
			fmt.Fprint(w, fresh)
		case r.URL.Path == "/actor/v1/whoami" && auth == "Bearer "+fresh:
			fmt.Fprint(w, `{"id":1,"actorType":"user","actorTypeId":2,"username":"ann"}`)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	loggedIn(t, srv, old)
	var out, errs bytes.Buffer
	a := &app{&cmdline.App{Terminal: &terminal.Terminal{In: strings.NewReader(""), Out: &out, Err: &errs}}}
	if code := a.Run(t.Context(), a.command(), []string{"whoami", "-o", "json"}); code != 0 {
		t.Fatalf("whoami: exit code %d: %s", code, errs.String())
	}
	data, err := os.ReadFile(filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "roadstead", "config.json"))
	if err != nil || !strings.Contains(string(data), fresh) {
		t.Errorf("saved: %s, %v, want the new token", data, err)
	}
}

// loggedIn saves a login for a test's server, and forgets it with the test.
func loggedIn(t *testing.T, srv *httptest.Server, token string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Cleanup(xdg.Reload)
	xdg.Reload()
	for _, name := range []string{"ROADSTEAD_URL", "ROADSTEAD_TOKEN", "ROADSTEAD_FLEET", "SSL_CERT_FILE"} {
		t.Setenv(name, "")
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := (&cmdline.Settings{URL: srv.URL, Token: token, CA: string(ca)}).Save(); err != nil {
		t.Fatal(err)
	}
}

// TestLostStream: the connection to the builder breaks, the build goes on without us, and its end decides the exit code.
func TestLostStream(t *testing.T) {
	for _, tt := range []struct {
		end  string
		code int
	}{{"success", 0}, {"failed", 1}, {"interrupted", 1}} {
		t.Run(tt.end, func(t *testing.T) {
			asked := 0
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/v7/application":
					fmt.Fprint(w, `{"d":[{"id":1,"slug":"o/f"}]}`)
				case "/build/v1/builds": // it is older than this program
					http.NotFound(w, r)
				case "/v3/build":
					_, _ = io.Copy(io.Discard, r.Body)
					fmt.Fprint(w, `[{"type":"metadata","resource":"buildLogId","value":7},{"message":"half of`)
				case "/v7/release(7)":
					if asked++; asked == 1 {
						fmt.Fprint(w, `{"d":[{"id":7,"commit":"aa","status":"running"}]}`)
						return
					}
					fmt.Fprintf(w, `{"d":[{"id":7,"commit":"aa","status":%q}]}`, tt.end)
				default:
					t.Errorf("request for %s", r.URL)
				}
			}))
			defer srv.Close()
			loggedIn(t, srv, "key")
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			a := &app{&cmdline.App{Terminal: &terminal.Terminal{In: strings.NewReader(""), Out: &out, Err: &errs}}}
			if code := a.Run(t.Context(), a.command(), []string{"push", "f", dir, "-o", "json"}); code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, errs.String())
			}
			if !strings.Contains(out.String(), `"status": "`+tt.end+`"`) || !strings.Contains(errs.String(), "was lost") {
				t.Errorf("got %s%s", out.String(), errs.String())
			}
		})
	}
}
