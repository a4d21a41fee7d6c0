package apiserver

import "strings"

const insertDevice = `INSERT INTO device (created_at, modified_at, actor, uuid, device_name, is_of__device_type, belongs_to__application)
	VALUES ('{now}', '{now}', {actor}, '{uuid}', 'device {n}', {type}, {fleet})`

// policyRow says how a row of a resource is made in a place, and how it is written over the API. Empty: it is not.
type policyRow struct {
	name   string
	id     string // name under which later templates speak of the row
	insert string // SQL
	post   string // body that makes one
	patch  string // body that changes one …
	column string // … seen in this column
	via    string // "parent nav": a resource from which a navigation leads to the row
}

// policyRows are in the order in which they can be made.
var policyRows = []policyRow{
	{
		"application", "fleet", `INSERT INTO application (created_at, actor, organization, app_name, slug, is_for__device_type, application_type, uuid)
			VALUES ('{now}', {actor}, {org}, 'fleet{n}', 'acme/fleet{n}', {type}, {apptype}, '{uuid}')`,
		`{"app_name":"made{n}","organization":{org},"is_for__device_type":{type}}`, `{"app_name":"renamed{n}"}`, "app_name",
		"organization owns__application",
	},
	{"service", "service", `INSERT INTO service (created_at, application, service_name) VALUES ('{now}', {fleet}, 'service{n}')`,
		`{"application":{fleet},"service_name":"made{n}"}`, "", "", "application service"},
	{"application_environment_variable", "", `INSERT INTO application_environment_variable (created_at, application, name, value)
		VALUES ('{now}', {fleet}, 'ENV{n}', 'v')`, `{"application":{fleet},"name":"MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value",
		"application application_environment_variable"},
	{"application_config_variable", "", `INSERT INTO application_config_variable (application, name, value) VALUES ({fleet}, 'BALENA_{n}', 'v')`,
		`{"application":{fleet},"name":"BALENA_MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "application application_config_variable"},
	{"build_environment_variable", "", `INSERT INTO build_environment_variable (created_at, application, name, value)
		VALUES ('{now}', {fleet}, 'BUILD{n}', 'v')`, `{"application":{fleet},"name":"MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value",
		"application build_environment_variable"},
	{"service_environment_variable", "", `INSERT INTO service_environment_variable (created_at, service, name, value)
		VALUES ('{now}', {service}, 'ENV{n}', 'v')`, `{"service":{service},"name":"MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value",
		"service service_environment_variable"},
	{"service_label", "", `INSERT INTO service_label (created_at, service, label_name, value) VALUES ('{now}', {service}, 'label{n}', 'v')`,
		`{"service":{service},"label_name":"made{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "service service_label"},
	{"application_tag", "", `INSERT INTO application_tag (application, tag_key, value) VALUES ({fleet}, 'tag{n}', 'v')`,
		`{"application":{fleet},"tag_key":"made{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "application application_tag"},
	{"release", "release", `INSERT INTO "release" (created_at, belongs_to__application, "commit", composition, status, source, start_timestamp,
		update_timestamp, raw_version, version, build_log, is_final) VALUES ('{now}', {fleet}, 'c0ffee{n}', '{}', 'success', 'cloud', '{now}', '{now}',
		'0.0.{n}', '{}', 'said{n}', 0)`,
		`{"belongs_to__application":{fleet},"composition":{"services":{"main":{}}}}`, `{"note":"new{n}"}`, "note", "application owns__release"},
	{"image", "image", `INSERT INTO image (created_at, start_timestamp, push_timestamp, is_a_build_of__service, is_stored_at__image_location, status,
		content_hash) VALUES ('{now}', '{now}', '{now}', {service}, 'registry2.roadstead.test/v2/{n}', 'success', 'sha256:{n}')`,
		`{"is_a_build_of__service":{service}}`, "", "", "service is_built_by__image"},
	{"release_image", "part", `INSERT INTO release_image (created_at, image, is_part_of__release) VALUES ('{now}', {image}, {release})`,
		"", "", "", "release release_image"},
	{"image_label", "", `INSERT INTO image_label (created_at, release_image, label_name, value) VALUES ('{now}', {part}, 'label{n}', 'v')`,
		"", "", "", "release_image image_label"},
	{"image_environment_variable", "", `INSERT INTO image_environment_variable (created_at, release_image, name, value)
		VALUES ('{now}', {part}, 'ENV{n}', 'v')`, "", "", "", "release_image image_environment_variable"},
	{"release_statement", "", `INSERT INTO release_statement (created_at, "release", key_id, envelope) VALUES ('{now}', {release}, 'key', '{}')`,
		"", "", "", "release release_statement"},
	{"image_sbom", "", `INSERT INTO image_sbom (created_at, release_image, missing) VALUES ('{now}', {part}, 'none')`,
		"", "", "", "release_image image_sbom"},
	{"image_base", "", `INSERT INTO image_base (created_at, release_image, name, digest) VALUES ('{now}', {part}, 'base{n}', 'sha256:{n}')`,
		"", "", "", "release_image image_base"},
	{"release_tag", "", `INSERT INTO release_tag ("release", tag_key, value) VALUES ({release}, 'tag{n}', 'v')`,
		`{"release":{release},"tag_key":"made{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "release release_tag"},
	{"release_asset", "", `INSERT INTO release_asset ("release", asset_key) VALUES ({release}, 'asset{n}')`,
		`{"release":{release},"asset_key":"made{n}","asset":null}`, `{"asset_key":"new{n}"}`, "asset_key", "release release_asset"},
	{"device", "device", insertDevice,
		`{"belongs_to__application":{fleet},"is_of__device_type":{type},"uuid":"{uuid}","device_name":"made {n}"}`,
		`{"note":"new{n}"}`, "note", "application owns__device"},
	{"device_environment_variable", "", `INSERT INTO device_environment_variable (created_at, device, name, value)
		VALUES ('{now}', {device}, 'ENV{n}', 'v')`, `{"device":{device},"name":"MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value",
		"device device_environment_variable"},
	{"device_config_variable", "", `INSERT INTO device_config_variable (device, name, value) VALUES ({device}, 'BALENA_{n}', 'v')`,
		`{"device":{device},"name":"BALENA_MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "device device_config_variable"},
	{"device_tag", "", `INSERT INTO device_tag (device, tag_key, value) VALUES ({device}, 'tag{n}', 'v')`,
		`{"device":{device},"tag_key":"made{n}","value":"v"}`, `{"value":"new{n}"}`, "value", "device device_tag"},
	{"service_install", "install", `INSERT INTO service_install (created_at, device, installs__service) VALUES ('{now}', {device}, {service})`,
		"", "", "", "device service_install"},
	{"device_service_environment_variable", "", `INSERT INTO device_service_environment_variable (created_at, service_install, name, value)
		VALUES ('{now}', {install}, 'ENV{n}', 'v')`, `{"service_install":{install},"name":"MADE{n}","value":"v"}`, `{"value":"new{n}"}`, "value",
		"service_install device_service_environment_variable"},
	{"image_install", "", `INSERT INTO image_install (created_at, install_date, device, installs__image, is_provided_by__release, status)
		VALUES ('{now}', '{now}', {device}, {image}, {release}, 'Running')`, "", "", "", "device image_install"},
	{"device_history", "", `INSERT INTO device_history (created_at, tracks__device, tracks__actor, uuid, belongs_to__application, is_active,
		is_of__device_type) SELECT '{now}', id, actor, uuid, {fleet}, 0, {type} FROM device WHERE id = {device}`, "", "", "", ""},
	{"device_trust", "", `INSERT INTO device_trust (created_at, device, state, versions, checkpoint, seen_at)
		VALUES ('{now}', {device}, 'verified', '{}', 'secret{n}', '{now}')`, "", "", "", "device device_trust"},
	{"device_action", "", `INSERT INTO device_action (created_at, device, verb, state, expires_at, try_at, result)
		VALUES ('{now}', {device}, 'ping', 'done', '{later}', '{now}', '"secret{n}"')`, "", "", "", "device device_action"},
	{"user_application_membership", "", `INSERT INTO user_application_membership (created_at, "user", is_member_of__application,
		application_membership_role) VALUES ('{now}', {user}, {fleet}, 1)`, `{"user":{cousin},"is_member_of__application":{fleet}}`, `{"application_membership_role":2}`,
		"application_membership_role", "application user_application_membership"},
	{"invitee", "invitee", `INSERT INTO invitee (email) VALUES ('guest{n}@example.com')`, "", "", "", ""},
	{"application_invite", "", `INSERT INTO application_invite (created_at, invited, is_invited_to__application, application_membership_role, token_hash,
		expires_at) VALUES ('{now}', {guest}, {fleet}, 1, 'hash{n}', '{later}')`,
		`{"invitee":"made{n}@example.com","is_invited_to__application":{fleet}}`, "", "", "application application_invite"},
	{"team", "team", `INSERT INTO team (created_at, belongs_to__organization, name) VALUES ('{now}', {org}, 'team{n}')`,
		`{"belongs_to__organization":{org},"name":"made{n}"}`, `{"name":"new{n}"}`, "name", "organization team"},
	{"team_membership", "", `INSERT INTO team_membership (created_at, "user", is_member_of__team) VALUES ('{now}', {user}, {team})`,
		`{"user":{member},"is_member_of__team":{team}}`, "", "", "team team_membership"},
	{"team_application_access", "", `INSERT INTO team_application_access (created_at, team, grants_access_to__application,
		application_membership_role) VALUES ('{now}', {crew}, {fleet}, 1)`, `{"team":{crew},"grants_access_to__application":{fleet}}`, `{"application_membership_role":2}`,
		"application_membership_role", "application team_application_access"},
	{"organization_membership", "membership", `INSERT INTO organization_membership (created_at, "user", is_member_of__organization,
		organization_membership_role) VALUES ('{now}', {user}, {org}, 2)`, `{"user":{cousin},"is_member_of__organization":{org}}`, `{"organization_membership_role":1}`,
		"organization_membership_role", "organization organization_membership"},
	{"organization_membership_tag", "", `INSERT INTO organization_membership_tag (organization_membership, tag_key, value)
		VALUES ({membership}, 'tag{n}', 'v')`, `{"organization_membership":{membership},"tag_key":"made{n}","value":"v"}`,
		`{"value":"new{n}"}`, "value", "organization_membership organization_membership_tag"},
	{"organization_invite", "", `INSERT INTO organization_invite (created_at, invited, is_invited_to__organization, organization_membership_role,
		token_hash, expires_at) VALUES ('{now}', {guest}, {org}, 2, 'orghash{n}', '{later}')`,
		`{"invitee":"made{n}@example.com","is_invited_to__organization":{org}}`, "", "", "organization organization_invite"},
}

// The policy, as somebody would tell it who never saw the rules: what each class of people may do with a row of a resource.
// r reads it (in lists, by id, by count, expanded, through a filter), c makes one, u changes it, d deletes it; - nothing.
//
// A device changes its state (s), which is not what others change; what it tells of its configuration is accepted and ignored (i).
// What canAccess says beyond that: somebody may act on a device (A), enter it and reach its ports (T), all of them (W), make keys of it (K) or of
// a fleet (F), log and open the control channel (L), and make keys of a user (N).
//
// An image is changed by its maker while it is in quarantine (q), which those tried here are not: package release tries that.
// The first three columns are for a public fleet; everywhere else strangers may do nothing. A thing is the device of one fleet, or its key.
const fleetPolicy = `
                                     | public:              | in the organization, or by a grant                                             | limited keys                         | things
resource                             | nobody stranger device | member observer operator developer administrator support device_support | observing operating developing whole | device fleet_key
application                          | r      r        r      | c      r        rcF      rcuF      rcudF         r       -              | r         rF        ruF        rudF  | r  r
service                              | r      r        r      | -      r        r        rcd       rcd           r       -              | r         r         rcd        rcd   | r  r
application_environment_variable     | -      -        -      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
application_config_variable          | -      -        -      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
build_environment_variable           | -      -        -      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | -  -
service_environment_variable         | -      -        -      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
service_label                        | -      -        -      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
application_tag                      | r      r        r      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
release                              | r      r        r      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
image                                | r      r        r      | -      r        r        rcq       rcq           r       -              | r         r         rcq        rcq   | r  r
release_image                        | r      r        r      | -      r        r        rc        rc            r       -              | r         r         rc         rc    | r  r
image_label                          | -      -        -      | -      r        r        rc        rc            r       -              | r         r         rc         rc    | r  r
image_environment_variable           | -      -        -      | -      r        r        rc        rc            r       -              | r         r         rc         rc    | r  r
release_statement                    | -      -        -      | -      r        r        r         r             r       -              | r         r         r          r     | r  r
image_sbom                           | -      -        -      | -      r        r        r         r             r       -              | r         r         r          r     | r  r
image_base                           | -      -        -      | -      r        r        r         r             r       -              | r         r         r          r     | r  r
release_tag                          | r      r        r      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
release_asset                        | r      r        r      | -      r        r        rcud      rcud          r       -              | r         r         rcud       rcud  | r  r
device                               | -      -        -      | -      r        rcudATWK rcudATWK  rcudATWK      ruATW   ruATW          | r         rcudATWK  rcudATWK   rcudATWK | rsAL r
device_environment_variable          | -      -        -      | -      r        rcud     rcud      rcud          rcud    rcud           | r         rcud      rcud       rcud  | r  r
device_config_variable               | -      -        -      | -      r        rcud     rcud      rcud          rcud    rcud           | r         rcud      rcud       rcud  | ri r
device_tag                           | -      -        -      | -      r        rcud     rcud      rcud          rcud    rcud           | r         rcud      rcud       rcud  | r  r
service_install                      | -      -        -      | -      r        r        r         r             r       r              | r         r         r          r     | r  r
device_service_environment_variable  | -      -        -      | -      r        rcud     rcud      rcud          rcud    rcud           | r         rcud      rcud       rcud  | r  r
image_install                        | -      -        -      | -      r        r        r         r             r       r              | r         r         r          r     | r  r
device_history                       | -      -        -      | -      r        r        r         r             r       -              | r         r         r          r     | -  r
device_action                        | -      -        -      | -      r        r        r         r             r       r              | r         r         r          r     | r  r
device_trust                         | -      -        -      | -      r        r        r         r             r       r              | r         r         r          r     | r  r
user_application_membership          | -      -        -      | -      r        r        r         rcud          r       -              | r         r         r          r     | -  -
application_invite                   | -      -        -      | -      -        -        -         rcd           -       -              | -         -         -          -     | -  -
`

// What one verb alone lets somebody do in a fleet, by a role of the organization's own or by a key. Every set of verbs reads.
const verbPolicy = `
resource                             | read devices actions shell keys releases settings
application                          | r    r       r       r     rF   r        ru
service                              | r    r       r       r     r    r        rcd
application_environment_variable     | r    r       r       r     r    r        rcud
application_config_variable          | r    r       r       r     r    r        rcud
build_environment_variable           | r    r       r       r     r    r        rcud
service_environment_variable         | r    r       r       r     r    r        rcud
service_label                        | r    r       r       r     r    r        rcud
application_tag                      | r    r       r       r     r    r        rcud
release                              | r    r       r       r     r    rcud     r
image                                | r    r       r       r     r    rcq      r
release_image                        | r    r       r       r     r    rc       r
image_label                          | r    r       r       r     r    rc       r
image_environment_variable           | r    r       r       r     r    rc       r
release_statement                    | r    r       r       r     r    r        r
image_sbom                           | r    r       r       r     r    r        r
image_base                           | r    r       r       r     r    r        r
release_tag                          | r    r       r       r     r    rcud     r
release_asset                        | r    r       r       r     r    rcud     r
device                               | r    rcud    rA      rT    rK   r        r
device_environment_variable          | r    rcud    r       r     r    r        r
device_config_variable               | r    rcud    r       r     r    r        r
device_tag                           | r    rcud    r       r     r    r        r
service_install                      | r    r       r       r     r    r        r
device_service_environment_variable  | r    rcud    r       r     r    r        r
image_install                        | r    r       r       r     r    r        r
device_history                       | r    r       r       r     r    r        r
device_action                        | r    r       r       r     r    r        r
device_trust                         | r    r       r       r     r    r        r
user_application_membership          | r    r       r       r     r    r        r
application_invite                   | -    -       -       -     -    -        -
`

// What a key for devices with a tag may do in a fleet: with a device that carries the tag, and of what hangs on it; and what is left to a key
// whose tag no device there carries. Of the fleet as a whole it reads.
const tagPolicy = `
resource                             | with_the_tag without
application                          | r    r
service                              | r    r
application_environment_variable     | r    r
application_config_variable          | r    r
build_environment_variable           | r    r
service_environment_variable         | r    r
service_label                        | r    r
application_tag                      | r    r
release                              | r    r
image                                | r    r
release_image                        | r    r
image_label                          | r    r
image_environment_variable           | r    r
release_statement                    | r    r
image_sbom                           | r    r
image_base                           | r    r
release_tag                          | r    r
release_asset                        | r    r
device                               | rudATW -
device_environment_variable          | rcud -
device_config_variable               | rcud -
device_tag                           | r    -
service_install                      | r    -
device_service_environment_variable  | rcud -
image_install                        | r    -
device_history                       | r    -
device_action                        | r    -
device_trust                         | r    -
user_application_membership          | r    r
application_invite                   | -    -
`

// What belongs to the organization itself; o is only what is their own. A guest works on one of its fleets without being a member.
const organizationPolicy = `
resource                     | stranger guest member administrator | limited_key
invitee                      | - - - r    | -
team                         | - - r rcud | -
team_membership              | - - r rcd  | -
team_application_access      | - - r rcud | -
organization_membership      | - - r rcud | o
organization_membership_tag  | - - r rcud | -
organization_invite          | - - - rcd  | -
`

// table reads one of the tables above: resource → class → what it may do.
func table(text string, classes ...string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(strings.ReplaceAll(line, "|", " "))
		if len(f) != len(classes)+1 || f[0] == "resource" {
			continue
		}
		out[f[0]] = map[string]string{}
		for i, class := range classes {
			out[f[0]][class] = strings.NewReplacer("-", "", "_", "").Replace(f[i+1])
		}
	}
	return out
}

var (
	inFleets = table(fleetPolicy, "public nobody", "public stranger", "public device", "member", "observer", "operator", "developer", "administrator", "support",
		"device support", "observing key", "operating key", "developing key", "whole key", "device", "fleet key")
	ofVerbs         = table(verbPolicy, "read", "devices", "actions", "shell", "keys", "releases", "settings")
	ofTags          = table(tagPolicy, "with", "without")
	inOrganizations = table(organizationPolicy, "stranger", "guest", "member", "administrator", "scoped")
)
