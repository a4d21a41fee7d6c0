package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// id finds the one row that a query gives.
func (s *server) id(token, query string) int64 {
	s.Helper()
	rows := s.do(token, "GET", q("/v7/"+query), nil).rows()
	if len(rows) != 1 {
		s.Fatalf("GET %s: %d rows", query, len(rows))
	}
	return int64(rows[0]["id"].(float64))
}

// made sends a POST that must succeed and gives the id of the new row.
func (s *server) made(token, resource string, body map[string]any) int64 {
	s.Helper()
	var row struct{ ID int64 }
	s.do(token, "POST", "/v7/"+resource, body).want(http.StatusCreated).into(&row)
	return row.ID
}

// invite has one person invite another into an organization or a fleet, and the other accept.
func (s *server) invite(from, to, email, where, resource string, body map[string]any) {
	s.Helper()
	body["invitee"] = email
	id := s.made(from, resource, body)
	var link api.Invitation
	s.do(from, "POST", fmt.Sprintf("/%s/v1/invitations/%d/link", where, id), nil).want(http.StatusOK).into(&link)
	s.do(to, "POST", "/"+where+"/v1/invitation/"+link.Token, nil).want(http.StatusOK)
}

func TestInvitations(t *testing.T) {
	s := newServer(t)
	alice, bob, eve := s.user("alice"), s.user("bob"), s.user("eve")
	org := s.id(alice, "organization?$select=id")
	fleet := s.fleet(alice, "harbour")

	invite := map[string]any{"invitee": "Bob@example.com", "is_invited_to__organization": org, "message": "come aboard"}
	s.do(bob, "POST", "/v7/organization_invite", invite).want(http.StatusUnauthorized)
	s.do("", "POST", "/v7/organization_invite", invite).want(http.StatusUnauthorized)
	id := s.made(alice, "invitee__is_invited_to__organization", invite)
	s.do(alice, "POST", "/v7/organization_invite", invite).want(http.StatusConflict)
	s.do(alice, "POST", "/v7/organization_invite", map[string]any{"invitee": "nobody", "is_invited_to__organization": org}).
		want(http.StatusBadRequest)
	rows := s.do(alice, "GET", q("/v7/organization_invite?$expand=invitee($select=email),organization_membership_role($select=name)"), nil).rows()
	if len(rows) != 1 || fmt.Sprint(rows[0]["invitee"]) != "[map[email:bob@example.com]]" ||
		fmt.Sprint(rows[0]["organization_membership_role"]) != "[map[name:member]]" || rows[0]["message"] != "come aboard" {
		t.Errorf("the invitation is %v", rows)
	}
	if rows[0]["token_hash"] != nil || rows[0]["invited"] != nil {
		t.Errorf("the invitation shows what nobody sees: %v", rows)
	}
	link := fmt.Sprintf("/org/v1/invitations/%d/link", id)
	s.do(bob, "POST", link, nil).want(http.StatusNotFound)
	s.do("", "POST", link, nil).want(http.StatusUnauthorized)
	var old, now api.Invitation
	s.do(alice, "POST", link, nil).want(http.StatusOK).into(&old)
	s.do(alice, "POST", link, nil).want(http.StatusOK).into(&now)
	accept := func(token, invitation string, status int) {
		t.Helper()
		s.do(token, "POST", "/org/v1/invitation/"+invitation, nil).want(status)
	}
	accept(bob, old.Token, http.StatusNotFound) // a new link ends the former
	accept("", now.Token, http.StatusUnauthorized)
	accept(eve, now.Token, http.StatusForbidden) // a link that went astray
	s.do(bob, "POST", "/user/v1/invitation/"+now.Token, nil).want(http.StatusNotFound)
	accept(bob, now.Token, http.StatusOK)
	accept(bob, now.Token, http.StatusNotFound)
	if rows := s.do(bob, "GET", fmt.Sprintf("/v7/organization(%d)?$select=handle", org), nil).rows(); len(rows) != 1 {
		t.Errorf("bob, a member now, sees %v", rows)
	}
	if rows := s.do(bob, "GET", fmt.Sprintf("/v7/application(%d)", fleet), nil).rows(); len(rows) != 0 {
		t.Errorf("a member of the organization alone sees a fleet: %v", rows)
	}

	s.invite(alice, eve, "eve@example.com", "user", "invitee__is_invited_to__application", map[string]any{
		"is_invited_to__application": fleet, "application_membership_role": s.id(alice, "application_membership_role(name='operator')?$select=id"),
	})
	rows = s.do(eve, "GET", fmt.Sprintf("/v7/application(%d)?$select=slug&$expand=organization($select=handle)", fleet), nil).rows()
	if len(rows) != 1 || fmt.Sprint(rows[0]["organization"]) != "[map[handle:alice]]" {
		t.Errorf("eve, an operator now, sees %v", rows)
	}
	s.do(eve, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"app_name": "haven"}).want(http.StatusForbidden)
	revoked := s.made(alice, "organization_invite", map[string]any{"invitee": "eve@example.com", "is_invited_to__organization": org})
	s.do(alice, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", revoked), nil).want(http.StatusOK).into(&now)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/organization_invite(%d)", revoked), nil).want(http.StatusOK)
	accept(eve, now.Token, http.StatusNotFound)
}

func TestMembersAndTeams(t *testing.T) {
	s := newServer(t)
	alice, bob, eve := s.user("alice"), s.user("bob"), s.user("eve")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	role := func(name string) int64 { return s.id(alice, "application_membership_role(name='"+name+"')?$select=id") }
	member := map[string]any{"username": "bob", "is_member_of__application": fleet, "application_membership_role": role("developer")}
	s.do(alice, "POST", "/v7/user_application_membership", member).want(http.StatusBadRequest) // a stranger is invited
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	id := s.made(alice, "user_application_membership", member)
	s.do(alice, "POST", "/v7/user__is_member_of__application", member).want(http.StatusConflict)
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	s.do(bob, "PATCH", path, map[string]any{"app_name": "haven"}).want(http.StatusOK)
	s.do(bob, "PATCH", path, map[string]any{"is_public": true}).want(http.StatusForbidden)
	s.do(bob, "DELETE", path, nil).want(http.StatusForbidden)
	// Nobody lifts themselves, and no membership is turned into another's.
	mine := fmt.Sprintf("/v7/user_application_membership(%d)", id)
	s.do(bob, "PATCH", mine, map[string]any{"application_membership_role": role("developer")}).want(http.StatusForbidden)
	s.do(alice, "PATCH", mine, map[string]any{"user": s.id(alice, "user(username='alice')?$select=id")}).want(http.StatusBadRequest)
	byKey := fmt.Sprintf("/v7/user_application_membership(user=%d,is_member_of__application=%d)", s.id(bob, "user(username='bob')?$select=id"), fleet)
	s.do(alice, "PATCH", byKey, map[string]any{"application_membership_role": role("observer")}).want(http.StatusOK)
	s.do(bob, "PATCH", path, map[string]any{"app_name": "depot"}).want(http.StatusForbidden)

	// A member makes a fleet and is its developer, no more.
	var own struct{ ID int64 }
	s.do(bob, "POST", "/v7/application", map[string]any{
		"app_name": "bobs", "organization": org, "is_for__device_type": s.deviceType("generic-amd64"),
	}).want(http.StatusCreated).into(&own)
	s.do(bob, "PATCH", fmt.Sprintf("/v7/application(%d)", own.ID), map[string]any{"app_name": "bobs-own"}).want(http.StatusOK)
	s.do(bob, "DELETE", fmt.Sprintf("/v7/application(%d)", own.ID), nil).want(http.StatusForbidden)

	// Teams give access to fleets of their organization, to its members.
	team := s.made(alice, "team", map[string]any{"name": "crew", "belongs_to__organization": org})
	s.do(bob, "POST", "/v7/team", map[string]any{"name": "mine", "belongs_to__organization": org}).want(http.StatusUnauthorized)
	s.do(alice, "POST", "/v7/team_membership", map[string]any{"username": "eve", "is_member_of__team": team}).want(http.StatusBadRequest)
	inTeam := s.made(alice, "team_membership", map[string]any{"username": "bob", "is_member_of__team": team})
	given := s.made(alice, "team_application_access", map[string]any{
		"team": team, "grants_access_to__application": fleet, "application_membership_role": role("developer"),
	})
	s.do(bob, "PATCH", path, map[string]any{"app_name": "depot"}).want(http.StatusOK)
	evesFleet := s.fleet(eve, "elsewhere")
	s.do(alice, "POST", "/v7/team_application_access", map[string]any{
		"team": team, "grants_access_to__application": evesFleet, "application_membership_role": role("developer"),
	}).want(http.StatusUnauthorized)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/team_application_access(%d)", given), map[string]any{"application_membership_role": role("observer")}).
		want(http.StatusOK)
	s.do(bob, "PATCH", path, map[string]any{"app_name": "wharf"}).want(http.StatusForbidden)
	s.do(alice, "DELETE", q(fmt.Sprintf("/v7/team_membership?$filter=id in (%d,%d)", inTeam, 4711)), nil).want(http.StatusOK)

	// Tags of memberships are the administrators' to write.
	membership := s.id(bob, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'bob') and is_member_of__organization eq "+itoa(org))
	s.made(alice, "organization_membership_tag", map[string]any{"organization_membership": membership, "tag_key": "desk", "value": "4"})
	s.do(bob, "POST", "/v7/organization_membership_tag", map[string]any{"organization_membership": membership, "tag_key": "x", "value": ""}).
		want(http.StatusUnauthorized)
	s.do(alice, "POST", "/v7/organization_membership_tag", map[string]any{"organization_membership": membership, "tag_key": "a b", "value": ""}).
		want(http.StatusBadRequest)

	// Who leaves the organization leaves everything in it.
	s.do(bob, "DELETE", fmt.Sprintf("/v7/organization_membership(%d)", membership), nil).want(http.StatusOK)
	for _, query := range []string{path, fmt.Sprintf("/v7/application(%d)", own.ID)} {
		if rows := s.do(bob, "GET", query, nil).rows(); len(rows) != 0 {
			t.Errorf("somebody who left still sees %v", rows)
		}
	}
	if rows := s.do(alice, "GET", "/v7/user_application_membership", nil).rows(); len(rows) != 0 {
		t.Errorf("memberships that are left: %v", rows)
	}
}

// A key made with a limit is told so at every door.
func TestScopedKeysOverTheWire(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	one, two := s.fleet(alice, "harbour"), s.fleet(alice, "depot")
	key := func(spec api.NewKey) (token string) {
		t.Helper()
		spec.Name = "scoped"
		s.do(alice, "POST", "/api-key/user/full", spec).want(http.StatusOK).into(&token)
		return token
	}
	reads, works := key(api.NewKey{ReadOnly: true}), key(api.NewKey{Level: "developer", Fleets: []string{"alice/harbour"}})
	for name, bad := range map[string]api.NewKey{
		"level": {Name: "x", Level: "king"}, "readOnly": {Name: "x", Level: "developer", ReadOnly: true}, "fleets": {Name: "x", Fleets: []string{"a/b"}},
	} {
		if got := s.do(alice, "POST", "/api-key/user/full", bad); got.status != 400 && got.status != 404 {
			t.Errorf("a bad %s: got %d %s", name, got.status, got.body)
		}
	}
	for token, want := range map[string]int{reads: 2, works: 1} {
		if rows := s.do(token, "GET", "/v7/application?$select=id", nil).rows(); len(rows) != want {
			t.Errorf("a scoped key sees %d fleets, want %d", len(rows), want)
		}
		s.do(token, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
		for _, door := range []string{"POST /api-key/user/full", "GET /user/v1/sessions", "POST /user/v1/logout", "GET /user/v1/refresh-token"} {
			var method, path string
			if _, err := fmt.Sscan(door, &method, &path); err != nil {
				t.Fatal(err)
			}
			s.do(token, method, path, nil).want(http.StatusForbidden)
		}
		s.do(token, "POST", "/v7/organization", map[string]any{"name": "mine"}).want(http.StatusForbidden)
		if rows := s.do(token, "GET", "/v7/api_key?$select=id,name", nil).rows(); len(rows) != 1 {
			t.Errorf("a scoped key sees %d keys", len(rows))
		}
	}
	patch := func(token string, fleet int64, name string) int {
		t.Helper()
		return s.do(token, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"app_name": name}).status
	}
	if got := patch(reads, one, "haven"); got != http.StatusForbidden {
		t.Errorf("a key that reads renames: %d", got)
	}
	if got := patch(works, one, "haven"); got != http.StatusOK {
		t.Errorf("a developer's key renames its fleet: %d", got)
	}
	if patch(works, two, "haven2"); s.id(alice, "application(slug='alice/depot')?$select=id") != two {
		t.Error("a key renamed a fleet that it is not for")
	}
}

func TestAKeyIsExplained(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "harbour")
	var scoped string
	s.do(alice, "POST", "/api-key/user/full", api.NewKey{Name: "watch", Level: "operator", Fleets: []string{"alice/harbour"}}).
		want(http.StatusOK).into(&scoped)
	var k api.KeyExplanation
	s.do(scoped, "GET", "/api-key/v1/self/explain", nil).want(http.StatusOK).into(&k)
	if k.Name != "watch" || k.Principal != "scoped key" || k.Of != "alice" || k.Level != "operator" || len(k.Fleets) != 1 || k.Ended != "" {
		t.Errorf("the key is %+v", k)
	}
	for what, list := range map[string][]string{"device": k.Makes, "application": k.Reads, "device_tag": k.Deletes, "GET /actor/v1/whoami": k.Routes} {
		if !slices.Contains(list, what) {
			t.Errorf("%s is not among %v", what, list)
		}
	}
	for what, list := range map[string][]string{"application": k.Changes, "service": k.Makes, "release": k.Deletes, "organization": k.Makes,
		"POST /api-key/user/full": k.Routes} {
		if slices.Contains(list, what) {
			t.Errorf("%s is among %v", what, list)
		}
	}
	path := fmt.Sprintf("/api-key/v1/%d/explain", k.ID)
	s.do(alice, "GET", path, nil).want(http.StatusOK)
	s.do(bob, "GET", path, nil).want(http.StatusNotFound)
	s.do("", "GET", path, nil).want(http.StatusUnauthorized)
	s.do(alice, "GET", "/api-key/v1/self/explain", nil).want(http.StatusBadRequest) // a session
	s.do(alice, "GET", "/api-key/v1/x/explain", nil).want(http.StatusBadRequest)

	var provisioning string
	s.do(alice, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", api.NewKey{Name: "factory"}).want(http.StatusOK).into(&provisioning)
	id := s.id(alice, "api_key?$select=id&$filter=name eq 'factory'")
	s.do(alice, "GET", fmt.Sprintf("/api-key/v1/%d/explain", id), nil).want(http.StatusOK).into(&k)
	if k.Principal != "provisioning" || k.Of != "alice/harbour" || len(k.Reads) != 0 || !slices.Equal(k.Routes, []string{"POST /device/register"}) ||
		k.CreatedBy != "alice" {
		t.Errorf("a provisioning key is %+v", k)
	}
}
