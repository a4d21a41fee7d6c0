package apiserver_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

func TestLoginWhoamiAndLogout(t *testing.T) {
	s := newServer(t)
	for _, name := range []string{s.admin.Username, s.admin.Email, strings.ToUpper(s.admin.Email)} {
		answer := s.do("", "POST", "/login_", api.Login{Username: name, Password: s.admin.Password}).want(http.StatusOK)
		if got := answer.header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") || strings.ContainsAny(answer.body, "\" \n") {
			t.Errorf("login: got %s %q", got, answer.body)
		}
	}
	form := "username=" + s.admin.Username + "&password=" + s.admin.Password
	s.do("", "POST", "/login_", form, "Content-Type: application/x-www-form-urlencoded").want(http.StatusOK)

	session := s.login(s.admin.Username, s.admin.Password)
	for what, token := range map[string]string{"session": session, "named key": s.admin.APIKey} {
		var me api.Whoami
		s.do(token, "GET", "/actor/v1/whoami", nil).want(http.StatusOK).into(&me)
		if me.ActorType != "user" || me.Username != s.admin.Username || me.Email == nil || *me.Email != s.admin.Email || me.ID == 0 || me.ActorTypeID == 0 {
			t.Errorf("whoami with a %s: got %+v", what, me)
		}
	}
	var me api.User
	s.do(session, "GET", "/user/v1/whoami", nil).want(http.StatusOK).into(&me)
	if me.ID == 0 || me.Username != s.admin.Username {
		t.Errorf("user whoami: got %+v", me)
	}
	s.do("", "GET", "/actor/v1/whoami?apikey="+s.admin.APIKey+"&$select=a;b", nil).want(http.StatusOK)
	s.do("", "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do("wrong", "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do("", "GET", "/actor/v1/whoami", nil, "Authorization: Basic "+"dXNlcjpwYXNz").want(http.StatusUnauthorized)

	s.do(session, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	s.do(session, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}

func TestWrongPasswordsAreThrottled(t *testing.T) {
	s := newServer(t)
	for range 10 {
		s.do("", "POST", "/login_", api.Login{Username: "admin", Password: "wrong password"}).want(http.StatusUnauthorized)
	}
	answer := s.do("", "POST", "/login_", api.Login{Username: "admin", Password: s.admin.Password}).want(http.StatusTooManyRequests)
	if got := answer.header.Get("Retry-After"); got != "2" && got != "1" {
		t.Errorf("Retry-After: got %q", got)
	}
	// Another address is not held up; the edge says which one it is, last in the list.
	s.role(api.RoleEdge, "POST", "/login_", api.Login{Username: "admin", Password: s.admin.Password}, "X-Forwarded-For: 192.0.2.1, 203.0.113.5").
		want(http.StatusOK)
}

func TestRefresh(t *testing.T) {
	s := newServer(t)
	old := s.login(s.admin.Username, s.admin.Password)
	fresh := s.do(old, "GET", "/user/v1/refresh-token", nil).want(http.StatusOK).body
	s.do(old, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(fresh, "POST", "/user/v1/refresh-token", api.Login{Password: "wrong password"}).want(http.StatusUnauthorized)
	s.do(fresh, "POST", "/user/v1/refresh-token", api.Login{}).want(http.StatusUnauthorized)
	again := s.do(fresh, "POST", "/user/v1/refresh-token", api.Login{Password: s.admin.Password}).want(http.StatusOK).body
	s.do(fresh, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(again, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(s.admin.APIKey, "GET", "/user/v1/refresh-token", nil).want(http.StatusForbidden)
}

func TestSessionsOverTheWire(t *testing.T) {
	s := newServer(t)
	one, two := s.login(s.admin.Username, s.admin.Password), s.login(s.admin.Username, s.admin.Password)
	var list []api.Session
	s.do(one, "GET", "/user/v1/sessions", nil).want(http.StatusOK).into(&list)
	if len(list) != 2 || list[0].Current || !list[1].Current || list[0].Address != "192.0.2.1" {
		t.Fatalf("sessions: got %+v", list)
	}
	mallory := s.user("mallory")
	path := "/user/v1/sessions/" + itoa(list[0].ID)
	s.do(mallory, "DELETE", path, nil).want(http.StatusNotFound)
	s.do(s.admin.APIKey, "DELETE", path, nil).want(http.StatusForbidden)
	s.do(one, "DELETE", "/user/v1/sessions/x", nil).want(http.StatusBadRequest)
	s.do(two, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(one, "DELETE", path, nil).want(http.StatusOK)
	s.do(two, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}

func TestNamedKeys(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	var key string
	s.do(session, "POST", "/api-key/user/full", map[string]any{"name": "ci", "expiryDate": nil}).want(http.StatusOK).into(&key)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(key, "POST", "/api-key/user/full", map[string]any{"name": "more", "expiryDate": nil}).want(http.StatusForbidden)
	s.do(session, "POST", "/api-key/user/full", map[string]any{"expiryDate": nil}).want(http.StatusBadRequest)
	s.do(session, "POST", "/api-key/user/full", map[string]any{"name": "x", "expiryDate": "2001-01-01T00:00:00.000Z"}).want(http.StatusBadRequest)
	s.do(session, "POST", "/api-key/user/full", `{"name": 5}`).want(http.StatusBadRequest)
	s.do(session, "POST", "/api-key/user/full", `{`).want(http.StatusBadRequest)

	rows := s.do(session, "GET", "/v7/api_key?$select=id,created_at,name,description,expiry_date&$filter=name%20eq%20'ci'&$orderby=name%20asc", nil).rows()
	if len(rows) != 1 {
		t.Fatalf("list: got %v", rows)
	}
	for _, hidden := range []string{"key", "key_hash"} {
		s.do(session, "GET", "/v7/api_key?$select="+hidden, nil).want(http.StatusBadRequest)
		s.do(session, "GET", "/v7/api_key?$filter=startswith("+hidden+",'a')", nil).want(http.StatusBadRequest)
	}
	path := "/v7/api_key(" + itoa(rows[0]["id"]) + ")"
	mallory := s.user("mallory")
	if rows := s.do(mallory, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("another tenant reads the key's row: %v", rows)
	}
	s.do(mallory, "PATCH", path, map[string]any{"name": "mine"}).want(http.StatusOK)
	s.do(mallory, "DELETE", path, nil).want(http.StatusOK) // an invisible row is skipped in silence
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(session, "PATCH", path, map[string]any{"name": "renamed"}).want(http.StatusOK)
	s.do(s.admin.APIKey, "DELETE", path, nil).want(http.StatusForbidden) // nor may one named key end another
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(session, "DELETE", path, nil).want(http.StatusOK)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}

func TestKeysOfFleets(t *testing.T) {
	s := newServer(t)
	session, mallory := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	fleet := s.fleet(session, "hello")
	v2 := func(role string) map[string]any {
		return map[string]any{"actorType": "application", "actorTypeId": fleet, "roles": []string{role}, "name": "line 4", "expiryDate": nil}
	}
	var key string
	s.do(session, "POST", "/api-key/v2/", v2("provisioning-api-key")).want(http.StatusOK).into(&key)
	s.do(s.admin.APIKey, "POST", "/api-key/v1", v2("provisioning-api-key")).want(http.StatusOK)
	s.do(session, "POST", "/api-key/v2/", v2("device-api-key")).want(http.StatusBadRequest)
	s.do(session, "POST", "/api-key/v2/", v2("everything")).want(http.StatusBadRequest)
	s.do(mallory, "POST", "/api-key/v2/", v2("provisioning-api-key")).want(http.StatusNotFound)
	s.do(session, "POST", "/api-key/application/x/provisioning", nil).want(http.StatusBadRequest)
	s.do(session, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", nil).want(http.StatusOK)
	s.do(mallory, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", nil).want(http.StatusNotFound)

	// A provisioning key can do nothing here.
	for _, path := range []string{"/actor/v1/whoami", "/user/v1/whoami", "/v7/application", "/v7/device_type", "/v7/device"} {
		s.do(key, "GET", path, nil).want(http.StatusUnauthorized)
	}
	fleetRow := s.do(session, "GET", "/v7/application("+itoa(fleet)+")?$select=actor", nil).rows()[0]
	actor := fleetRow["actor"].(map[string]any)["__id"]
	filter := "/v7/api_key?$filter=is_of__actor%20eq%20" + itoa(actor)
	if rows := s.do(session, "GET", filter, nil).rows(); len(rows) != 3 {
		t.Errorf("keys of the fleet: got %d, want 3", len(rows))
	}
	if rows := s.do(mallory, "GET", filter, nil).rows(); len(rows) != 0 {
		t.Errorf("keys of another tenant's fleet: got %v", rows)
	}
}

// Every secret that went over the wire is nowhere in the role's directory, nor in its log.
func TestTheRolesDirectoryAndLogHoldNoSecret(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	fleet := s.fleet(session, "hello")
	var key string
	s.do(session, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", nil).want(http.StatusOK).into(&key)
	s.do("", "GET", "/actor/v1/whoami?apikey="+s.admin.APIKey, nil).want(http.StatusOK)
	s.do("", "POST", "/login_", `{"username":"admin","password":"a wrong password"}`).want(http.StatusUnauthorized)
	s.stop()
	secrets := []string{session, key, s.admin.APIKey, s.admin.Password, "a wrong password", strings.Split(session, ".")[2]}
	search := func(where, text string) {
		for i, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds secret number %d", where, i)
			}
		}
	}
	search("the log", s.log.String())
	files := 0
	s.must(filepath.WalkDir(filepath.Join(s.dir, api.RoleAPI), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		search(path, string(data))
		return err
	}))
	if files < 4 {
		t.Errorf("searched %d files only", files)
	}
}
