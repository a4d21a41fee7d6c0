package apiserver_test

import (
	"fmt"
	"net/http"
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
