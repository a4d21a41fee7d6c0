package dashboard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// ask asks the api role as somebody, and wants a good answer.
func (h *house) ask(token, method, path string, body, into any) {
	h.Helper()
	if status, text := h.asked(token, method, path, body); status/100 != 2 {
		h.Fatalf("%s %s: %d %s", method, path, status, text)
	} else if to, ok := into.(*string); ok && !strings.HasPrefix(text, `"`) {
		*to = text
	} else if into != nil {
		h.must(json.Unmarshal([]byte(text), into))
	}
}

func (h *house) asked(token, method, path string, body any) (int, string) {
	h.Helper()
	data, err := json.Marshal(body)
	h.must(err)
	role := api.RoleEdge
	if strings.HasPrefix(path, "/internal/") {
		role = api.RoleAdmin
	}
	peer := h.peer(role, api.RoleAPI, h.api)
	req, err := http.NewRequest(method, peer.URL+path, bytes.NewReader(data))
	h.must(err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := peer.HTTP.Do(req)
	h.must(err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	h.must(err)
	return res.StatusCode, string(text)
}

// yard is a house with a fleet.
type yard struct {
	*house
	fleet int64
	slug  string
	key   string // that registers devices
}

func newYard(t *testing.T) *yard {
	t.Helper()
	return newYardIn(newHouse(t))
}

func newYardIn(h *house) *yard {
	h.Helper()
	y := &yard{house: h}
	var found struct{ D []struct{ ID int64 } }
	y.ask(y.admin.APIKey, "GET", "/v7/organization?$select=id", nil, &found)
	org := found.D[0].ID
	y.ask(y.admin.APIKey, "GET", "/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'", nil, &found)
	var made struct {
		ID   int64
		Slug string
	}
	y.ask(y.admin.APIKey, "POST", "/v7/application", map[string]any{"app_name": "harbour", "organization": org, "is_for__device_type": found.D[0].ID}, &made)
	y.fleet, y.slug = made.ID, made.Slug
	y.ask(y.admin.APIKey, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", y.fleet), api.NewKey{}, &y.key)
	return y
}

// device registers one with a name.
func (y *yard) device(n int, name string) api.Registered {
	y.Helper()
	var made api.Registered
	y.ask(y.key, "POST", "/device/register", api.Register{Application: y.fleet, UUID: api.DeviceUUID(fmt.Sprintf("%032x", n)), DeviceType: "generic-amd64"}, &made)
	y.ask(y.admin.APIKey, "PATCH", fmt.Sprintf("/v7/device(%d)", made.ID), map[string]string{"device_name": name}, nil)
	return made
}

// member is somebody else, who is in the fleet if they are given a role, in a browser of their own.
func (y *yard) member(name, role string) *browser {
	y.Helper()
	var made api.NewUser
	y.ask("", "POST", "/internal/v1/users", api.NewUser{Email: name + "@example.com", Username: name}, &made)
	if role != "" {
		y.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
			SELECT '2026-01-01T00:00:00.000Z', u.id, ?, r.id FROM "user" u, application_membership_role r WHERE u.username = ? AND r.name = ?`, y.fleet, name, role)
	}
	b := y.browser()
	b.send("/login", "/login", "username", name, "password", made.Password, "next", "/devices").want(y, 303, "/devices")
	return b
}

// exec changes what only time, or a part of the server that is not here, would.
func (y *yard) exec(query string, args ...any) {
	y.Helper()
	d := dbtest.Beside(y, filepath.Join(y.dir, api.RoleAPI, "roadstead.db"))
	defer func() { _ = d.Close() }()
	done, err := d.Exec(query, args...)
	y.must(err)
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		y.Fatalf("%s changed nothing: %v", query, err)
	}
}

const evil = `<img src=x onerror=alert(1)>`

// Devices are listed, found and paged through; who sees none is told what to do.
func TestListOfDevices(t *testing.T) {
	y := newYard(t)
	b := y.browser()
	b.get("/devices").want(t, 303, "/login?next=%2Fdevices")
	b.login()
	b.get("/devices").want(t, 200, "You have no devices yet")
	b.get("/").want(t, 200, `href="/devices"`)
	for n := range 52 {
		y.device(n+1, fmt.Sprintf("dev-%03d", n))
	}
	y.device(100, "zz "+evil)
	first := b.get("/devices")
	first.want(t, 200, "1 to 50 of 53")
	first.want(t, 200, "dev-049")
	if strings.Contains(first.text, "dev-050") || strings.Contains(first.text, "rel=\"prev\"") {
		t.Error("the first page goes too far")
	}
	more := regexp.MustCompile(`href="(/devices\?[^"]+)" rel="next"`).FindStringSubmatch(first.text)
	if more == nil {
		t.Fatalf("no way on: %s", first.text)
	}
	second := b.get(strings.ReplaceAll(more[1], "&amp;", "&"))
	second.want(t, 200, "51 to 53 of 53")
	second.want(t, 200, "zz &lt;img src=x")
	if strings.Contains(second.text, evil) || strings.Contains(second.text, `rel="next"`) {
		t.Error("a name is more than text, or there is another page")
	}
	b.get("/devices?q=DEV-05").want(t, 200, "1 to 2 of 2")
	b.get("/devices?q="+fmt.Sprintf("%032x", 7)).want(t, 200, "dev-006")
	b.get("/devices?q=harbour").want(t, 200, "of 53")
	b.get("/devices?q=it%27s").want(t, 200, "No device is found")
	for _, bad := range []string{"skip=-1", "skip=x", "skip=01", "skip=99999999999999999999", "q=" + strings.Repeat("x", 200)} {
		b.get("/devices?"+bad).want(t, 400, ":")
	}
	y.member("bob", "").get("/devices").want(t, 200, "You have no devices yet")
}

// The page of a device has all that there is to say, and says how old it is; to who may not see the device there is none.
func TestPageOfADevice(t *testing.T) {
	y := newYard(t)
	d := y.device(1, "kitchen "+evil)
	page := "/devices/" + string(d.UUID) + "/summary"
	b := y.browser()
	b.get(page).want(t, 303, "/login?next=%2Fdevices%2F")
	b.login()
	b.get("/devices/"+string(d.UUID)).want(t, 303, page)
	b.get(page).want(t, 200, "never heard of")
	y.ask(d.APIKey, "PATCH", "/device/v3/state", map[string]any{string(d.UUID): map[string]any{
		"os_version": evil, "supervisor_version": "17.0.1", "key_protection": "tpm", "ip_address": "198.51.100.7 " + evil, "mac_address": "02:00:00:00:00:01", "memory_usage": 100, "memory_total": 512, "cpu_temp": 47,
	}}, nil)
	a := b.get(page)
	for _, want := range []string{string(d.UUID), "kitchen &lt;img", y.slug, "generic-amd64", "17.0.1", "sealed in a TPM", "198.51.100.7", "02:00:00:00:00:01", "100 of 512 MiB", "47 °C", ", online", "never up yet"} {
		a.want(t, 200, want)
	}
	if strings.Contains(a.text, "<img") || strings.Contains(a.text, `role="note"`) {
		t.Errorf("what a device says is more than text, or is marked as old: %s", a.text)
	}
	a.want(t, 200, "it checks nothing of what it runs")
	y.exec(`INSERT INTO device_trust (created_at, device, state, approval, held_by, rejected, rejection_reason, versions, seen_at)
		SELECT created_at, id, 'rejected', 'builder', 'server', 'image of <b>web</b>', 'digest', '{}', created_at FROM device`)
	b.get(page).want(t, 200, `<span class="mark rejected">rejected</span>: image of &lt;b&gt;web&lt;/b&gt;: digest, by builder, <span class="held server">root held by the server (weaker)</span>`)
	y.exec(`UPDATE device SET last_seen = ?1, heartbeat_due = ?1, heartbeat_until = ?1`, time.Now().Add(-3*time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"))
	a = b.get(page)
	a.want(t, 200, "The device is offline. What it says of itself is as it was 3 hours ago.")
	a.want(t, 200, `class="facts stale"`)
	b.get("/devices").want(t, 200, "3 hours ago")

	y.member("bob", "").get(page).want(t, 404, "no such device")
	for _, path := range []string{"/devices/x/summary", "/devices/" + strings.Repeat("f", 32) + "/summary", "/devices/..%2F..%2Fuser/summary", page + "/x"} {
		b.get(path).want(t, 404, "no such")
	}
	observer := y.member("ann", "observer")
	a = observer.get(page)
	a.want(t, 200, "17.0.1")
	a.want(t, 200, "You may not enter this device")
	observer.send(page, "/devices/"+string(d.UUID)+"/actions", "verb", "identify").want(t, 403, "")
	observer.send(page, "/devices/"+string(d.UUID)+"/channel", "mode", "off").want(t, 403, "")
}

// A device that is not connected is told later: what waits is shown with its end and taken back; what cannot be undone is asked about first.
func TestActionsOfTheDashboard(t *testing.T) {
	y := newYard(t)
	d := y.device(1, "kitchen")
	base := "/devices/" + string(d.UUID)
	b := y.browser()
	b.login()
	act := func(fields ...string) answer { return b.send(base+"/summary", base+"/actions", fields...) }
	count := func() (n struct{ D int }) {
		y.ask(y.admin.APIKey, "GET", "/v7/device_action/$count", nil, &n)
		return n
	}
	for verb, question := range map[string]string{
		"reboot": "Restart kitchen?", "shutdown": "Switch kitchen off?", "restart": "Restart all services", "purge": "cannot be brought back",
		"stop-service": "Stop the service web of kitchen?", "restart-service": "Restart the service web of kitchen?",
	} {
		service := ""
		if strings.HasSuffix(verb, "-service") {
			service = "web"
		}
		act("verb", verb, "service", service).want(t, 200, question)
	}
	if n := count(); n.D != 0 {
		t.Fatalf("%d were begun before anybody was sure", n.D)
	}
	made := act("verb", "reboot", "sure", "1", "expires", "600", "force", "1")
	made.want(t, 303, base+"/actions/")
	one := b.get(made.Header.Get("Location"))
	one.want(t, 200, "queued")
	one.want(t, 200, "not connected. It does it when it asks next, until")
	if one.Header.Get("Refresh") == "" {
		t.Error("the page of an open action does not look again")
	}
	b.get(base+"/summary").want(t, 200, "queued, until")
	// The device comes, does it, and says so, with more than text.
	var waiting api.ActionsWaiting
	y.ask(d.APIKey, "POST", "/device/v3/actions", api.ActionExchange{Boot: "1"}, &waiting)
	if len(waiting.Actions) != 1 || waiting.Actions[0].Verb != api.ActReboot || !waiting.Actions[0].Force {
		t.Fatalf("the device is told %+v", waiting)
	}
	b.send(base+"/summary", made.Header.Get("Location")+"/cancel").want(t, 409, "has the action already")
	y.ask(d.APIKey, "POST", "/device/v3/actions", api.ActionExchange{Boot: "1", Results: []api.ActionResult{{ID: waiting.Actions[0].ID, State: api.ActionFailed, Message: evil}}}, nil)
	one = b.get(made.Header.Get("Location"))
	one.want(t, 200, "failed")
	one.want(t, 200, "&lt;img")
	if one.Header.Get("Refresh") != "" || strings.Contains(one.text, "<img") {
		t.Error("an action that is over is looked at again, or its message is more than text")
	}
	b.get(base+"/summary").want(t, 200, "admin")
	// Another one is taken back.
	made = act("verb", "identify")
	made.want(t, 303, base+"/actions/")
	b.send(base+"/summary", made.Header.Get("Location")+"/cancel").want(t, 303, base+"/summary?done=cancelled")
	b.get(made.Header.Get("Location")).want(t, 200, "cancelled")
	for want, fields := range map[string][]string{
		"verb: ": {"verb", "journal"}, "expires: ": {"verb", "identify", "expires", "x"}, "service: ": {"verb", "start-service", "service", "../x"},
	} {
		act(fields...).want(t, 400, want)
	}
	before := count()
	b.do("POST", base+"/actions", map[string][]string{"verb": {"identify"}}).want(t, 403, "out of date")
	bob := y.member("bob", "")
	bob.send("/devices", base+"/actions", "verb", "identify").want(t, 404, "no such device")
	bob.get(made.Header.Get("Location")).want(t, 404, "no such device")
	bob.send("/devices", made.Header.Get("Location")+"/cancel").want(t, 404, "no such device")
	other := y.device(2, "hall")
	b.get("/devices/"+string(other.UUID)+strings.TrimPrefix(made.Header.Get("Location"), base)).want(t, 404, "no such action")
	if after := count(); after != before {
		t.Errorf("%d actions, and before %d", after.D, before.D)
	}
}

// Remote access is switched from the page, which says that it is off and disables what needs it; the public address, and sessions.
func TestRemoteAccessOfTheDashboard(t *testing.T) {
	y := newYard(t)
	d := y.device(1, "kitchen")
	base := "/devices/" + string(d.UUID)
	b := y.browser()
	b.login()
	status := func() (s api.ChannelStatus) {
		y.ask(y.admin.APIKey, "GET", "/channel/v1/device/"+string(d.UUID), nil, &s)
		return s
	}
	y.exec(`UPDATE device SET is_connected_to_vpn = 1`)
	if page := b.get(base + "/summary"); strings.Contains(page.text, "remote access off") || strings.Contains(page.text, " disabled") {
		t.Error("what is on is said to be off")
	}
	send := func(where string, fields ...string) answer { return b.send(base+"/summary", base+where, fields...) }
	send("/channel", "mode", "off").want(t, 303, "done=channel")
	page := b.get(base + "/summary?done=channel")
	page.want(t, 200, "remote access off")
	page.want(t, 200, "Remote access is switched")
	if got := strings.Count(page.text, " disabled>"); got != 2 || status().Wanted {
		t.Errorf("%d buttons are disabled, not those of the terminal and the public address; the channel is wanted: %v", got, status().Wanted)
	}
	send("/channel", "mode", "for", "minutes", "30").want(t, 303, "done=channel")
	if s := status(); !s.Wanted || s.Until == "" {
		t.Errorf("on for a time: %+v", s)
	}
	send("/channel", "mode", "auto").want(t, 303, "done=channel")
	if s := status(); s.Mode != "auto" {
		t.Errorf("as its fleet: %+v", s)
	}
	send("/channel", "mode", "on").want(t, 303, "done=channel")
	for want, fields := range map[string][]string{"minutes: ": {"mode", "for"}, "mode": {"mode", "x"}, "minutes: \"0\"": {"mode", "for", "minutes", "0"}} {
		send("/channel", fields...).want(t, 400, strings.ReplaceAll(want, `"`, "&#34;"))
	}

	send("/url", "on", "1", "port", "8080", "login", "1", "minutes", "60").want(t, 303, "done=url")
	b.get(base+"/summary").want(t, 200, "leads to port 8080, for people who log in, until")
	send("/url", "on", "1", "port", "22222").want(t, 400, "22222")
	send("/url", "on", "1", "port", "x").want(t, 400, "port: ")
	send("/url").want(t, 303, "done=url")
	b.get(base+"/summary").want(t, 200, "Off.")

	y.exec(`INSERT INTO device_ssh_session (created_at, device, device_uuid, application, organization, "user", user_name, is_support, let_in_by, address, kind, target,
			seen_at, token, is_recorded) SELECT ?1, d.id, d.uuid, d.belongs_to__application, f.organization, u.id, u.username, 0, 'certificate', '192.0.2.1', 'shell', 'host', ?1, '', 0
		FROM device d JOIN application f ON f.id = d.belongs_to__application, "user" u WHERE u.username = 'admin'`, time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
	end := regexp.MustCompile(base + `/sessions/\d+/end`).FindString(b.get(base + "/summary").text)
	if end == "" {
		t.Fatal("the open session cannot be ended")
	}
	y.member("bob", "").send("/devices", end).want(t, 404, "")
	send(strings.TrimPrefix(end, base)).want(t, 303, "done=ended")
	y.exec(`UPDATE device_ssh_session SET ended_at = created_at WHERE is_to_end = 1`)
	send(strings.TrimPrefix(end, base)).want(t, 409, "ended already")
}
