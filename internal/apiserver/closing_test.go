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

// number asks the database for one.
func (s *server) number(query string, args ...any) (n int64) {
	s.Helper()
	s.must(s.running.WriteElsewhere(s.Context(), func(tx *db.Tx) error { return tx.QueryRowContext(s.Context(), query, args...).Scan(&n) }))
	return n
}

// traces gives a user a row in every table that refers to users, in the first organization, which is another's.
func (s *server) traces(session, name string, user, organization, fleet, device int64) (deviceKey string) {
	s.Helper()
	s.do(session, "POST", "/api-key/device/"+itoa(device)+"/device-key", api.NewKey{}).want(http.StatusOK).into(&deviceKey)
	var provisioning string
	s.do(session, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", api.NewKey{}).want(http.StatusOK).into(&provisioning)
	var service api.ServiceAccount
	s.do(session, "POST", "/service-account/v1", api.ServiceAccount{Name: "robot-" + name, Organization: "alice"}).want(http.StatusCreated).into(&service)
	s.do(session, "POST", "/service-account/v1/"+itoa(service.ID)+"/key", api.NewKey{Name: "robot"}).want(http.StatusOK)
	s.do(session, "POST", "/v7/organization_invite", map[string]any{"invitee": "zoe@example.com", "is_invited_to__organization": organization}).want(http.StatusCreated)
	s.do(session, "POST", "/v7/application_invite", map[string]any{"invitee": "zoe@example.com", "is_invited_to__application": fleet}).want(http.StatusCreated)
	const at = "2026-01-01T00:00:00.000Z"
	later := db.FormatTime(time.Now().Add(time.Hour))
	team := s.made(session, "team", map[string]any{"name": "crew-" + name, "belongs_to__organization": organization})
	s.exec(`INSERT INTO team_membership (created_at, "user", is_member_of__team) VALUES (?, ?, ?)`, at, user, team)
	s.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role) VALUES (?, ?, ?, 2)`, at, user, fleet)
	s.exec(`UPDATE device SET belongs_to__user = ? WHERE id = ?`, user, device)
	s.exec(`INSERT INTO "release" (created_at, belongs_to__application, "commit", composition, status, source, start_timestamp, update_timestamp,
		raw_version, version, build_log, is_final, is_created_by__user) VALUES (?1, ?2, ?3, '{}', 'success', 'cloud', ?1, ?1, '0.0.0', '{}', '', 0, ?4)`,
		at, fleet, strings.Repeat("c", 40), user)
	s.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in) VALUES (?, ?, 'key', ?, 'none', 0, 0)`, user, at, name)
	s.exec(`INSERT INTO totp ("user", created_at, seed) VALUES (?, ?, 'x')`, user, at)
	s.exec(`INSERT INTO recovery_code ("user", code_hash) VALUES (?, ?)`, user, name)
	s.exec(`INSERT INTO user__has__public_key ("user", title, public_key, created_at) VALUES (?, 'laptop', ?, ?)`, user, "ssh-ed25519 "+name, at)
	s.exec(`INSERT INTO user_identity ("user", provider, issuer, subject, label, created_at) VALUES (?, 'google', 'https://issuer.example.com', ?, 'x', ?)`, user, name, at)
	s.exec(`INSERT INTO password_reset ("user", token_hash, expires_at) VALUES (?, ?, ?)`, user, name, later)
	return deviceKey
}

// session makes a new session of a user made by s.user, in the place of one that is not known here.
func (s *server) session(name string) string {
	s.Helper()
	var u api.NewUser
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/password", api.NewUser{Email: name}).want(http.StatusOK).into(&u)
	return s.login(name, u.Password)
}

// Somebody who did everything deletes the account: what stands for them ends, what they made for others stays. The operator does the same.
func TestDeleteAccount(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	organization, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	dev := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	device := s.number(`SELECT id FROM device WHERE uuid = ?`, strings.Repeat("a", 32))
	for _, name := range []string{"bob", "carol"} {
		s.user(name)
		user := s.number(`SELECT id FROM "user" WHERE username = ?`, name)
		actor := s.number(`SELECT actor FROM "user" WHERE id = ?`, user)
		s.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role) VALUES (?, ?, ?, 1)`,
			"2026-01-01T00:00:00.000Z", user, organization)
		session := s.session(name)
		var key string
		s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "ci"}).want(http.StatusOK).into(&key)
		deviceKey := s.traces(session, name, user, organization, fleet, device)
		s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK) // remembered now
		if name == "bob" {
			s.do("", "POST", "/user/v1/delete", api.DeleteAccount{Username: name}).want(http.StatusUnauthorized)
			s.do(key, "POST", "/user/v1/delete", api.DeleteAccount{Username: name}).want(http.StatusForbidden)
			s.do(session, "POST", "/user/v1/delete", api.DeleteAccount{}).want(http.StatusBadRequest)
			s.do(session, "POST", "/user/v1/delete", api.DeleteAccount{Username: "alice"}).want(http.StatusBadRequest)
			s.exec(`UPDATE session SET authenticated_at = '2026-01-01T00:00:00.000Z' WHERE "user" = ?`, user)
			s.do(session, "POST", "/user/v1/delete", api.DeleteAccount{Username: name}).want(http.StatusUnauthorized)
			s.exec(`UPDATE session SET authenticated_at = ? WHERE "user" = ?`, db.FormatTime(time.Now()), user)
			s.do(session, "POST", "/user/v1/delete", api.DeleteAccount{Username: name}).want(http.StatusOK)
		} else {
			s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: name + "@example.com"}).want(http.StatusOK)
			s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: name}).want(http.StatusNotFound)
			s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: "robot-bob"}).want(http.StatusNotFound)
		}
		s.do(session, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
		s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
		s.do(deviceKey, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
		s.do(dev.APIKey, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
		for what, query := range map[string]string{
			"user": `SELECT count(*) FROM "user" WHERE id = ?1`, "organization": `SELECT count(*) FROM organization WHERE handle = '` + name + `' AND ?1 > 0`,
			"keys": `SELECT count(*) FROM api_key WHERE is_created_by__user = ?1`, "identities": `SELECT count(*) FROM user_identity WHERE "user" = ?1`,
			"SSH keys": `SELECT count(*) FROM user__has__public_key WHERE "user" = ?1`, "passkeys": `SELECT count(*) FROM passkey WHERE "user" = ?1`,
			"memberships": `SELECT count(*) FROM organization_membership WHERE "user" = ?1`, "invitations": `SELECT count(*) FROM organization_invite WHERE is_created_by__user = ?1`,
		} {
			if n := s.number(query, user); n != 0 {
				t.Errorf("%s: %d %s are left", name, n, what)
			}
		}
		if n := s.number(`SELECT count(*) FROM actor WHERE id = ?`, actor); n != 0 {
			t.Errorf("%s: the actor is left", name)
		}
		for what, query := range map[string]string{
			"release": `SELECT count(*) FROM "release"`, "device": `SELECT count(*) FROM device`,
			"entry of the audit log": `SELECT count(*) FROM audit_entry WHERE act = 'user.delete' AND thing_name = '` + name + `'`,
		} {
			if n := s.number(query); n != 1 {
				t.Errorf("%s: got %d of %s", name, n, what)
			}
		}
		s.exec(`DELETE FROM "release"`)
	}
	s.do(alice, "GET", fmt.Sprintf("/v7/application(%d)", fleet), nil).want(http.StatusOK)
}

// The last administrator of what others need stays.
func TestTheLastAdministratorDoesNotLeave(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	organization := s.id(alice, "organization?$select=id")
	gone := func(want int) {
		t.Helper()
		a := s.do(alice, "POST", "/user/v1/delete", api.DeleteAccount{Username: "alice"}).want(want)
		if want == http.StatusConflict && !strings.Contains(a.body, "administrator of alice ") {
			t.Errorf("the refusal does not name the organization: %s", a.body)
		}
	}
	fleet := s.fleet(alice, "harbour")
	gone(http.StatusConflict)
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: "alice"}).want(http.StatusConflict)
	s.do(alice, "DELETE", fmt.Sprintf("/v7/application(%d)", fleet), nil).want(http.StatusOK)
	id := s.number(`SELECT id FROM "user" WHERE username = 'bob'`)
	s.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role) VALUES (?, ?, ?, 2)`,
		"2026-01-01T00:00:00.000Z", id, organization)
	gone(http.StatusConflict)
	s.exec(`UPDATE organization_membership SET organization_membership_role = 1, end_date = ? WHERE "user" = ? AND is_member_of__organization = ?`,
		db.FormatTime(time.Now().Add(time.Hour)), id, organization)
	gone(http.StatusConflict) // there would be none in an hour
	s.do(alice, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.exec(`UPDATE organization_membership SET end_date = NULL WHERE "user" = ? AND is_member_of__organization = ?`, id, organization)
	gone(http.StatusOK)
	if rows := s.do(bob, "GET", fmt.Sprintf("/v7/organization(%d)", organization), nil).want(http.StatusOK).rows(); len(rows) != 1 {
		t.Errorf("the organization that bob administers now: got %v", rows)
	}
}
