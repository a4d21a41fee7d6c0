package apiserver

import (
	"fmt"
	"strings"
	"testing"
)

// A device that is moved to another fleet has left the first: with its next request it reads the fleet, the variables and the releases
// of the second, and nothing of the first.
func TestADeviceThatMovesLeavesItsFleet(t *testing.T) {
	w := newPolicyWorld(t, policySQL(t))
	a := w.asker()
	device, ann := w.people["device"], w.people["ann, administrator, key"]
	own, sibling := w.places["own"], w.places["sibling"]
	resources := []string{"application", "service", "application_environment_variable", "application_config_variable",
		"service_environment_variable", "application_tag", "release", "release_image", "image", "release_tag"}
	sees := func(when string, here, there *spot) {
		t.Helper()
		for _, resource := range resources {
			status, answer := a.ask(device, "GET", resource+"?$select=id", "")
			if status != 200 || !has(answer, here.rows[resource]) || has(answer, there.rows[resource]) {
				t.Errorf("%s: %s: got %d %.200s, want %d and not %d", when, resource, status, answer, here.rows[resource], there.rows[resource])
			}
		}
	}
	sees("before", own, sibling)
	body := fmt.Sprintf(`{"belongs_to__application":%d}`, sibling.ids["fleet"])
	if status, answer := a.ask(ann, "PATCH", fmt.Sprintf("device(%d)", own.ids["device"]), body); status != 200 {
		t.Fatalf("move: %d %s", status, answer)
	}
	sees("after", sibling, own)
}

// What a device may write of itself, tried over its own row: its state is taken, what real supervisors send besides is dropped, and
// what decides what it is or runs is refused.
func TestWhatADeviceWritesOfItself(t *testing.T) {
	w := newPolicyWorld(t, policySQL(t))
	a := w.asker()
	own := w.places["own"]
	path := fmt.Sprintf("device(%d)", own.ids["device"])
	for body, want := range map[string]int{
		`{"status":"Idle","os_version":"balenaOS 6.0.0"}`: 200, `{"device_name":"mine","is_online":true}`: 200,
		`{"should_be_operated_by__release":1,"should_be_managed_by__release":1}`: 200,
		`{"note":"x"}`: 403, `{"belongs_to__application":1}`: 403, `{"is_frozen":true}`: 403, `{"is_active":true}`: 403, `{"uuid":"00"}`: 403,
		`{"is_accessible_by_support_until__date":"2999-01-01"}`: 403, `{"status":"Idle","note":"x"}`: 403,
	} {
		if status, answer := a.ask(w.people["device"], "PATCH", path, body); status != want {
			t.Errorf("PATCH %s: got %d %s, want %d", body, status, answer, want)
		}
	}
	var chosen any
	w.must(w.scan(w.db, `SELECT max(COALESCE(should_be_operated_by__release, should_be_managed_by__release)) FROM device WHERE id = ?`,
		&chosen, own.ids["device"]))
	if chosen != nil {
		t.Errorf("the device chose its own system: %v", chosen)
	}
	var name, state string
	w.must(w.scan(w.db, `SELECT device_name FROM device WHERE id = ?`, &name, own.ids["device"]))
	w.must(w.scan(w.db, `SELECT status FROM device WHERE id = ?`, &state, own.ids["device"]))
	if !strings.HasPrefix(name, "device ") || state != "Idle" {
		t.Errorf("the device is called %q and says %q", name, state)
	}
	if status, _ := a.ask(w.people["device"], "PATCH", fmt.Sprintf("device(%d)", w.places["sibling"].ids["device"]), `{"status":"x"}`); status != 200 {
		t.Errorf("another device: got %d, want it not to be there", status)
	}
	var other any
	w.must(w.scan(w.db, `SELECT status FROM device WHERE id = ?`, &other, w.places["sibling"].ids["device"]))
	if other != nil {
		t.Errorf("a device wrote the state of another: %v", other)
	}
}
