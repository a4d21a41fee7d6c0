package apiserver_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// server is a running api role and the other roles' ways to it.
type server struct {
	testing.TB
	dir   string
	sql   string // address of the database; empty: a file
	admin api.Admin
	log   *bytes.Buffer // read it after stop
	stop  func()

	running *apiserver.Server
	addr    string
	peers   map[string]string // of the next start
	bounds  apiserver.Admission
	logs    apiserver.Logs
	mail    mail.Server
	site    api.ChannelSite
	cost    password.Cost // of a hash; zero: next to nothing
	now     func() time.Time
	asked   int // requests of [server.asking]
}

// checked is set by the first server of all tests: the rules are the same in each.
var checked atomic.Bool

// newServer starts the api role as the parent does, on a port of its own, with its first administrator.
func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{TB: t, dir: t.TempDir(), log: &bytes.Buffer{}, sql: dbtest.Config(t, apiserver.Migrations()...).DSN}
	s.identify()
	if s.sql == "" {
		dbtest.File(t, filepath.Join(s.dir, api.RoleAPI, "roadstead.db"), apiserver.Migrations()...)
	}
	s.start()
	answer := s.role(api.RoleParent, "POST", "/internal/v1/bootstrap", nil)
	answer.want(http.StatusOK).into(&s.admin)
	return s
}

// start runs the role until stop, or the end of the test.
func (s *server) start() {
	s.Helper()
	srv, err := apiserver.New(apiserver.Config{
		PasswordCost: cmp.Or(s.cost, password.Cost{Memory: 64, Passes: 1}), Checked: checked.Swap(true),
		Dir: filepath.Join(s.dir, api.RoleAPI), Site: api.Site{Domain: "roadstead.test", Port: 443},
		PublicCA: filepath.Join(s.dir, api.RoleAPI, "ca.pem"), PollInterval: time.Minute, Peers: s.peers, SQL: s.sql,
		Admission: s.bounds, Logs: s.logs, Mail: s.mail, Channel: s.site, Now: s.now,
	}, slog.New(slog.NewTextHandler(s.log, nil)))
	s.must(err)
	s.running = srv
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, ln) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			s.Error("the server did not stop within 20 s")
		}
	}
	s.Cleanup(s.stop)
}

// another is a second process on the same database, or the same one where the database is a file.
func (s *server) another() *server {
	s.Helper()
	if s.sql == "" {
		return s
	}
	more := &server{TB: s.TB, dir: s.TempDir(), log: &bytes.Buffer{}, sql: s.sql, admin: s.admin, site: s.site}
	more.identify()
	more.start()
	return more
}

// identify gives every role a certificate, and the api role its pepper.
func (s *server) identify() {
	s.Helper()
	s.must(pki.NewTestIdentities(s.dir, everyRole...))
	s.must(os.WriteFile(filepath.Join(s.dir, api.RoleAPI, "pepper"), []byte("0123456789abcdef0123456789abcdef"), 0o600))
}

func (s *server) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// answer is an HTTP answer, read whole.
type answer struct {
	testing.TB
	what   string
	status int
	header http.Header
	body   string
}

// role sends a request as a role, over its own certificate.
func (s *server) role(role, method, path string, body any, headers ...string) *answer {
	s.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, role))
	s.must(err)
	peer := id.Client(api.RoleAPI, s.addr)
	defer peer.HTTP.CloseIdleConnections()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := json.Marshal(body)
		s.must(err)
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(s.Context(), method, peer.URL+path, reader)
	s.must(err)
	req.Host = "api.roadstead.test"
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := peer.HTTP.Do(req)
	s.must(err)
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	s.must(err)
	return &answer{TB: s.TB, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(data)}
}

// do sends a request as the public does: through the edge, with a token or without.
func (s *server) do(token, method, path string, body any, headers ...string) *answer {
	s.Helper()
	if token != "" {
		headers = append(headers, "Authorization: Bearer "+token)
	}
	return s.role(api.RoleEdge, method, path, body, append(headers, "X-Forwarded-For: 192.0.2.1")...)
}

// want checks the status.
func (a *answer) want(status int) *answer {
	a.Helper()
	if a.status != status {
		a.Fatalf("%s: got %d %s, want %d", a.what, a.status, a.body, status)
	}
	return a
}

// into decodes the body.
func (a *answer) into(v any) {
	a.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		a.Fatalf("%s: %v in %q", a.what, err, a.body)
	}
}

// rows decodes an OData list.
func (a *answer) rows() (rows []map[string]any) {
	a.Helper()
	var list struct{ D []map[string]any }
	a.want(http.StatusOK).into(&list)
	return list.D
}

// login opens a session.
func (s *server) login(name, password string) string {
	s.Helper()
	return s.do("", "POST", "/login_", api.Login{Username: name, Password: password}).want(http.StatusOK).body
}

// user makes a second tenant and logs in.
func (s *server) user(name string) (session string) {
	s.Helper()
	var made api.NewUser
	s.role(api.RoleAdmin, "POST", "/internal/v1/users", api.NewUser{Email: name + "@example.com", Username: name}).
		want(http.StatusCreated).into(&made)
	return s.login(name, made.Password)
}

// fleet makes a fleet of a user's first organization.
func (s *server) fleet(token, name string) (id int64) {
	s.Helper()
	orgs := s.do(token, "GET", "/v7/organization?$select=id", nil).rows()
	if len(orgs) == 0 {
		s.Fatal("the user has no organization")
	}
	var made struct{ ID int64 }
	s.do(token, "POST", "/v7/application", map[string]any{
		"app_name": name, "organization": orgs[0]["id"], "is_for__device_type": s.deviceType("generic-amd64"),
	}).want(http.StatusCreated).into(&made)
	return made.ID
}

func (s *server) deviceType(slug string) any {
	s.Helper()
	rows := s.do("", "GET", "/v7/device_type?$select=id&$filter=slug%20eq%20'"+slug+"'", nil).rows()
	if len(rows) != 1 {
		s.Fatalf("device type %s: got %d rows", slug, len(rows))
	}
	return rows[0]["id"]
}

// device registers a device into a fleet with a fresh provisioning key.
func (s *server) device(token string, fleet int64, uuid api.DeviceUUID) api.Registered {
	s.Helper()
	var key string
	s.do(token, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet), api.NewKey{}).want(http.StatusOK).into(&key)
	var made api.Registered
	s.do(key, "POST", "/device/register", api.Register{Application: fleet, UUID: uuid, DeviceType: "generic-amd64"}).
		want(http.StatusCreated).into(&made)
	return made
}
