package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// until gives a device or a fleet to support for so long.
func until(d time.Duration) map[string]any {
	return map[string]any{"is_accessible_by_support_until__date": time.Now().Add(d).UnixMilli()}
}

// helper is somebody who gives support.
func (c *crew) helper() (session string) {
	c.Helper()
	session = c.user("helper")
	c.server.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "helper", Support: true}).want(http.StatusOK)
	return session
}

// Attack: support staff, to whom a device or a fleet is open for an hour, opens it for a month. So does somebody who has devices alone; an
// operator, who might give a key away, may open a device.
func TestSupportOpensNothingToItself(t *testing.T) {
	c := newCrew(t)
	helper := c.helper()
	member := c.join("operator")
	c.do(c.worker, "PATCH", fmt.Sprintf("/v7/device(%d)", c.dev.ID), until(0)).want(http.StatusOK)
	c.do(c.owner, "PATCH", member, map[string]any{"application_membership_role": c.roleOf(c.owner, c.org, "hands", "devices")}).want(http.StatusOK)
	device, fleet := fmt.Sprintf("/v7/device(%d)", c.dev.ID), fmt.Sprintf("/v7/application(%d)", c.fleet)
	other := c.device(c.owner, c.fleet, hexUUID(2))
	for _, open := range []string{device, fleet} {
		c.do(c.owner, "PATCH", open, until(time.Hour)).want(http.StatusOK)
		c.within("until it is open", func() bool { return len(c.do(helper, "GET", device, nil).rows()) == 1 })
		c.do(helper, "PATCH", device, map[string]any{"note": "looked at"}).want(http.StatusOK)
		for who, token := range map[string]string{"support staff": helper, "who has devices alone": c.worker, "a key of theirs": c.key} {
			for _, path := range []string{device, fleet, fmt.Sprintf("/v7/device(%d)", other.ID)} {
				for _, body := range []map[string]any{until(29 * 24 * time.Hour), {"note": "x", "is_accessible_by_support_until__date": "2999-01-01T00:00:00Z"}} {
					if a := c.do(token, "PATCH", path, body); a.status == http.StatusOK && len(c.do(token, "GET", path, nil).rows()) == 1 || a.status >= 500 {
						t.Errorf("%s opens %s: %d %s", who, path, a.status, a.body)
					}
				}
			}
		}
		c.do(c.owner, "PATCH", open, map[string]any{"is_accessible_by_support_until__date": nil}).want(http.StatusOK)
		c.within("until it is shut", func() bool { return len(c.do(helper, "GET", device, nil).rows()) == 0 })
	}
	// A new device is not made open either.
	made := map[string]any{"belongs_to__application": c.fleet, "is_of__device_type": c.deviceType("generic-amd64"), "uuid": hexUUID(3)}
	for name, v := range until(time.Hour) {
		made[name] = v
	}
	c.do(c.worker, "POST", "/v7/device", made).want(http.StatusForbidden)
	c.do(c.owner, "POST", "/v7/device", made).want(http.StatusCreated)
}

// Attack: somebody gets a key of a fleet's device who may make no keys, which outlives what they have, by registering a device, and by
// bringing along one whose key they know.
func TestADeviceIsNoWayToAKey(t *testing.T) {
	c := newCrew(t)
	helper := c.helper()
	role := c.roleOf(c.owner, c.org, "hands", "devices")
	member := c.made(c.owner, "user_application_membership", map[string]any{
		"username": "worker", "is_member_of__application": c.fleet, "application_membership_role": role,
	})
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/application(%d)", c.fleet), until(time.Hour)).want(http.StatusOK)
	c.within("until it is open", func() bool {
		return len(c.do(helper, "GET", fmt.Sprintf("/v7/application(%d)", c.fleet), nil).rows()) == 1
	})
	devices := c.limited(c.owner, api.NewKey{Verbs: []string{"devices"}})
	n := 10
	for who, token := range map[string]string{"support staff": helper, "who has devices alone": c.worker, "a key of theirs": c.key, "a key for devices": devices} {
		n++
		a := c.do(token, "POST", "/device/register", api.Register{Application: c.fleet, UUID: hexUUID(n), DeviceType: "generic-amd64"})
		if a.status != http.StatusNotFound {
			t.Errorf("%s registers a device: %d %s", who, a.status, a.body)
		}
	}
	both := c.limited(c.owner, api.NewKey{Verbs: []string{"devices", "keys"}})
	c.do(both, "POST", "/device/register", api.Register{Application: c.fleet, UUID: hexUUID(20), DeviceType: "generic-amd64"}).want(http.StatusCreated)

	into := map[string]any{"belongs_to__application": c.fleet}
	for i, token := range []string{helper, c.worker} {
		own := c.newFleet(token, []string{"helper", "worker"}[i], fmt.Sprint("own", i))
		dev := c.device(token, own, hexUUID(30+i))
		for _, key := range []string{token, c.limited(token, api.NewKey{Verbs: []string{"devices"}})} {
			if a := c.do(key, "PATCH", fmt.Sprintf("/v7/device(%d)", dev.ID), into); a.status < 400 || a.status >= 500 {
				t.Errorf("a device is brought along: %d %s", a.status, a.body)
			}
		}
		if got := c.do(dev.APIKey, "GET", fmt.Sprintf("/v7/application(%d)?$select=id", c.fleet), nil).rows(); len(got) != 0 {
			t.Errorf("its key reads the fleet: %v", got)
		}
	}
	// Who may make no key here and there moves devices between the two, and whoever may in both, too.
	second := c.newFleet(c.owner, "owner", "second")
	c.made(c.owner, "user_application_membership", map[string]any{"username": "worker", "is_member_of__application": second, "application_membership_role": role})
	path := fmt.Sprintf("/v7/device(%d)", c.dev.ID)
	c.do(c.worker, "PATCH", path, map[string]any{"belongs_to__application": second}).want(http.StatusOK)
	c.do(devices, "PATCH", path, into).want(http.StatusOK)
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/user_application_membership(%d)", member), map[string]any{"application_membership_role": c.level("operator")}).want(http.StatusOK)
	c.do(c.worker, "PATCH", path, map[string]any{"belongs_to__application": second}).want(http.StatusForbidden)
}

// newFleet makes a fleet of an organization.
func (c *crew) newFleet(token, organization, name string) int64 {
	c.Helper()
	return c.made(token, "application", map[string]any{
		"app_name": name, "organization": c.id(token, "organization(handle='"+organization+"')?$select=id"), "is_for__device_type": c.deviceType("generic-amd64"),
	})
}

// A log that is followed and a build that runs end with the key that they began with, whatever it is that ends it.
func TestWhatBeganWithAKeyEndsWithIt(t *testing.T) {
	for what, tt := range map[string]struct {
		key    func(c *crew) string
		revoke func(c *crew)
		builds bool
	}{
		"who made a service account's key administers no more": {func(c *crew) (key string) {
			c.made(c.owner, "user_application_membership", map[string]any{
				"username": c.robot(), "is_member_of__application": c.fleet, "application_membership_role": c.level("developer"),
			})
			mine := fmt.Sprintf("/v7/organization_membership?$filter=user/any(u:u/username%%20eq%%20'worker')%%20and%%20is_member_of__organization%%20eq%%20%d", c.org)
			c.do(c.owner, "PATCH", mine, map[string]any{"organization_membership_role": 1}).want(http.StatusOK)
			c.do(c.worker, "POST", fmt.Sprintf("/service-account/v1/%d/key", c.id(c.owner, "user(username='robot')?$select=id")), api.NewKey{Name: "r"}).
				want(http.StatusOK).into(&key)
			return key
		}, func(c *crew) {
			mine := fmt.Sprintf("/v7/organization_membership?$filter=user/any(u:u/username%%20eq%%20'worker')%%20and%%20is_member_of__organization%%20eq%%20%d", c.org)
			c.do(c.owner, "PATCH", mine, map[string]any{"organization_membership_role": 2}).want(http.StatusOK)
		}, true},
		"the organization asks for a second factor": {func(c *crew) string {
			c.join("developer")
			c.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
				SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 0 FROM "user" WHERE username = 'owner'`)
			return c.key
		}, func(c *crew) {
			c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{"is_requiring_two_factor": true}).want(http.StatusOK)
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCrew(t)
			key, path := tt.key(c), "/device/v2/"+string(c.dev.UUID)+"/logs"
			follow, build := c.stream(key, path+"?stream=1"), c.begin(key)
			if got := c.status(build); got != api.StatusRunning {
				t.Fatalf("the build is %s before anything happened", got)
			}
			tt.revoke(c)
			c.within("requests", func() bool { return c.do(key, "GET", path, nil).status == http.StatusUnauthorized })
			if took := c.ended(follow); took > budget {
				t.Errorf("the log is followed for %s", took)
			}
			c.within("the build", func() bool { return c.status(build) == api.StatusCancelled })
		})
	}
}

// robot makes a service account of the owner's.
func (c *crew) robot() string {
	c.Helper()
	c.do(c.owner, "POST", "/service-account/v1", api.ServiceAccount{Name: "robot", Organization: "owner"}).want(http.StatusCreated)
	return "robot"
}

// Attack: a session that lies about for hours gives a key that has ended a second life, or a longer one.
func TestAKeyThatEndedStaysEnded(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	soon, late := time.Now().Add(time.Hour), time.Now().Add(48*time.Hour)
	key := s.limited(alice, api.NewKey{ExpiryDate: &soon})
	path := fmt.Sprintf("/v7/api_key(%d)", s.id(alice, "api_key?$select=id&$filter=name eq 'limited'"))
	s.exec(`UPDATE session SET authenticated_at = '2020-01-01T00:00:00.000Z'`)
	for _, end := range []any{nil, late.UnixMilli()} {
		if a := s.do(alice, "PATCH", path, map[string]any{"expiry_date": end}).want(http.StatusUnauthorized); !strings.Contains(a.body, "Fresh") {
			t.Errorf("a longer life: %s", a.body)
		}
	}
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.do(alice, "PATCH", path, map[string]any{"name": "renamed", "expiry_date": "2020-01-01T00:00:00Z"}).want(http.StatusOK) // its end is always had
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(alice, "PATCH", path, map[string]any{"expiry_date": late.UnixMilli()}).want(http.StatusUnauthorized)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
}

// Attack: a key that is limited to a channel and a network makes one that is not.
func TestWhatAKeyMakesHasItsLimits(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	fleet := s.fleet(alice, "harbour")
	near := s.limited(alice, api.NewKey{Networks: []string{"192.0.2.0/24"}, Channels: []string{"api"}})
	var reader, provisioning string
	s.do(near, "POST", "/api-key/v1", api.NewKey{ActorType: "application", ActorTypeID: fleet, Roles: []string{"fleet-api-key"}}).want(http.StatusOK).into(&reader)
	s.do(near, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet), nil).want(http.StatusOK).into(&provisioning)
	for address, want := range map[string]int{"192.0.2.7": http.StatusOK, "198.51.100.1": http.StatusUnauthorized} {
		s.role(api.RoleEdge, "GET", "/actor/v1/whoami", nil, "Authorization: Bearer "+reader, "X-Forwarded-For: "+address).want(want)
	}
	s.role(api.RoleEdge, "POST", "/device/register", api.Register{Application: fleet, UUID: hexUUID(1), DeviceType: "generic-amd64"},
		"Authorization: Bearer "+provisioning, "X-Forwarded-For: 198.51.100.1").want(http.StatusUnauthorized)
	var k api.KeyExplanation
	s.do(alice, "GET", fmt.Sprintf("/api-key/v1/%d/explain", s.id(alice, "api_key?$select=id&$filter=kind eq 'fleet'")), nil).want(http.StatusOK).into(&k)
	if fmt.Sprint(k.Networks, k.Channels) != "[192.0.2.0/24] [api]" {
		t.Errorf("the key that it made: %v by %v", k.Networks, k.Channels)
	}
}

// Attack: with a key that was found, or in a session of hours ago, a team gets into a fleet, and a role is made more.
func TestTeamsAndRolesAskForAFreshSession(t *testing.T) {
	c := newCrew(t)
	whole := c.limited(c.owner, api.NewKey{})
	team := c.made(c.owner, "team", map[string]any{"name": "crew", "belongs_to__organization": c.org})
	access := map[string]any{"team": team, "grants_access_to__application": c.fleet, "application_membership_role": c.level("developer")}
	role := fmt.Sprintf("/v7/application_membership_role(%d)", c.roleOf(c.owner, c.org, "hands", "devices"))
	try := func(token string, want int) {
		t.Helper()
		c.do(token, "POST", "/v7/team_application_access", access).want(want)
		c.do(token, "PATCH", role, map[string]any{"verbs": []string{"keys", "devices"}}).want(want)
		c.do(token, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{"max_key_days": nil}).want(want)
		c.do(token, "PATCH", role, map[string]any{"description": "hands"}).want(http.StatusOK)
	}
	try(whole, http.StatusForbidden)
	c.exec(`UPDATE session SET authenticated_at = '2020-01-01T00:00:00.000Z'`)
	try(c.owner, http.StatusUnauthorized)
}
