package apiserver_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
)

// corpus is a world in which every resource has a row and every answer of the catalogue is known: one organization with a fleet of
// two devices and three releases, a host and a supervisor fleet that anybody may read, and an organization of somebody else.
type corpus struct {
	*server
	ids    map[string]int64 // by the name under which requests speak of them
	tokens map[string]string
}

const (
	alphaUUID = "aa11aa11aa11aa11aa11aa11aa11aa11"
	betaUUID  = "aa22aa22aa22aa22aa22aa22aa22aa22"
	otherUUID = "ee99ee99ee99ee99ee99ee99ee99ee99"
	goodHash  = "c0ffee00c0ffee00c0ffee00c0ffee00"
	nextHash  = "c0ffee11c0ffee11c0ffee11c0ffee11"
	badHash   = "deadbeefdeadbeefdeadbeefdeadbeef"
	osHash    = "05050505050505050505050505050505"
	supHash   = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e"
	otherHash = "0ff0ff000ff0ff000ff0ff000ff0ff00"
)

// then is the day on which everything in the world happened whose time is told in an answer.
const then = "2020-01-31T12:00:00.000Z"

func newCorpus(t testing.TB) *corpus {
	t.Helper()
	s := newServer(t)
	c := &corpus{server: s, ids: map[string]int64{}, tokens: map[string]string{}}
	c.tokens["nobody"] = ""
	c.tokens["user"] = s.login(s.admin.Username, s.admin.Password)
	c.tokens["other"], c.tokens["mate"] = s.user("mallory"), s.user("joe")
	c.ids["user"], c.ids["other"] = c.find("user", "user?$filter=username eq '"+s.admin.Username+"'"), c.find("other", "user?$filter=username eq 'mallory'")
	c.ids["mate"] = c.find("mate", "user?$filter=username eq 'joe'")
	c.people()
	c.fleets()
	c.releases()
	c.devices()
	c.rest()
	c.ids["userActor"], c.ids["alphaActor"] = c.link("user("+fmt.Sprint(c.ids["user"])+")", "actor"), c.link("device("+fmt.Sprint(c.ids["alpha"])+")", "actor")
	return c
}

// link is the id that a row's link leads to.
func (c *corpus) link(row, name string) int64 {
	c.Helper()
	var rows []map[string]struct {
		ID int64 `json:"__id"`
	}
	var d struct{ D json.RawMessage }
	c.do(c.tokens["user"], "GET", "/v7/"+row+"?$select="+name, nil).want(http.StatusOK).into(&d)
	c.must(json.Unmarshal(d.D, &rows))
	return rows[0][name].ID
}

// find is the id of the first row of a request.
func (c *corpus) find(as, query string) int64 {
	c.Helper()
	rows := c.do(c.tokens[as], "GET", "/v7/"+strings.ReplaceAll(query, " ", "%20"), nil).want(http.StatusOK).rows()
	if len(rows) == 0 {
		c.Fatalf("%s: no row", query)
	}
	return int64(rows[0]["id"].(float64))
}

// post makes a row as somebody; name is what requests call it, "" for nothing.
func (c *corpus) post(as, name, resource string, values map[string]any) int64 {
	c.Helper()
	var row struct{ ID int64 }
	c.do(c.tokens[as], "POST", "/v7/"+resource, values).want(http.StatusCreated).into(&row)
	if name != "" {
		c.ids[name] = row.ID
	}
	return row.ID
}

// insert makes a row that nobody may make over the wire.
func (c *corpus) insert(name, resource string, values map[string]any) int64 {
	c.Helper()
	id, err := c.running.InsertAsItself(c.Context(), resource, values)
	if err != nil {
		c.Fatalf("insert %s: %v", resource, err)
	}
	if name != "" {
		c.ids[name] = id
	}
	return id
}

type fields = map[string]any

func (c *corpus) people() {
	c.Helper()
	c.post("user", "org", "organization", fields{"name": "Acme", "handle": "acme"})
	c.post("other", "otherOrg", "organization", fields{"name": "It's / other", "handle": "it_s_other"})
	c.post("user", "sshKey", "user__has__public_key", fields{
		"user": c.ids["user"], "title": "laptop",
		"public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl laptop",
	})
	c.insert("", "organization_membership", fields{"user": c.ids["mate"], "is_member_of__organization": c.ids["org"],
		"organization_membership_role": c.find("user", "organization_membership_role?$filter=name eq 'member'")})
	c.ids["membership"] = c.find("user", "organization_membership?$filter=is_member_of__organization eq "+fmt.Sprint(c.ids["org"]))
	c.post("user", "", "organization_membership_tag", fields{"organization_membership": c.ids["membership"], "tag_key": "desk", "value": "3"})
	c.post("user", "team", "team", fields{"belongs_to__organization": c.ids["org"], "name": "crew"})
	c.post("user", "", "team_membership", fields{"username": c.admin.Username, "is_member_of__team": c.ids["team"]})
}

func fleetUUID(n int) string { return fmt.Sprintf("a%da1a1a1a1a14a1a8a1aa1a1a1a1a1a1", n) }

func (c *corpus) fleets() {
	c.Helper()
	pi, nuc := c.find("user", "device_type?$filter=slug eq 'raspberrypi4-64'"), c.find("user", "device_type?$filter=slug eq 'intel-nuc'")
	c.ids["pi"], c.ids["nuc"] = pi, nuc
	c.post("user", "fleet", "application", fields{
		"app_name": "harbour", "organization": c.ids["org"], "is_for__device_type": pi, "uuid": fleetUUID(1)})
	c.post("user", "fleet2", "application", fields{
		"app_name": "quayside", "organization": c.ids["org"], "is_for__device_type": nuc, "uuid": fleetUUID(2)})
	c.post("other", "otherFleet", "application", fields{
		"app_name": "harbour", "organization": c.ids["otherOrg"], "is_for__device_type": pi, "uuid": fleetUUID(3)})
	for _, name := range []string{"web", "db"} {
		c.post("user", name, "service", fields{"application": c.ids["fleet"], "service_name": name})
	}
	c.post("user", "role", "user_application_membership", fields{
		"username": "joe", "is_member_of__application": c.ids["fleet2"],
		"application_membership_role": c.find("user", "application_membership_role?$filter=name eq 'observer'")})
	c.post("user", "", "team_application_access", fields{
		"team": c.ids["team"], "grants_access_to__application": c.ids["fleet"],
		"application_membership_role": c.find("user", "application_membership_role?$filter=name eq 'developer'")})
	c.post("user", "", "organization_invite", fields{"invitee": "new@example.com", "is_invited_to__organization": c.ids["org"]})
	c.post("user", "", "application_invite", fields{"invitee": "new@example.com", "is_invited_to__application": c.ids["fleet"]})
}

// tick waits for the next millisecond: what comes after has a later date.
func tick() {
	for now := time.Now().UnixMilli(); time.Now().UnixMilli() == now; {
		runtime.Gosched()
	}
}

func (c *corpus) releases() {
	c.Helper()
	c.ids["good"] = c.release("fleet", goodHash, "1.2.3", "success", fields{"note": "first"})
	c.ids["next"] = c.release("fleet", nextHash, "1.3.0", "success", fields{"is_final": false})
	c.ids["bad"] = c.release("fleet", badHash, "0.0.0", "failed", nil)
	c.ids["otherRelease"] = c.release("otherFleet", otherHash, "9.9.9", "success", nil)
	for _, service := range []string{"web", "db"} {
		image := c.insert(service+"Image", "image", fields{
			"is_a_build_of__service": c.ids[service], "is_stored_at__image_location": "registry2.roadstead.test/v2/" + service, "status": "success",
			"image_size": 9007199254740993, "content_hash": "sha256:" + strings.Repeat("ab", 32), "start_timestamp": then, "push_timestamp": then,
		})
		part := c.insert("", "release_image", fields{"image": image, "is_part_of__release": c.ids["good"]})
		c.insert("", "image_label", fields{"release_image": part, "label_name": "io.balena.features.dbus", "value": "1"})
		c.insert("", "image_environment_variable", fields{"release_image": part, "name": "MODE", "value": "fast"})
		c.insert("", "image_sbom", fields{"release_image": part, "digest": "sha256:" + strings.Repeat("56", 32), "packages": 12})
		c.insert("", "image_base", fields{"release_image": part, "name": "docker.io/library/alpine:3.20", "digest": "sha256:" + strings.Repeat("78", 32)})
	}
	c.insert("", "release_statement", fields{"release": c.ids["good"], "key_id": strings.Repeat("9a", 32), "envelope": `{"payloadType":"application/vnd.in-toto+json"}`})
	c.post("user", "releaseTag", "release_tag", fields{"release": c.ids["good"], "tag_key": "stage", "value": "blue"})
	c.post("user", "", "release_tag", fields{"release": c.ids["good"], "tag_key": "area", "value": "north"})
	c.post("user", "asset", "release_asset", fields{"release": c.ids["good"], "asset_key": "notes/first.txt", "asset": nil})
	c.role(api.RoleAdmin, "POST", "/internal/v1/os-releases", []api.OSRelease{
		{Kind: "os", DeviceType: "raspberrypi4-64", Version: "6.0.24", Image: "registry.example.com/os/pi@sha256:" + strings.Repeat("12", 32), Phase: "current"},
		{Kind: "os", DeviceType: "raspberrypi4-64", Version: "6.1.0", Variant: "dev", KnownIssues: "none yet"},
		{Kind: "supervisor", Arch: "aarch64", Version: "17.0.1", Image: "registry.example.com/supervisor@sha256:" + strings.Repeat("34", 32)},
	}).want(http.StatusOK)
	c.ids["osFleet"] = c.find("nobody", "application?$filter=is_host eq true")
	c.ids["osRelease"] = c.find("nobody", "release?$filter=semver eq '6.0.24'")
	c.ids["supervisor"] = c.find("nobody", "release?$filter=semver eq '17.0.1'")
}

func (c *corpus) release(fleet, commit, semver, status string, more fields) int64 {
	c.Helper()
	tick()
	values := fields{
		"belongs_to__application": c.ids[fleet], "commit": commit, "semver": semver, "status": status,
		"composition": json.RawMessage(`{"version":"2","services":{"web":{"image":"web"},"db":{"image":"db"}}}`),
	}
	for k, v := range more {
		values[k] = v
	}
	return c.insert("", "release", values)
}

func (c *corpus) devices() {
	c.Helper()
	for _, d := range []struct{ name, as, fleet, uuid, label string }{
		{"alpha", "user", "fleet", alphaUUID, "alpha"}, {"beta", "user", "fleet", betaUUID, "beta"}, {"enemy", "other", "otherFleet", otherUUID, "enemy"},
	} {
		var key string
		c.do(c.tokens[d.as], "POST", fmt.Sprintf("/api-key/application/%d/provisioning", c.ids[d.fleet]), api.NewKey{}).want(http.StatusOK).into(&key)
		var made api.Registered
		c.do(key, "POST", "/device/register", api.Register{Application: c.ids[d.fleet], UUID: api.DeviceUUID(d.uuid), DeviceType: "raspberrypi4-64"}).
			want(http.StatusCreated).into(&made)
		c.ids[d.name], c.tokens[d.name] = made.ID, made.APIKey
		c.do(c.tokens[d.as], "PATCH", fmt.Sprintf("/v7/device(%d)", made.ID), fields{"device_name": d.label}).want(http.StatusOK)
	}
	if err := c.running.ChangeAsItself(c.Context(), "device", c.ids["alpha"], fields{
		"is_running__release": c.ids["good"], "status": "Idle", "os_version": "balenaOS 6.0.24", "os_variant": "prod", "supervisor_version": "17.0.1",
		"memory_usage": 512, "memory_total": 3906, "cpu_temp": 48, "ip_address": "192.0.2.7", "mac_address": "02:00:5E:10:00:00", "is_active": true,
	}); err != nil {
		c.Fatal(err)
	}
	for _, i := range []string{"web", "db"} {
		c.insert(i+"Install", "image_install", fields{
			"device": c.ids["alpha"], "installs__image": c.ids[i+"Image"], "is_provided_by__release": c.ids["good"], "install_date": then, "status": "Running"})
	}
}

// rest makes a row of everything else that hangs on the fleet and its devices.
func (c *corpus) rest() {
	c.Helper()
	c.ids["webService"] = c.find("user", fmt.Sprintf("service_install?$filter=device eq %d and installs__service eq %d", c.ids["alpha"], c.ids["web"]))
	fleet, device := c.ids["fleet"], c.ids["alpha"]
	for _, row := range []struct {
		name, resource string
		values         fields
	}{
		{"fleetVar", "application_environment_variable", fields{"application": fleet, "name": "COLOUR", "value": "red"}},
		{"", "application_environment_variable", fields{"application": fleet, "name": "AREA", "value": ""}},
		{"fleetConfig", "application_config_variable", fields{"application": fleet, "name": "RESIN_SUPERVISOR_POLL_INTERVAL", "value": "600000"}},
		{"buildVar", "build_environment_variable", fields{"application": fleet, "name": "GOFLAGS", "value": "-mod=vendor"}},
		{"serviceVar", "service_environment_variable", fields{"service": c.ids["web"], "name": "PORT", "value": "80"}},
		{"", "service_label", fields{"service": c.ids["web"], "label_name": "io.balena.features.firmware", "value": "1"}},
		{"fleetTag", "application_tag", fields{"application": fleet, "tag_key": "site", "value": "north"}},
		{"deviceVar", "device_environment_variable", fields{"device": device, "name": "COLOUR", "value": "blue"}},
		{"deviceConfig", "device_config_variable", fields{"device": device, "name": "RESIN_SUPERVISOR_LOCAL_MODE", "value": "0"}},
		{"deviceTag", "device_tag", fields{"device": device, "tag_key": "rack", "value": "7"}},
		{"installVar", "device_service_environment_variable", fields{"service_install": c.ids["webService"], "name": "FOO", "value": "x"}},
	} {
		c.post("user", row.name, row.resource, row.values)
	}
	c.post("other", "", "application_environment_variable", fields{"application": c.ids["otherFleet"], "name": "COLOUR", "value": "enemy"})
	c.post("other", "", "device_tag", fields{"device": c.ids["enemy"], "tag_key": "rack", "value": "enemy"})
	c.do(c.tokens["user"], "POST", "/api-key/user/full", fields{"name": "laptop", "expiryDate": nil}).want(http.StatusOK)
}

// In answers, what differs from run to run is written as what it is.
var (
	times  = regexp.MustCompile(`"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ"`)
	millis = regexp.MustCompile(`\b1[6-9]\d{11}\b`)
)

func settled(body string) string {
	body = times.ReplaceAllStringFunc(body, func(t string) string {
		if strings.Contains(t, then) {
			return t
		}
		return `"<now>"`
	})
	return millis.ReplaceAllString(body, "<ms>")
}

// TestCorpus sends every request to resources that the commands of balena-cli 25 and the calls of balena-sdk 23 make, in the order
// and with the words in which they make them, and compares the answers. A line of the file is "who METHOD path"; a body follows
// after " < ", form: before one that is not JSON. {name} stands for an id of the world, and a path without a slash is below /v7/.
func TestCorpus(t *testing.T) {
	const file = "testdata/corpus.txt"
	c := newCorpus(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	n := 0
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(&got, line)
			continue
		}
		if strings.HasPrefix(line, " ") {
			continue // the expected answer
		}
		request, body, _ := strings.Cut(line, " < ")
		who, rest, _ := strings.Cut(request, " ")
		method, path, _ := strings.Cut(rest, " ")
		token, known := c.tokens[who]
		if !known || path == "" {
			t.Fatalf("not a request: %s", line)
		}
		fill := func(s string) string {
			for name, id := range c.ids {
				s = strings.ReplaceAll(s, "{"+name+"}", fmt.Sprint(id))
			}
			return strings.NewReplacer("{soon}", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), "{goodHash}", goodHash, "{nextHash}", nextHash, "{A}", alphaUUID, "{B}", betaUUID).Replace(s)
		}
		var sent any
		var headers []string
		if form, isForm := strings.CutPrefix(body, "form:"); isForm {
			sent, headers = fill(form), []string{"Content-Type: application/x-www-form-urlencoded"}
		} else if body != "" {
			sent = fill(body)
		}
		if !strings.HasPrefix(path, "/") {
			path = "/v7/" + path
		}
		a := c.do(token, method, encoded(fill(path)), sent, headers...)
		n++
		fmt.Fprintln(&got, line)
		answer := settled(strings.TrimSuffix(a.body, "\n"))
		if a.status == http.StatusOK && strings.HasPrefix(answer, `{"d":`) {
			fmt.Fprintf(&got, "  %s\n", strings.TrimSuffix(strings.TrimPrefix(answer, `{"d":`), "}"))
		} else {
			fmt.Fprintf(&got, "  %d %s\n", a.status, answer)
		}
	}
	if n < 100 {
		t.Errorf("the file holds only %d requests", n)
	}
	if updating() {
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(data), got.String()); diff != "" {
		t.Errorf("-want +got, run with -update to accept:\n%s", diff)
	}
}

// encoded writes a path and query as balena's client puts them on the wire: spaces and quotes of the query percent-encoded, the
// rest literal.
func encoded(s string) string {
	path, query, has := strings.Cut(s, "?")
	if !has {
		return path
	}
	return path + "?" + strings.NewReplacer(" ", "%20", "'", "%27").Replace(query)
}

func updating() bool { f := flag.Lookup("update"); return f != nil && f.Value.String() == "true" }
