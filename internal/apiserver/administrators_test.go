package apiserver_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// The attack: the last administrator of an organization is removed, by the others or by leaving; or two remove each other at the same moment,
// each of whom is not the last one yet.
func TestTheLastAdministratorStays(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	mine := fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id"))
	for what, a := range map[string]*answer{
		"leaves":              s.do(alice, "DELETE", mine, nil),
		"steps down":          s.do(alice, "PATCH", mine, map[string]any{"organization_membership_role": 2}),
		"is removed with all": s.do(alice, "DELETE", "/v7/organization_membership?$filter=id%20gt%200", nil),
	} {
		if a.status != http.StatusBadRequest {
			t.Errorf("the last one %s: got %d %s", what, a.status, a.body)
		}
	}
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": 1})
	theirs := fmt.Sprintf("/v7/organization_membership(%d)", s.id(bob, fmt.Sprintf("organization_membership?$select=id&$filter=is_member_of__organization eq %d and user/any(u:u/username eq 'bob')", org)))
	for round := range 10 {
		var wg sync.WaitGroup
		wg.Go(func() { s.do(alice, "PATCH", theirs, map[string]any{"organization_membership_role": 2}) })
		wg.Go(func() { s.do(bob, "PATCH", mine, map[string]any{"organization_membership_role": 2}) })
		wg.Wait()
		var left []map[string]any
		for _, token := range []string{alice, bob} {
			left = s.do(token, "GET", fmt.Sprintf("/v7/organization_membership?$filter=is_member_of__organization%%20eq%%20%d%%20and%%20organization_membership_role%%20eq%%201", org), nil).rows()
		}
		if len(left) == 0 {
			t.Fatalf("round %d: nobody administers the organization any more", round)
		}
		s.exec(`UPDATE organization_membership SET organization_membership_role = 1 WHERE is_member_of__organization = ?`, org)
	}
}

// The attack again, by every road out: two administrators leave at the same moment, each of whom is not the last one yet, at two processes
// where there are two.
func TestTwoAdministratorsLeaveAtOnce(t *testing.T) {
	s := newServer(t)
	second := s.another()
	alice := s.user("alice")
	for round, leave := range []func(at *server, name, token string, membership int64) int{
		func(at *server, _, token string, membership int64) int {
			return at.do(token, "DELETE", fmt.Sprintf("/v7/organization_membership(%d)", membership), nil).status
		},
		func(at *server, name, token string, _ int64) int {
			return at.do(token, "POST", "/user/v1/delete", api.DeleteAccount{Username: name}).status
		},
		func(at *server, _, token string, membership int64) int {
			return at.do(token, "PATCH", fmt.Sprintf("/v7/organization_membership(%d)", membership), map[string]any{"end_date": "2999-01-01T00:00:00Z"}).status
		},
	} {
		handle := fmt.Sprintf("shared%d", round)
		org := s.made(alice, "organization", map[string]any{"name": handle, "handle": handle})
		names := []string{fmt.Sprintf("one%d", round), fmt.Sprintf("two%d", round)}
		tokens, memberships := map[string]string{}, map[string]int64{}
		for _, name := range names {
			tokens[name] = s.user(name)
			s.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
				SELECT '2026-01-01T00:00:00.000Z', id, CAST(? AS BIGINT), 1 FROM "user" WHERE username = ?`, org, name)
			memberships[name] = s.number(`SELECT m.id FROM organization_membership m JOIN "user" u ON u.id = m."user" AND u.username = ?
				WHERE m.is_member_of__organization = ?`, name, org)
		}
		s.exec(`UPDATE organization_membership SET organization_membership_role = 2 WHERE is_member_of__organization = ?
			AND "user" = (SELECT id FROM "user" WHERE username = 'alice')`, org) // somebody who needs an administrator
		var wg sync.WaitGroup
		status := [2]int{}
		for i, at := range []*server{s, second} {
			wg.Go(func() { status[i] = leave(at, names[i], tokens[names[i]], memberships[names[i]]) })
		}
		wg.Wait()
		left := s.number(`SELECT count(*) FROM organization_membership WHERE is_member_of__organization = ? AND organization_membership_role = 1 AND end_date IS NULL`, org)
		if left != 1 {
			t.Errorf("round %d: answered %v, %d administrators are left, want one", round, status, left)
		}
	}
}

// A disabled administrator administers nothing: the other one is the last, by whatever road they go.
func TestADisabledAdministratorDoesNotCount(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	s.fleet(alice, "harbour")
	mine := fmt.Sprintf("/v7/organization_membership(%d)", s.id(alice, "organization_membership?$select=id"))
	s.invite(alice, bob, "bob@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org, "organization_membership_role": 1})
	change := func(act string) {
		s.role(api.RoleAdmin, "POST", "/internal/v1/users/change", api.UserChange{User: "bob", Act: act}).want(http.StatusOK)
	}
	change(api.UserDisable)
	s.do(alice, "DELETE", mine, nil).want(http.StatusBadRequest)
	s.do(alice, "PATCH", mine, map[string]any{"end_date": "2999-01-01T00:00:00Z"}).want(http.StatusBadRequest)
	s.do(alice, "POST", "/user/v1/delete", api.DeleteAccount{Username: "alice"}).want(http.StatusConflict)
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: "alice"}).want(http.StatusConflict)
	change(api.UserEnable)
	s.do(alice, "POST", "/user/v1/delete", api.DeleteAccount{Username: "alice"}).want(http.StatusOK)
}
