package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// limited makes a key of a session's user.
func (s *server) limited(session string, key api.NewKey) (token string) {
	s.Helper()
	key.Name = "limited"
	s.do(session, "POST", "/api-key/user/full", key).want(http.StatusOK).into(&token)
	return token
}

// A key with verbs does what they say, in all fleets of its user or in some.
func TestKeysWithVerbs(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	one, two := s.fleet(alice, "alpha"), s.fleet(alice, "beta")
	path := func(fleet int64) string { return fmt.Sprintf("/v7/application(%d)", fleet) }
	settings := s.limited(alice, api.NewKey{Verbs: []string{"settings"}, Fleets: []string{"alice/alpha"}})
	s.do(settings, "PATCH", path(one), map[string]any{"app_name": "omega"}).want(http.StatusOK)
	s.do(settings, "POST", "/v7/device", map[string]any{"belongs_to__application": one, "is_of__device_type": s.deviceType("generic-amd64"),
		"uuid": strings.Repeat("b", 32)}).want(http.StatusUnauthorized)
	if rows := s.do(settings, "GET", path(two), nil).rows(); len(rows) != 0 {
		t.Errorf("a key for one fleet sees the other: %v", rows)
	}
	for what, key := range map[string]api.NewKey{
		"an unknown verb":      {Verbs: []string{"fly"}},
		"a verb and a level":   {Verbs: []string{"read"}, Level: "operator"},
		"an unknown channel":   {Channels: []string{"post"}},
		"no network":           {Networks: []string{"example.com"}},
		"a network of nowhere": {Networks: []string{"192.0.2.0/33"}},
		"no tag":               {Tags: []string{"=x"}},
		"too many":             {Tags: strings.Split(strings.Repeat("a b ", 60), " ")},
	} {
		key.Name = "bad"
		s.do(alice, "POST", "/api-key/user/full", key).want(http.StatusBadRequest)
		_ = what
	}
	s.do(alice, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", one), api.NewKey{Verbs: []string{"read"}}).want(http.StatusBadRequest)
	// A key that may make keys makes none that can do more than itself.
	soon := time.Now().Add(time.Hour)
	keys := s.limited(alice, api.NewKey{Verbs: []string{"keys"}})
	s.do(keys, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", one), api.NewKey{ExpiryDate: &soon}).want(http.StatusNotFound)
	s.do(keys, "POST", "/api-key/v1", api.NewKey{ActorType: "application", ActorTypeID: one, Roles: []string{"fleet-api-key"}, ExpiryDate: &soon}).
		want(http.StatusOK)
	s.do(keys, "POST", "/api-key/user/full", api.NewKey{Name: "more"}).want(http.StatusForbidden)
	both := s.limited(alice, api.NewKey{Verbs: []string{"keys", "devices"}})
	s.do(both, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", one), api.NewKey{ExpiryDate: &soon}).want(http.StatusOK)
}

// Attack: a key grants more than its maker has, now or later.
func TestAKeyHasNoMoreThanItsMaker(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "harbour")
	s.invite(alice, bob, "bob@example.com", "user", "application_invite", map[string]any{"is_invited_to__application": fleet, "application_membership_role": 3})
	all := []string{"devices", "actions", "shell", "keys", "releases", "settings", "members", "ownership"}
	whole, many := s.limited(bob, api.NewKey{}), s.limited(bob, api.NewKey{Verbs: all})
	var reader string
	s.do(bob, "POST", "/api-key/v1", api.NewKey{ActorType: "application", ActorTypeID: fleet, Roles: []string{"fleet-api-key"}}).want(http.StatusOK).into(&reader)
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	for i, key := range []string{whole, many} {
		s.do(key, "PATCH", path, map[string]any{"app_name": fmt.Sprint("haven", i)}).want(http.StatusOK)
		s.do(key, "PATCH", path, map[string]any{"is_public": true}).want(http.StatusForbidden)
		s.do(key, "DELETE", path, nil).want(http.StatusForbidden)
	}
	s.do(bob, "POST", "/api-key/user/full", api.NewKey{Name: "other", Fleets: []string{"nobody/nothing"}}).want(http.StatusNotFound)
	row := s.id(alice, "user_application_membership?$select=id&$filter=user/any(u:u/username eq 'bob')")
	member := fmt.Sprintf("/v7/user_application_membership(%d)", row)
	s.do(alice, "PATCH", member, map[string]any{"application_membership_role": 1}).want(http.StatusOK)
	for _, key := range []string{whole, many} {
		s.do(key, "PATCH", path, map[string]any{"app_name": "port"}).want(http.StatusForbidden)
	}
	s.do(reader, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(alice, "DELETE", member, nil).want(http.StatusOK)
	for _, key := range []string{whole, many} {
		if rows := s.do(key, "GET", path, nil).rows(); len(rows) != 0 {
			t.Errorf("a key of somebody who left sees %v", rows)
		}
	}
}

// A key for fleets with a tag is for those that carry it, as long as they do. It cannot bring further fleets in.
func TestKeysForFleetsWithATag(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	blue, red, bare := s.fleet(alice, "bluefleet"), s.fleet(alice, "redfleet"), s.fleet(alice, "barefleet")
	tags := map[int64]int64{}
	for fleet, value := range map[int64]string{blue: "blue", red: "red"} {
		tags[fleet] = s.made(alice, "application_tag", map[string]any{"application": fleet, "tag_key": "line", "value": value})
	}
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", bare), map[string]any{"is_public": true}).want(http.StatusOK)
	one := s.limited(alice, api.NewKey{Verbs: []string{"settings"}, Tags: []string{"line=blue"}})
	each := s.limited(alice, api.NewKey{Tags: []string{"line"}, Fleets: []string{"alice/barefleet"}})
	mayRename := func(key string, fleet int64) bool {
		t.Helper()
		return s.do(key, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_archived": false}).status == http.StatusOK &&
			len(s.do(key, "GET", fmt.Sprintf("/v7/application(%d)?$filter=is_public%%20eq%%20false%%20or%%20id%%20gt%%200", fleet), nil).rows()) == 1
	}
	for _, tt := range []struct {
		what  string
		key   string
		fleet int64
		want  bool
	}{{"the value", one, blue, true}, {"another value", one, red, false}, {"any value", each, blue, true}, {"any value", each, red, true},
		{"named", each, bare, true}} {
		if got := mayRename(tt.key, tt.fleet); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.what, got, tt.want)
		}
	}
	// Attack: the key makes the tag itself, on a fleet that it may read because everybody may, or moves one there.
	tag := map[string]any{"application": bare, "tag_key": "line", "value": "blue"}
	if a := s.do(one, "POST", "/v7/application_tag", tag); a.status < 400 {
		t.Errorf("a key for a tag tags another fleet: %d %s", a.status, a.body)
	}
	if a := s.do(one, "PATCH", fmt.Sprintf("/v7/application_tag(%d)", tags[blue]), map[string]any{"application": bare}); a.status < 400 {
		t.Errorf("a key for a tag moves it to another fleet: %d %s", a.status, a.body)
	}
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application_tag(%d)", tags[blue]), map[string]any{"value": "green"}).want(http.StatusOK)
	if mayRename(one, blue) {
		t.Error("the key still has a fleet that lost the tag")
	}
}

// A key is for its channels and its networks, with every request, whether the server remembers it or not.
func TestKeysOfChannelsAndNetworks(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	const whoami, token = "/actor/v1/whoami", "/auth/v1/token?service=registry2.roadstead.test"
	s.signer()
	from := func(key, path, address string) int {
		t.Helper()
		return s.role(api.RoleEdge, "GET", path, nil, "Authorization: Bearer "+key, "X-Forwarded-For: "+address).status
	}
	basic := func(key string) int {
		t.Helper()
		return s.role(api.RoleEdge, "GET", token, nil, "Authorization: Bearer "+key, "X-Forwarded-For: 192.0.2.1").status
	}
	only := s.limited(alice, api.NewKey{Channels: []string{"api"}})
	if a, b := from(only, whoami, "192.0.2.1"), basic(only); a != 200 || b != 403 {
		t.Errorf("a key for the API: %d at the API, %d at the registry's tokens", a, b)
	}
	registry := s.limited(alice, api.NewKey{Channels: []string{"registry", "git"}})
	if a, b := from(registry, whoami, "192.0.2.1"), basic(registry); a != 403 || b == 401 || b == 403 {
		t.Errorf("a key for the registry: %d at the API, %d at the registry's tokens", a, b)
	}
	near := s.limited(alice, api.NewKey{Networks: []string{"192.0.2.0/24", "2001:db8::/32"}})
	for range 2 { // remembered from the first time on
		for address, want := range map[string]int{
			"192.0.2.7": 200, "::ffff:192.0.2.7": 200, "2001:db8::1": 200, "198.51.100.1": 401, "2001:db9::1": 401, "192.0.3.1": 401, "": 401, "nonsense": 401,
		} {
			if got := from(near, whoami, address); got != want {
				t.Errorf("from %q: got %d, want %d", address, got, want)
			}
		}
	}
	// What a client says of its address counts for nothing: the edge's word comes last.
	if got := s.role(api.RoleEdge, "GET", whoami, nil, "Authorization: Bearer "+near, "X-Forwarded-For: 192.0.2.7, 198.51.100.1").status; got != 401 {
		t.Errorf("a forged address: got %d", got)
	}
	// A build is asked for by the builder, which says for whom and from where.
	s.fleet(alice, "harbour")
	pusher := s.limited(alice, api.NewKey{Verbs: []string{"releases"}, Networks: []string{"192.0.2.0/24"}})
	for address, want := range map[string]int{"192.0.2.9": http.StatusCreated, "198.51.100.1": http.StatusUnauthorized} {
		s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "alice/harbour"},
			"Authorization: Bearer "+pusher, "X-Forwarded-For: "+address).want(want)
	}
}

// What a key did is remembered, and written down later: from where, and which of its verbs it used.
func TestTheLastUseOfAKey(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	fleet := s.fleet(alice, "harbour")
	key := s.limited(alice, api.NewKey{Verbs: []string{"settings", "devices", "actions"}})
	explain := func() (k api.KeyExplanation) {
		t.Helper()
		s.do(key, "GET", "/api-key/v1/self/explain", nil).want(http.StatusOK).into(&k)
		return k
	}
	if k := explain(); fmt.Sprint(k.Verbs) != "[read devices actions settings]" || len(k.Unused) != 0 || k.LastUsedFrom != "" {
		t.Errorf("a new key is %+v", k)
	}
	s.do(key, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"app_name": "haven"}).want(http.StatusOK)
	s.do(key, "POST", "/supervisor/v1/reboot", map[string]any{"appId": fleet}).want(http.StatusNotFound)
	s.must(s.running.Sweep(t.Context()))
	k := explain()
	if k.LastUsedFrom != "192.0.2.1" || k.LastUsedFor["settings"] == "" || k.LastUsedFor["actions"] == "" || k.LastUsedFor["devices"] != "" {
		t.Errorf("after its use the key is %+v", k)
	}
	s.exec(`UPDATE api_key SET created_at = '2020-01-01T00:00:00.000Z'`)
	s.exec(`UPDATE api_key_use SET last_on = '2020-01-01' WHERE verb = 64`)
	if k := explain(); fmt.Sprint(k.Unused) != "[devices settings]" {
		t.Errorf("unused: got %v", k.Unused)
	}
	// What it cannot do is not among what it does.
	for _, list := range [][]string{k.Makes, k.Changes, k.Deletes} {
		if strings.Contains(strings.Join(list, " "), "release") {
			t.Errorf("a key without that verb changes releases: %v", list)
		}
	}
	if strings.Contains(strings.Join(k.Routes, " "), "hostos") || !strings.Contains(strings.Join(k.Routes, " "), "/supervisor/") {
		t.Errorf("its routes are %v", k.Routes)
	}
}

// A service account works in its organization's fleets by keys, and nowhere else by nothing else.
func TestServiceAccounts(t *testing.T) {
	s := newServer(t)
	alice, bob, eve := s.user("alice"), s.user("bob"), s.user("eve")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	other := s.fleet(eve, "elsewhere")
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	want := api.ServiceAccount{Name: "alice-ci", Organization: "alice"}
	s.do(bob, "POST", "/service-account/v1", want).want(http.StatusForbidden)
	s.do(eve, "POST", "/service-account/v1", want).want(http.StatusNotFound)
	s.do(alice, "POST", "/service-account/v1", api.ServiceAccount{Name: "bob", Organization: "alice"}).want(http.StatusConflict)
	s.do(alice, "POST", "/service-account/v1", api.ServiceAccount{Name: "A!", Organization: "alice"}).want(http.StatusBadRequest)
	var made api.ServiceAccount
	s.do(alice, "POST", "/service-account/v1", want).want(http.StatusCreated).into(&made)
	door := fmt.Sprintf("/service-account/v1/%d", made.ID)
	s.do(bob, "POST", door+"/key", api.NewKey{Name: "k"}).want(http.StatusForbidden)
	s.do(eve, "POST", door+"/key", api.NewKey{Name: "k"}).want(http.StatusNotFound)
	named := s.limited(alice, api.NewKey{})
	s.do(named, "POST", door+"/key", api.NewKey{Name: "k"}).want(http.StatusForbidden) // keys make no user keys
	var key string
	s.do(alice, "POST", door+"/key", api.NewKey{Name: "k"}).want(http.StatusOK).into(&key)

	var me api.Whoami
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK).into(&me)
	if me.ServiceAccountOf != "alice" || me.Username != "alice-ci" || me.Email != nil {
		t.Errorf("whoami: %+v", me)
	}
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	if rows := s.do(key, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("without a role it sees %v", rows)
	}
	s.made(alice, "user_application_membership", map[string]any{"username": "alice-ci", "is_member_of__application": fleet, "application_membership_role": 3})
	s.do(key, "PATCH", path, map[string]any{"app_name": "haven"}).want(http.StatusOK)
	s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "alice/haven"}, "Authorization: Bearer "+key).want(http.StatusCreated)
	if rows := s.do(bob, "GET", q("/v7/user?$select=username,is_service_account_of__organization&$filter=username eq 'alice-ci'"), nil).rows(); len(rows) != 1 ||
		rows[0]["is_service_account_of__organization"] == nil {
		t.Errorf("members see of it: %v", rows)
	}
	if rows := s.do(eve, "GET", q("/v7/user?$select=username&$filter=username eq 'alice-ci'"), nil).rows(); len(rows) != 0 {
		t.Errorf("strangers see of it: %v", rows)
	}

	// It is nobody's in another organization, no member, no administrator, and it does not sign in.
	for _, body := range []map[string]any{
		{"username": "alice-ci", "is_member_of__application": other}, {"user": made.ID, "is_member_of__application": other},
	} {
		if a := s.do(eve, "POST", "/v7/user_application_membership", body); a.status < 400 {
			t.Errorf("it is made a member elsewhere: %d %s", a.status, a.body)
		}
	}
	s.do(alice, "POST", "/v7/organization_membership", map[string]any{"user": made.ID, "is_member_of__organization": org, "organization_membership_role": 1}).
		want(http.StatusBadRequest)
	for _, password := range []string{"", "none", "x"} {
		if a := s.do("", "POST", "/login_", api.Login{Username: "alice-ci", Password: password}); a.status < 400 || a.status >= 500 {
			t.Errorf("it logs in: %d %s", a.status, a.body)
		}
	}
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/password", api.NewUser{Username: "alice-ci"}).want(http.StatusNotFound)
	for _, what := range []string{"POST /v7/organization", "POST /v7/user__has__public_key", "POST /api-key/user/full", "GET /user/v1/sessions"} {
		method, door, _ := strings.Cut(what, " ")
		if a := s.do(key, method, door, map[string]any{"name": "x", "user": made.ID, "title": "x", "public_key": "x"}); a.status != 401 && a.status != 403 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}

	// Its keys are the administrators', and end with whoever made them.
	id := s.id(alice, "api_key?$select=id&$filter=name eq 'k'")
	if rows := s.do(bob, "GET", q("/v7/api_key?$filter=name eq 'k'"), nil).rows(); len(rows) != 0 {
		t.Errorf("a member sees its keys: %v", rows)
	}
	s.invite(alice, eve, "eve@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": 1})
	var eves string
	s.do(eve, "POST", door+"/key", api.NewKey{Name: "e"}).want(http.StatusOK).into(&eves)
	s.do(eves, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	left := s.id(alice, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'eve')")
	s.do(alice, "DELETE", fmt.Sprintf("/v7/organization_membership(%d)", left), nil).want(http.StatusOK)
	s.do(eves, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/api_key(%d)", id), nil).want(http.StatusOK)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(alice, "POST", door+"/key", api.NewKey{Name: "k"}).want(http.StatusOK).into(&key)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(bob, "DELETE", door, nil).want(http.StatusForbidden)
	s.do(eve, "DELETE", door, nil).want(http.StatusNotFound)
	s.do(alice, "DELETE", door, nil).want(http.StatusOK)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	if rows := s.do(alice, "GET", fmt.Sprintf("/v7/user_application_membership?$filter=user%%20eq%%20%d", made.ID), nil).rows(); len(rows) != 0 {
		t.Errorf("it is a member after its end: %v", rows)
	}
	// With its organization it ends, too.
	doomed := s.made(alice, "organization", map[string]any{"name": "Doomed", "handle": "doomed"})
	s.do(alice, "POST", "/service-account/v1", api.ServiceAccount{Name: "doomed-ci", Organization: "doomed"}).want(http.StatusCreated).into(&made)
	s.do(alice, "POST", fmt.Sprintf("/service-account/v1/%d/key", made.ID), api.NewKey{Name: "k"}).want(http.StatusOK).into(&key)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/organization(%d)", doomed), nil).want(http.StatusOK)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}

// An organization says how long new keys of its members, and of its service accounts, live at most.
func TestKeysLiveAsLongAsTheOrganizationSays(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	old := s.limited(bob, api.NewKey{})
	path := fmt.Sprintf("/v7/organization(%d)", org)
	for _, days := range []any{0, -1, 4000, "x"} {
		s.do(alice, "PATCH", path, map[string]any{"max_key_days": days}).want(http.StatusBadRequest)
	}
	s.do(bob, "PATCH", path, map[string]any{"max_key_days": 9}).want(http.StatusForbidden)
	s.do(alice, "PATCH", path, map[string]any{"max_key_days": 30}).want(http.StatusOK)
	s.do(old, "GET", "/actor/v1/whoami", nil).want(http.StatusOK) // what is there stays
	soon, late := time.Now().Add(29*24*time.Hour), time.Now().Add(31*24*time.Hour)
	make := func(door string, end *time.Time, status int) {
		t.Helper()
		s.do(bob, "POST", door, api.NewKey{Name: "k", ExpiryDate: end}).want(status)
	}
	make("/api-key/user/full", nil, http.StatusBadRequest)
	make("/api-key/user/full", &late, http.StatusBadRequest)
	make("/api-key/user/full", &soon, http.StatusOK)
	key := fmt.Sprintf("/v7/api_key(%d)", s.id(bob, "api_key?$select=id&$filter=name eq 'k'"))
	s.do(bob, "PATCH", key, map[string]any{"expiry_date": nil}).want(http.StatusBadRequest)
	s.do(bob, "PATCH", key, map[string]any{"expiry_date": late.UnixMilli()}).want(http.StatusBadRequest)
	s.do(bob, "PATCH", key, map[string]any{"expiry_date": soon.Add(-time.Hour).UnixMilli()}).want(http.StatusOK)
	var robot api.ServiceAccount
	s.do(alice, "POST", "/service-account/v1", api.ServiceAccount{Name: "alice-ci", Organization: "alice"}).want(http.StatusCreated).into(&robot)
	door := fmt.Sprintf("/service-account/v1/%d/key", robot.ID)
	s.do(alice, "POST", door, api.NewKey{Name: "k"}).want(http.StatusBadRequest)
	s.do(alice, "POST", door, api.NewKey{Name: "k", ExpiryDate: &soon}).want(http.StatusOK)
	s.do(alice, "PATCH", path, map[string]any{"max_key_days": nil}).want(http.StatusOK)
	make("/api-key/user/full", nil, http.StatusOK)
}
