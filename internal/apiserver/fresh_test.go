package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
)

// staleIsEnough are the routes for people themselves that change something in a session of whatever age, and why.
var staleIsEnough = map[string]string{
	"POST /auth/v1/providers/{name}/start":  "signs in; linking asks, see signin.TestWhoMayLink",
	"POST /auth/v1/providers/{name}/finish": "signs in; linking asks, see signin.TestWhoMayLink",
	"POST /auth/v1/device/lookup":           "says who waits",
	"POST /device-url/v1/{uuid}/visit":      "opens one address, for as long as the session holds",
	"POST /user/v1/refresh-token":           "takes the password",
	"POST /user/v1/logout":                  "ends what may be a thief's",
	"DELETE /user/v1/sessions":              "ends what may be a thief's",
	"DELETE /user/v1/sessions/{id}":         "ends what may be a thief's",
	"POST /service-account/v1":              "an account without keys and memberships, for both of which is asked",
	"DELETE /service-account/v1/{id}":       "takes away",
	"POST /org/v1/invitation/{token}":       "whoever invited gave it in a fresh session",
	"POST /user/v1/invitation/{token}":      "whoever invited gave it in a fresh session",
	"POST /transfer/v1":                     "of a fleet; administrators of both sides agree",
	"POST /transfer/v1/{id}/accept":         "of a fleet; administrators of both sides agree",
	"POST /transfer/v1/{id}/decline":        "of a fleet",
	"DELETE /transfer/v1/{id}":              "of a fleet",
	"POST /build-source/v1":                 "makes releases, as every developer's key does",
	"DELETE /build-source/v1/{id}":          "takes away",
	"POST /build-source/v1/{id}/rotate":     "makes releases, as every developer's key does",
	"POST /build-source/v1/{id}/build":      "makes a release, as every developer's key does",
}

// What changes keys, members, roles and second factors, or deletes an account or an organization, asks for a session whose user proved
// lately who they are. A key does none of it. A route for people that is in neither list fails.
func TestActsThatAskForAFreshSession(t *testing.T) {
	s := newServer(t)
	alice, eve := s.user("alice"), s.user("eve")
	s.user("bob")
	me, org, fleet := s.id(alice, "user(username='alice')?$select=id"), s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	key := s.key(alice, "ci", "2030-01-01T00:00:00Z")
	observer := s.id(alice, "application_membership_role(name='observer')?$select=id")
	s.invite(alice, eve, "eve@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": org})
	member := s.id(alice, "organization_membership?$select=id&$filter=user/username eq 'eve' and is_member_of__organization eq "+itoa(org))
	ofFleet := s.made(alice, "user_application_membership", map[string]any{"username": "eve", "is_member_of__application": fleet, "application_membership_role": observer})
	team := s.made(alice, "team", map[string]any{"name": "crew", "belongs_to__organization": org})
	ofTeam := s.made(alice, "team_membership", map[string]any{"username": "eve", "is_member_of__team": team})
	teams := s.made(alice, "team_application_access", map[string]any{"team": team, "grants_access_to__application": fleet, "application_membership_role": observer})
	role := s.made(alice, "application_membership_role", map[string]any{"name": "hand", "belongs_to__organization": org, "verbs": []string{"actions"}})
	toOrg := s.made(alice, "organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": org})
	toFleet := s.made(alice, "application_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__application": fleet})
	ssh := s.made(alice, "user__has__public_key", map[string]any{"title": "laptop", "public_key": publicKey(t, "x"), "user": me})
	var robot api.ServiceAccount
	s.do(alice, "POST", "/service-account/v1", api.ServiceAccount{Name: "robot", Organization: "alice"}).want(http.StatusCreated).into(&robot)
	soon := time.Now().Add(24 * time.Hour)
	s.do(alice, "POST", fmt.Sprintf("/service-account/v1/%d/key", robot.ID), api.NewKey{Name: "pipeline", ExpiryDate: &soon}).want(http.StatusOK)
	var waiting api.DeviceCode
	s.do("", "POST", "/auth/v1/device/code", map[string]any{"client_id": "a program"}).want(http.StatusOK).into(&waiting)
	s.exec(`INSERT INTO user_identity (created_at, "user", issuer, subject, provider, label) VALUES ('2026-01-01T00:00:00.000Z', ?, 'x', 'x', 'x', 'x')`, me)
	s.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
		VALUES (?, '2026-01-01T00:00:00.000Z', 'key', 'x', 'none', 0, 1)`, me)
	mine := fmt.Sprintf("/v7/api_key?$filter=is_of__actor/any(a:a/is_of__user/any(u:u/id%%20eq%%20%d))", me)
	robots := fmt.Sprintf("/v7/api_key?$filter=is_of__actor/any(a:a/is_of__user/any(u:u/id%%20eq%%20%d))", robot.ID)
	later := map[string]any{"expiry_date": "2031-01-01T00:00:00Z"}
	s.exec(`UPDATE session SET authenticated_at = ?`, db.FormatTime(time.Now().Add(-21*time.Minute)))

	asked := map[string]bool{}
	for _, act := range []struct {
		route, path string // the path, if it is not the route's
		body        any
	}{
		{"POST /api-key/user/full", "", map[string]any{"name": "left behind", "expiryDate": nil}},
		{"POST /api-key/v2", "", map[string]any{"actorType": "user", "actorTypeId": me, "roles": []string{"named-user-api-key"}, "expiryDate": nil}},
		{"POST /service-account/v1/{id}/key", "/service-account/v1/" + itoa(robot.ID) + "/key", api.NewKey{Name: "left behind"}},
		{"PATCH", mine, later},
		{"PATCH", robots, later},
		{"POST", "/v7/user__has__public_key", map[string]any{"title": "left behind", "public_key": publicKey(t, "y"), "user": me}},
		{"PATCH", "/v7/user__has__public_key(" + itoa(ssh) + ")", map[string]any{"public_key": publicKey(t, "z")}},

		{"POST", "/v7/organization_membership", map[string]any{"username": "bob", "is_member_of__organization": org}},
		{"PATCH", "/v7/organization_membership(" + itoa(member) + ")", map[string]any{"organization_membership_role": 1}},
		{"DELETE", "/v7/organization_membership(" + itoa(member) + ")", nil},
		{"POST", "/v7/user_application_membership", map[string]any{"username": "bob", "is_member_of__application": fleet, "application_membership_role": observer}},
		{"PATCH", "/v7/user_application_membership(" + itoa(ofFleet) + ")", map[string]any{"application_membership_role": observer}},
		{"DELETE", "/v7/user_application_membership(" + itoa(ofFleet) + ")", nil},
		{"POST", "/v7/team_membership", map[string]any{"username": "bob", "is_member_of__team": team}},
		{"DELETE", "/v7/team_membership(" + itoa(ofTeam) + ")", nil},
		{"PATCH", "/v7/team_application_access(" + itoa(teams) + ")", map[string]any{"application_membership_role": observer}},
		{"DELETE", "/v7/team_application_access(" + itoa(teams) + ")", nil},
		{"PATCH", "/v7/application_membership_role(" + itoa(role) + ")", map[string]any{"verbs": []string{"shell"}}},
		{"POST", "/v7/organization_invite", map[string]any{"invitee": "carol@example.com", "is_invited_to__organization": org}},
		{"POST", "/v7/application_invite", map[string]any{"invitee": "carol@example.com", "is_invited_to__application": fleet}},
		{"POST /org/v1/invitations/{id}/link", "/org/v1/invitations/" + itoa(toOrg) + "/link", nil},
		{"POST /user/v1/invitations/{id}/link", "/user/v1/invitations/" + itoa(toFleet) + "/link", nil},

		{"GET /auth/totp/setup", "", nil},
		{"POST /auth/totp/verify", "", api.FactorCode{Code: "123456"}}, // in a whole session: enable, as older clients say it
		{"POST /auth/totp/enable", "", api.FactorCode{Code: "123456"}},
		{"POST /auth/totp/disable", "", api.FactorCode{Code: "123456"}},
		{"POST /auth/totp/recovery-codes", "", api.FactorCode{Code: "123456"}},
		{"POST /auth/webauthn/register/start", "", nil},
		{"POST /auth/webauthn/register", "", map[string]any{"name": "left behind"}},
		{"DELETE /auth/webauthn/{id}", "/auth/webauthn/1", nil},
		{"DELETE /user/v1/identities/{id}", "/user/v1/identities/1", nil},
		{"POST /user/v1/password", "", api.ChangePassword{New: "boats in the harbour"}},
		{"POST /user/v1/sessions", "", nil},
		{"POST /auth/v1/device/approve", "", api.DeviceApproval{UserCode: waiting.UserCode}},

		{"PATCH", "/v7/organization(" + itoa(org) + ")", map[string]any{"is_forbidding_passwords": true}},
		{"PATCH", "/v7/organization(" + itoa(org) + ")", map[string]any{"is_requiring_two_factor": true}},
		{"DELETE", "/v7/organization(" + itoa(org) + ")", nil},
		{"POST /user/v1/delete", "", api.DeleteAccount{Username: "alice"}},
	} {
		asked[act.route] = true
		method, path, _ := strings.Cut(act.route, " ")
		if act.path != "" {
			path = act.path
		}
		if a := s.do(alice, method, path, act.body); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "Fresh authentication token required") {
			t.Errorf("%s %s in a session of 21 minutes ago: got %d %s", method, path, a.status, a.body)
		}
		if strings.HasPrefix(path, "/v7/api_key") {
			continue // which no key sees to change
		}
		if a := s.do(key, method, path, act.body); a.status != http.StatusForbidden {
			t.Errorf("%s %s with a key: got %d %s", method, path, a.status, a.body)
		}
	}
	for _, rt := range apiserver.Routes() {
		name := rt.Method + " " + rt.Path
		if rt.Internal || rt.Method == http.MethodGet || !slices.Contains(rt.Who, access.User) || slices.Contains(rt.Who, access.ScopedKey) {
			continue // what limited keys may try is about fleets and devices
		}
		if why := staleIsEnough[name]; (why != "") == asked[name] {
			t.Errorf("%s: asked for here %v, and the other list says %q", name, asked[name], why)
		}
	}
}
