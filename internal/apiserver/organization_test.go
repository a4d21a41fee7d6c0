package apiserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// q escapes spaces, as clients do.
func q(s string) string { return strings.ReplaceAll(s, " ", "%20") }

func TestAUserStartsWithAnOrganization(t *testing.T) {
	s := newServer(t)
	session := s.user("alice")
	var me api.User
	s.do(session, "GET", "/user/v1/whoami", nil).want(http.StatusOK).into(&me)
	rows := s.do(session, "GET", q(fmt.Sprintf("/v7/organization?$orderby=name asc&$select=name,handle&$filter=organization_membership/any(orm:orm/user eq %d)",
		me.ID)), nil).rows()
	if len(rows) != 1 || len(rows[0]) != 2 || rows[0]["handle"] != "alice" {
		t.Errorf("organizations: got %v", rows)
	}
	rows = s.do(session, "GET", q("/v7/organization_membership?$expand=organization_membership_role($select=name),user($select=username)"), nil).rows()
	if len(rows) != 1 || fmt.Sprint(rows[0]["organization_membership_role"]) != "[map[name:administrator]]" ||
		fmt.Sprint(rows[0]["user"]) != "[map[username:alice]]" || rows[0]["effective_seat_role"] != "administrator" {
		t.Errorf("memberships: got %v", rows)
	}
}

func TestOrganizationsAreMadeRenamedAndDeleted(t *testing.T) {
	s := newServer(t)
	alice, mallory := s.user("alice"), s.user("mallory")
	made := map[string]any{}
	s.do(alice, "POST", "/v7/organization", map[string]any{"name": "Blue Harbour!"}).want(http.StatusCreated).into(&made)
	path := "/v7/organization(" + itoa(made["id"]) + ")"
	if made["handle"] != "blue_harbour" || made["name"] != "Blue Harbour!" {
		t.Errorf("made: got %v", made)
	}
	if rows := s.do(alice, "GET", path, nil).rows(); len(rows) != 1 || fmt.Sprint(rows[0]) != fmt.Sprint(made) {
		t.Errorf("made %v, read %v", made, rows)
	}
	again := map[string]any{}
	s.do(alice, "POST", "/v7/organization", map[string]any{"name": "Blue Harbour!"}).want(http.StatusCreated).into(&again)
	if again["handle"] != "blue_harbour2" {
		t.Errorf("second of that name: got %v", again)
	}
	taken := s.do(alice, "POST", "/v7/organization", map[string]any{"name": "x", "handle": "blue_harbour"}).want(http.StatusConflict)
	if !strings.Contains(strings.ToLower(taken.body), "unique") {
		t.Errorf("taken handle: got %s", taken.body)
	}
	for what, body := range map[string]map[string]any{
		"no name": {}, "empty name": {"name": " "}, "upper case": {"name": "x", "handle": "Blue"}, "slash": {"name": "x", "handle": "a/b"},
		"number": {"name": 5}, "frozen": {"name": "x", "nothing": 1},
	} {
		if got := s.do(alice, "POST", "/v7/organization", body); got.status != http.StatusBadRequest {
			t.Errorf("%s: got %d %s", what, got.status, got.body)
		}
	}
	s.do(alice, "POST", "/v7/organization", map[string]any{"name": "x", "is_frozen": true}).want(http.StatusForbidden)

	// Slugs of fleets follow the handle.
	var fleet map[string]any
	s.do(alice, "POST", "/v7/application", map[string]any{
		"app_name": "Hello", "organization": made["id"], "is_for__device_type": s.deviceType("generic-amd64"),
	}).want(http.StatusCreated).into(&fleet)
	s.do(alice, "PATCH", "/v7/organization(handle='blue_harbour')", map[string]any{"handle": "green", "name": "Green"}).want(http.StatusOK)
	if rows := s.do(alice, "GET", "/v7/application("+itoa(fleet["id"])+")?$select=slug", nil).rows(); len(rows) != 1 || rows[0]["slug"] != "green/hello" {
		t.Errorf("fleet after the rename: got %v", rows)
	}

	// Another tenant sees nothing of it and changes nothing.
	for _, list := range []string{path, "/v7/organization?$filter=handle%20eq%20'green'", "/v7/organization_membership?$filter=organization%20eq%20" + itoa(made["id"])} {
		if rows := s.do(mallory, "GET", list, nil).rows(); len(rows) != 0 {
			t.Errorf("another tenant, %s: got %v", list, rows)
		}
	}
	s.do(mallory, "PATCH", path, map[string]any{"name": "Mine"}).want(http.StatusOK)
	s.do(mallory, "DELETE", path, nil).want(http.StatusOK)
	s.do(mallory, "POST", "/v7/organization_membership", map[string]any{"user": 3, "is_member_of__organization": made["id"]}).
		want(http.StatusUnauthorized)
	if rows := s.do(alice, "GET", path+"?$select=name", nil).rows(); len(rows) != 1 || rows[0]["name"] != "Green" {
		t.Errorf("after the other tenant: got %v", rows)
	}

	s.do(alice, "DELETE", "/v7/application("+itoa(fleet["id"])+")", nil).want(http.StatusOK)
	s.do(alice, "DELETE", path, nil).want(http.StatusOK)
	if rows := s.do(alice, "GET", path, nil).rows(); len(rows) != 0 {
		t.Errorf("deleted: got %v", rows)
	}
}

func TestAnOrganizationKeepsAnAdministrator(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	rows := s.do(alice, "GET", "/v7/organization_membership?$select=id", nil).rows()
	path := "/v7/organization_membership(" + itoa(rows[0]["id"]) + ")"
	member := s.do(alice, "GET", "/v7/organization_membership_role(name='member')?$select=id", nil).rows()[0]["id"]
	s.do(alice, "DELETE", path, nil).want(http.StatusBadRequest)
	s.do(alice, "PATCH", path, map[string]any{"organization_membership_role": member}).want(http.StatusBadRequest)
	if rows := s.do(alice, "GET", path, nil).rows(); len(rows) != 1 || rows[0]["effective_seat_role"] != "administrator" {
		t.Errorf("membership: got %v", rows)
	}
}

// Hidden columns of users and keys can be reached by no road: not selected, filtered, ordered by, nor through a relation.
func TestColumnsThatNobodySees(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	for _, query := range []string{
		"/v7/user?$select=password", "/v7/user?$select=email", "/v7/user?$filter=startswith(password,'$argon')", "/v7/user?$orderby=password asc",
		"/v7/organization?$expand=organization_membership($expand=user($select=password))",
		"/v7/organization?$filter=organization_membership/any(m:m/user/any(u:startswith(u/email,'a')))",
		"/v7/actor?$expand=api_key($select=key_hash)", "/v7/actor?$filter=api_key/any(k:startswith(k/key_hash,'a'))",
		"/v7/api_key/$count?$filter=contains(key_hash,'a')", "/v7/session", "/v7/goose_db_version", "/v7/sqlite_master",
	} {
		if got := s.do(alice, "GET", q(query), nil); got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized {
			t.Errorf("%s: got %d %s", query, got.status, got.body)
		}
	}
	for _, query := range []string{"/v7/user", "/v7/user?$select=*", "/v7/api_key", "/v7/actor?$expand=is_of__user,api_key"} {
		body := s.do(alice, "GET", query, nil).want(http.StatusOK).body
		for _, word := range []string{"argon2", "key_hash", "password", "@example.com"} {
			if strings.Contains(body, word) {
				t.Errorf("%s shows %s: %s", query, word, body)
			}
		}
	}
	// Of other users only those who share an organization exist.
	if rows := s.do(alice, "GET", "/v7/user?$select=username", nil).rows(); len(rows) != 1 || rows[0]["username"] != "alice" {
		t.Errorf("users: got %v", rows)
	}
	if rows := s.do(alice, "GET", q("/v7/user?$filter=username eq '"+url.QueryEscape(s.admin.Username)+"'"), nil).rows(); len(rows) != 0 {
		t.Errorf("another user: got %v", rows)
	}
	s.do(alice, "POST", "/v7/api_key", map[string]any{"name": "x"}).want(http.StatusForbidden)
	s.do(alice, "POST", "/v7/user", map[string]any{"username": "x"}).want(http.StatusForbidden)
	s.do(alice, "PATCH", "/v7/user(1)", map[string]any{"username": "x"}).want(http.StatusForbidden)
}

// A key's expiry can be changed by PATCH, and it counts at once.
func TestAKeyGetsAnExpiry(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	var key string
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "short"}).want(http.StatusOK).into(&key)
	rows := s.do(session, "GET", q("/v7/api_key?$filter=name eq 'short'"), nil).rows()
	s.do(session, "PATCH", "/v7/api_key("+itoa(rows[0]["id"])+")", map[string]any{"expiry_date": time.Now().Add(-time.Second).UnixMilli()}).
		want(http.StatusOK)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}
