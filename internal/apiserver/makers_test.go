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

// What stands for somebody who is not there to be asked ends with what they may: an invitation, and the offer of a fleet. Whoever is disabled
// may nothing, and has it back when they are back.
func TestWhatStandsForItsMakerEndsWithThem(t *testing.T) {
	operator := func(act string) func(s *server, _, _ string, _ int64) {
		return func(s *server, _, _ string, _ int64) {
			s.role(api.RoleAdmin, "POST", "/internal/v1/users/change", api.UserChange{User: "bob", Act: act}).want(http.StatusOK)
		}
	}
	membership := func(s *server, alice string) string {
		return fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'bob')"))
	}
	for what, end := range map[string]func(s *server, alice, bob string, org int64){
		"disabled": operator(api.UserDisable),
		"demoted": func(s *server, alice, _ string, _ int64) {
			s.do(alice, "PATCH", membership(s, alice), map[string]any{"organization_membership_role": 2}).want(http.StatusOK)
		},
		"removed": func(s *server, alice, _ string, _ int64) {
			s.do(alice, "DELETE", membership(s, alice), nil).want(http.StatusOK)
		},
		"their time is over": func(s *server, _, _ string, org int64) {
			s.exec(`UPDATE organization_membership SET end_date = ? WHERE is_member_of__organization = ? AND "user" = (SELECT id FROM "user"
				WHERE username = 'bob')`, db.FormatTime(time.Now()), org)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newServer(t)
			alice, bob, eve := s.user("alice"), s.user("bob"), s.user("eve")
			org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
			s.fleet(alice, "depot")
			s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": 1})
			var doors []string
			for where, body := range map[string]map[string]any{"org": {"is_invited_to__organization": org}, "user": {"is_invited_to__application": fleet}} {
				body["invitee"] = "eve@example.com"
				var link api.Invitation
				id := s.made(bob, map[string]string{"org": "organization_invite", "user": "application_invite"}[where], body)
				s.do(bob, "POST", fmt.Sprintf("/%s/v1/invitations/%d/link", where, id), nil).want(http.StatusOK).into(&link)
				doors = append(doors, "/"+where+"/v1/invitation/"+link.Token)
			}
			var offer api.Transfer
			s.do(bob, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/depot", Organization: "eve"}).want(http.StatusCreated).into(&offer)
			doors = append(doors, fmt.Sprintf("/transfer/v1/%d/accept", offer.ID))
			end(s, alice, bob, org)
			for _, door := range doors {
				s.do(eve, "POST", door, nil).want(http.StatusNotFound)
			}
			if what != "disabled" {
				return
			}
			operator(api.UserEnable)(s, alice, bob, org)
			for _, door := range doors {
				s.do(eve, "POST", door, nil).want(http.StatusOK)
			}
		})
	}
}

// Attack: whoever finds an administrator's key, or a session of long ago, gives a fleet away, and has it when the key is gone.
func TestAKeyGivesNoFleetAway(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	second := s.made(alice, "organization", map[string]any{"name": "Second", "handle": "second"})
	bobs := s.fleet(bob, "depot")
	key := s.key(alice, "found", nil)
	var offer api.Transfer
	s.do(bob, "POST", "/transfer/v1", api.NewTransfer{Fleet: "bob/depot", Organization: "alice"}).want(http.StatusCreated).into(&offer)
	for _, token := range []string{key, alice} {
		want := http.StatusForbidden
		if token == alice {
			s.exec(`UPDATE session SET authenticated_at = ?`, db.FormatTime(time.Now().Add(-time.Hour)))
			want = http.StatusUnauthorized
		}
		for what, a := range map[string]*answer{
			"offers it":                          s.do(token, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/harbour", Organization: "bob"}),
			"moves it":                           s.do(token, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/harbour", Organization: "second"}),
			"moves it as balena's clients would": s.do(token, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"organization": second}),
			"takes another's":                    s.do(token, "POST", fmt.Sprintf("/transfer/v1/%d/accept", offer.ID), nil),
		} {
			if a.status != want {
				t.Errorf("%s: got %d %s, want %d", what, a.status, a.body, want)
			}
		}
	}
	if n := s.number(`SELECT count(*) FROM application WHERE id = ? AND organization = ?`, fleet, org); n != 1 {
		t.Error("the fleet is gone")
	}
	if n := s.number(`SELECT count(*) FROM fleet_transfer WHERE application = ?`, bobs); n != 1 {
		t.Error("the offer is gone")
	}
	s.do(key, "POST", fmt.Sprintf("/transfer/v1/%d/decline", offer.ID), nil).want(http.StatusOK)
}

// An invitation never gives less than somebody has, and what it says is what they get.
func TestAnInvitationOfAMember(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	as := func(role int) {
		t.Helper()
		s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": role})
	}
	role := func() int64 {
		return s.number(`SELECT m.organization_membership_role FROM organization_membership m JOIN "user" u ON u.id = m."user" AND u.username = 'bob'
			WHERE m.is_member_of__organization = ?`, org)
	}
	for i, want := range []int64{2, 1, 1} {
		as([]int{2, 1, 2}[i])
		if got := role(); got != want {
			t.Errorf("after invitation %d bob has the role %d, want %d", i+1, got, want)
		}
	}
	mine := fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id&$filter=user/any(u:u/username eq 'alice')"))
	if a := s.do(alice, "PATCH", mine, map[string]any{"organization_membership_role": 2}).want(http.StatusBadRequest); !strings.Contains(a.body, "another administrator") {
		t.Errorf("an administrator steps down: %s", a.body)
	}
	s.do(alice, "DELETE", mine, nil).want(http.StatusOK)
}

// An invitation that has expired is in nobody's way: there can be another, and its role can go.
func TestAnInvitationThatHasExpired(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	role := s.roleOf(alice, org, "field", "shell")
	for table, body := range map[string]map[string]any{
		"organization_invite": {"invitee": "bob@example.com", "is_invited_to__organization": org},
		"application_invite":  {"invitee": "bob@example.com", "is_invited_to__application": fleet, "application_membership_role": role},
	} {
		s.made(alice, table, body)
		s.do(alice, "POST", "/v7/"+table, body).want(http.StatusConflict)
		s.exec(`UPDATE `+table+` SET expires_at = ?`, db.FormatTime(time.Now()))
		s.made(alice, table, body)
	}
	s.do(alice, "DELETE", fmt.Sprintf("/v7/application_membership_role(%d)", role), nil).want(http.StatusConflict)
	s.exec(`UPDATE application_invite SET expires_at = ?`, db.FormatTime(time.Now()))
	s.do(alice, "DELETE", fmt.Sprintf("/v7/application_membership_role(%d)", role), nil).want(http.StatusOK)
	if rows := s.do(bob, "GET", "/v7/application?$filter=is_public%20eq%20false", nil).rows(); len(rows) != 0 {
		t.Errorf("bob sees %v", rows)
	}
}

// Attack: somebody shuts a colleague out of the server, with an organization of their own that forbids passwords and that they take the
// colleague into, unasked. Who has no other way to sign in could not even leave it.
func TestNobodyIsShutOutByAnOrganization(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	shared := s.id(bob, "organization?$select=id")
	s.invite(bob, alice, "alice@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": shared})
	trap := s.made(alice, "organization", map[string]any{"name": "Trap", "handle": "trap"})
	way := func(name string) {
		s.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
			SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 1 FROM "user" WHERE username = ?`, name)
	}
	way("alice")
	forbid := func(on bool) *answer {
		return s.do(alice, "PATCH", fmt.Sprintf("/v7/organization(%d)", trap), map[string]any{"is_forbidding_passwords": on})
	}
	member := map[string]any{"username": "bob", "is_member_of__organization": trap}
	forbid(true).want(http.StatusOK)
	s.do(alice, "POST", "/v7/organization_membership", member).want(http.StatusForbidden)
	id := s.made(alice, "organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": trap})
	var link api.Invitation
	s.do(alice, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", id), nil).want(http.StatusOK).into(&link)
	s.do(bob, "POST", "/org/v1/invitation/"+link.Token, nil).want(http.StatusForbidden)
	forbid(false).want(http.StatusOK)
	s.made(alice, "organization_membership", member)
	if a := forbid(true).want(http.StatusBadRequest); !strings.Contains(a.body, "bob") || strings.Contains(a.body, "alice") {
		t.Errorf("the refusal does not say whom it is about: %s", a.body)
	}
	s.do(bob, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	way("bob")
	forbid(true).want(http.StatusOK)
}
