package main_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// send asks the server through its public door, as itself or by another of its names.
func (s *server) send(method, host, path, token string, body any, headers ...string) (status int, answer string) {
	s.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "https://"+host+"."+domain+path, in)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := s.client().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// get wants an answer and reads it.
func (s *server) get(into any, method, path, token string, body any, headers ...string) {
	s.t.Helper()
	status, answer := s.send(method, "api", path, token, body, headers...)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	if text, ok := into.(*string); ok && !strings.HasPrefix(answer, `"`) {
		*text = answer
	} else if into != nil {
		if err := json.Unmarshal([]byte(answer), into); err != nil {
			s.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
}

// credentials are one of each kind that the server gives out, all about one fleet.
func (s *server) credentials() (all map[string]string, fleet string, bob string) {
	s.t.Helper()
	a := s.admin()
	all = map[string]string{"named key": a.APIKey}
	login := func(name, password string) (session string) {
		s.get(&session, "POST", "/login_", "", api.Login{Username: name, Password: password})
		return session
	}
	session := login(a.Username, a.Password)
	all["session"] = session
	var rows struct{ D []struct{ ID int64 } }
	first := func(query string) int64 {
		s.t.Helper()
		s.get(&rows, "GET", query, session, nil)
		if len(rows.D) == 0 {
			s.t.Fatalf("%s: nothing", query)
		}
		return rows.D[0].ID
	}
	org, kind := first("/v7/organization?$select=id"), first("/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'")
	var made struct {
		ID   int64
		Slug string
	}
	s.get(&made, "POST", "/v7/application", session, map[string]any{"app_name": "harbour", "organization": org, "is_for__device_type": kind})
	fleet = made.Slug
	var scoped, provisioning, reader, spare string
	s.get(&scoped, "POST", "/api-key/user/full", session, api.NewKey{Name: "less", Level: "developer"})
	s.get(&provisioning, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", made.ID), session, api.NewKey{})
	s.get(&spare, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", made.ID), session, api.NewKey{})
	s.get(&reader, "POST", "/api-key/v1", session, api.NewKey{ActorType: "application", ActorTypeID: made.ID, Roles: []string{"fleet-api-key"}})
	var device api.Registered
	s.get(&device, "POST", "/device/register", spare, api.Register{
		Application: made.ID, UUID: api.DeviceUUID(strings.Repeat("a", 32)), DeviceType: "generic-amd64",
	})
	var pull struct{ Token string }
	s.get(&pull, "GET", "/auth/v1/token?service=registry2."+domain, session, nil)
	out, text, code := run(s.t, nil, "admin", "user", "add", "bob@example.com", "--username", "bob", "--data", s.dir)
	if code != 0 {
		s.t.Fatalf("user add: %s %s", out, text)
	}
	bob = login("bob@example.com", field(out, "password"))
	var invite struct{ ID int64 }
	s.get(&invite, "POST", "/v7/organization_invite", session, map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": org})
	var link api.Invitation
	s.get(&link, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", invite.ID), session, nil)
	var source api.BuildSourceSecret
	s.get(&source, "POST", "/build-source/v1", session, api.NewBuildSource{Fleet: fleet, URL: "https://git.example.com/acme/harbour.git", Form: "github"})
	var worker api.WorkerInvitation
	s.ask(api.RoleAdmin, api.RoleAPI, "POST", "/internal/v1/workers/add", api.NewWorker{Name: "arm-1", Seconds: 600}, &worker)
	var git api.GitOpen
	s.ask(api.RoleGit, api.RoleAPI, "POST", "/internal/v1/git/open", api.GitOpenRequest{Path: fleet}, &git, "Authorization: Bearer "+session)
	for name, token := range map[string]string{
		"secret of a webhook": source.Secret, "a build worker's secret": worker.Secret, "ticket of git": git.Ticket,
		"scoped key": scoped, "provisioning key": provisioning, "fleet key": reader, "device key": device.APIKey, "registry token": pull.Token,
		"invitation": link.Token, "signed address": s.signedAddress(session, org),
	} {
		if token == "" {
			s.t.Fatalf("there is no %s", name)
		}
		all[name] = token
	}
	return all, fleet, bob
}

// signedAddress is the address of a file, as the server signs it: the logo of an organization.
func (s *server) signedAddress(session string, org int64) string {
	s.t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", `form-data; name="logo_image"; filename="logo.png"`)
	h.Set("Content-Type", "image/png")
	part, err := w.CreatePart(h)
	if err == nil {
		_, err = part.Write(append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 100)...))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	_ = w.Close()
	one := fmt.Sprintf("/v7/organization(%d)", org)
	s.get(nil, "PATCH", one, session, b.String(), "Content-Type: "+w.FormDataContentType())
	var rows struct {
		D []struct {
			Logo struct{ Href string } `json:"logo_image"`
		}
	}
	s.get(&rows, "GET", one+"?$select=logo_image", session, nil)
	u, err := url.Parse(rows.D[0].Logo.Href)
	if err != nil || u.RawQuery == "" {
		s.t.Fatalf("the address is %v, %v", rows, err)
	}
	return u.RequestURI()
}

// Each credential is tried on each road, and opens its own alone.
func TestEachCredentialOpensItsOwnRoads(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	all, fleet, bob := s.credentials()
	if strings.Contains(all["signed address"], "?") {
		all["signature"] = all["signed address"][strings.Index(all["signed address"], "?")+1:]
	}
	file, _, _ := strings.Cut(all["signed address"], "?")
	people := []string{"session", "named key", "scoped key"}
	roads := []struct {
		name, method, host, path string
		opens                    []string
	}{
		{"the API", "GET", "api", "/actor/v1/whoami", slices.Concat(people, []string{"device key", "fleet key"})},
		{"what needs a login", "GET", "api", "/user/v1/sessions", []string{"session"}},
		{"registration", "POST", "api", "/device/register", slices.Concat(people, []string{"provisioning key"})},
		{"the reports of devices", "PATCH", "api", "/device/v3/state", []string{"device key"}},
		{"tokens of the registry", "GET", "api", "/auth/v1/token?service=registry2." + domain, slices.Concat(people, []string{"device key"})},
		{"the registry", "GET", "registry2", "/v2/", []string{"registry token"}},
		{"the builder", "POST", "builder", "/v3/build?slug=" + url.QueryEscape(fleet), people},
		{"the builder's own road", "POST", "builder", "/build/v1/builds?slug=" + url.QueryEscape(fleet), people},
		{"what can be built", "GET", "builder", "/build/v1/platforms", people},
		{"files", "GET", "api", file, nil},
		{"what roles ask each other", "POST", "api", "/internal/v1/users", nil},
		{"what roles ask the signer", "POST", "api", "/v1/pull-tokens", nil},
	}
	for name, token := range all {
		for _, r := range roads {
			var body any
			if r.method != "GET" {
				body = "{}"
			}
			status, answer := s.send(r.method, r.host, r.path, token, body)
			in := status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusNotFound
			if in != slices.Contains(r.opens, name) || status >= http.StatusInternalServerError {
				t.Errorf("%s with a %s: got %d %.200s, want it let in: %v", r.name, name, status, answer, slices.Contains(r.opens, name))
			}
		}
		// As an invitation, on behalf of the one who is invited; the true one last.
		if name != "invitation" {
			if status, answer := s.send("POST", "api", "/org/v1/invitation/"+url.PathEscape(token), bob, nil); status/100 == 2 {
				t.Errorf("a %s as an invitation: got %d %s", name, status, answer)
			}
		}
		if name != "session" && name != "named key" {
			if status, answer := s.send("POST", "api", "/org/v1/invitation/"+all["invitation"], token, nil); status/100 == 2 {
				t.Errorf("an invitation accepted with a %s: got %d %s", name, status, answer)
			}
		}
	}
	if status, answer := s.send("GET", "api", all["signed address"], "", nil); status != http.StatusOK {
		t.Errorf("the signed address: got %d %s", status, answer)
	}
	other := strings.Replace(all["signed address"], file, "/blobs/"+strings.Repeat("0", len(filepath.Base(file))), 1)
	if status, _ := s.send("GET", "api", other, "", nil); status != http.StatusForbidden && status != http.StatusNotFound {
		t.Errorf("the signature of one file on another: got %d", status)
	}
	if status, answer := s.send("POST", "api", "/org/v1/invitation/"+all["invitation"], bob, nil); status != http.StatusOK {
		t.Errorf("the invitation: got %d %s", status, answer)
	}
	s.behindTheDoor(all)
}

// behindTheDoor tries the listeners between roles with everything that the server gives out: without a certificate of its
// authority no handshake ends well, so no token is ever read there. The socket of the parent is for its own user.
func (s *server) behindTheDoor(all map[string]string) {
	s.t.Helper()
	for _, r := range s.status().Roles {
		if r.Address == "" || r.Role == api.RoleEdge {
			continue
		}
		for name, token := range all {
			tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the attacker's
			req, err := http.NewRequest(http.MethodGet, "https://"+r.Address+"/healthz", nil)
			if err != nil {
				s.t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			if res, err := (&http.Client{Transport: tr}).Do(req); err == nil {
				_ = res.Body.Close()
				s.t.Errorf("the %s lets a %s in: %s", r.Role, name, res.Status)
			}
			tr.CloseIdleConnections()
		}
	}
	info, err := os.Stat(filepath.Join(s.dir, "run", "status.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		s.t.Errorf("the parent's socket: %v, %v; want it for its own user alone", info, err)
	}
}

// With the api role silent nobody gets anything new: not a login, not a token of the registry, not a build. No other role has the
// data to say yes by itself; what was granted before ends by itself, in minutes.
func TestWithoutTheAPIRoleNothingNewIsGranted(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	all, fleet, _ := s.credentials()
	a := s.admin()
	pid := s.role("api").PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	login, err := json.Marshal(api.Login{Username: a.Username, Password: a.Password})
	if err != nil {
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	for name, r := range map[string]struct {
		method, host, path, token, body string
		granted                         bool
	}{
		"a login":                       {"POST", "api", "/login_", "", string(login), false},
		"a key":                         {"POST", "api", "/api-key/user/full", all["session"], `{"name":"new"}`, false},
		"data":                          {"GET", "api", "/v7/device", a.APIKey, "", false},
		"a registration":                {"POST", "api", "/device/register", all["provisioning key"], "{}", false},
		"a target state":                {"GET", "api", "/device/v3/" + strings.Repeat("a", 32) + "/state", all["device key"], "", false},
		"a token of the registry":       {"GET", "api", "/auth/v1/token?service=registry2." + domain, all["device key"], "", false},
		"a build":                       {"POST", "builder", "/v3/build?slug=" + url.QueryEscape(fleet), a.APIKey, "{}", false},
		"the registry without a token":  {"GET", "registry2", "/v2/", "", "", false},
		"the registry with another key": {"GET", "registry2", "/v2/", a.APIKey, "", false},
		"what was granted before":       {"GET", "registry2", "/v2/", all["registry token"], "", true},
	} {
		client := s.client()
		client.Timeout = 2 * time.Second
		asked.Go(func() {
			req, err := http.NewRequest(r.method, "https://"+r.host+"."+domain+r.path, strings.NewReader(r.body))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			if r.token != "" {
				req.Header.Set("Authorization", "Bearer "+r.token)
			}
			res, err := client.Do(req)
			status := 0 // no answer at all
			if err == nil {
				status = res.StatusCode
				_ = res.Body.Close()
			}
			if (status/100 == 2) != r.granted {
				t.Errorf("%s: got %d, %v; want it granted: %v", name, status, err, r.granted)
			}
		})
	}
	asked.Wait()
}
