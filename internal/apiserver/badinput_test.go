package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBadInput sends a running server, with real tenants in it, what is wrong, hostile or merely odd, as the manual's chapters say what
// comes of each. Nothing of the other tenant shows in any answer, and nothing is written by what is refused.
func TestBadInput(t *testing.T) {
	c := newCorpus(t)
	id := func(name string) string { return fmt.Sprint(c.ids[name]) }
	nested := func(n int) string { return strings.Repeat("(", n) + "1 eq 1" + strings.Repeat(")", n) }
	cycle := "id"
	for range 40 {
		cycle = "id;$expand=belongs_to__application($select=id;$expand=owns__device($select=" + cycle + "))"
	}
	square := "belongs_to__application($select=id;$expand=owns__device($select=id;$expand=belongs_to__application($select=id)))"
	const form = "Content-Type: application/x-www-form-urlencoded"
	for _, x := range []struct {
		name, who, method, path, body string
		status                        int
		want                          string // in the answer; "=" before it: the whole answer
		headers                       []string
	}{
		{name: "ten thousand parentheses", path: "device?$filter=" + nested(10_000), status: 400, want: "longer than 16384 bytes"},
		{name: "as many as the URL holds", path: "device?$filter=" + nested(8_000), status: 400, want: "nested deeper than 32 levels"},
		{name: "an expand in circles", path: "device?$select=id&$expand=" + square, status: 200, want: `"owns__device":[`},
		{name: "an expand in circles without end", path: "device?$select=" + strings.Replace(cycle, ";", "&", 1), status: 400, want: "nested deeper than 32 levels"},
		{name: "a top of two thousand million", path: "device?$top=2147483647", status: 400, want: "$top may be at most"},
		{name: "a zero byte in a filter", path: "device?$filter=device_name eq '%00'", status: 400, want: "a zero byte"},
		{name: "a zero byte in a key", path: "device(uuid='%00')", status: 400, want: "a zero byte"},
		{name: "a lone surrogate in a filter", path: "device?$filter=device_name eq '%ED%A0%80'", status: 400, want: "not valid UTF-8"},
		{name: "a lone surrogate in a body", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"note":"\ud800"}`, status: 200},
		{name: "which is replaced", path: "device(" + id("alpha") + ")?$select=note", status: 200, want: `={"d":[{"note":"` + "\ufffd" + `"}]}`},
		{name: "an id past 2^53 in a filter", path: "device?$select=id&$filter=id eq 9007199254740993", status: 200, want: `={"d":[]}`},
		{name: "an id past 2^53 as a key", path: "device(9007199254740993)", status: 400, want: "out of range"},
		{name: "an id past 2^63", path: "device?$filter=id eq 9223372036854775808", status: 400, want: "too large"},
		{name: "a link past 2^53 in a body", method: "POST", path: "device_tag", body: `{"device":9007199254740993,"tag_key":"x","value":"y"}`, status: 401},
		{name: "SQL in substringof", path: "device?$select=id&$filter=substringof('''; DROP TABLE device; --',device_name)", status: 200, want: `={"d":[]}`},
		{name: "wildcards in substringof", path: "device?$select=id&$filter=substringof('%25',device_name) or substringof('_',device_name)", status: 200, want: `={"d":[]}`},
		{name: "a union in substringof", path: "device?$select=id&$filter=substringof('a'') UNION SELECT hash FROM api_key --',device_name)", status: 200, want: `={"d":[]}`},
		{name: "a filter on a column that is hidden", path: "application?$filter=may_read eq true", status: 400, want: `application has no property`},
		{name: "a filter on a column of secrets", path: "api_key?$filter=hash ne null", status: 400, want: `api_key has no property`},
		{name: "a hidden column through a link", path: "device?$filter=belongs_to__application/any(a:a/may_read eq true)", status: 400, want: `application has no property`},
		{name: "counting by a hidden column", path: "application/$count?$filter=may_read eq true", status: 400, want: `application has no property`},
		{name: "order by a hidden column", path: "device?$orderby=belongs_to__application/may_read asc", status: 400, want: `application has no property`},
		{name: "a lambda over another tenant's rows", path: "device_type?$select=slug&$filter=describes__device/any(d:d/device_name eq 'enemy')", status: 200, want: `={"d":[]}`},
		{name: "and its negation", path: "device_type/$count?$filter=describes__device/any(d:startswith(d/uuid,'e'))", status: 200, want: `={"d":0}`},
		{name: "another tenant's rows counted", path: "device_type?$select=slug&$filter=describes__device/$count gt 2", status: 200, want: `={"d":[]}`},
		{name: "another tenant's row by key", path: "device(" + id("enemy") + ")", status: 200, want: `={"d":[]}`},
		{name: "a megabyte of URL", path: "device?$filter=device_name eq '" + strings.Repeat("x", 1<<20) + "'", status: 431},
		{name: "more of a URL than is read", path: "device?$filter=device_name eq '" + strings.Repeat("x", 20<<10) + "'", status: 400, want: "longer than 16384 bytes"},
		{name: "$filter twice", path: "device?$filter=id eq 1&$filter=id eq 2", status: 400, want: "$filter is given twice"},
		{name: "$filter twice, once escaped", path: "device?$filter=id eq 1&%24filter=id eq 2", status: 400, want: "$filter is given twice"},

		{name: "a change of everything", method: "PATCH", path: "device", body: `{"note":"all"}`, status: 400, want: "give a key or a $filter"},
		{name: "a delete of everything", method: "DELETE", path: "device", status: 400, want: "give a key or a $filter"},
		{name: "a delete of everything that matches", who: "other", method: "DELETE", path: "device?$filter=startswith(uuid,'aa')", status: 200},
		{name: "a tag on another tenant's device", method: "POST", path: "device_tag", body: `{"device":` + id("enemy") + `,"tag_key":"x","value":"y"}`, status: 401},
		{name: "a device into another tenant's fleet", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"belongs_to__application":` + id("otherFleet") + `}`, status: 404},
		{name: "a pin on another tenant's release", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"is_pinned_on__release":` + id("otherRelease") + `}`, status: 401},
		{name: "a fleet in another tenant's organization", method: "POST", path: "application", body: `{"app_name":"taken","is_for__device_type":` + id("pi") + `,"organization":` + id("otherOrg") + `}`, status: 401},
		{name: "a computed field", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"overall_status":"operational"}`, status: 403, want: `overall_status`},
		{name: "another computed field", method: "PATCH", path: "release(" + id("good") + ")", body: `{"raw_version":"9.9.9"}`, status: 403, want: `raw_version`},
		{name: "no fields", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{}`, status: 400, want: "No fields to update"},
		{name: "a body that is too large", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"note":"` + strings.Repeat("x", 600<<10) + `"}`, status: 413, want: "524288"},

		{name: "a date in milliseconds", method: "PATCH", path: "device(" + id("alpha") + ")", body: fmt.Sprintf(`{"is_accessible_by_support_until__date":%d}`, time.Now().Add(time.Hour).UnixMilli()), status: 200},
		{name: "a date in ISO form", method: "PATCH", path: "device(" + id("alpha") + ")", body: fmt.Sprintf(`{"is_accessible_by_support_until__date":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), status: 200},
		{name: "a date that is none", method: "PATCH", path: "device(" + id("alpha") + ")", body: `{"is_accessible_by_support_until__date":"tomorrow"}`, status: 400, want: "is not a date"},
		{name: "a form of a script", who: "alpha", method: "PATCH", path: "/v6/device(uuid='" + alphaUUID + "')", body: "provisioning_progress=50&provisioning_state=Preparing&status=configuring", headers: []string{form}, status: 200, want: "=OK"},
		{name: "of which this is kept", path: "device(" + id("alpha") + ")?$select=provisioning_progress,provisioning_state", status: 200, want: `={"d":[{"provisioning_progress":50,"provisioning_state":"Preparing"}]}`},
		{name: "keys that nobody knows", who: "alpha", method: "PATCH", path: "/device/v3/state", body: `{"` + alphaUUID + `":{"status":"Idle","favourite_colour":"red","provisioning_progress":null,"apps":{}}}`, status: 200},
		{name: "an empty configuration variable", method: "POST", path: "device_config_variable", body: `{"device":` + id("alpha") + `,"name":"RESIN_HOST_FIREWALL_MODE","value":""}`, status: 201},
		{name: "which is kept", path: "device_config_variable?$select=value&$filter=name eq 'RESIN_HOST_FIREWALL_MODE'", status: 200, want: `={"d":[{"value":""}]}`},
		{name: "and given to the device", who: "alpha", path: "/device/v3/" + alphaUUID + "/state", status: 200, want: `"RESIN_HOST_FIREWALL_MODE":""`},
		{name: "an empty variable of a supervisor", who: "beta", method: "POST", path: "device_config_variable", body: `{"device":` + id("beta") + `,"name":"RESIN_HOST_FIREWALL_MODE","value":""}`, status: 201},
	} {
		t.Run(x.name, func(t *testing.T) {
			method, path := x.method, x.path
			if method == "" {
				method = http.MethodGet
			}
			if !strings.HasPrefix(path, "/") {
				path = "/v7/" + path
			}
			var body any
			if x.body != "" {
				body = x.body
			}
			token := c.tokens["user"]
			if x.who != "" {
				token = c.tokens[x.who]
			}
			a := c.do(token, method, encoded(path), body, x.headers...)
			whole, exact := strings.CutPrefix(x.want, "=")
			if a.status != x.status || exact && strings.TrimSpace(a.body) != whole || !exact && !strings.Contains(a.body, x.want) {
				t.Errorf("got %d %.300s, want %d %s", a.status, a.body, x.status, x.want)
			}
			if strings.Contains(a.body, otherUUID) || strings.Contains(a.body, otherHash) {
				t.Errorf("shows what is somebody else's: %.500s", a.body)
			}
		})
	}
	// What is refused has written nothing, and what somebody else's delete matched is still there.
	row := c.do(c.tokens["user"], "GET", "/v7/device("+id("alpha")+")?$select=belongs_to__application,is_pinned_on__release&$expand=device_tag($select=tag_key)", nil).rows()[0]
	if got := fmt.Sprint(row); got != "map[belongs_to__application:map[__id:"+id("fleet")+"] device_tag:[map[tag_key:rack]] is_pinned_on__release:<nil>]" {
		t.Errorf("the device is %s", got)
	}
	if n := len(c.do(c.tokens["other"], "GET", "/v7/device?$expand=device_tag", nil).rows()); n != 1 {
		t.Errorf("the other tenant has %d devices", n)
	}
}

// A report names, beside the fleet's releases, those of the system and of the supervisor: without the fleets' being the device's it is taken,
// as real devices send it. Another tenant's release refuses all of it.
func TestReportsOfTheSystem(t *testing.T) {
	c := newCorpus(t)
	app := func(release string) string {
		row := c.do(c.tokens["other"], "GET", fmt.Sprintf("/v7/release(%d)?$select=commit&$expand=belongs_to__application($select=uuid)", c.ids[release]), nil).rows()[0]
		return fmt.Sprintf(`"%v":{"release_uuid":"%v","releases":{"%v":{"update_status":"done","services":{}}}}`,
			row["belongs_to__application"].([]any)[0].(map[string]any)["uuid"], row["commit"], row["commit"])
	}
	ours := `"` + fleetUUID(1) + `":{"release_uuid":"` + goodHash + `","releases":{"` + goodHash + `":{"update_status":"done","services":{}}}}`
	report := func(status, apps string) *answer {
		return c.do(c.tokens["alpha"], "PATCH", "/device/v3/state", `{"`+alphaUUID+`":{"status":"`+status+`","apps":{`+apps+`}}}`)
	}
	report("all three", ours+","+app("osRelease")+","+app("supervisor")).want(http.StatusOK)
	report("somebody else's", ours+","+app("otherRelease")).want(http.StatusUnauthorized)
	row := c.do(c.tokens["user"], "GET", fmt.Sprintf("/v7/device(%d)?$select=status,is_running__release", c.ids["alpha"]), nil).rows()[0]
	if row["status"] != "all three" || fmt.Sprint(row["is_running__release"]) != fmt.Sprintf("map[__id:%d]", c.ids["good"]) {
		t.Errorf("afterwards: %v", row)
	}
}
