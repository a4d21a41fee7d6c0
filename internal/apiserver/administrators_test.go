package apiserver_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
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
