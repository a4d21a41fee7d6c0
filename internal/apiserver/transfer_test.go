package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A fleet goes to another organization when both sides want it: what its former people had of it ends, and what is the fleet's stays.
func TestTransferOfAFleet(t *testing.T) {
	s, m := newMailServer(t)
	alice, bob, carol, eve := s.user("alice"), s.user("bob"), s.user("carol"), s.user("eve")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	dev := s.device(alice, fleet, hexUUID(1))
	path := fmt.Sprintf("/v7/application(%d)?$select=slug", fleet)
	// Carol is a member of alice's organization, and of the fleet by herself and by a team.
	s.invite(alice, carol, "carol@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	s.made(alice, "user_application_membership", map[string]any{"username": "carol", "is_member_of__application": fleet,
		"application_membership_role": s.id(alice, "application_membership_role(name='developer')?$select=id")})
	team := s.made(alice, "team", map[string]any{"name": "crew", "belongs_to__organization": org})
	s.made(alice, "team_membership", map[string]any{"username": "carol", "is_member_of__team": team})
	s.made(alice, "team_application_access", map[string]any{"team": team, "grants_access_to__application": fleet})
	s.made(alice, "application_invite", map[string]any{"invitee": "dave@example.com", "is_invited_to__application": fleet})
	logs := "/device/v2/" + string(dev.UUID) + "/logs"
	s.do(dev.APIKey, "POST", logs, []map[string]any{{"message": "secret of alice", "timestamp": time.Now().UnixMilli()}}).want(http.StatusCreated)
	s.within("the log is read", func() bool { return strings.Contains(s.do(alice, "GET", logs, nil).body, "secret of alice") })
	provisioning := s.provisioning(alice, fleet, 0)
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"is_accessible_by_support_until__date": until}).want(http.StatusOK)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/device(%d)", dev.ID), map[string]any{"is_accessible_by_support_until__date": until}).want(http.StatusOK)

	want := api.NewTransfer{Fleet: "alice/harbour", Organization: "Bob"}
	offer := func(token string, status int) (out api.Transfer) {
		t.Helper()
		if a := s.do(token, "POST", "/transfer/v1", want).want(status); status < 300 {
			a.into(&out)
		}
		return out
	}
	offer(carol, http.StatusForbidden) // a developer gives nothing away
	offer(eve, http.StatusNotFound)
	offer(bob, http.StatusNotFound)
	s.do(alice, "PATCH", fmt.Sprintf("/v7/application(%d)", fleet), map[string]any{"organization": s.id(bob, "organization?$select=id")}).want(http.StatusUnauthorized)
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/harbour", Organization: "no-such"}).want(http.StatusNotFound)
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/harbour", Organization: "balena_os"}).want(http.StatusNotFound)
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "alice/harbour", Organization: "alice"}).want(http.StatusBadRequest)
	o := offer(alice, http.StatusCreated)
	if o.Moved || o.Fleet != "alice/harbour" || o.From != "alice" || o.To != "bob" {
		t.Errorf("the offer: got %+v", o)
	}
	m.Wait(t, "bob@example.com", 1)
	offer(alice, http.StatusConflict)
	lists := func(token string) (ids []int64) {
		t.Helper()
		var list []api.Transfer
		s.do(token, "GET", "/transfer/v1", nil).want(http.StatusOK).into(&list)
		for _, o := range list {
			ids = append(ids, o.ID)
		}
		return ids
	}
	for who, token := range map[string]string{"the giver": alice, "the taker": bob} {
		if !slices.Equal(lists(token), []int64{o.ID}) {
			t.Errorf("%s lists %v", who, lists(token))
		}
	}
	one := fmt.Sprintf("/transfer/v1/%d", o.ID)
	for who, token := range map[string]string{"a member": carol, "a stranger": eve} {
		if len(lists(token)) != 0 {
			t.Errorf("%s lists %v", who, lists(token))
		}
		s.do(token, "POST", one+"/accept", nil).want(http.StatusNotFound)
		s.do(token, "POST", one+"/decline", nil).want(http.StatusNotFound)
		s.do(token, "DELETE", one, nil).want(http.StatusNotFound)
	}
	s.do(alice, "POST", one+"/accept", nil).want(http.StatusForbidden) // not for both sides at once
	s.do(alice, "POST", one+"/decline", nil).want(http.StatusForbidden)
	s.do(bob, "DELETE", one, nil).want(http.StatusForbidden)
	s.do(bob, "POST", "/transfer/v1/x/accept", nil).want(http.StatusBadRequest)
	if rows := s.do(bob, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("an offer shows the fleet: %v", rows)
	}

	// What ends by itself shows no offer, before anybody has swept.
	s.exec(`UPDATE organization_membership SET end_date = ? WHERE is_member_of__organization = ?`, db.FormatTime(time.Now()), org)
	if got := lists(alice); len(got) != 0 {
		t.Errorf("an administrator whose time is over lists %v", got)
	}
	s.exec(`UPDATE organization_membership SET end_date = NULL WHERE is_member_of__organization = ?`, org)

	one = s.offersThatEnd(alice, bob, org, one, offer)

	// Many accept at once; it moves once.
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for range 6 {
		wg.Go(func() {
			status := s.do(bob, "POST", one+"/accept", nil).status
			mu.Lock()
			defer mu.Unlock()
			count[status]++
		})
	}
	wg.Wait()
	if count[http.StatusOK] != 1 || count[http.StatusOK]+count[http.StatusNotFound] != 6 {
		t.Errorf("accepted at once: got %v", count)
	}
	for who, token := range map[string]string{"alice": alice, "carol": carol, "eve": eve} {
		if rows := s.do(token, "GET", path, nil).rows(); len(rows) != 0 {
			t.Errorf("%s still sees it: %v", who, rows)
		}
	}
	if log := s.do(bob, "GET", logs, nil).want(http.StatusOK).body; strings.Contains(log, "secret of alice") {
		t.Errorf("bob reads what the device said before: %s", log)
	}
	rows := s.do(bob, "GET", path+",is_accessible_by_support_until__date&$expand=owns__device($select=uuid,is_accessible_by_support_until__date),user_application_membership,team_application_access,application_invite", nil).rows()
	device := map[string]any{"uuid": string(dev.UUID), "is_accessible_by_support_until__date": nil}
	if len(rows) != 1 || rows[0]["slug"] != "bob/harbour" || rows[0]["is_accessible_by_support_until__date"] != nil ||
		fmt.Sprint(rows[0]["owns__device"]) != fmt.Sprint([]any{device}) || fmt.Sprint(rows[0]["user_application_membership"]) != "[]" ||
		fmt.Sprint(rows[0]["team_application_access"]) != "[]" || fmt.Sprint(rows[0]["application_invite"]) != "[]" {
		t.Errorf("bob sees %v", rows)
	}
	s.do(dev.APIKey, "GET", "/device/v3/"+string(dev.UUID)+"/state", nil).want(http.StatusOK)
	s.do(provisioning, "POST", "/device/register", map[string]any{"application": fleet, "uuid": hexUUID(2), "device_type": "generic-amd64"}).want(http.StatusUnauthorized)
}

// offersThatEnd goes through the ways in which an offer comes to nothing, and gives the address of one that holds.
func (s *server) offersThatEnd(alice, bob string, org int64, one string, offer func(token string, status int) api.Transfer) string {
	s.Helper()
	// Withdrawn, declined, and too old.
	s.do(alice, "DELETE", one, nil).want(http.StatusOK)
	s.do(bob, "POST", one+"/accept", nil).want(http.StatusNotFound)
	o := offer(alice, http.StatusCreated)
	s.do(bob, "POST", fmt.Sprintf("/transfer/v1/%d/decline", o.ID), nil).want(http.StatusOK)
	s.do(bob, "POST", fmt.Sprintf("/transfer/v1/%d/accept", o.ID), nil).want(http.StatusNotFound)
	o = offer(alice, http.StatusCreated)
	s.exec(`UPDATE fleet_transfer SET expires_at = ?`, db.FormatTime(time.Now().Add(-time.Second)))
	s.do(bob, "POST", fmt.Sprintf("/transfer/v1/%d/accept", o.ID), nil).want(http.StatusNotFound)
	o = offer(alice, http.StatusCreated) // takes the place of the old one
	one = fmt.Sprintf("/transfer/v1/%d", o.ID)
	// Who offered it administers no more.
	s.exec(`UPDATE organization_membership SET organization_membership_role = 2 WHERE is_member_of__organization = ?`, org)
	s.do(bob, "POST", one+"/accept", nil).want(http.StatusNotFound)
	s.exec(`UPDATE organization_membership SET organization_membership_role = 1 WHERE is_member_of__organization = ? AND "user" = (SELECT id FROM "user" WHERE username = 'alice')`, org)
	// A name that is taken there.
	taken := s.fleet(bob, "harbour")
	s.do(bob, "POST", one+"/accept", nil).want(http.StatusConflict)
	s.do(bob, "DELETE", fmt.Sprintf("/v7/application(%d)", taken), nil).want(http.StatusOK)
	return one
}

// Who administers both sides moves a fleet at once, by the command and as balena's clients do; a member of the other side does not.
func TestAFleetMovesAtOnceForWhoAdministersBoth(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet, other := s.fleet(alice, "harbour"), s.id(bob, "organization?$select=id")
	s.invite(bob, alice, "alice@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": other})
	body := map[string]any{"organization": other}
	path := fmt.Sprintf("/v7/application(%d)", fleet)
	s.do(alice, "PATCH", path, body).want(http.StatusForbidden)
	s.exec(`UPDATE organization_membership SET organization_membership_role = 1 WHERE is_member_of__organization = ?`, other)
	s.do(alice, "PATCH", path, body).want(http.StatusOK)
	var out api.Transfer
	s.do(alice, "POST", "/transfer/v1", api.NewTransfer{Fleet: "bob/harbour", Organization: "alice"}).want(http.StatusOK).into(&out)
	if !out.Moved || out.Fleet != "alice/harbour" {
		t.Errorf("moved back: got %+v", out)
	}
}
