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

// budget is how long after a right is gone its last use may end.
const budget = 2 * time.Second

// within polls until a condition holds, and says what took longer than the budget.
func (s *server) within(what string, f func() bool) {
	s.Helper()
	began := time.Now()
	for !f() {
		if time.Since(began) > budget {
			s.Errorf("%s: it still works after %s", what, budget)
			return
		}
	}
	s.Logf("%s: ended after %s", what, time.Since(began).Round(time.Millisecond))
}

// crew is an owner with a fleet and a device, and somebody with a right on the fleet that can be taken away.
type crew struct {
	*server
	owner, worker string // sessions
	key           string // worker's
	org, fleet    int64
	dev           api.Registered
}

func newCrew(t *testing.T) *crew {
	s := newServer(t)
	c := &crew{server: s, owner: s.user("owner"), worker: s.user("worker")}
	c.org, c.fleet = s.id(c.owner, "organization?$select=id"), s.fleet(c.owner, "harbour")
	c.dev = s.device(c.owner, c.fleet, hexUUID(1))
	s.invite(c.owner, c.worker, "worker@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": c.org})
	c.key = s.key(c.worker, "ci", nil)
	return c
}

// join gives the worker a level on the fleet, and the address of the membership.
func (c *crew) join(role string) string {
	c.Helper()
	return fmt.Sprintf("/v7/user_application_membership(%d)", c.made(c.owner, "user_application_membership", map[string]any{
		"username": "worker", "is_member_of__application": c.fleet, "application_membership_role": c.level(role),
	}))
}

func (c *crew) level(name string) int64 {
	return c.id(c.owner, "application_membership_role(name='"+name+"')?$select=id")
}

// rule sets a rule of the organization about signing in, by an owner who has another way in and a second factor. Everybody else has another
// way in where passwords are not wanted any more: who would be shut out is none whom the rule can be set for.
func (c *crew) rule(column string) {
	c.Helper()
	c.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
		SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 1 FROM "user" WHERE username = 'owner' OR ? = 'is_forbidding_passwords'`, column)
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{column: true}).want(http.StatusOK)
}

// begin opens a build with a token; the answer tells how it stands.
func (c *crew) begin(token string) (path string) {
	c.Helper()
	var b api.Build
	c.server.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "owner/harbour"}, "Authorization: Bearer "+token).
		want(http.StatusCreated).into(&b)
	return fmt.Sprintf("/internal/v1/builds/%d", b.ID)
}

func (c *crew) status(path string) string {
	c.Helper()
	var b api.Build
	c.server.role(api.RoleBuilder, "POST", path+"/heartbeat", nil).want(http.StatusOK).into(&b)
	return b.Status
}

// Everything that can be taken away, on every channel that it opens: requests that are remembered, logs that are followed, builds that run.
func TestRevocationEndsEveryUse(t *testing.T) {
	logs := func(c *crew) string { return "/device/v2/" + string(c.dev.UUID) + "/logs" }
	for what, tt := range map[string]struct {
		token  func(c *crew) string
		revoke func(c *crew, membership string)
		gone   int // status of the log's route afterwards
	}{
		"the session ends": {
			func(c *crew) string { return c.worker },
			func(c *crew, _ string) { c.do(c.worker, "POST", "/user/v1/logout", nil).want(http.StatusOK) }, http.StatusUnauthorized,
		},
		"the key is deleted": {
			func(c *crew) string { return c.key },
			func(c *crew, _ string) {
				c.do(c.worker, "DELETE", "/v7/api_key?$filter=name%20eq%20'ci'", nil).want(http.StatusOK)
			}, http.StatusUnauthorized,
		},
		"the key expires": {
			func(c *crew) string { return c.key },
			func(c *crew, _ string) {
				c.do(c.worker, "PATCH", "/v7/api_key?$filter=name%20eq%20'ci'", map[string]any{"expiry_date": "2020-01-01T00:00:00Z"}).want(http.StatusOK)
			}, http.StatusUnauthorized,
		},
		"the member of the fleet is removed": {
			func(c *crew) string { return c.key },
			func(c *crew, membership string) { c.do(c.owner, "DELETE", membership, nil).want(http.StatusOK) }, http.StatusNotFound,
		},
		"the member of the organization is removed": {
			func(c *crew) string { return c.worker },
			func(c *crew, _ string) {
				c.do(c.owner, "DELETE", fmt.Sprintf("/v7/organization_membership(user=%d,is_member_of__organization=%d)", c.id(c.worker, "user(username='worker')?$select=id"), c.org), nil).
					want(http.StatusOK)
			}, http.StatusNotFound,
		},
		"the user is gone": {
			func(c *crew) string { return c.worker },
			func(c *crew, _ string) { c.exec(`DELETE FROM "user" WHERE username = 'worker'`) }, http.StatusUnauthorized,
		},
		"the organization asks for a second factor, of a key": {
			func(c *crew) string { return c.key }, func(c *crew, _ string) { c.rule("is_requiring_two_factor") }, http.StatusUnauthorized,
		},
		"the organization asks for a second factor, of a session": {
			func(c *crew) string { return c.worker }, func(c *crew, _ string) { c.rule("is_requiring_two_factor") }, http.StatusUnauthorized,
		},
		"the organization wants no passwords": {
			func(c *crew) string { return c.worker }, func(c *crew, _ string) { c.rule("is_forbidding_passwords") }, http.StatusUnauthorized,
		},
		"the organization wants no passwords, of a program that a session let in": {
			func(c *crew) string { return c.do(c.worker, "POST", "/user/v1/sessions", nil).want(http.StatusOK).body },
			func(c *crew, _ string) { c.rule("is_forbidding_passwords") }, http.StatusUnauthorized,
		},
		"the user is disabled": {
			func(c *crew) string { return c.key },
			func(c *crew, _ string) {
				c.server.role(api.RoleAdmin, "POST", "/internal/v1/users/change", api.UserChange{User: "worker", Act: api.UserDisable}).want(http.StatusOK)
			}, http.StatusUnauthorized,
		},
		"the fleet goes to another organization": {
			func(c *crew) string { return c.key },
			func(c *crew, _ string) {
				c.made(c.owner, "organization", map[string]any{"name": "Other", "handle": "other"})
				c.do(c.owner, "POST", "/transfer/v1", api.NewTransfer{Fleet: "owner/harbour", Organization: "other"}).want(http.StatusOK)
			}, http.StatusNotFound,
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			membership, token := c.join("developer"), tt.token(c)
			c.do(token, "GET", logs(c), nil).want(http.StatusOK)
			follow, build := c.stream(token, logs(c)+"?stream=1"), c.begin(token)
			if got := c.status(build); got != api.StatusRunning {
				t.Fatalf("the build is %s before anything happened", got)
			}
			tt.revoke(c, membership)
			c.within("requests", func() bool { return c.do(token, "GET", logs(c), nil).status == tt.gone })
			if took := c.ended(follow); took > budget {
				t.Errorf("the log is followed for %s", took)
			}
			c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })
			// And what was built meanwhile is no release.
			var b api.Build
			c.server.role(api.RoleBuilder, "POST", build+"/finish", api.BuildResult{Status: api.StatusFailed}).want(http.StatusOK).into(&b)
			if b.Status != api.StatusCancelled {
				t.Errorf("the build ends as %s", b.Status)
			}
		})
	}
}

// A team that is deleted, or loses the fleet, and a level that is lowered.
func TestRevocationOfTeamsAndLevels(t *testing.T) {
	for what, revoke := range map[string]func(c *crew, team, access int64){
		"the team is deleted": func(c *crew, team, _ int64) {
			c.do(c.owner, "DELETE", fmt.Sprintf("/v7/team(%d)", team), nil).want(http.StatusOK)
		},
		"the team loses access": func(c *crew, _, access int64) {
			c.do(c.owner, "DELETE", fmt.Sprintf("/v7/team_application_access(%d)", access), nil).want(http.StatusOK)
		},
		"the member leaves": func(c *crew, _, _ int64) {
			c.do(c.worker, "DELETE", "/v7/team_membership?$filter=id%20gt%200", nil).want(http.StatusOK)
		},
		"the level is lowered": func(c *crew, _, access int64) {
			c.do(c.owner, "PATCH", fmt.Sprintf("/v7/team_application_access(%d)", access), map[string]any{"application_membership_role": c.level("observer")}).want(http.StatusOK)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			team := c.made(c.owner, "team", map[string]any{"name": "crew", "belongs_to__organization": c.org})
			c.made(c.owner, "team_membership", map[string]any{"username": "worker", "is_member_of__team": team})
			access := c.made(c.owner, "team_application_access", map[string]any{"team": team, "grants_access_to__application": c.fleet, "application_membership_role": c.level("developer")})
			path := "/device/v2/" + string(c.dev.UUID) + "/logs"
			follow, build := c.stream(c.key, path+"?stream=1"), c.begin(c.key)
			revoke(c, team, access)
			c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })
			if strings.Contains(what, "lowered") { // an observer reads on
				c.do(c.key, "GET", path, nil).want(http.StatusOK)
				return
			}
			c.within("requests", func() bool { return c.do(c.key, "GET", path, nil).status == http.StatusNotFound })
			if took := c.ended(follow); took > budget {
				t.Errorf("the log is followed for %s", took)
			}
		})
	}
}

// A device that is deleted or frozen, and its provisioning key.
func TestRevocationOfDevices(t *testing.T) {
	for what, tt := range map[string]struct {
		revoke func(c *crew)
		key    bool // the key is nobody's any more
	}{
		"deleted": {func(c *crew) {
			c.do(c.owner, "DELETE", fmt.Sprintf("/v7/device(%d)", c.dev.ID), nil).want(http.StatusOK)
		}, true},
		"its key is deleted": {func(c *crew) {
			c.do(c.owner, "DELETE", "/v7/api_key?$filter="+strings.ReplaceAll("is_of__actor/any(a:a/is_of__device/any(d:d/id gt 0))", " ", "%20"), nil).want(http.StatusOK)
		}, true},
		"frozen": {func(c *crew) { c.exec(`UPDATE device SET is_frozen = 1`) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			writer := c.open(c.dev.APIKey, "/device/v2/"+string(c.dev.UUID)+"/log-stream")
			_, err := writer.body.Write([]byte(`{"message":"hello","timestamp":1}` + "\n"))
			c.must(err)
			state := "/device/v3/" + string(c.dev.UUID) + "/state"
			c.do(c.dev.APIKey, "GET", state, nil).want(http.StatusOK)
			tt.revoke(c)
			c.within("polls", func() bool { return c.do(c.dev.APIKey, "GET", state, nil).status == http.StatusUnauthorized })
			c.within("reports", func() bool {
				return c.do(c.dev.APIKey, "PATCH", "/device/v3/state", map[string]any{}).status == http.StatusUnauthorized
			})
			c.within("registry tokens", func() bool { return c.do(c.dev.APIKey, "GET", "/auth/v1/token", nil).status == http.StatusUnauthorized })
			if got := writer.wait(t, budget); got != http.StatusUnauthorized && got != http.StatusNotFound && got != http.StatusOK && got != http.StatusForbidden {
				t.Errorf("the log stream: got %d", got)
			}
		})
	}
}

// Support access that is closed, or whose time is over, ends what is open.
func TestRevocationOfSupport(t *testing.T) {
	for what, revoke := range map[string]func(c *crew){
		"closed": func(c *crew) {
			c.do(c.owner, "PATCH", fmt.Sprintf("/v7/device(%d)", c.dev.ID), map[string]any{"is_accessible_by_support_until__date": nil}).want(http.StatusOK)
		},
		"over": func(c *crew) {
			c.exec(`UPDATE device SET is_accessible_by_support_until__date = ?`, db.FormatTime(time.Now()))
		},
		"no staff any more": func(c *crew) {
			c.server.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "helper"}).want(http.StatusOK)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			helper := c.user("helper")
			c.server.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "helper", Support: true}).want(http.StatusOK)
			path := "/device/v2/" + string(c.dev.UUID) + "/logs"
			c.do(helper, "GET", path, nil).want(http.StatusNotFound)
			until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
			c.do(c.owner, "PATCH", fmt.Sprintf("/v7/device(%d)", c.dev.ID), map[string]any{"is_accessible_by_support_until__date": until}).want(http.StatusOK)
			c.within("until it is open", func() bool { return c.do(helper, "GET", path, nil).status == http.StatusOK })
			follow := c.stream(helper, path+"?stream=1")
			revoke(c)
			c.within("requests", func() bool { return c.do(helper, "GET", path, nil).status == http.StatusNotFound })
			if took := c.ended(follow); took > budget {
				t.Errorf("the log is followed for %s", took)
			}
		})
	}
}

// An SSH key that is removed is in no device's list any more, and a build goes on when its session is merely refreshed.
func TestRevocationOfSSHKeysAndRefresh(t *testing.T) {
	c := newCrew(t)
	line := publicKey(t, "owner@laptop")
	id := c.made(c.owner, "user__has__public_key", map[string]any{"title": "laptop", "public_key": line, "user": c.id(c.owner, "user(username='owner')?$select=id")})
	keys := "/auth/v1/public-keys/owner"
	if got := c.do(c.dev.APIKey, "GET", keys, nil).want(http.StatusOK).body; got != line {
		t.Errorf("the device's list: %q", got)
	}
	c.do(c.owner, "DELETE", fmt.Sprintf("/v7/user__has__public_key(%d)", id), nil).want(http.StatusOK)
	c.within("the device's list", func() bool { return c.do(c.dev.APIKey, "GET", keys, nil).body == "" })

	build := c.begin(c.owner)
	fresh := c.do(c.owner, "GET", "/user/v1/refresh-token", nil).want(http.StatusOK).body
	if got := c.status(build); got != api.StatusRunning {
		t.Errorf("after its session was refreshed the build is %s", got)
	}
	c.do(fresh, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })
}
