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

// opened is a fleet with a device, opened to somebody who gives support.
type opened struct {
	*server
	alice, sue string // sessions of the owner and of support
	fleet      int64
	dev, other api.Registered
	own        int64 // a fleet of support's own, with a device
	mine       api.Registered
}

func newOpened(t *testing.T) *opened {
	s := newServer(t)
	o := &opened{server: s, alice: s.user("alice"), sue: s.user("sue")}
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	o.fleet = s.fleet(o.alice, "hello")
	o.dev, o.other = s.device(o.alice, o.fleet, hexUUID(1)), s.device(o.alice, o.fleet, hexUUID(2))
	o.own = s.fleet(o.sue, "mine")
	o.mine = s.device(o.sue, o.own, hexUUID(9))
	o.do(o.alice, "PATCH", fmt.Sprintf("/v7/application(%d)", o.fleet), untilDate(time.Hour)).want(http.StatusOK)
	return o
}

func untilDate(d time.Duration) map[string]any {
	return map[string]any{"is_accessible_by_support_until__date": time.Now().Add(d).UnixMilli()}
}

// What support staff do ends with the grant: they cannot prolong it, nor bring in what outlives it, nor take away what is the customer's.
func TestSupportLeavesNothingBehind(t *testing.T) {
	o := newOpened(t)
	second := o.server.fleet(o.alice, "second")
	o.do(o.alice, "PATCH", fmt.Sprintf("/v7/application(%d)", second), untilDate(time.Hour)).want(http.StatusOK)
	device := fmt.Sprintf("/v7/device(%d)", o.dev.ID)
	typ := o.deviceType("generic-amd64")
	o.do(o.sue, "PATCH", device, map[string]any{"note": "looked at", "device_name": "kitchen"}).want(http.StatusOK)
	o.do(o.sue, "POST", "/v7/device_environment_variable", map[string]any{"device": o.dev.ID, "name": "DEBUG", "value": "1"}).want(http.StatusCreated)
	for _, try := range []struct {
		what, method, path string
		body               any
	}{
		{"prolongs", "PATCH", device, untilDate(29 * 24 * time.Hour)},
		{"prolongs beside another column", "PATCH", device, map[string]any{"note": "x", "is_accessible_by_support_until__date": time.Now().Add(48 * time.Hour).UnixMilli()}},
		{"prolongs that of the fleet", "PATCH", fmt.Sprintf("/v7/application(%d)", o.fleet), untilDate(29 * 24 * time.Hour)},
		{"registers", "POST", "/device/register", api.Register{Application: o.fleet, UUID: hexUUID(3), DeviceType: "generic-amd64"}},
		{"makes", "POST", "/v7/device", map[string]any{"belongs_to__application": o.fleet, "is_of__device_type": typ, "uuid": string(hexUUID(4))}},
		{"moves in", "PATCH", fmt.Sprintf("/v7/device(%d)", o.mine.ID), map[string]any{"belongs_to__application": o.fleet}},
		{"moves", "PATCH", device, map[string]any{"belongs_to__application": second}},
		{"moves out", "PATCH", device, map[string]any{"belongs_to__application": o.own}},
		{"deletes", "DELETE", device, nil},
		{"deletes all", "DELETE", fmt.Sprintf("/v7/device?$filter=belongs_to__application%%20eq%%20%d", o.fleet), nil},
		{"makes a key of the device", "POST", fmt.Sprintf("/api-key/device/%d/device-key", o.dev.ID), api.NewKey{}},
		{"makes a key of the fleet", "POST", fmt.Sprintf("/api-key/application/%d/provisioning", o.fleet), api.NewKey{}},
	} {
		if a := o.do(o.sue, try.method, try.path, try.body); a.status < 400 && try.what != "deletes all" {
			t.Errorf("support %s: %d %s", try.what, a.status, a.body)
		}
	}
	rows := o.do(o.alice, "GET", "/v7/device?$select=id,belongs_to__application,is_accessible_by_support_until__date", nil).want(http.StatusOK).rows()
	if len(rows) != 2 {
		t.Errorf("devices: %v", rows)
	}
	for _, r := range rows {
		if r["is_accessible_by_support_until__date"] != nil || fmt.Sprint(r["belongs_to__application"]) != fmt.Sprintf("map[__id:%d]", o.fleet) {
			t.Errorf("%v", r)
		}
	}
	// A support member who has the fleet by right of their own is bound by nothing of this.
	o.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
		SELECT '2026-01-01T00:00:00.000Z', id, CAST(? AS BIGINT), 2 FROM "user" WHERE username = 'sue'`, o.fleet)
	o.do(o.sue, "POST", "/device/register", api.Register{Application: o.fleet, UUID: hexUUID(5), DeviceType: "generic-amd64"}).want(http.StatusCreated)
	o.do(o.sue, "DELETE", device, nil).want(http.StatusOK)
}

// anew gives support another session, which has looked at nothing, and says whether the customer is shown that it has.
func (o *opened) anew() (shown func() bool) {
	o.Helper()
	o.sue = o.do(o.sue, "POST", "/user/v1/sessions", nil).want(http.StatusOK).body
	filter := fmt.Sprintf("is_support eq true and by_session eq %d", o.number(`SELECT max(id) FROM session`))
	return func() bool { return len(o.entries(o.alice, filter)) > 0 }
}

// However a request is written, what support staff could read by it is shown to the customer.
func TestNoLookIsHidden(t *testing.T) {
	made := make([]string, 25)
	for i := range made {
		made[i] = "'" + string(hexUUID(1000+i)) + "'"
	}
	for what, path := range map[string]string{
		"a filter that names what is not":      "/v7/device?$select=uuid&$filter=belongs_to__application eq 999999 or id gt 0",
		"many made-up names before the device": "/v7/device?$select=uuid&$filter=uuid in (" + strings.Join(made, ",") + ",'{uuid}')",
		"an expansion":                         "/v7/device({mine})?$select=id&$expand=is_of__device_type($expand=describes__device($select=uuid))",
	} {
		t.Run(what, func(t *testing.T) {
			o := newOpened(t)
			shown := o.anew()
			path := strings.NewReplacer(" ", "%20", "'", "%27", "{uuid}", string(o.dev.UUID), "{mine}", itoa(o.mine.ID)).Replace(path)
			if a := o.do(o.sue, "GET", path, nil); a.status != http.StatusOK || !strings.Contains(a.body, string(o.dev.UUID)) {
				t.Fatalf("nothing is seen: %d %.300s", a.status, a.body)
			}
			o.until("the look is shown", shown)
		})
	}
	t.Run("a flood of made-up names", func(t *testing.T) {
		o := newOpened(t)
		shown := o.anew()
		for i := range 60 { // each names twenty
			var names []string
			for j := range 20 {
				names = append(names, string(hexUUID(10_000+20*i+j)))
			}
			o.do(o.sue, "GET", "/v7/device("+"uuid=%27"+names[0]+"%27)?$select=id&x="+strings.Join(names, ","), nil)
		}
		o.do(o.sue, "GET", "/device/v2/"+string(o.dev.UUID)+"/logs", nil).want(http.StatusOK)
		o.until("the look is shown", shown)
	})
}

// Notes that cannot be written are not lost: they are written when they can.
func TestALookThatCannotBeRecordedIsRecordedLater(t *testing.T) {
	o := newOpened(t)
	o.exec(o.refuseEntries())
	o.do(o.sue, "GET", fmt.Sprintf("/v7/device(%d)?$select=id", o.dev.ID), nil).want(http.StatusOK)
	o.until("it is tried", func() bool { return o.running.WriteNotes(t.Context()) != nil })
	o.exec(o.allowEntries())
	o.until("the look is shown", func() bool { return len(o.entries(o.alice, "act eq 'support.look'")) == 1 })
}

// That something is opened to support is an act of its own, whatever is changed beside it.
func TestOpeningIsNotHiddenBesideAnotherChange(t *testing.T) {
	o := newOpened(t)
	o.do(o.alice, "PATCH", fmt.Sprintf("/v7/device(%d)", o.other.ID), map[string]any{
		"note": "x", "device_name": "cellar", "is_accessible_by_support_until__date": time.Now().Add(time.Hour).UnixMilli(),
	}).want(http.StatusOK)
	list := o.entries(o.alice, fmt.Sprintf("thing eq 'device' and thing_id eq %d and (act eq 'support.enable' or act eq 'device.update')", o.other.ID))
	got := acts(list)
	slices.Sort(got)
	if !slices.Equal(got, []string{"device.update", "support.enable"}) || strings.Contains(fmt.Sprint(list), "until__date:<nil> device_name") {
		t.Errorf("%v", list)
	}
}

// A device that goes to another organization is closed to support: it was the former one that opened it.
func TestADeviceThatGoesIsClosed(t *testing.T) {
	o := newOpened(t)
	org := o.made(o.alice, "organization", map[string]any{"name": "Other", "handle": "other"})
	to := o.made(o.alice, "application", map[string]any{"app_name": "newer", "organization": org, "is_for__device_type": o.deviceType("generic-amd64")})
	device := fmt.Sprintf("/v7/device(%d)", o.dev.ID)
	o.do(o.alice, "PATCH", device, untilDate(time.Hour)).want(http.StatusOK)
	o.do(o.alice, "PATCH", device, map[string]any{"belongs_to__application": to}).want(http.StatusOK)
	rows := o.do(o.alice, "GET", device+"?$select=is_accessible_by_support_until__date", nil).want(http.StatusOK).rows()
	if len(rows) != 1 || rows[0]["is_accessible_by_support_until__date"] != nil {
		t.Errorf("%v", rows)
	}
}
