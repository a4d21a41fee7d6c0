package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// What is open ends with everything that a new request would be refused for, not only with the row of its key: whoever was let in is held
// to the same as whoever comes anew.
func TestWhatIsOpenEndsAsRequestsDo(t *testing.T) {
	for what, tt := range map[string]struct {
		token  func(c *crew) string
		revoke func(c *crew)
	}{
		"a key of a service account, whose maker administers its organization no more": {
			func(c *crew) (key string) {
				c.exec(`UPDATE organization_membership SET organization_membership_role = 1 WHERE is_member_of__organization = ?`, c.org)
				var robot api.ServiceAccount
				c.do(c.worker, "POST", "/service-account/v1", api.ServiceAccount{Name: "robot", Organization: "owner"}).want(http.StatusCreated).into(&robot)
				c.do(c.worker, "POST", "/service-account/v1/"+itoa(robot.ID)+"/key", api.NewKey{Name: "robot"}).want(http.StatusOK).into(&key)
				c.made(c.owner, "user_application_membership", map[string]any{
					"username": "robot", "is_member_of__application": c.fleet, "application_membership_role": c.level("developer"),
				})
				return key
			},
			func(c *crew) {
				id := c.id(c.owner, fmt.Sprintf("organization_membership?$select=id&$filter=is_member_of__organization eq %d and user/any(u:u/username eq 'worker')", c.org))
				c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization_membership(%d)", id), map[string]any{"organization_membership_role": 2}).want(http.StatusOK)
			},
		},
		"a key of somebody who lacks the second factor that is asked for now": {
			func(c *crew) string {
				c.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
					SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 0 FROM "user" WHERE username = 'owner'`)
				return c.key
			},
			func(c *crew) {
				c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{"is_requiring_two_factor": true}).want(http.StatusOK)
			},
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			c.join("developer")
			token, logs := tt.token(c), "/device/v2/"+string(c.dev.UUID)+"/logs"
			c.do(token, "GET", logs, nil).want(http.StatusOK)
			follow := c.stream(token, logs+"?stream=1")
			build := c.begin(token)
			tt.revoke(c)
			c.within("requests", func() bool { return c.do(token, "GET", logs, nil).status == http.StatusUnauthorized })
			if took := c.ended(follow); took > budget {
				t.Errorf("the log is followed for %s", took)
			}
			c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })
		})
	}
}

// A session that another one approved is a login of its own: its builds end with it, though the other goes on. One that is refreshed, also
// with the password, is the same login.
func TestABuildEndsWithItsOwnLogin(t *testing.T) {
	c := newCrew(t)
	second := c.do(c.owner, "POST", "/user/v1/sessions", nil).want(http.StatusOK).body
	build := c.begin(second)
	if got := c.status(build); got != api.StatusRunning {
		t.Fatalf("the build is %s", got)
	}
	c.do(second, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	c.do(c.owner, "GET", "/user/v1/whoami", nil).want(http.StatusOK)
	c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })

	var made api.NewUser
	c.server.role(api.RoleAdmin, "POST", "/internal/v1/users", api.NewUser{Email: "pat@example.com", Username: "pat"}).want(http.StatusCreated).into(&made)
	pat := c.login("pat", made.Password)
	c.server.fleet(pat, "quay")
	var b api.Build
	c.server.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "pat/quay"}, "Authorization: Bearer "+pat).want(http.StatusCreated).into(&b)
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	fresh := c.do(pat, "POST", "/user/v1/refresh-token", map[string]any{"password": made.Password}).want(http.StatusOK).body
	if got := c.status(path); got != api.StatusRunning {
		t.Errorf("after its session was refreshed with the password the build is %s", got)
	}
	c.do(fresh, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	c.within("the build", func() bool { return c.status(path) == api.StatusCancelled })
}

// An export of the log that nobody reads ends when its reader's session does: it holds its place no longer.
func TestAnExportEndsWithItsSession(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	other := s.do(alice, "POST", "/user/v1/sessions", nil).want(http.StatusOK).body
	s.exec(`INSERT INTO audit_entry (created_at, act, result, thing, thing_id, thing_name, organization, application, about_user, is_support, by_kind,
			by_user, by_key, by_session, by_name, address, request)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 16000)
		SELECT '2026-01-01T00:00:00.000Z', 'a.b', 'done', 'x', i, CAST(? AS TEXT), 0, 0, (SELECT id FROM "user" WHERE username = 'alice'), 0, 'user',
			0, 0, 0, 'x', '', '' FROM n`, strings.Repeat("more than the buffers between both ends hold ", 10))
	again := func() int {
		resp := s.stream0(other, "/audit/v1/export")
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	s.role(api.RoleAdmin, "POST", "/internal/v1/audit/checkpoint", nil).want(http.StatusOK) // all is sealed
	s.stream(alice, "/audit/v1/export")                                                     // and nobody reads
	if got := again(); got != http.StatusTooManyRequests {
		t.Fatalf("a second export at once: got %d", got)
	}
	s.do(alice, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	s.until("the export ends", func() bool { return again() == http.StatusOK }) // a write alone would wait for a minute
}
