package apiserver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// What hangs on no fleet and on no organization: people, their profiles and keys, organizations themselves, and what is everybody's.
// A place is whose the row is.

const insertKey = `INSERT INTO api_key (created_at, kind, key_hash, is_of__actor, name) VALUES ('{now}', '{kind}', 'keyhash{n}', {whose}, 'key{n}')`

// ownRows have no insert where the row is there anyway.
var ownRows = []policyRow{
	{name: "user", patch: `{"has_been_sent_verification_email":true}`, column: "username", via: "actor is_of__user"},
	{name: "user_profile", via: "user user_profile"},
	{
		name: "organization", insert: `INSERT INTO organization (created_at, name, handle) VALUES ('{now}', 'Org {n}', 'org{n}')`,
		post: `{"name":"Made {n}"}`, patch: `{"name":"New {n}"}`, column: "name", via: "application organization",
	},
	{name: "actor", via: "device actor"},
	{name: "api_key", insert: insertKey, patch: `{"name":"new {n}"}`, column: "name", via: "actor api_key"},
	{
		name: "user__has__public_key", insert: `INSERT INTO user__has__public_key (created_at, "user", title, public_key)
			VALUES ('{now}', {owner}, 'key {n}', 'ssh-ed25519 AAAA{n}')`,
		post: `{"user":{owner},"title":"made {n}","public_key":"{sshkey}"}`, patch: `{"title":"new {n}"}`, column: "title",
		via: "user user__has__public_key",
	},
	{name: "user__has_direct_access_to__application", via: "application is_directly_accessible_by__user"},
	{name: "audit_entry", insert: `INSERT INTO audit_entry (created_at, act, result, thing, thing_id, thing_name, organization, application, about_user,
		is_support, by_kind, by_user, by_key, by_session, by_name, address, request)
		VALUES ('{now}', 'device.update', 'done', 'device', 1, 'device{n}', {org}, 0, {owner}, 0, 'user', 0, 0, 0, 'somebody', '192.0.2.1', 'r{n}')`},
	{name: "service_instance", insert: `INSERT INTO service_instance (ip_address) VALUES ('192.0.2.{n}')`},
	{name: "organization_membership_role"},
	{
		name: "application_membership_role", insert: `INSERT INTO application_membership_role (created_at, modified_at, name, verbs, mask,
			belongs_to__organization) VALUES ('{now}', '{now}', 'role{n}', '["read"]', 1, {org})`,
		post:  `{"belongs_to__organization":{org},"name":"made{n}","verbs":["devices"]}`,
		patch: `{"description":"new{n}"}`, column: "description", via: "organization owns__application_membership_role",
	},
	{name: "cpu_architecture"},
	{name: "device_manufacturer", insert: `INSERT INTO device_manufacturer (slug, name) VALUES ('maker{n}', 'Maker {n}')`},
	{name: "device_family", insert: `INSERT INTO device_family (slug, name) VALUES ('family{n}', 'Family {n}')`},
	{name: "device_type"},
	{
		name:   "device_type_alias",
		insert: `INSERT INTO device_type_alias (device_type, is_referenced_by__alias) VALUES ((SELECT min(id) FROM device_type), 'alias{n}')`,
	},
	{name: "application_type"},
}

// linksAt are the places in which the navigation of a resource's row leads to it, where it is not all of them.
var linksAt = map[string]string{"organization": "acme's rival's", "actor": "device's", "application_membership_role": "acme's"}

// keyless is a view, whose ids are no keys: its rows are only listed.
const keyless = "user__has_direct_access_to__application"

// The columns are the somebodies of the policy's world; "itself" is the key that asks. An update in vain (v) is accepted and does nothing.
const ownPolicy = `
                                        |        | ann     ann  |                              by  by  by  by  | limited |        frozen fleet provisioning
resource                                whose    | nobody session key | mia olga otto dora rita sue sam stu | keys | device frozen fleet_key provisioning_key enda vera kay robo cora tagless
user                                    ann's    | -      rvN  rv   | r   r   r   r   r   r  -  -  | r  | - - - - | - - - - r r
user                                    rita's   | -      r    r    | r   r   r   r   rv  r  -  -  | -  | - - - - | - - - - r -
user                                    olga's   | -      r    r    | r   rv  r   r   r   r  -  -  | -  | - - - - | - r r - r -
user                                    stu's    | -      -    -    | -   -   -   -   -   -  -  rv | -  | - - - - | - - - - - -
user                                    guest's  | -      r    r    | -   r   r   r   -   r  -  -  | -  | - - - - | - r r - r -
user                                    member's | -      r    r    | r   -   r   r   -   -  -  -  | -  | - - - - | - - - - r -
user_profile                            ann's    | -      r    r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
user_profile                            rita's   | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - - -
organization                            acme's   | -      rcud rcud | rc  rc  rc  rc  c   rc c  c  | r  | - - - - | c rc rc r rc r
organization                            rival's  | -      c    c    | c   c   c   c  rcud c  c  c  | -  | - - - - | c c c - rcud -
organization                            annex's  | -      rc   rc   | rc  rc  rc  rc  rc  rc c  c  | -  | - - - - | c c c - rc -
actor                                   ann's    | -      r    r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
actor                                   rita's   | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - - -
actor                                   fleet's  | -      r    r    | -   r   r   r   -   r  -  -  | r  | - - r - | - r r r r r
actor                                   device's | -      r    r    | -   r   r   r   -   r  r  -  | r  | r - - - | - r r r r -
actor                                   rival's  | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - r -
api_key                                 ann's    | -      rud  r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
api_key                                 rita's   | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - - -
api_key                                 fleet's  | -      rud  rud  | -   -   rud rud -   -  -  -  | -  | - - - - | - - rud - rud -
api_key                                 device's | -      rud  rud  | -   -   rud rud -   -  -  -  | -  | - - - - | - - rud - rud -
api_key                                 rival's  | -      -    -    | -   -   -   -   rud -  -  -  | -  | - - - - | - - - - rud -
api_key                                 itself   | -      -    rd   | rd  rd  rd  rd  rd  -  -  rd | rd | - - - - | rd rd rd rd - rd
user__has__public_key                   ann's    | -      rcud rud  | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
user__has__public_key                   rita's   | -      -    -    | -   -   -   -  rud  -  -  -  | -  | - - - - | - - - - - -
user__has_direct_access_to__application ann's    | -      r    r    | -   -   -   -   -   -  -  -  | r  | - - - - | - - - - - r
user__has_direct_access_to__application sibling's| -      r    r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
user__has_direct_access_to__application olga's   | -      -    -    | -   r   -   -   -   -  -  -  | -  | - - - - | - - - - - -
user__has_direct_access_to__application rita's   | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - - -
audit_entry                             ann's    | -      r    r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
audit_entry                             rita's   | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - - -
audit_entry                             acme's   | -      r    r    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
audit_entry                             rival's  | -      -    -    | -   -   -   -   r   -  -  -  | -  | - - - - | - - - - r -
audit_entry                             fleet's  | -      -    -    | -   -   -   -   -   -  -  -  | -  | - - - - | - - - - - -
service_instance                        all's    | -      r    r    | r   r   r   r   r   r  r  r  | r  | - - - - | r r r r r r
organization_membership_role            all's    | -      r    r    | r   r   r   r   r   r  r  r  | r  | - - - - | r r r r r r
application_membership_role             all's    | -      r    r    | r   r   r   r   rc  r  r  r  | r  | - - - - | r r r r rc r
application_membership_role             acme's   | -      rcud rcud | r   r   r   r   -   r  -  -  | r  | - - - - | - r r r r r
application_membership_role             rival's  | -      -    -    | -   -   -   -   rcud -  -  -  | -  | - - - - | - - - - rcud -
application_membership_role             annex's  | -      r    r    | r   r   r   r   r   r  -  -  | -  | - - - - | - - - - r -
cpu_architecture                        all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
device_manufacturer                     all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
device_family                           all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
device_type                             all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
device_type_alias                       all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
application_type                        all's    | r      r    r    | r   r   r   r   r   r  r  r  | r  | r - r - | r r r r r r
`

// ownColumns are the columns of the table: what somebody's name begins with.
var ownColumns = []string{
	"nobody", "ann, administrator, session", "ann, administrator, key", "mia", "olga", "otto", "dora", "rita", "sue", "sam", "stu", "key ",
	"device", "frozen device", "fleet key", "provisioning key", "enda", "vera", "kay", "robo", "cora", "tagless",
}

// inOwn is resource → whose → column → letters.
var inOwn = func() map[string]map[string]map[string]string {
	out := map[string]map[string]map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(ownPolicy), "\n") {
		f := strings.Fields(strings.ReplaceAll(line, "|", " "))
		if f[0] == "ann" || f[0] == "resource" {
			continue // the heads of the columns
		}
		if len(f) != len(ownColumns)+2 {
			panic("a row of the table has a cell too few or too many: " + line)
		}
		if out[f[0]] == nil {
			out[f[0]] = map[string]map[string]string{}
		}
		letters := map[string]string{}
		for i, column := range ownColumns {
			letters[column] = strings.ReplaceAll(f[i+2], "-", "")
		}
		out[f[0]][f[1]] = letters
	}
	return out
}()

// allRows are the rows of every resource; rowOf is that of one.
func allRows() []policyRow { return slices.Concat(policyRows, ownRows) }

func rowOf(resource string) (policyRow, bool) {
	all := allRows()
	i := slices.IndexFunc(all, func(r policyRow) bool { return r.name == resource })
	if i < 0 {
		return policyRow{}, false
	}
	return all[i], true
}

// placesOf are where rows of a resource are tried.
func placesOf(resource string) []string {
	if own := inOwn[resource]; own != nil {
		var places []string
		for place := range own {
			places = append(places, place)
		}
		slices.Sort(places)
		return append(places, "absent")
	}
	return []string{"own", "sibling", "public", "other", "absent"}
}

// home is where somebody may do most with a resource.
func (p *who) home(resource string) string {
	if inOwn[resource] == nil {
		return "own"
	}
	places := placesOf(resource)
	return slices.MaxFunc(places, func(a, b string) int { return len(p.may(resource, a)) - len(p.may(resource, b)) })
}

func (p *who) mayOfOwn(resource, place string) string { return inOwn[resource][place][p.own] }

// knowsOwn reports whether the kind of caller has anything to do with a resource of these, in any place.
func (p *who) knowsOwn(resource string) bool {
	for _, letters := range inOwn[resource] {
		for _, column := range ownColumns {
			if letters[column] != "" && kindOfColumn(column) == p.caller.Kind {
				return true
			}
		}
	}
	return false
}

func kindOfColumn(column string) access.Kind {
	switch column {
	case "nobody":
		return access.Anonymous
	case "key ", "robo", "tagless":
		return access.ScopedKey
	case "device":
		return access.Device
	case "frozen device":
		return access.FrozenDevice
	case "fleet key":
		return access.FleetKey
	case "provisioning key":
		return access.Provisioning
	}
	return access.User
}

// furnishOwn makes the rows of these resources, once everybody is there.
func (w *world) furnishOwn() {
	own, other := w.places["own"], w.places["other"]
	one := func(query string, args ...any) (id int64) {
		w.must(w.scan(w.db, query, &id, args...))
		return id
	}
	actor := func(table string, id int64) int64 { return one(`SELECT actor FROM "`+table+`" WHERE id = ?`, id) }
	place := func(name, at, kind string, user, whose, org int64) *spot {
		p := &spot{name: name, at: at, ids: map[string]int64{"owner": user, "whose": whose, "org": org, "annex": w.annex}, rows: map[string]int64{
			"user": user, "user_profile": user, "actor": whose, "organization": org, "application": w.places[at].ids["fleet"],
			"device": w.places[at].ids["device"],
		}, text: map[string]string{"kind": kind}}
		if user != 0 {
			p.rows["user__has_direct_access_to__application"] = user<<32 + p.rows["application"]
		}
		w.places[name] = p
		return p
	}
	fleet, device := own.ids["fleet"], own.ids["device"]
	for name, p := range map[string]struct {
		at, kind         string
		user, whose, org int64
	}{
		"ann's":  {"own", "user", w.users["ann"], actor("user", w.users["ann"]), 0},
		"rita's": {"other", "user", w.users["rita"], actor("user", w.users["rita"]), 0},
		"olga's": {"own", "user", w.users["olga"], 0, 0},
		"stu's":  {"own", "user", w.users["stu"], 0, 0},
		"guest's": {"own", "user", one(`SELECT "user" FROM user_application_membership WHERE id = ?`,
			own.rows["user_application_membership"]), 0, 0},
		"member's":  {"own", "user", one(`SELECT "user" FROM organization_membership WHERE id = ?`, own.rows["organization_membership"]), 0, 0},
		"sibling's": {"sibling", "user", w.users["ann"], 0, 0},
		"fleet's":   {"own", "provisioning", 0, actor("application", fleet), 0},
		"device's":  {"own", "device", 0, actor("device", device), 0},
		"acme's":    {"own", "user", 0, 0, own.ids["org"]},
		"rival's":   {"other", "provisioning", 0, actor("application", other.ids["fleet"]), other.ids["org"]},
		"annex's":   {"own", "user", 0, 0, w.annex},
		"all's":     {"own", "user", 0, 0, other.ids["org"]},
	} {
		place(name, p.at, p.kind, p.user, p.whose, p.org)
	}
	w.places["all's"].rows["application_membership_role"] = 1 // a built-in one
	for _, r := range ownRows {
		for whose := range inOwn[r.name] {
			p := w.places[whose]
			switch {
			case whose == "itself" || p.rows[r.name] != 0:
			case r.insert != "":
				p.rows[r.name] = w.insert(w.db, p, r.insert)
				if r.name == "application_membership_role" && whose == "acme's" { // somebody has it in a fleet
					w.user("rolf")
					w.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
						VALUES ('2026-01-01T00:00:00.000Z', ?, ?, ?)`, w.users["rolf"], fleet, p.rows[r.name])
				}
			default:
				p.rows[r.name] = one(`SELECT min(id) FROM "` + r.name + `"`)
			}
		}
	}
}

// join makes the members of a place's organization those of another, which may then be deleted in its stead.
func (a *asker) join(p *spot, org int64) {
	a.w.must(a.db.Write(a.w.ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(a.w.ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization,
			organization_membership_role) SELECT created_at, "user", CAST(? AS BIGINT), organization_membership_role
			FROM organization_membership WHERE is_member_of__organization = ?`, org, p.rows["organization"])
		if err != nil {
			return fmt.Errorf("copy members: %w", err)
		}
		return nil
	}))
}
