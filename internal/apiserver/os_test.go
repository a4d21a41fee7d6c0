package apiserver_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// publicKey makes a key as it stands in a .pub file.
func publicKey(t *testing.T, comment string) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment
}

func fingerprint(t *testing.T, line string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key)
}

func TestOSConfig(t *testing.T) {
	s := newServer(t)
	for _, token := range []string{"", "whatever"} { // devices ask before they have a key that holds
		var got struct {
			Services map[string]map[string]string `json:"services"`
			Config   struct {
				Overrides map[string]string `json:"overrides"`
			} `json:"config"`
			Version string `json:"schema_version"`
		}
		a := s.do(token, "GET", "/os/v1/config", nil).want(http.StatusOK)
		a.into(&got)
		_, vpn := got.Services["openvpn"]["config"]
		_, ca := got.Services["openvpn"]["ca"]
		_, keys := got.Services["ssh"]["authorized_keys"]
		if !vpn || !ca || !keys || got.Config.Overrides == nil || got.Version != "1.0.0" {
			t.Errorf("it lacks what a device's program demands: %s", a.body)
		}
	}
}

// Nothing that a device is configured with lets anybody in: no password, and no key but of those whom its owner lets in, asked for one by one.
func TestNothingThatADeviceIsGivenLetsAnybodyIn(t *testing.T) {
	s := newServer(t)
	alice, sue := s.user("alice"), s.user("sue")
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	for _, token := range []string{alice, sue} {
		var me struct{ ActorTypeID int64 }
		s.do(token, "GET", "/actor/v1/whoami", nil).want(http.StatusOK).into(&me)
		s.do(token, "POST", "/v7/user__has__public_key", map[string]any{"title": "laptop", "public_key": publicKey(t, "x"), "user": me.ActorTypeID}).
			want(http.StatusCreated)
	}
	fleet := s.fleet(alice, "harbour")
	dev := s.device(alice, fleet, hexUUID(1))
	var system struct {
		Services map[string]map[string]string `json:"services"`
		Config   struct {
			Overrides map[string]any `json:"overrides"`
		} `json:"config"`
	}
	s.do(dev.APIKey, "GET", "/os/v1/config", nil).want(http.StatusOK).into(&system)
	if keys, given := system.Services["ssh"]["authorized_keys"]; !given || keys != "" || len(system.Config.Overrides) != 0 {
		t.Errorf("the system is given keys of root's: %+v", system)
	}
	for _, asked := range []struct{ what, token, method, path string }{
		{"its configuration", alice, "GET", fmt.Sprintf("/download-config?appId=%d&version=6.0.0&deviceType=generic-amd64", fleet)},
		{"its target state", dev.APIKey, "GET", "/device/v3/" + string(dev.UUID) + "/state"},
		{"its target state of before", dev.APIKey, "GET", "/device/v2/" + string(dev.UUID) + "/state"},
		{"what the system asks", dev.APIKey, "GET", "/os/v1/config"},
	} {
		a := s.do(asked.token, asked.method, asked.path, nil).want(http.StatusOK)
		for _, way := range []string{"password", "passwd", "shadow", "ssh-ed25519", "ssh-rsa", "sshKeys"} {
			if strings.Contains(a.body, way) {
				t.Errorf("%s has a %s: %s", asked.what, way, a.body)
			}
		}
	}
	enter := func(name string) bool {
		return s.do(dev.APIKey, "GET", "/auth/v1/public-keys/"+name, nil).want(http.StatusOK).body != ""
	}
	if !enter("alice") || enter("sue") || enter("root") || enter("admin") {
		t.Error("somebody else than its owner is let in")
	}
	open := func(until any) {
		s.do(alice, "PATCH", fmt.Sprintf("/v7/device(%d)", dev.ID), map[string]any{"is_accessible_by_support_until__date": until}).want(http.StatusOK)
	}
	open(time.Now().Add(time.Hour).UnixMilli())
	if !enter("sue") {
		t.Error("support that was let in has no way")
	}
	open(nil)
	if enter("sue") {
		t.Error("support that was sent away has its key there still")
	}
}

func TestPublicKeysOfPeople(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "harbour")
	dev := s.device(alice, fleet, hexUUID(1))
	foreign := s.device(bob, s.fleet(bob, "elsewhere"), hexUUID(2))
	me := func(token string) (who struct{ ActorTypeID int64 }) {
		s.do(token, "GET", "/actor/v1/whoami", nil).want(http.StatusOK).into(&who)
		return who
	}
	const path = "/v7/user__has__public_key"
	one, two := publicKey(t, "alice@laptop"), publicKey(t, "")
	row := func(token, title, key string) map[string]any {
		return map[string]any{"title": title, "public_key": key, "user": me(token).ActorTypeID}
	}
	s.do(alice, "POST", path, row(alice, "laptop", one+"\n")).want(http.StatusCreated)
	s.do(alice, "POST", "/v7/user_public_key", row(alice, "desk", two)).want(http.StatusCreated)
	s.do(bob, "POST", path, row(bob, "laptop", one)).want(http.StatusConflict) // a key says who somebody is: it is one account's
	s.do(bob, "POST", path, row(bob, "laptop", strings.Fields(one)[0]+" "+strings.Fields(one)[1]+" bob@laptop")).want(http.StatusConflict)
	three := publicKey(t, "bob@laptop")
	s.do(bob, "POST", path, row(bob, "laptop", three)).want(http.StatusCreated)
	if a := s.do(alice, "POST", path, row(alice, "again", one)).want(http.StatusConflict); !strings.Contains(a.body, "unique") {
		t.Errorf("a duplicate: %s", a.body)
	}
	s.do(alice, "POST", path, row(bob, "for another", publicKey(t, "x"))).want(http.StatusUnauthorized)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	s.must(err)
	weakKey, err := ssh.NewPublicKey(&weak.PublicKey)
	s.must(err)
	for what, key := range map[string]string{
		"nothing": "", "no key": "ssh-ed25519 AAAA", "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
		"two lines": one + "\n" + two, "options": `command="rm -rf /" ` + one, "a short key": string(ssh.MarshalAuthorizedKey(weakKey)),
		"a second line hidden in the comment": strings.TrimSpace(two) + " x\rssh-ed25519 y", "control characters": two + "\x1b[2J",
	} {
		if a := s.do(alice, "POST", path, row(alice, "bad", key)); a.status != http.StatusBadRequest || !strings.Contains(a.body, "public_key") {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	s.do(alice, "POST", path, row(alice, " ", publicKey(t, "x"))).want(http.StatusBadRequest)
	rows := s.do(alice, "GET", path+"?$select=id,title,public_key,fingerprint&$orderby=id%20asc", nil).rows()
	if len(rows) != 2 || rows[0]["public_key"] != one || rows[0]["fingerprint"] != fingerprint(t, one) {
		t.Errorf("alice lists %v", rows)
	}
	// Whoever adds one has given a password lately: neither a key nor an old session leaves one behind.
	s.do(s.key(alice, "ci", nil), "POST", path, row(alice, "left behind", publicKey(t, "x"))).want(http.StatusForbidden)
	s.exec(`UPDATE session SET authenticated_at = ?`, db.FormatTime(time.Now().Add(-time.Hour)))
	if a := s.do(alice, "POST", path, row(alice, "late", publicKey(t, "x"))).want(http.StatusUnauthorized); !strings.Contains(a.body, "Fresh") {
		t.Errorf("with an old session: %s", a.body)
	}
	s.do(alice, "PATCH", path+"?$filter=title%20eq%20'desk'", map[string]any{"public_key": publicKey(t, "x")}).want(http.StatusUnauthorized)
	s.do("", "GET", path, nil).want(http.StatusUnauthorized)
	s.do(dev.APIKey, "GET", path, nil).want(http.StatusUnauthorized)

	keys := func(token, name string) string {
		return s.do(token, "GET", "/auth/v1/public-keys/"+name, nil).want(http.StatusOK).body
	}
	both := one + "\n" + strings.TrimSpace(two)
	for _, test := range []struct{ who, token, name, want string }{
		{"her own device", dev.APIKey, "alice", both},
		{"somebody else's device", foreign.APIKey, "alice", ""},
		{"her device about a stranger", dev.APIKey, "bob", ""},
		{"nobody's name", dev.APIKey, "no-such-user", ""},
		{"she herself", alice, "alice", both},
		{"another person", bob, "alice", ""},
	} {
		if got := keys(test.token, test.name); got != test.want {
			t.Errorf("%s: got %q, want %q", test.who, got, test.want)
		}
	}
	for _, token := range []string{"", "wrong"} {
		if a := s.do(token, "GET", "/auth/v1/public-keys/alice", nil).want(http.StatusUnauthorized); a.body != `{"error":"API key required"}`+"\n" {
			t.Errorf("without a key: %q", a.body)
		}
	}
	s.do(alice, "GET", "/access/v1/hostos/"+string(dev.UUID), nil).want(http.StatusOK)
	s.do(alice, "GET", "/access/v1/hostos/"+string(foreign.UUID), nil).want(http.StatusUnauthorized)
	s.do(bob, "GET", "/access/v1/hostos/"+string(dev.UUID), nil).want(http.StatusUnauthorized)
	s.do(alice, "DELETE", fmt.Sprintf("%s(%v)", path, rows[0]["id"]), nil).want(http.StatusOK)
	if got := keys(dev.APIKey, "alice"); got != strings.TrimSpace(two) {
		t.Errorf("after one was deleted: %q", got)
	}
}

func TestBrowsersMayCall(t *testing.T) {
	s := newServer(t)
	ask := s.do("", "OPTIONS", "/v7/device?$select=id", nil, "Origin: https://pages.example.com", "User-Agent: Mozilla/5.0",
		"Access-Control-Request-Method: PATCH", "Access-Control-Request-Headers: authorization,x-balena-client").want(http.StatusOK)
	if h := ask.header; h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Credentials") != "" ||
		!strings.Contains(h.Get("Access-Control-Allow-Methods"), "PATCH") {
		t.Errorf("preflight: %v", h)
	}
	for _, name := range []string{"Content-Type", "Authorization", "Application-Record-Count", "MaxDataServiceVersion", "X-Requested-With", "X-Balena-Client"} {
		if !strings.Contains(ask.header.Get("Access-Control-Allow-Headers"), name) {
			t.Errorf("a page may not send %s", name)
		}
	}
	for _, test := range []struct {
		agent string
		want  string
	}{
		{"Mozilla/5.0", "*"}, {"", ""}, {"curl/8.5.0", ""}, {"Supervisor/19.0.5 (Linux; balenaOS 6.6.0+rev1; prod)", ""},
	} {
		for _, path := range []string{"/config", "/v7/device", "/nowhere"} { // answers, refusals and nothing at all
			if got := s.do("", "GET", path, nil, "User-Agent: "+test.agent).header.Get("Access-Control-Allow-Origin"); got != test.want {
				t.Errorf("GET %s as %q: allowed origin %q, want %q", path, test.agent, got, test.want)
			}
		}
	}
	s.do("", "OPTIONS", "/v7/device", nil, "User-Agent: curl/8.5.0", "Access-Control-Request-Method: GET").want(http.StatusMethodNotAllowed)
}

func TestSmallRoutes(t *testing.T) {
	s := newServer(t)
	for _, method := range []string{"GET", "HEAD"} {
		a := s.do("", method, "/connectivity-check", nil).want(http.StatusNoContent)
		if a.header.Get("Date") == "" || a.header.Get("ETag") != "" || a.body != "" {
			t.Errorf("%s /connectivity-check: %v %q", method, a.header, a.body)
		}
		s.do("", method, "/ping", nil).want(http.StatusOK)
	}
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	uuid := s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/application(%d)?$select=uuid", fleet), nil).rows()[0]["uuid"].(string)
	for _, path := range []string{"/device/v3/fleet/" + uuid + "/state", "/device/v3/fleet/" + uuid + "/state/", "/device/v3/fleet/" + uuid + "/state/?releaseUuid="} {
		a := s.do(s.admin.APIKey, "GET", path, nil).want(http.StatusOK)
		if !strings.Contains(a.body, `"name":"harbour"`) {
			t.Errorf("GET %s: %s", path, a.body)
		}
		s.do(s.admin.APIKey, "GET", path, nil, "If-None-Match: "+a.header.Get("ETag")).want(http.StatusNotModified)
		s.do("", "GET", path, nil).want(http.StatusUnauthorized)
		s.do(s.user("x"+fmt.Sprint(len(path))), "GET", path, nil).want(http.StatusUnauthorized)
	}
	s.do(s.admin.APIKey, "GET", "/device/v3/fleet/"+uuid+"/state/?releaseUuid=abc", nil).want(http.StatusUnauthorized)
	older := "/device/v2/" + string(dev.UUID) + "/state"
	a := s.do(dev.APIKey, "GET", older, nil).want(http.StatusOK)
	if !strings.HasPrefix(a.body, `{"local":{"name":`) {
		t.Errorf("GET %s: %s", older, a.body)
	}
	s.do(dev.APIKey, "GET", older, nil, "If-None-Match: "+a.header.Get("ETag")).want(http.StatusNotModified)
	s.do(dev.APIKey, "PATCH", older, `{"local":{"status":"Idle"}}`).want(http.StatusOK)
	sister := s.device(s.admin.APIKey, fleet, hexUUID(2))
	s.do(sister.APIKey, "PATCH", older, `{"local":{"status":"stolen"}}`).want(http.StatusUnauthorized)
	for _, path := range []string{"/device/v3/state", older, "/device/v3/tags"} {
		if a := s.do("wrong", "PATCH", path, "{}").want(http.StatusUnauthorized); !strings.Contains(a.body, `"API key required"`) {
			t.Errorf("PATCH %s without a key: %q", path, a.body)
		}
	}
	row := s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/device(%d)?$select=status,is_online", dev.ID), nil).rows()[0]
	if row["status"] != "Idle" || row["is_online"] != true {
		t.Errorf("after the report: %v", row)
	}
	s.do(s.admin.APIKey, "POST", fmt.Sprintf("/application/%d/restart", fleet), nil).want(http.StatusNotFound)
	if a := s.do(dev.APIKey, "POST", "/supervisor/v2/applications/1/restart-service", api.LogLine{}).want(http.StatusBadRequest); a.body == "" {
		t.Error("an action on nothing is refused without a word")
	}
}
