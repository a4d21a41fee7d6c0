package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// roleOf makes a role of an organization.
func (s *server) roleOf(token string, org int64, name string, verbs ...string) int64 {
	s.Helper()
	return s.made(token, "application_membership_role", map[string]any{"belongs_to__organization": org, "name": name, "verbs": verbs})
}

// A role of an organization gives what it says, from the next request on, also when it is changed.
func TestRolesOfAnOrganization(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	role := s.roleOf(alice, org, "field", "shell")
	row := fmt.Sprintf("/v7/application_membership_role(%d)", role)
	got := s.do(bob, "GET", row+"?$select=name,verbs", nil).rows()
	if len(got) != 1 || fmt.Sprint(got[0]["verbs"]) != "[read shell]" {
		t.Errorf("bob, a member, reads of the role: %v", got)
	}
	member := s.made(alice, "user_application_membership", map[string]any{
		"username": "bob", "is_member_of__application": fleet, "application_membership_role": role,
	})
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	if rows := s.do(bob, "GET", path, nil).rows(); len(rows) != 1 {
		t.Errorf("who may enter devices does not see the fleet: %v", rows)
	}
	s.do(bob, "PATCH", path, map[string]any{"app_name": "haven"}).want(http.StatusForbidden)
	s.do(alice, "PATCH", row, map[string]any{"verbs": []string{"settings"}}).want(http.StatusOK)
	s.do(bob, "PATCH", path, map[string]any{"app_name": "haven"}).want(http.StatusOK)
	s.do(alice, "PATCH", row, map[string]any{"verbs": []string{"read"}}).want(http.StatusOK)
	s.do(bob, "PATCH", path, map[string]any{"app_name": "port"}).want(http.StatusForbidden)

	if a := s.do(alice, "DELETE", row, nil).want(http.StatusConflict); !strings.Contains(a.body, "1 members") {
		t.Errorf("a role in use: %s", a.body)
	}
	s.do(alice, "DELETE", fmt.Sprintf("/v7/user_application_membership(%d)", member), nil).want(http.StatusOK)
	s.do(alice, "DELETE", row, nil).want(http.StatusOK)

	for what, body := range map[string]map[string]any{
		"no verb":            {"name": "x", "belongs_to__organization": org},
		"unknown verb":       {"name": "x", "belongs_to__organization": org, "verbs": []string{"fly"}},
		"no list":            {"name": "x", "belongs_to__organization": org, "verbs": "read"},
		"empty list":         {"name": "x", "belongs_to__organization": org, "verbs": []string{}},
		"administrators'":    {"name": "x", "belongs_to__organization": org, "verbs": []string{"members"}},
		"ownership":          {"name": "x", "belongs_to__organization": org, "verbs": []string{"ownership"}},
		"no name":            {"name": " ", "belongs_to__organization": org, "verbs": []string{"read"}},
		"no organization":    {"name": "x", "verbs": []string{"read"}},
		"hidden column":      {"name": "x", "belongs_to__organization": org, "verbs": []string{"read"}, "mask": 511},
		"a built-in's name":  {"name": "operator", "belongs_to__organization": org, "verbs": []string{"read"}},
		"more than there is": {"name": "x", "belongs_to__organization": org, "verbs": strings.Split(strings.Repeat("read ", 30), " ")},
	} {
		if a := s.do(alice, "POST", "/v7/application_membership_role", body); a.status < 400 || a.status >= 500 {
			t.Errorf("%s: got %d %s", what, a.status, a.body)
		}
	}
	for name, id := range map[string]int64{"observer": 1, "operator": 2, "developer": 3} {
		if got := s.id(bob, "application_membership_role(name='"+name+"')?$select=id"); got != id {
			t.Errorf("the built-in role %s is %d", name, got)
		}
		s.do(alice, "PATCH", fmt.Sprintf("/v7/application_membership_role(%d)", id), map[string]any{"verbs": []string{"shell"}}).want(http.StatusForbidden)
		s.do(alice, "DELETE", fmt.Sprintf("/v7/application_membership_role(%d)", id), nil).want(http.StatusForbidden)
	}
}

// Attack: somebody makes themselves more than they are, through every resource that says who is what; and through a role of an
// organization in which they may make any.
func TestNobodyPromotesThemselves(t *testing.T) {
	s := newServer(t)
	alice, bob, mallory := s.user("alice"), s.user("bob"), s.user("mallory")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	theirs := s.id(mallory, "organization?$select=id")
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	s.invite(alice, mallory, "mallory@example.com", "user", "application_invite", map[string]any{
		"is_invited_to__application": fleet, "application_membership_role": 3,
	})
	little := s.roleOf(alice, org, "little", "read")
	all := []string{"devices", "actions", "shell", "keys", "releases", "settings"}
	much := s.roleOf(mallory, theirs, "much", all...)
	team := s.made(alice, "team", map[string]any{"name": "crew", "belongs_to__organization": org})
	s.made(alice, "team_membership", map[string]any{"username": "bob", "is_member_of__team": team})
	access := s.made(alice, "team_application_access", map[string]any{"team": team, "grants_access_to__application": fleet, "application_membership_role": little})
	of := s.id(mallory, "user_application_membership?$select=id&$filter=user/any(u:u/username eq 'mallory')")
	users := map[string]int64{}
	for name, token := range map[string]string{"bob": bob, "mallory": mallory} {
		var me api.User
		s.do(token, "GET", "/user/v1/whoami", nil).want(http.StatusOK).into(&me)
		users[name] = me.ID
	}
	refused := func(who, token, method, path string, body map[string]any) {
		t.Helper()
		a := s.do(token, method, path, body)
		if a.status < 400 || a.status >= 500 {
			t.Errorf("%s: %s %s %v: got %d %s", who, method, path, body, a.status, a.body)
		}
	}
	for who, token := range map[string]string{"bob": bob, "mallory": mallory} {
		refused(who, token, "POST", "/v7/user_application_membership", map[string]any{
			"user": users[who], "is_member_of__application": fleet, "application_membership_role": 3})
		refused(who, token, "PATCH", fmt.Sprintf("/v7/user_application_membership(%d)", of), map[string]any{"end_date": nil, "application_membership_role": 2})
		refused(who, token, "POST", "/v7/team_application_access", map[string]any{
			"team": team, "grants_access_to__application": fleet, "application_membership_role": 3})
		refused(who, token, "POST", "/v7/application_invite", map[string]any{"invitee": who + "@example.com", "is_invited_to__application": fleet,
			"application_membership_role": 3})
		refused(who, token, "POST", "/v7/organization_invite", map[string]any{"invitee": who + "@example.com", "is_invited_to__organization": org,
			"organization_membership_role": 1})
		refused(who, token, "POST", "/v7/organization_membership", map[string]any{"user": users[who], "is_member_of__organization": org,
			"organization_membership_role": 1})
		refused(who, token, "POST", "/v7/application_membership_role", map[string]any{"belongs_to__organization": org, "name": "mine", "verbs": all})
		refused(who, token, "POST", "/service-account/v1", map[string]any{"organization": "alice", "name": "robot-" + who})
	}
	refused("bob", bob, "PATCH", fmt.Sprintf("/v7/team_application_access(%d)", access), map[string]any{"application_membership_role": 3})
	refused("bob", bob, "PATCH", fmt.Sprintf("/v7/application_membership_role(%d)", little), map[string]any{"verbs": all})
	mine := s.id(bob, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'bob') and organization/any(o:o/handle eq 'alice')")
	refused("bob", bob, "PATCH", fmt.Sprintf("/v7/organization_membership(%d)", mine), map[string]any{"organization_membership_role": 1})
	if rows := s.do(mallory, "GET", fmt.Sprintf("/v7/application_membership_role(%d)", little), nil).rows(); len(rows) != 0 {
		t.Errorf("mallory, no member of the organization, sees a role of it: %v", rows)
	}

	// A role of one organization is none in another's fleet, not even for an administrator of both.
	s.invite(mallory, alice, "alice@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": theirs,
		"organization_membership_role": 1})
	member := s.made(alice, "user_application_membership", map[string]any{"username": "bob", "is_member_of__application": fleet})
	refused("alice", alice, "PATCH", fmt.Sprintf("/v7/user_application_membership(%d)", member), map[string]any{"application_membership_role": much})
	refused("alice", alice, "PATCH", fmt.Sprintf("/v7/team_application_access(%d)", access), map[string]any{"application_membership_role": much})
	refused("alice", alice, "POST", "/v7/application_invite", map[string]any{"invitee": "eve@example.com", "is_invited_to__application": fleet,
		"application_membership_role": much})
	refused("alice", alice, "PATCH", fmt.Sprintf("/v7/application_membership_role(%d)", little), map[string]any{"belongs_to__organization": theirs})
	// A fleet that moves leaves those behind who have a role of the first organization, and its teams.
	s.do(alice, "PATCH", fmt.Sprintf("/v7/user_application_membership(%d)", member), map[string]any{"application_membership_role": little}).want(http.StatusOK)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"organization": theirs}).want(http.StatusOK)
	if rows := s.do(bob, "GET", fmt.Sprintf("/v7/application(%d)", fleet), nil).rows(); len(rows) != 0 {
		t.Errorf("bob goes with the fleet into the other organization: %v", rows)
	}
}

// A membership gives nothing from its end on, whether somebody sweeps or not, and an open stream ends within two seconds.
func TestMembershipsEnd(t *testing.T) {
	s := newServer(t)
	alice, bob, carol := s.user("alice"), s.user("bob"), s.user("carol")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	dev := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	member := map[string]any{"username": "bob", "is_member_of__application": fleet, "end_date": "2020-01-01T00:00:00Z"}
	s.do(alice, "POST", "/v7/user_application_membership", member).want(http.StatusBadRequest)
	ends := time.Now().Add(2500 * time.Millisecond)
	member["end_date"] = ends.UTC().Format(time.RFC3339Nano)
	s.made(alice, "user_application_membership", member)
	follow := s.stream(bob, "/device/v2/"+string(dev.UUID)+"/logs?stream=1")
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	if rows := s.do(bob, "GET", path, nil).rows(); len(rows) != 1 {
		t.Fatalf("bob sees %v while his membership lasts", rows)
	}
	s.ended(follow)
	if late := time.Since(ends); late > 2*time.Second || late < 0 {
		t.Errorf("the stream ended %s after the membership, want 2 s at most", late)
	}
	if rows := s.do(bob, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("bob sees %v after the end of his membership", rows)
	}

	delete(member, "end_date")
	s.made(alice, "user_application_membership", member) // what has ended is in nobody's way
	if rows := s.do(bob, "GET", path, nil).rows(); len(rows) != 1 {
		t.Errorf("bob, a member again, sees %v", rows)
	}

	// The end of a membership of the organization takes along what came with it.
	s.invite(alice, carol, "carol@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	team := s.made(alice, "team", map[string]any{"name": "crew", "belongs_to__organization": org})
	s.made(alice, "team_membership", map[string]any{"username": "carol", "is_member_of__team": team})
	s.made(alice, "team_application_access", map[string]any{"team": team, "grants_access_to__application": fleet})
	s.made(alice, "user_application_membership", map[string]any{"username": "carol", "is_member_of__application": fleet, "application_membership_role": 3})
	row := s.id(alice, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'carol')")
	s.do(alice, "PATCH", fmt.Sprintf("/v7/organization_membership(%d)", row), map[string]any{"organization_membership_role": 1}).want(http.StatusOK)
	sees := func(want int) {
		t.Helper()
		for _, what := range []string{path, fmt.Sprintf("/v7/organization(%d)?$select=id", org), fmt.Sprintf("/v7/team(%d)", team),
			fmt.Sprintf("/v7/user_application_membership?$filter=is_member_of__application%%20eq%%20%d%%20and%%20user/any(u:u/username%%20eq%%20'carol')", fleet)} {
			if rows := s.do(carol, "GET", what, nil).rows(); len(rows) != want {
				t.Errorf("carol: %s: %d rows, want %d", what, len(rows), want)
			}
		}
	}
	sees(1)
	s.exec(`UPDATE organization_membership SET end_date = '2026-01-01T00:00:00.000Z' WHERE id = ?`, row)
	sees(0)
	s.do(carol, "PATCH", path, map[string]any{"app_name": "haven"})
	if rows := s.do(alice, "GET", path+"?$select=app_name", nil).rows(); rows[0]["app_name"] != "harbour" {
		t.Errorf("carol changed the fleet after her end: %v", rows)
	}
	s.invite(alice, carol, "carol@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	if rows := s.do(carol, "GET", fmt.Sprintf("/v7/organization(%d)?$select=id", org), nil).rows(); len(rows) != 1 {
		t.Errorf("carol, invited again, sees %v", rows)
	}
	// Before anybody has swept: who is taken in again begins anew.
	if rows := s.do(carol, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("carol, a member of the organization again, has back what ended: %v", rows)
	}
	if n := s.number(`SELECT count(*) FROM team_membership`); n != 0 {
		t.Errorf("%d members of teams are left", n)
	}
}

// An organization keeps an administrator who does not end by themselves.
func TestTheLastAdministratorDoesNotEnd(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	mine := fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id"))
	later := map[string]any{"end_date": "2999-01-01T00:00:00Z"}
	for _, body := range []map[string]any{later, {"end_date": "2999-01-01T00:00:00Z", "organization_membership_role": 1}} {
		if a := s.do(alice, "PATCH", mine, body).want(http.StatusBadRequest); !strings.Contains(a.body, "administrator without an end date") {
			t.Errorf("the last administrator with an end date: %s", a.body)
		}
	}
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": 1})
	bobs := fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'bob')"))
	s.do(alice, "PATCH", bobs, later).want(http.StatusOK)
	s.do(alice, "DELETE", mine, nil).want(http.StatusBadRequest) // bob will not stay
	s.do(alice, "PATCH", mine, later).want(http.StatusBadRequest)
	s.do(alice, "PATCH", bobs, map[string]any{"end_date": nil}).want(http.StatusOK)
	s.do(alice, "PATCH", mine, later).want(http.StatusOK)
	s.do(bob, "DELETE", bobs, nil).want(http.StatusBadRequest)
}

// What has ended is deleted later, once it gives nothing.
func TestEndedMembershipsAreSwept(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "harbour")
	s.invite(alice, bob, "bob@example.com", "user", "application_invite", map[string]any{"is_invited_to__application": fleet})
	s.exec(`UPDATE user_application_membership SET end_date = '2026-01-01T00:00:00.000Z'`)
	s.must(s.running.Sweep(t.Context()))
	var left int
	s.must(s.running.ReadElsewhere(t.Context(), func(tx *db.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM user_application_membership`).Scan(&left)
	}))
	if left != 0 {
		t.Errorf("%d memberships are left after their end", left)
	}
}
