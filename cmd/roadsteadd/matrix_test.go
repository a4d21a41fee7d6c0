package main_test

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/pki"
)

// Every identity of the server tries every door of every role. Only the edges of the design are open: a role that is taken
// over can do what it does anyway, and nothing in another's name.
func TestMatrixOfRoles(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	addr := map[string]string{}
	for _, r := range s.status().Roles {
		addr[r.Role] = r.Address
	}
	addr["edge"] = edgeAddress(t, s)

	doors := []struct {
		role, method, path string
		open               []string // who gets in; everybody else is refused
	}{
		{"api", "POST", "/internal/v1/bootstrap", []string{"parent"}},
		{"api", "POST", "/internal/v1/users", []string{"admin"}},
		{"api", "POST", "/internal/v1/users/password", []string{"admin"}},
		{"api", "POST", "/internal/v1/users/support", []string{"admin"}},
		{"api", "POST", "/internal/v1/backup", []string{"admin"}},
		{"api", "POST", "/internal/v1/check", []string{"admin"}},
		{"api", "POST", "/internal/v1/builds", []string{"builder"}},
		{"api", "POST", "/internal/v1/builds/1/images", []string{"builder"}},
		{"api", "POST", "/internal/v1/builds/1/heartbeat", []string{"builder"}},
		{"api", "POST", "/internal/v1/builds/1/watch", []string{"builder"}},
		{"api", "POST", "/internal/v1/builds/1/finish", []string{"builder"}},
		{"api", "POST", "/internal/v1/builds/1/emptied", []string{"builder"}},
		{"api", "POST", "/internal/v1/quarantine/next", []string{"builder"}},
		{"api", "GET", "/internal/v1/builds/1", []string{"builder", "signer"}},
		{"api", "POST", "/internal/v1/registry/room", []string{"registry"}},
		{"api", "POST", "/internal/v1/registry/link", []string{"registry"}},
		{"api", "POST", "/internal/v1/registry/collect", []string{"registry"}},
		{"api", "POST", "/internal/v1/registry/found", []string{"registry"}},
		{"api", "POST", "/internal/v1/registry/usage", []string{"admin"}},
		{"api", "POST", "/internal/v1/registry/quota", []string{"admin"}},
		{"registry", "GET", "/internal/v1/status", []string{"admin", "parent"}},
		{"registry", "POST", "/internal/v1/collect", []string{"admin", "parent"}},
		{"registry", "POST", "/internal/v1/check", []string{"admin", "parent"}},
		{"api", "POST", "/internal/v1/git/key", []string{"git"}},
		{"api", "POST", "/internal/v1/git/open", []string{"git"}},
		{"api", "POST", "/internal/v1/git/tickets", []string{"git"}},
		{"api", "POST", "/internal/v1/git/fleets", []string{"git"}},
		{"api", "POST", "/internal/reach/permit", []string{"vpn"}},
		{"api", "POST", "/internal/reach/still", []string{"vpn"}},
		{"api", "POST", "/internal/reach/visit", []string{"vpn"}},
		{"signer", "POST", "/v1/pull-tokens", []string{"api"}},
		{"signer", "POST", "/v1/push-token", []string{"builder"}},
		{"builder", "POST", "/v3/build", []string{"edge", "git"}},
		{"builder", "POST", "/build/v1/builds", []string{"edge"}},
		{"api", "POST", "/internal/v1/builders/ask", []string{"builder"}},
		{"builder", "GET", "/build/v1/platforms", []string{"edge"}},
		{"builder", "GET", "/build/v1/builds/1", []string{"edge"}},
		{"builder", "GET", "/build/v1/builds/1/missing", []string{"edge"}},
		{"builder", "POST", "/build/v1/builds/1/blobs", []string{"edge"}},
		{"builder", "GET", "/build/v1/builds/1/events", []string{"edge"}},
		{"git", "GET", "/admin/harbour/info/refs?service=git-receive-pack", []string{"edge"}},
		{"git", "POST", "/admin/harbour.git/git-receive-pack", []string{"edge"}},
		{"git", "POST", "/admin/harbour.git/git-upload-pack", []string{"edge"}},
		{"dashboard", "GET", "/login", []string{"edge"}},
		{"registry", "GET", "/v2/", nil},                                                    // a certificate alone is no token
		{"registry", "POST", "/v2/v2/0123456789abcdef0123456789abcdef/blobs/uploads/", nil}, // nor is the builder's
		{"registry", "GET", "/v2/_catalog", nil},
	}
	admin := s.admin()
	key := admin.APIKey
	if code := s.login(admin.Email, admin.Password); code != http.StatusOK { // or the knock at bootstrap would make another key
		t.Fatalf("login: %d", code)
	}
	callers := append([]string{"parent", "admin"}, allRoles...)
	for _, caller := range callers {
		id, err := pki.LoadIdentity(filepath.Join(s.dir, "roles", caller))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range doors {
			status := knock(t, id.Client(d.role, addr[d.role]), key, d.method, d.path)
			refused := status == http.StatusUnauthorized || status == http.StatusForbidden ||
				(status == http.StatusNotFound && !contains(d.open, caller))
			if contains(d.open, caller) == refused {
				t.Errorf("%s at %s %s %s: %d, open to %v", caller, d.role, d.method, d.path, status, d.open)
			}
		}
		for role, a := range addr {
			if a == "" {
				continue
			}
			if status := knock(t, id.Client(role, a), key, "GET", "/healthz"); status != http.StatusOK {
				t.Errorf("%s asks %s how it is: %d", caller, role, status)
			}
			// A role does not talk to another one that answers at the wrong address.
			wrong := "signer"
			if role == wrong {
				wrong = "api"
			}
			peer := id.Client(wrong, a)
			if res, err := peer.HTTP.Get(peer.URL + "/healthz"); err == nil {
				_ = res.Body.Close()
				t.Errorf("%s took the %s role for the %s role", caller, role, wrong)
			}
		}
	}
	notIdentities(t, s, addr)
}

// notIdentities tries what is no role of this server.
func notIdentities(t *testing.T, s *server, addr map[string]string) {
	t.Helper()
	strange := t.TempDir()
	if err := pki.NewTestIdentities(strange, "parent", "builder"); err != nil {
		t.Fatal(err)
	}
	public, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "roles", "edge", "tls.pem"), filepath.Join(s.dir, "roles", "edge", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	another, err := tls.LoadX509KeyPair(filepath.Join(strange, "parent", "cert.pem"), filepath.Join(strange, "parent", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{
		"no certificate": nil, "the public certificate": {public}, "another server's parent": {another},
	} {
		for role, a := range addr {
			if a == "" {
				continue
			}
			tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}} //nolint:gosec // the attacker's
			c := &http.Client{Transport: tr}
			if res, err := c.Get("https://" + a + "/healthz"); err == nil {
				_ = res.Body.Close()
				t.Errorf("%s was let in by %s: %s", name, role, res.Status)
			}
			tr.CloseIdleConnections()
		}
	}
}

// edgeAddress finds the edge's internal listener, which status does not show: its public one is more use to people.
func edgeAddress(t *testing.T, s *server) string {
	t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, "roles", "parent"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range listeners(t, s.role("edge").PID) {
		if a == s.addr {
			continue
		}
		peer := id.Client("edge", a)
		if res, err := peer.HTTP.Get(peer.URL + "/healthz"); err == nil {
			_ = res.Body.Close()
			return a
		}
	}
	t.Fatal("the edge has no internal listener")
	return ""
}

// knock tries a door with everything a caller can have: its certificate, and an administrator's key.
func knock(t *testing.T, peer *pki.Peer, key, method, path string) int {
	t.Helper()
	defer peer.HTTP.CloseIdleConnections()
	req, err := http.NewRequest(method, peer.URL+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := peer.HTTP.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// What a thief finds in one role's directory does not name, and cannot make, what the others have.
func TestNoRoleHoldsAnothersSecret(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	roles := filepath.Join(s.dir, "roles")
	secrets := map[string]string{ // file → the only directory that may hold its content
		"api/pepper": "api", "signer/token.key": "signer", "edge/tls.key": "edge", "api/tls.key": "api", "dashboard/tls.key": "dashboard",
		"git/ssh_host_ed25519_key": "git", "signer/ssh-users.key": "signer", "signer/ssh-hosts.key": "signer",
	}
	for _, r := range append([]string{"parent", "admin"}, allRoles...) {
		secrets[r+"/key.pem"] = r
	}
	for file, owner := range secrets {
		secret, err := os.ReadFile(filepath.Join(roles, file))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(roles, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(roles, owner)+"/") {
				return nil //nolint:nilerr // files come and go while the server runs
			}
			data, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(data), string(secret)) {
				t.Errorf("%s holds the secret %s", path, file)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	jwks, err := os.ReadFile(filepath.Join(roles, "registry", "token.pub.json"))
	if err != nil || strings.Contains(string(jwks), `"d":`) {
		t.Errorf("the registry's keys: %v: %s; want public ones", err, jwks)
	}
}
