package apiserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// hiddenColumns are what each kind of caller never sees, in any way; "all" is nobody at all. Written by hand.
var hiddenColumns = map[string]map[string]string{
	"application": {
		"all":       "may_read may_devices may_actions may_shell may_keys may_releases may_settings may_members may_ownership may_own_devices is_for_all_devices",
		"anonymous": "actor is_stored_at__repository_url is_accessible_by_support_until__date",
		"device":    "is_stored_at__repository_url is_accessible_by_support_until__date",
		"fleet key": "is_stored_at__repository_url is_accessible_by_support_until__date",
	},
	"device":                      {"all": "said_online said_online_at may_read may_devices may_actions may_shell may_keys may_releases may_settings may_members may_ownership may_own_devices is_for_all_devices"},
	"organization_membership":     {"all": "is_lasting"},
	"application_membership_role": {"all": "mask"},
	"release":                     {"anonymous": "build_log", "fleet key": "build_log"},
	"image": {
		"all":       "is_quarantined",
		"anonymous": "build_log dockerfile error_message", "device": "build_log dockerfile error_message",
		"fleet key": "build_log dockerfile error_message",
	},
	"audit_entry":         {"all": "is_seen"},
	"device_action":       {"all": "result"},
	"organization_invite": {"all": "invited token_hash"},
	"application_invite":  {"all": "invited token_hash"},
}

// maskedColumns are what strangers do not learn of a row that is public, though people may ask for it. Written by hand.
var maskedColumns = map[string]string{
	"application": "is_stored_at__repository_url is_accessible_by_support_until__date",
	"release":     "build_log",
	"image":       "build_log dockerfile error_message",
}

// writableColumns are what people may give, and what a device may of itself. Written by hand; scoped keys may give the same.
var writableColumns = map[string]string{
	"application": `app_name organization is_for__device_type application_type is_of__class uuid is_archived should_track_latest_release
		should_be_running__release is_stored_at__repository_url is_public is_accessible_by_support_until__date is_discoverable
		allows_tags_from_devices git_branch is_also_built_for is_closed_to_support`,
	"service":                          "application service_name",
	"application_environment_variable": "application name value",
	"application_config_variable":      "application name value",
	"build_environment_variable":       "application name value",
	"service_environment_variable":     "service name value",
	"service_label":                    "service label_name value",
	"application_tag":                  "application tag_key value",
	"release": `note known_issue_list is_invalidated invalidation_reason is_passing_tests is_final phase status end_timestamp release_version
		semver semver_major semver_minor semver_patch semver_prerelease semver_build
		belongs_to__application commit composition source start_timestamp contract is_created_by__user`,
	"image": `is_a_build_of__service status start_timestamp end_timestamp push_timestamp content_hash image_size dockerfile project_type
		error_message build_log contract`,
	"release_image":              "image is_part_of__release",
	"image_label":                "release_image label_name value",
	"image_environment_variable": "release_image name value",
	"release_tag":                "release tag_key value",
	"release_asset":              "release asset_key asset",
	"device": `uuid device_name note local_id is_of__device_type belongs_to__application is_pinned_on__release is_active is_web_accessible
		is_locked_until__date is_accessible_by_support_until__date custom_latitude custom_longitude should_be_operated_by__release
		should_be_managed_by__release is_online os_version os_variant supervisor_version`,
	"device_environment_variable":         "device name value",
	"device_config_variable":              "device name value",
	"device_tag":                          "device tag_key value",
	"device_service_environment_variable": "service_install name value",
	"user_application_membership":         "user is_member_of__application application_membership_role end_date",
	"application_membership_role":         "belongs_to__organization name description verbs",
	"application_invite":                  "invitee is_invited_to__application application_membership_role message",
	"team":                                "belongs_to__organization name description",
	"team_membership":                     "user is_member_of__team",
	"team_application_access":             "team grants_access_to__application application_membership_role end_date",
	"organization_membership":             "user is_member_of__organization organization_membership_role end_date",
	"organization_membership_tag":         "organization_membership tag_key value",
	"organization":                        "name handle company_name industry website logo_image is_forbidding_passwords is_requiring_two_factor max_key_days",
	"api_key":                             "name description expiry_date",
	"user__has__public_key":               "user title public_key",
	"organization_invite":                 "invitee is_invited_to__organization organization_membership_role message",
}

const writableByItself = `status os_version os_variant supervisor_version provisioning_progress provisioning_state download_progress ip_address
	mac_address memory_usage memory_total storage_block_device storage_usage storage_total cpu_usage cpu_temp cpu_id is_undervolted`

// ignoredFromItself are columns that real supervisors write and that change nothing.
const ignoredFromItself = `device_name is_pinned_on__release is_online public_address should_be_operated_by__release
	should_be_managed_by__release should_be_managed_by__supervisor_release`

// decidedAbove are columns that need more than the rest of their row: who may change the row otherwise, and is not of these classes, is refused.
var decidedAbove = map[string]struct{ bodies, by []string }{
	"application": {
		[]string{`{"is_public":true}`, `{"is_discoverable":false}`, `{"is_accessible_by_support_until__date":4102444800000}`,
			`{"is_closed_to_support":false}`},
		[]string{"administrator", "whole key"},
	},
	"device": {
		[]string{`{"is_accessible_by_support_until__date":4102444800000}`},
		[]string{"administrator", "whole key", "operator", "developer", "operating key", "developing key"},
	},
}

// unseenBy lists the columns of a resource that a kind of caller does not see.
func unseenBy(resource string, k access.Kind) []string {
	h := hiddenColumns[resource]
	return strings.Fields(h["all"] + " " + h[string(k)])
}

// columnCells try what is about columns: those that may not be seen, those that may not be written, and those that point to a row.
func (w *world) columnCells(p *who, r policyRow, def *odata.Resource) (cells []cell) {
	if !p.knows(r.name) {
		return nil
	}
	add := func(verb string, writes bool, try func(a *asker) string) {
		cells = append(cells, cell{verb: verb, writes: writes, who: p, resource: r.name, place: "own", try: try})
	}
	for _, column := range unseenBy(r.name, p.caller.Kind) {
		add("see "+column, false, func(a *asker) string { return a.see(p, r, column) })
	}
	for _, column := range strings.Fields(maskedColumns[r.name]) {
		if p.isPerson() {
			add("see public "+column, false, func(a *asker) string { return a.unmask(p, r, column) })
		}
	}
	may := p.may(r.name, p.home(r.name))
	if strings.ContainsAny(may, "ucsv") {
		for _, column := range inTable(def) {
			if p.gives(r.name, column) {
				continue
			}
			add("write "+column, true, func(a *asker) string { return a.give(p, r, column, strings.ContainsAny(may, "usv")) })
		}
	}
	for _, c := range def.Columns {
		if p.classes["other"] != "" {
			break // what is another tenant's to the others is theirs
		}
		if c.Type == odata.ForeignKey && c.SQL == "" && p.gives(r.name, c.Name) && p.caller.Kind != access.Device {
			add("point "+c.Name, true, func(a *asker) string { return a.point(p, r, c) })
		}
	}
	if r.name == "organization_membership" && p.caller.Kind == access.ScopedKey && p.own != "robo" {
		add("delete its own", true, func(a *asker) string { return a.leave(p) })
	}
	own := p.may(r.name, "own")
	decides := func(body string) {
		add("decide "+body, true, func(a *asker) string { return a.decide(p, r, body) })
	}
	if above := decidedAbove[r.name]; strings.Contains(own, "u") && !slices.Contains(above.by, p.classes["own"]) {
		for _, body := range above.bodies {
			decides(body)
		}
	}
	if r.name == "device" && p.isPerson() && strings.Contains(own, "u") && !strings.Contains(own, "d") { // support staff move none, and give none an address that outlives them
		decides(`{"note":"x","is_web_accessible":true}`)
		decides(fmt.Sprintf(`{"note":"x","belongs_to__application":%d}`, w.places["own"].ids["fleet"]))
	}
	return cells
}

// stored are the columns that could be written at all.
func inTable(def *odata.Resource) (names []string) {
	for _, c := range def.Columns {
		if c.SQL == "" && c.Name != "id" {
			names = append(names, c.Name)
		}
	}
	return names
}

// gives reports whether somebody may give a column.
func (p *who) gives(resource, column string) bool {
	if p.caller.Kind == access.Device {
		return resource == "device" && slices.Contains(strings.Fields(writableByItself+" "+ignoredFromItself), column)
	}
	return slices.Contains(strings.Fields(writableColumns[resource]), column)
}

// see tries to learn of a column, by every road that there is.
func (a *asker) see(p *who, r policyRow, column string) string {
	queries := []string{
		r.name + "?$select=" + column, r.name + "?$filter=" + column + " ne null", r.name + "?$orderby=" + column + " asc",
		r.name + "/$count?$filter=" + column + " ne null", fmt.Sprintf("%s(%d)?$select=id,%s", r.name, a.row(p, r, p.home(r.name)), column),
	}
	if resource, nav, _ := a.parent(r, p.home(r.name)); nav != "" && p.knows(resource) {
		queries = append(queries, resource+"?$expand="+nav+"($select="+column+")", resource+"?$filter="+nav+"/any(x:x/"+column+" ne null)",
			resource+"?$expand="+nav+"($filter="+column+" ne null)", resource+"?$expand="+nav+"($orderby="+column+" asc)",
			resource+"?$filter="+nav+"/$count($filter="+column+" ne null) gt 0")
	}
	for _, query := range queries {
		if status, answer := a.ask(p, "GET", query, ""); status != 400 {
			return fmt.Sprintf("GET %s: got %d %.200s", query, status, answer)
		}
	}
	if _, answer := a.ask(p, "GET", r.name, ""); strings.Contains(answer, `"`+column+`"`) {
		return "it stands in the default representation"
	}
	return ""
}

// unmask tries to learn what a column holds of a public row, by every road: only who observes the fleet does.
func (a *asker) unmask(p *who, r policyRow, column string) string {
	id, may := a.row(p, r, "public"), p.classes["public"] == "administrator"
	status, answer := a.ask(p, "GET", fmt.Sprintf("%s(%d)?$select=id,%s", r.name, id, column), "")
	if status != 200 || !has(answer, id) || strings.Contains(answer, `"`+column+`":null`) == may {
		return fmt.Sprintf("got %d %.200s, want it seen: %v", status, answer, may)
	}
	queries := []string{
		fmt.Sprintf("%s?$select=id&$filter=id eq %d and %s ne null", r.name, id, column),
		fmt.Sprintf("%s?$select=id&$filter=id eq %d and not(%s eq null)", r.name, id, column),
	}
	if resource, nav, parent := a.parent(r, "public"); resource == "service" {
		queries = append(queries, fmt.Sprintf("%s(%d)?$expand=%s($select=id;$filter=id eq %d and %s ne null)", resource, parent, nav, id, column))
	}
	for _, query := range queries {
		status, answer := a.ask(p, "GET", query, "")
		if status != 200 || strings.Contains(answer, fmt.Sprintf(`{"id":%d}`, id)) != may {
			return fmt.Sprintf("GET %s: got %d %.200s, want it seen: %v", query, status, answer, may)
		}
	}
	return ""
}

// give tries to write a column that is not the caller's to give: it is refused by name, whatever the value.
func (a *asker) give(p *who, r policyRow, column string, update bool) string {
	method, path, body := "PATCH", fmt.Sprintf("%s(%d)", r.name, a.row(p, r, p.home(r.name))), `{"`+column+`":null}`
	if !update {
		method, path = "POST", r.name
	}
	status, answer := a.ask(p, method, path, body)
	if status == 403 && strings.Contains(answer, "may not be written") || status == 400 && strings.Contains(answer, "has no property") {
		return ""
	}
	return fmt.Sprintf("%s %s: got %d %.200s, want a refusal by name", method, body, status, answer)
}

// point tries to tie a row to one of another tenant.
func (a *asker) point(p *who, r policyRow, c odata.Column) string {
	far := a.w.places["other"]
	target, known := far.rows[c.To]
	switch c.To {
	case "user":
		target = a.w.users["hermit"] // whom nobody knows
	case "organization":
		target = far.ids["org"]
	default:
		if !known {
			return "" // the catalogue is everybody's
		}
	}
	body := fmt.Sprintf(`{"%s":%d}`, c.Name, target)
	status, answer := a.ask(p, "PATCH", fmt.Sprintf("%s(%d)", r.name, a.row(p, r, p.home(r.name))), body)
	var n int
	a.w.must(a.w.scan(a.db, fmt.Sprintf(`SELECT count(*) FROM "%s" WHERE id = ? AND "%s" = ?`, r.name, c.Name), &n, a.row(p, r, p.home(r.name)), target))
	if n != 0 {
		return fmt.Sprintf("PATCH %s: got %d %.200s and it is so", body, status, answer)
	}
	if r.post == "" {
		return ""
	}
	made := withField(a.posted(r, p.home(r.name)), c.Name, target)
	before := a.rowsOf(r.name)
	status, answer = a.ask(p, "POST", r.name, made)
	if a.rowsOf(r.name) != before {
		return fmt.Sprintf("POST %s: got %d %.200s and it is made", made, status, answer)
	}
	return ""
}

// withField gives a field of a JSON object another value.
func withField(body, name string, value int64) string {
	fields := map[string]any{}
	_ = json.Unmarshal([]byte(body), &fields) // a body of the table
	fields[name] = value
	out, _ := json.Marshal(fields)
	return string(out)
}

// leave tries to end the membership of a limited key's own user.
func (a *asker) leave(p *who) string {
	var id int64
	a.w.must(a.w.scan(a.db, `SELECT min(id) FROM organization_membership WHERE "user" = ?`, &id, p.caller.User))
	if status, answer := a.ask(p, "DELETE", fmt.Sprintf("organization_membership(%d)", id), ""); status != 403 {
		return fmt.Sprintf("got %d %.200s, want a refusal", status, answer)
	}
	return ""
}

// decide tries to change what is for administrators alone.
func (a *asker) decide(p *who, r policyRow, body string) string {
	status, answer := a.ask(p, "PATCH", fmt.Sprintf("%s(%d)", r.name, a.row(p, r, p.home(r.name))), body)
	if status != 403 {
		return fmt.Sprintf("PATCH %s: got %d %.200s, want a refusal", body, status, answer)
	}
	return ""
}

// Columns that may not be seen are not seen by any road; columns that may not be written are refused by name; nothing is tied to a
// row of another tenant.
func TestPolicyOfColumns(t *testing.T) {
	w := newPolicyWorld(t, policySQL(t))
	a := w.asker()
	n := 0
	for _, def := range w.server.model().Resources {
		row, ok := rowOf(def.Name)
		if !ok {
			t.Errorf("no table speaks of %s", def.Name)
			continue
		}
		for _, name := range w.names() {
			for _, c := range w.columnCells(w.people[name], row, def) {
				n++
				if wrong := c.try(a); wrong != "" {
					t.Errorf("%s × %s × %s: %s", c.who.name, c.resource, c.verb, wrong)
				}
			}
		}
	}
	t.Logf("%d cells", n)
}
