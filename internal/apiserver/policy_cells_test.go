package apiserver

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A cell of the matrix is one of somebody × resource × verb × place; it answers "" when what happened is what the tables say.
type cell struct {
	verb     string
	writes   bool
	who      *who
	resource string
	place    string
	try      func(a *asker) string
}

// may is what the tables let somebody do with a resource's rows in a place.
func (p *who) may(resource, place string) string {
	if place == "absent" || place == "itself" && p.caller.Key == 0 { // a session is no key
		return ""
	}
	if inOwn[resource] != nil {
		return p.mayOfOwn(resource, place)
	}
	if line, ok := inOrganizations[resource]; ok {
		class := p.inOrg
		switch {
		case p.caller.Kind != access.User && p.caller.Kind != access.ScopedKey:
			return ""
		case place == "other" && class != "scoped":
			class = "stranger"
			if p.classes[place] == "administrator" {
				class = "administrator"
			}
		}
		return line[class]
	}
	line := inFleets[resource]
	letters := line[p.classes[place]]
	if verb, ok := strings.CutPrefix(p.classes[place], "verb "); ok {
		letters = ofVerbs[resource][verb]
	}
	if tag, ok := strings.CutPrefix(p.classes[place], "tag "); ok {
		letters = ofTags[resource][tag]
	}
	if place == "public" {
		switch p.caller.Kind {
		case access.Anonymous:
			letters += line["public nobody"]
		case access.User, access.ScopedKey:
			letters += line["public stranger"]
		case access.Device:
			letters += line["public device"]
		}
	}
	return letters
}

// knows reports whether the kind of caller has anything to do with a resource at all. If not, it is told 401 whatever it asks.
func (p *who) knows(resource string) bool {
	if inOwn[resource] != nil {
		return p.knowsOwn(resource)
	}
	if line, ok := inOrganizations[resource]; ok {
		return p.caller.Kind == access.User || p.caller.Kind == access.ScopedKey && line["scoped"] != ""
	}
	line := inFleets[resource]
	switch p.caller.Kind {
	case access.User:
		return true
	case access.ScopedKey:
		return line["developing key"] != ""
	case access.Anonymous:
		return line["public nobody"] != ""
	case access.Device:
		return line["device"] != ""
	case access.FleetKey:
		return line["fleet key"] != ""
	}
	return false
}

// cellsOf lists the cells of somebody with a resource. Reads come first: they change nothing.
func (w *world) cellsOf(p *who, r policyRow) (cells []cell) {
	places := placesOf(r.name)
	add := func(place, verb string, writes bool, try func(a *asker) string) {
		cells = append(cells, cell{verb: verb, writes: writes, who: p, resource: r.name, place: place, try: try})
	}
	for _, place := range places {
		add(place, "list", false, func(a *asker) string { return a.list(p, r, place) })
		if r.name != keyless {
			add(place, "canAccess", false, func(a *asker) string { return a.canAccess(p, r, place) })
			add(place, "read", false, func(a *asker) string { return a.read(p, r, place) })
		}
		add(place, "count", false, func(a *asker) string { return a.count(p, r, place) })
		add(place, "expand into", false, func(a *asker) string { return a.expand(p, r, place) })
		add(place, "filter through", false, func(a *asker) string { return a.through(p, r, place) })
	}
	for _, place := range places {
		if place != "absent" {
			add(place, "create", true, func(a *asker) string { return a.create(p, r, place) })
		}
		add(place, "update", true, func(a *asker) string { return a.update(p, r, place) })
		add(place, "delete", true, func(a *asker) string { return a.remove(p, r, place) })
	}
	return cells
}

const absentID = 2_000_000_000

func (a *asker) row(p *who, r policyRow, place string) int64 {
	if place == "itself" && p.caller.Key != 0 {
		return p.caller.Key
	}
	if place == "absent" || place == "itself" {
		return absentID
	}
	return a.w.places[place].rows[r.name]
}

// refusal is what a read gets from a kind that does not know the resource; ok is false when the answer is another.
func refusal(p *who, resource string, status int) (done bool, wrong string) {
	if p.knows(resource) {
		return false, ""
	}
	return true, unknown(status)
}

func has(answer string, id int64) bool {
	var body struct{ D []struct{ ID int64 } }
	return json.Unmarshal([]byte(answer), &body) == nil && slices.ContainsFunc(body.D, func(r struct{ ID int64 }) bool { return r.ID == id })
}

// shown compares what is seen with what may be.
func shown(status int, answer string, seen, may bool) string {
	if status != 200 || seen != may {
		return fmt.Sprintf("got %d %.200s, want it seen: %v", status, answer, may)
	}
	return ""
}

func (a *asker) list(p *who, r policyRow, place string) string {
	status, answer := a.ask(p, "GET", r.name+"?$select=id", "")
	if done, wrong := refusal(p, r.name, status); done {
		return wrong
	}
	return shown(status, answer, has(answer, a.row(p, r, place)), strings.Contains(p.may(r.name, place), "r"))
}

func (a *asker) read(p *who, r policyRow, place string) string {
	status, answer := a.ask(p, "GET", fmt.Sprintf("%s(%d)", r.name, a.row(p, r, place)), "")
	if done, wrong := refusal(p, r.name, status); done {
		return wrong
	}
	return shown(status, answer, has(answer, a.row(p, r, place)), strings.Contains(p.may(r.name, place), "r"))
}

func (a *asker) count(p *who, r policyRow, place string) string {
	status, answer := a.ask(p, "GET", fmt.Sprintf("%s/$count?$filter=id eq %d", r.name, a.row(p, r, place)), "")
	if done, wrong := refusal(p, r.name, status); done {
		return wrong
	}
	return shown(status, answer, answer == `{"d":1}`, strings.Contains(p.may(r.name, place), "r"))
}

// unknown judges the answer to a question about a resource that this kind of caller has nothing to do with.
func unknown(status int) string {
	if status != 401 {
		return fmt.Sprintf("got %d, want 401", status)
	}
	return ""
}

// parent is a row from which a navigation leads to the row, if there is one in this place.
func (a *asker) parent(r policyRow, place string) (resource, nav string, id int64) {
	resource, nav, _ = strings.Cut(r.via, " ")
	if at := linksAt[r.name]; at != "" && !slices.Contains(strings.Fields(at), place) {
		return "", "", 0
	}
	if nav == "" || place == "absent" || place == "itself" || a.w.places[place].rows[resource] == 0 && resource != "organization" {
		return "", "", 0
	}
	if resource == "organization" {
		return resource, nav, a.w.places[place].ids["org"]
	}
	return resource, nav, a.w.places[place].rows[resource]
}

// seesParent says whether somebody knows the parent's resource, and sees the parent in this place.
func (a *asker) seesParent(p *who, resource, place string) (knows, sees bool) {
	switch {
	case inFleets[resource] != nil && a.w.places[place].at != "":
		place = a.w.places[place].at
	case resource == "organization" && place == "other":
		place = "rival's"
	case resource == "organization":
		place = "acme's"
	}
	return p.knows(resource), strings.Contains(p.may(resource, place), "r")
}

// expand asks for the row by way of another that leads to it. A link to what may not be seen leads to nothing.
func (a *asker) expand(p *who, r policyRow, place string) string {
	resource, nav, id := a.parent(r, place)
	if nav == "" {
		return ""
	}
	row := a.row(p, r, place)
	status, answer := a.ask(p, "GET", fmt.Sprintf("%s(%d)?$select=id&$expand=%s($select=id;$filter=id eq %d)", resource, id, nav, row), "")
	knows, sees := a.seesParent(p, resource, place)
	if !knows {
		return unknown(status)
	}
	want := sees && strings.Contains(p.may(r.name, place), "r")
	return shown(status, answer, strings.Contains(answer, fmt.Sprintf(`"%s":[{"id":%d}]`, nav, row)), want)
}

// through asks whether the row exists by filtering another with it.
func (a *asker) through(p *who, r policyRow, place string) string {
	resource, nav, id := a.parent(r, place)
	if nav == "" {
		return ""
	}
	query := fmt.Sprintf("%s?$select=id&$filter=id eq %d and %s/any(x:x/id eq %d)", resource, id, nav, a.row(p, r, place))
	status, answer := a.ask(p, "GET", query, "")
	knows, sees := a.seesParent(p, resource, place)
	if !knows {
		return unknown(status)
	}
	return shown(status, answer, has(answer, id), sees && strings.Contains(p.may(r.name, place), "r"))
}

func (a *asker) canAccess(p *who, r policyRow, place string) string {
	row := a.row(p, r, place)
	may := p.may(r.name, place)
	for letters, action := range map[string]string{"r": "read", "usv": "update", "d": "delete"} {
		status, answer := a.ask(p, "POST", fmt.Sprintf("%s(%d)/canAccess", r.name, row), `{"action":"`+action+`"}`)
		if status >= 500 || has(answer, row) != strings.ContainsAny(may, letters) {
			return fmt.Sprintf("%s: got %d %.200s, want: %v", action, status, answer, strings.ContainsAny(may, letters))
		}
	}
	for _, act := range []struct{ resource, letter, names string }{
		{"device", "A", "supervisor-proxy-write"}, {"device", "T", "ssh-host tunnel-22222 tunnel-8080"}, {"device", "W", "tunnel-any tunnel-48484"},
		{"device", "K", "create-device-api-key"}, {"device", "L", "cloudlink write-log"}, {"device", "none", "tunnel fly"},
		{"application", "F", "create-provisioning-api-key"}, {"image", "P", "push"}, {"user", "N", "create-user-api-key create-named-user-api-key"},
	} {
		for _, name := range strings.Fields(act.names) {
			if act.resource != r.name {
				continue
			}
			status, answer := a.ask(p, "POST", fmt.Sprintf("%s(%d)/canAccess", r.name, row), `{"action":{"or":["nothing","`+name+`"]}}`)
			if status >= 500 || has(answer, row) != strings.Contains(may, act.letter) {
				return fmt.Sprintf("%s: got %d %.200s, want: %v", name, status, answer, strings.Contains(may, act.letter))
			}
		}
	}
	return ""
}

// tableOf is where a resource's rows are.
func tableOf(resource string) string {
	if resource == "user_profile" {
		return "user"
	}
	return resource
}

// rowsOf counts the rows of a resource.
func (a *asker) rowsOf(resource string) (n int) {
	a.w.must(a.w.scan(a.db, `SELECT count(*) FROM "`+tableOf(resource)+`"`, &n))
	return n
}

func (p *who) isPerson() bool {
	return p.caller.Kind == access.User || p.caller.Kind == access.ScopedKey
}

// posted is a body that makes a row in a place.
func (a *asker) posted(r policyRow, place string) (body string) {
	if r.post == "" {
		return "{}"
	}
	a.w.n++
	a.w.must(a.db.Write(a.w.ctx, func(tx *db.Tx) (err error) {
		body, err = a.w.places[place].fill(a.w.ctx, tx, r.post, a.w.n)
		return err
	}))
	return body
}

func (a *asker) create(p *who, r policyRow, place string) string {
	body, may := a.posted(r, place), strings.Contains(p.may(r.name, place), "c") && !p.needsSession(r.name, "c")
	if r.name == "release_asset" { // a release has room for ten
		a.w.must(a.db.Write(a.w.ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(a.w.ctx, `DELETE FROM release_asset WHERE asset_key LIKE 'made%' OR asset_key LIKE 'new%'`)
			return err
		}))
	}
	if pushed := a.pushing(p, r, place); pushed != "" {
		body = pushed
	}
	before := a.rowsOf(r.name)
	status, answer := a.ask(p, "POST", r.name, body)
	made := a.rowsOf(r.name) - before
	switch {
	case strings.Contains(p.may(r.name, place), "i"):
		if status != 201 || made != 0 {
			return fmt.Sprintf("%s: got %d %.200s and %d rows, want it accepted and ignored", body, status, answer, made)
		}
	case may && (status != 201 || made != 1):
		return fmt.Sprintf("%s: got %d %.200s and %d rows, want one", body, status, answer, made)
	case !may && (status != 401 && status != 403 || made != 0):
		return fmt.Sprintf("%s: got %d %.200s and %d rows, want a refusal", body, status, answer, made)
	case !may && !strings.Contains(p.may(r.name, "own"), "c"):
		// Who makes none anywhere is told so whatever the body.
		if status, answer := a.ask(p, "POST", r.name, "{}"); !p.isPerson() && status != 401 && status != 403 {
			return fmt.Sprintf("{}: got %d %.200s, want a refusal", status, answer)
		}
	}
	return ""
}

// pushing makes a release that the caller pushes right now, and gives a body that adds to it. It keeps what the callers before pushed
// from counting: nobody may have many half done.
func (a *asker) pushing(p *who, r policyRow, place string) (body string) {
	maker := max(p.caller.User, 1)
	a.w.n++
	n, spot := a.w.n, a.w.places[place]
	a.w.must(a.db.Write(a.w.ctx, func(tx *db.Tx) error {
		for _, text := range []string{
			`UPDATE "release" SET status = 'failed' WHERE status = 'running' AND id IN (SELECT "release" FROM deployment)`, `DELETE FROM quarantine`,
		} {
			if _, err := tx.ExecContext(a.w.ctx, text); err != nil {
				return err
			}
		}
		if !slices.Contains([]string{"release_image", "image_label", "image_environment_variable"}, r.name) {
			return nil
		}
		var release, image, part int64
		text, err := spot.fill(a.w.ctx, tx, `INSERT INTO "release" (created_at, belongs_to__application, "commit", status, source, start_timestamp,
			update_timestamp, raw_version, version, is_final, is_created_by__user) VALUES ('{now}', {fleet}, 'pushed{n}', 'running', 'local',
			'{now}', '{now}', '0.0.{n}', '{}', 0, ?) RETURNING id`, n)
		if err == nil {
			err = tx.QueryRowContext(a.w.ctx, text, maker).Scan(&release)
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(a.w.ctx, `INSERT INTO deployment ("release", created_at) VALUES (?, ?)`, release, tx.NowText()); err != nil {
			return err
		}
		if text, err = spot.fill(a.w.ctx, tx, `INSERT INTO image (created_at, start_timestamp, is_a_build_of__service, is_stored_at__image_location,
			status, is_quarantined) VALUES ('{now}', '{now}', {service}, 'registry2.roadstead.test/v2/pushed{n}', 'running', 1) RETURNING id`, n); err == nil {
			err = tx.QueryRowContext(a.w.ctx, text).Scan(&image)
		}
		if err != nil {
			return err
		}
		into := sql.NullInt64{Int64: release, Valid: r.name != "release_image"}
		if _, err := tx.ExecContext(a.w.ctx, `INSERT INTO quarantine (image, "release", created_at, made_by, repository) VALUES (?, ?, ?, ?, ?)`,
			image, into, tx.NowText(), maker, fmt.Sprint("v2/", n)); err != nil {
			return err
		}
		if !into.Valid {
			body = fmt.Sprintf(`{"image":%d,"is_part_of__release":%d}`, image, release)
			return nil
		}
		err = tx.QueryRowContext(a.w.ctx, `INSERT INTO release_image (created_at, image, is_part_of__release) VALUES (?, ?, ?) RETURNING id`,
			tx.NowText(), image, release).Scan(&part)
		body = fmt.Sprintf(`{"release_image":%d,"%s":"MADE","value":"v"}`, part, map[string]string{"image_label": "label_name"}[r.name]+
			map[string]string{"image_environment_variable": "name"}[r.name])
		return err
	}))
	return body
}

// needsSession are the writes about people that ask for a session, lately opened, whatever the rules say: no named key makes them.
var needsSession = map[string]string{
	"organization_membership": "cud", "team_membership": "cud", "user_application_membership": "cud", "organization_invite": "c",
	"application_invite": "c", "organization": "d", "team": "d", "team_application_access": "cud",
}

func (p *who) needsSession(resource, verb string) bool {
	return p.caller.Kind == access.User && p.caller.Session == 0 && strings.Contains(needsSession[resource], verb)
}

// written reads the column that a change is seen in.
func (a *asker) written(r policyRow, id int64) (v any) {
	a.w.must(a.w.scan(a.db, `SELECT max("`+r.column+`") FROM "`+r.name+`" WHERE id = ?`, &v, id))
	return v
}

// refused judges the answer to a change that may not be made: who sees the row is told no, for everybody else it is not there.
func (p *who) refused(r policyRow, place string, status int) string {
	switch {
	case p.caller.Kind == access.Anonymous && status == 401, status == 403, status == 401:
		return ""
	case status == 200 && !strings.Contains(p.may(r.name, place), "r") && p.knows(r.name):
		return "" // nothing was there to be changed
	}
	return fmt.Sprintf("got %d, want a refusal", status)
}

func (a *asker) update(p *who, r policyRow, place string) string {
	if r.patch == "" { // nobody may: the column does not matter
		status, _ := a.ask(p, "PATCH", fmt.Sprintf("%s(%d)", r.name, a.row(p, r, place)), `{"id":1}`)
		return p.refused(r, place, status)
	}
	id := a.row(p, r, place)
	may := strings.Contains(p.may(r.name, place), "u") && !p.needsSession(r.name, "u")
	if may && r.name != "application" && r.name != "organization" { // a level is on the fleet that is there, not on a new one
		id = a.victim(r, place)
	}
	a.w.n++
	body := strings.ReplaceAll(r.patch, "{n}", fmt.Sprint(a.w.n))
	before := a.written(r, id)
	status, answer := a.ask(p, "PATCH", fmt.Sprintf("%s(%d)", r.name, id), body)
	changed := fmt.Sprint(a.written(r, id)) != fmt.Sprint(before)
	switch {
	case may && (status != 200 || !changed):
		return fmt.Sprintf("got %d %.200s, changed: %v, want the change", status, answer, changed)
	case !may && changed:
		return fmt.Sprintf("got %d %.200s and the row is changed", status, answer)
	case strings.Contains(p.may(r.name, place), "v"):
		if status != 200 {
			return fmt.Sprintf("got %d %.200s, want it accepted and ignored", status, answer)
		}
		return ""
	case !may:
		return p.refused(r, place, status)
	}
	return ""
}

func (a *asker) remove(p *who, r policyRow, place string) string {
	id := a.row(p, r, place)
	may := strings.Contains(p.may(r.name, place), "d") && !p.needsSession(r.name, "d")
	if may && r.name == "application" && p.caller.Kind == access.ScopedKey {
		return "" // the key is for the fleet that all others need; canAccess has told that it might
	}
	if may && place == "itself" {
		return "" // the others need the key; canAccess has told
	}
	if may {
		id = a.victim(r, place)
	}
	status, answer := a.ask(p, "DELETE", fmt.Sprintf("%s(%d)", r.name, id), "")
	var left int
	a.w.must(a.w.scan(a.db, `SELECT count(*) FROM "`+tableOf(r.name)+`" WHERE id = ?`, &left, id))
	switch {
	case may && (status != 200 || left != 0):
		return fmt.Sprintf("got %d %.200s, %d left, want it gone", status, answer, left)
	case !may && left == 0 && id != absentID:
		return fmt.Sprintf("got %d %.200s and the row is gone", status, answer)
	case !may && r.name == "application" && status == 200:
		return "got 200, want 404, by which balena's clients know a fleet that is gone"
	case !may && r.name == "application" && status == 404:
		return p.refused(r, place, 200)
	case !may:
		return p.refused(r, place, status)
	}
	return ""
}

// victim makes a row in a place that may be changed or deleted, without harm for the others. What a grant on one device gives
// ends with the device.
func (a *asker) victim(r policyRow, place string) int64 {
	id := a.w.insert(a.db, a.w.places[place], r.insert)
	if r.name == "organization" {
		a.join(a.w.places[place], id)
	}
	if r.name == "device" {
		a.w.must(a.db.Write(a.w.ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(a.w.ctx, `UPDATE device SET is_accessible_by_support_until__date = (SELECT d.is_accessible_by_support_until__date
				FROM device d WHERE d.id = ?) WHERE id = ?`, a.w.places[place].ids["device"], id)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(a.w.ctx, `INSERT INTO device_tag (device, tag_key, value) SELECT CAST(? AS BIGINT), t.tag_key, t.value FROM device_tag t
				WHERE t.device = ? AND t.tag_key = 'ring'`, id, a.w.places[place].ids["device"])
			return err
		}))
	}
	return id
}

func (w *world) asker() *asker { return &asker{w: w, db: w.db, handler: w.server.handler} }
