package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// A key for devices with a tag works with those that carry it, as long as they do, on every road; others of the fleet are not there for it.
func TestKeysForDevicesWithATag(t *testing.T) {
	c := newCrew(t)
	rest := c.device(c.owner, c.fleet, hexUUID(2))
	tag := c.made(c.owner, "device_tag", map[string]any{"device": c.dev.ID, "tag_key": "ring", "value": "canary"})
	c.made(c.owner, "device_tag", map[string]any{"device": rest.ID, "tag_key": "ring", "value": "stable"})
	variable := c.made(c.owner, "device_environment_variable", map[string]any{"device": rest.ID, "name": "SECRET", "value": "of the rest"})
	key := c.limited(c.owner, api.NewKey{Devices: []string{"ring=canary"}})
	mine, theirs := fmt.Sprintf("/v7/device(%d)", c.dev.ID), fmt.Sprintf("/v7/device(%d)", rest.ID)
	uuids := func(token string) (list []string) {
		t.Helper()
		for _, row := range c.do(token, "GET", "/v7/device?$select=uuid&$orderby=id", nil).rows() {
			list = append(list, row["uuid"].(string))
		}
		return list
	}
	if got := uuids(key); !slices.Equal(got, []string{string(c.dev.UUID)}) {
		t.Errorf("it sees the devices %v", got)
	}
	c.do(key, "PATCH", mine, map[string]any{"note": "tried"}).want(http.StatusOK)
	c.do(key, "PATCH", theirs, map[string]any{"note": "tried"})
	c.do(key, "DELETE", theirs, nil)
	c.made(key, "device_environment_variable", map[string]any{"device": c.dev.ID, "name": "A", "value": "b"})
	c.do(key, "POST", "/v7/device_environment_variable", map[string]any{"device": rest.ID, "name": "A", "value": "b"}).want(http.StatusUnauthorized)
	c.do(key, "PATCH", fmt.Sprintf("/v7/device_environment_variable(%d)", variable), map[string]any{"value": "x"})
	if rows := c.do(c.owner, "GET", theirs+"?$select=note&$expand=device_environment_variable($select=value)", nil).rows(); len(rows) != 1 ||
		!strings.Contains(fmt.Sprint(rows), "note:<nil>") || !strings.Contains(fmt.Sprint(rows), "of the rest") {
		t.Errorf("the other device is changed: %v", rows)
	}
	// By way of what leads to a device, and of what was.
	for _, query := range []string{
		"/v7/application?$select=id&$expand=owns__device($select=uuid)", "/v7/device_history?$select=uuid", "/v7/device_tag?$select=value",
		"/v7/device_environment_variable?$select=value", "/v7/actor?$select=id&$expand=is_of__device($select=uuid)",
		"/v7/device_type?$select=id&$expand=device($select=uuid)",
	} {
		a := c.do(key, "GET", query, nil).want(http.StatusOK)
		if strings.Contains(a.body, string(rest.UUID)) || strings.Contains(a.body, "stable") || strings.Contains(a.body, "of the rest") {
			t.Errorf("GET %s: %.300s", query, a.body)
		}
	}
	for path, want := range map[string][2]int{
		"/device/v3/%s/state": {http.StatusOK, http.StatusNotFound}, "/device/v2/%s/state": {http.StatusOK, http.StatusNotFound},
		"/device/v2/%s/logs": {http.StatusOK, http.StatusNotFound}, "/access/v1/hostos/%s": {http.StatusOK, http.StatusUnauthorized},
	} {
		for i, dev := range []api.Registered{c.dev, rest} {
			c.do(key, "GET", fmt.Sprintf(path, dev.UUID), nil).want(want[i])
		}
	}
	c.wholeFleet(key, tag)
	c.do(key, "POST", "/api-key/user/full", api.NewKey{Name: "more"}).want(http.StatusForbidden)

	// It is for the device as long as the device carries the tag, and the log that it follows ends.
	follow := c.stream(key, "/device/v2/"+string(c.dev.UUID)+"/logs?stream=1")
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/device_tag(%d)", tag), map[string]any{"value": "stable"}).want(http.StatusOK)
	if got := uuids(key); len(got) != 0 {
		t.Errorf("after the tag is gone it sees %v", got)
	}
	if took := c.ended(follow); took > budget {
		t.Errorf("the log is followed for %s", took)
	}
	if got := uuids(c.limited(c.owner, api.NewKey{Devices: []string{"ring"}, Fleets: []string{"owner/harbour"}})); len(got) != 2 {
		t.Errorf("a key for any value sees %v", got)
	}
	if got := uuids(c.limited(c.owner, api.NewKey{Devices: []string{"ring"}, Tags: []string{"line=none"}})); len(got) != 0 {
		t.Errorf("a key for other fleets sees %v", got)
	}
}

// wholeFleet tries what touches all of a fleet, or makes a key for devices be for more of them, with such a key. It reads the fleet.
func (c *crew) wholeFleet(key string, tag int64) {
	c.Helper()
	application := fmt.Sprintf("/v7/application(%d)", c.fleet)
	if rows := c.do(key, "GET", application+"?$select=slug", nil).rows(); len(rows) != 1 {
		c.Errorf("it sees the fleet as %v", rows)
	}
	other := c.newFleet(c.owner, "owner", "other")
	soon := time.Now().Add(time.Hour)
	own := c.made(c.owner, "application_tag", map[string]any{"application": c.fleet, "tag_key": "line", "value": "blue"})
	for what, body := range map[string]any{
		"POST /v7/device_tag":                             map[string]any{"device": c.dev.ID, "tag_key": "more", "value": "x"},
		fmt.Sprintf("PATCH /v7/device_tag(%d)", tag):      map[string]any{"value": "canary"},
		fmt.Sprintf("DELETE /v7/device_tag(%d)", tag):     nil,
		"POST /v7/application_tag":                        map[string]any{"application": c.fleet, "tag_key": "more", "value": "x"},
		fmt.Sprintf("PATCH /v7/application_tag(%d)", own): map[string]any{"value": "red"},
		"PATCH " + application:                            map[string]any{"is_archived": true},
		"DELETE " + application:                           nil,
		"POST /v7/application_environment_variable":       map[string]any{"application": c.fleet, "name": "A", "value": "b"},
		"POST /v7/device": map[string]any{
			"belongs_to__application": c.fleet, "is_of__device_type": c.deviceType("generic-amd64"), "uuid": hexUUID(40),
		},
		fmt.Sprintf("PATCH /v7/device(%d)", c.dev.ID):                        map[string]any{"belongs_to__application": other},
		"POST /device/register":                                              api.Register{Application: c.fleet, UUID: hexUUID(41), DeviceType: "generic-amd64"},
		fmt.Sprintf("POST /api-key/application/%d/provisioning", c.fleet):    api.NewKey{ExpiryDate: &soon},
		fmt.Sprintf("POST /api-key/device/%d/device-key", c.dev.ID):          api.NewKey{ExpiryDate: &soon},
		"POST /api-key/v1":                                                   api.NewKey{ActorType: "application", ActorTypeID: c.fleet, Roles: []string{"fleet-api-key"}, ExpiryDate: &soon},
		fmt.Sprintf("GET /download-config?appId=%d&version=2.12.7", c.fleet): nil,
	} {
		method, path, _ := strings.Cut(what, " ")
		if a := c.do(key, method, path, body); a.status < 400 || a.status >= 500 {
			c.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	c.server.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: "owner/harbour"}, "Authorization: Bearer "+key).want(http.StatusForbidden)
	var k api.KeyExplanation
	c.do(key, "GET", "/api-key/v1/self/explain", nil).want(http.StatusOK).into(&k)
	if fmt.Sprint(k.DeviceTags, k.Verbs) != "[ring=canary] [read devices actions shell]" || slices.Contains(k.Makes, "device") || slices.Contains(k.Makes, "device_tag") ||
		!slices.Contains(k.Changes, "device") || slices.Contains(k.Routes, "POST /device/register") {
		c.Errorf("it is said of it: %+v", k)
	}
}

// What a key for some devices cannot have is refused when it is made, by name.
func TestKeysForDevicesThatAreRefused(t *testing.T) {
	s := newServer(t)
	alice := s.user("alice")
	for what, key := range map[string]api.NewKey{
		"releases":   {Devices: []string{"ring"}, Verbs: []string{"releases"}},
		"keys":       {Devices: []string{"ring"}, Verbs: []string{"devices", "keys"}},
		"a level":    {Devices: []string{"ring"}, Level: "operator"},
		"no tag":     {Devices: []string{"=x"}},
		"too many":   {Devices: strings.Split(strings.Repeat("a b ", 60), " ")},
		"everything": {Devices: []string{"ring"}, Verbs: []string{"ownership"}},
	} {
		key.Name = "bad"
		if a := s.do(alice, "POST", "/api-key/user/full", key).want(http.StatusBadRequest); what != "too many" && !strings.Contains(a.body, "deviceTags") {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	s.limited(alice, api.NewKey{Devices: []string{"ring", "ring"}, Level: "observer"})
	s.do(alice, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", s.fleet(alice, "harbour")), api.NewKey{Devices: []string{"ring"}}).want(http.StatusBadRequest)
}
