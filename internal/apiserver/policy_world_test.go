package apiserver

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// The world of the policy tests: two organizations, fleets in them, one row of every resource in each fleet, and everybody who
// may ask. Rows are put in by SQL, so that no rule has a say in what there is to be seen.

// spot is a fleet with everything that belongs to it.
type spot struct {
	name string
	at   string            // of a place in the table of what is somebody's own: the fleet's place
	ids  map[string]int64  // what the templates of the table speak of: fleet, org, device, release …
	rows map[string]int64  // resource → a row of it here
	text map[string]string // uuid, slug
}

// who is somebody who asks.
type who struct {
	name    string
	token   string
	caller  access.Caller
	own     string            // column in the table of what is somebody's own
	classes map[string]string // place → class in the fleet table; a place without one is the class "stranger" of this kind
	inOrg   string            // class in the organization table, for what belongs to the organization acme
}

type world struct {
	testing.TB
	ctx    context.Context
	db     *db.DB
	server *Server
	places map[string]*spot
	people map[string]*who
	users  map[string]int64 // user name → id
	annex  int64            // an organization that ann and rita share
	n      int              // for names that must be new
}

const policyPassword = "ships in the harbour"

func newPolicyWorld(t testing.TB, sql string) *world {
	t.Helper()
	w := &world{TB: t, ctx: t.Context(), places: map[string]*spot{}, people: map[string]*who{}, users: map[string]int64{}}
	dir := t.TempDir()
	w.must(pki.NewTestIdentities(dir, api.RoleAPI))
	role := filepath.Join(dir, api.RoleAPI)
	w.must(os.WriteFile(filepath.Join(role, "pepper"), make([]byte, 32), 0o600))
	var err error
	w.server, err = New(Config{Dir: role, Site: api.Site{Domain: "roadstead.test"}, SQL: sql}, slog.New(slog.DiscardHandler))
	w.must(err)
	w.db = w.server.db
	t.Cleanup(func() { w.must(w.server.Close()) })
	w.populate()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// insert runs an INSERT … RETURNING id from a template, with the ids of a place in it.
func (w *world) insert(on *db.DB, p *spot, template string) (id int64) {
	w.Helper()
	w.n++
	n := w.n
	w.must(on.Write(w.ctx, func(tx *db.Tx) error {
		text, err := p.fill(w.ctx, tx, template, n)
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(w.ctx, text+" RETURNING id").Scan(&id); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		return nil
	}))
	return id
}

// fill puts a place's ids into a template. {n} is a number that nothing else has; {actor}, {user}, {guest}, {crew} are a new actor, user,
// invited address and team; {member} is a new member of the organization, {cousin} one of an organization that ann and rita share.
func (p *spot) fill(ctx context.Context, tx *db.Tx, template string, n int) (string, error) {
	pairs := []string{"{n}", fmt.Sprint(n), "{now}", tx.NowText(), "{uuid}", fmt.Sprintf("%012x4%03x8%015x", n, n%4096, n), "{later}", "2999-01-01T00:00:00.000Z"}
	if strings.Contains(template, "{sshkey}") {
		pairs = append(pairs, "{sshkey}", "ssh-ed25519 "+base64.StdEncoding.EncodeToString(ssh.Marshal(struct {
			Kind string
			Key  []byte
		}{"ssh-ed25519", fmt.Appendf(nil, "%032d", n)})))
	}
	for name, text := range p.text {
		pairs = append(pairs, "{"+name+"}", text)
	}
	for name, id := range p.ids {
		pairs = append(pairs, "{"+name+"}", fmt.Sprint(id))
	}
	for _, name := range []string{"actor", "user", "guest", "crew", "member", "cousin"} {
		if !strings.Contains(template, "{"+name+"}") {
			continue
		}
		id, err := p.fresh(ctx, tx, name, n)
		if err != nil {
			return "", err
		}
		pairs = append(pairs, "{"+name+"}", fmt.Sprint(id))
	}
	return strings.NewReplacer(pairs...).Replace(template), nil
}

// fresh makes what a template asks for.
func (p *spot) fresh(ctx context.Context, tx *db.Tx, what string, n int) (id int64, err error) {
	if what == "guest" {
		err = tx.QueryRowContext(ctx, `INSERT INTO invitee (email) VALUES (?) RETURNING id`, fmt.Sprintf("fresh%d@example.com", n)).Scan(&id)
		return id, err
	}
	if what == "crew" {
		err = tx.QueryRowContext(ctx, `INSERT INTO team (created_at, belongs_to__organization, name) VALUES (?, ?, ?) RETURNING id`,
			tx.NowText(), p.ids["org"], fmt.Sprintf("crew%d", n)).Scan(&id)
		return id, err
	}
	actor, err := account.NewActor(ctx, tx)
	if err != nil || what == "actor" {
		return actor, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO "user" (created_at, actor, username, email, password) VALUES (?, ?, ?, ?, 'x') RETURNING id`,
		tx.NowText(), actor, fmt.Sprintf("user%d", n), fmt.Sprintf("user%d@example.com", n)).Scan(&id)
	if err != nil || what == "user" {
		return id, err
	}
	org := p.ids["org"]
	if what == "cousin" {
		org = p.ids["annex"]
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
		VALUES (?, ?, ?, 2)`, tx.NowText(), id, org)
	return id, err
}

func (w *world) exec(query string, args ...any) {
	w.Helper()
	w.must(w.db.Write(w.ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.ctx, query, args...)
		return err
	}))
}

func (w *world) scan(on *db.DB, query string, into any, args ...any) error {
	return on.Read(w.ctx, func(tx *db.Tx) error { return tx.QueryRowContext(w.ctx, query, args...).Scan(into) })
}

// user makes a user and tells the organization that comes with it.
func (w *world) user(name string) (id, org int64) {
	w.Helper()
	_, err := w.server.accounts.CreateUser(w.ctx, api.NewUser{Email: name + "@example.com", Username: name, Password: policyPassword})
	w.must(err)
	w.must(w.scan(w.db, `SELECT id FROM "user" WHERE username = ?`, &id, name))
	w.must(w.scan(w.db, `SELECT has_legacy_link_to__organization FROM "user" WHERE username = ?`, &org, name))
	w.users[name] = id
	return id, org
}

// as lets somebody ask with a token.
func (w *world) as(name, token, inOrg string, classes map[string]string) *who {
	w.Helper()
	p := &who{name: name, token: token, classes: classes, inOrg: inOrg, caller: access.Nobody()}
	for _, column := range ownColumns {
		if strings.HasPrefix(name, column) {
			p.own = column
		}
	}
	if token != "" {
		w.must(w.db.Read(w.ctx, func(tx *db.Tx) (err error) {
			p.caller, err = w.server.accounts.Authenticate(w.ctx, tx, token)
			return err
		}))
	}
	w.people[name] = p
	return p
}

// session logs somebody in; key makes them a named key.
func (w *world) session(name string) string {
	w.Helper()
	token, err := w.server.accounts.Login(w.ctx, api.Login{Username: name, Password: policyPassword}, account.From{Address: "192.0.2.1"})
	w.must(err)
	return token
}

func (w *world) key(by access.Caller, spec account.KeySpec) (token string) {
	w.Helper()
	w.must(w.db.Write(w.ctx, func(tx *db.Tx) (err error) {
		token, err = w.server.accounts.CreateKey(w.ctx, tx, by, spec)
		return err
	}))
	return token
}

func (w *world) userKey(name string) string {
	w.Helper()
	return w.key(access.Itself(), account.KeySpec{Of: account.OfUser, ID: w.users[name], Name: "key of " + name})
}

// populate makes the two organizations, their fleets and everybody.
func (w *world) populate() {
	_, acme := w.user("ann")
	_, rival := w.user("rita")
	for _, name := range []string{"mia", "olga", "otto", "dora", "sue", "sam", "stu", "pat", "hermit", "cora"} {
		w.user(name)
	}
	w.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
		VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 1)`, w.users["cora"], rival)
	for _, name := range []string{"mia", "otto", "dora", "pat", "cora"} {
		w.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 2)`, w.users[name], acme)
	}
	w.exec(`INSERT INTO organization (created_at, name, handle) VALUES ('2026-01-01T00:00:00.000Z', 'Annex', 'annex')`)
	w.must(w.scan(w.db, `SELECT id FROM organization WHERE handle = 'annex'`, &w.annex))
	for _, name := range []string{"ann", "rita", "mia", "olga", "otto", "dora", "sue", "cora"} { // so that all of them know the cousins
		w.exec(`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 2)`, w.users[name], w.annex)
	}
	for name, org := range map[string]int64{"own": acme, "sibling": acme, "public": acme, "other": rival} {
		w.places[name] = w.furnish(name, org)
	}
	own := w.places["own"]
	w.exec(`UPDATE application SET is_public = 1, is_stored_at__repository_url = 'https://git.example.com/secret',
		is_accessible_by_support_until__date = '2020-01-01T00:00:00.000Z' WHERE id = ?`, w.places["public"].ids["fleet"])
	w.exec(`UPDATE image SET build_log = 'said', dockerfile = 'FROM secret', error_message = 'oops'`)
	join := func(name string, level access.Level) {
		w.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', ?, ?, ?)`, w.users[name], own.ids["fleet"], int(level))
	}
	join("olga", access.Observer)
	join("otto", access.Operator)
	join("cora", access.Operator)
	w.exec(`INSERT INTO team_membership (created_at, "user", is_member_of__team) VALUES ('2026-01-01T00:00:00.000Z', ?, ?)`,
		w.users["dora"], own.ids["team"])
	w.exec(`INSERT INTO team_application_access (created_at, team, grants_access_to__application, application_membership_role)
		VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 3)`, own.ids["team"], own.ids["fleet"])
	w.exec(`UPDATE "user" SET is_support_staff = 1 WHERE id IN (?, ?, ?)`, w.users["sue"], w.users["sam"], w.users["stu"])
	w.enroll()
	w.furnishOwn()
}

// enroll makes the credentials.
func (w *world) enroll() {
	own := w.places["own"]
	fleet, device := own.ids["fleet"], own.ids["device"]
	admin := map[string]string{"own": "administrator", "sibling": "administrator", "public": "administrator"}
	inOwn := func(class, elsewhere string) map[string]string {
		return map[string]string{"own": class, "sibling": elsewhere, "public": elsewhere}
	}
	w.as("nobody", "", "", nil)
	ann := w.as("ann, administrator, session", w.session("ann"), "administrator", admin)
	w.as("ann, administrator, key", w.userKey("ann"), "administrator", admin)
	w.as("mia, member", w.userKey("mia"), "member", inOwn("member", "member"))
	w.as("olga, observer from outside", w.userKey("olga"), "guest", inOwn("observer", "stranger"))
	w.as("otto, operator", w.userKey("otto"), "member", inOwn("operator", "member"))
	w.as("dora, developer by a team", w.userKey("dora"), "member", inOwn("developer", "member"))
	w.as("dora, developer by a team, session", w.session("dora"), "member", inOwn("developer", "member"))
	w.as("rita, of another organization", w.userKey("rita"), "stranger", map[string]string{"other": "administrator"})
	w.as("cora, of both organizations, session", w.session("cora"), "member", map[string]string{
		"own": "operator", "sibling": "member", "public": "member", "other": "administrator",
	})
	w.as("sue, support with a grant on the fleet", w.session("sue"), "guest", inOwn("support", "stranger"))
	w.as("sam, support with a grant on the device", w.session("sam"), "stranger", inOwn("device support", "stranger"))
	w.as("stu, support by a key", w.userKey("stu"), "stranger", nil)
	w.as("key that observes one fleet", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "o", Level: access.Observer, Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("observing key", "strange key"))
	w.as("key that develops one fleet", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "d", Level: access.Developer, Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("developing key", "strange key"))
	w.as("key that operates one fleet", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "p", Level: access.Operator, Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("operating key", "strange key"))
	w.as("key for all of one fleet", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "a", Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("whole key", "strange key"))
	w.as("device", w.key(access.Itself(), account.KeySpec{Of: account.OfDevice, ID: device}), "", inOwn("device", ""))
	frozen := w.insert(w.db, own, insertDevice)
	w.as("frozen device", w.key(access.Itself(), account.KeySpec{Of: account.OfDevice, ID: frozen}), "", nil)
	w.exec(`UPDATE device SET is_frozen = 1 WHERE id = ?`, frozen)
	w.people["frozen device"].caller.Kind = access.FrozenDevice
	w.as("fleet key", w.key(ann.caller, account.KeySpec{Of: account.OfFleet, ID: fleet, Reader: true}), "", inOwn("fleet key", ""))
	w.as("provisioning key", w.key(ann.caller, account.KeySpec{Of: account.OfFleet, ID: fleet}), "", nil)
	w.enrollVerbs(ann)
	// The grants: on a fleet for sue's sake, on a device for sam's. Both are staff, so each is kept from the other's by time.
	w.grant("sue")
}

// enrollVerbs makes somebody with each verb alone, by a role of the organization's own and by a key, somebody whose memberships have
// ended, and a service account.
func (w *world) enrollVerbs(ann *who) {
	own := w.places["own"]
	inOwn := func(class, elsewhere string) map[string]string {
		return map[string]string{"own": class, "sibling": elsewhere, "public": elsewhere}
	}
	for _, verb := range access.Given.Names() {
		role := w.insert(w.db, own, `INSERT INTO application_membership_role (created_at, modified_at, name, verbs, mask, belongs_to__organization)
			VALUES ('{now}', '{now}', 'only `+verb+`', '["read","`+verb+`"]', `+fmt.Sprint(verbMask(verb))+`, {org})`)
		column := "vera"
		if verb == "keys" {
			column = "kay"
		}
		name := column + "_" + verb
		w.user(name)
		w.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
			VALUES ('2026-01-01T00:00:00.000Z', ?, ?, ?)`, w.users[name], own.ids["fleet"], role)
		w.as(name, w.userKey(name), "stranger", inOwn("verb "+verb, "stranger"))
		v, err := access.ParseVerbs([]string{verb})
		w.must(err)
		w.as("key with the verb "+verb, w.key(ann.caller, account.KeySpec{
			Of: account.OfUser, ID: w.users["ann"], Name: verb, Verbs: v, Fleets: []string{own.text["slug"]},
		}), "scoped", inOwn("verb "+verb, "strange key"))
	}
	w.exec(`INSERT INTO application_tag (application, tag_key, value) VALUES (?, 'line', 'blue'), (?, 'line', 'red')`,
		own.ids["fleet"], w.places["sibling"].ids["fleet"])
	w.as("key for fleets with a tag", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "t", Verbs: access.Settings, Tags: []string{"line=blue"},
	}), "scoped", inOwn("verb settings", "strange key"))
	for place, ring := range map[string]string{"own": "canary", "sibling": "canary", "public": "rest"} {
		w.exec(`INSERT INTO device_tag (device, tag_key, value) VALUES (?, 'ring', ?)`, w.places[place].ids["device"], ring)
	}
	w.as("key for devices with a tag", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "canaries", Devices: []string{"ring=canary"}, Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("tag with", "strange key"))
	w.as("tagless key, for devices with a tag that none here has", w.key(ann.caller, account.KeySpec{
		Of: account.OfUser, ID: w.users["ann"], Name: "none", Devices: []string{"ring=none"}, Fleets: []string{own.text["slug"]},
	}), "scoped", inOwn("tag without", "strange key"))

	w.user("enda")
	for _, query := range []string{
		`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role, end_date)
			VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 3, '2026-02-01T00:00:00.000Z')`,
		`INSERT INTO organization_membership (created_at, "user", is_member_of__organization, organization_membership_role, end_date)
			SELECT '2026-01-01T00:00:00.000Z', CAST(? AS BIGINT), organization, 1, '2026-02-01T00:00:00.000Z' FROM application WHERE id = ?`,
	} {
		w.exec(query, w.users["enda"], own.ids["fleet"])
	}
	w.as("enda, whose memberships have ended", w.userKey("enda"), "stranger", inOwn("stranger", "stranger"))

	var handle string
	w.must(w.scan(w.db, `SELECT handle FROM organization WHERE id = ?`, &handle, own.ids["org"]))
	w.must(w.db.Write(w.ctx, func(tx *db.Tx) error {
		made, err := w.server.services.Create(w.ctx, tx, ann.caller, api.ServiceAccount{Name: "robo", Organization: handle})
		w.users["robo"] = made.ID
		return err
	}))
	w.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
		VALUES ('2026-01-01T00:00:00.000Z', ?, ?, 3)`, w.users["robo"], own.ids["fleet"])
	w.as("robo, service account", w.key(ann.caller, account.KeySpec{Of: account.OfUser, ID: w.users["robo"], Name: "r"}), "scoped",
		inOwn("developing key", "strange key"))
}

func verbMask(name string) int {
	v, err := access.ParseVerbs([]string{name})
	if err != nil {
		panic(err)
	}
	return int(v)
}

// grant opens the fleet or the device of the place "own" to support: only one at a time, so that it is seen which of them gives what.
func (w *world) grant(to string) {
	own := w.places["own"]
	var fleet, device any
	if to == "sam" {
		device = db.FormatTime(time.Now().Add(time.Hour))
	} else {
		fleet = db.FormatTime(time.Now().Add(time.Hour))
	}
	w.exec(`UPDATE application SET is_accessible_by_support_until__date = ? WHERE id = ?`, fleet, own.ids["fleet"])
	w.exec(`UPDATE device SET is_accessible_by_support_until__date = ? WHERE id = ?`, device, own.ids["device"])
}

// furnish makes a fleet with a row of every resource that can hang on one.
func (w *world) furnish(name string, org int64) *spot {
	w.Helper()
	p := &spot{name: name, ids: map[string]int64{"org": org, "annex": w.annex}, rows: map[string]int64{}, text: map[string]string{}}
	for id, query := range map[string]string{
		"type": `SELECT id FROM device_type WHERE slug = 'generic-amd64'`, "apptype": `SELECT id FROM application_type WHERE slug = 'default'`,
	} {
		var n int64
		w.must(w.scan(w.db, query, &n))
		p.ids[id] = n
	}
	for _, r := range policyRows {
		id := w.insert(w.db, p, r.insert)
		p.rows[r.name] = id
		if r.id != "" {
			p.ids[r.id] = id
		}
	}
	w.insert(w.db, p, `INSERT INTO organization_invite (created_at, invited, is_invited_to__organization, organization_membership_role,
		token_hash, expires_at) VALUES ('{now}', {invitee}, {org}, 2, 'invitation{n}', '{later}')`)
	w.insert(w.db, p, `INSERT INTO application_invite (created_at, invited, is_invited_to__application, application_membership_role, token_hash,
		expires_at) VALUES ('{now}', {invitee}, {fleet}, 1, 'fleetinvitation{n}', '{later}')`)
	var slug, uuid string
	w.must(w.scan(w.db, `SELECT slug FROM application WHERE id = ?`, &slug, p.ids["fleet"]))
	w.must(w.scan(w.db, `SELECT uuid FROM device WHERE id = ?`, &uuid, p.ids["device"]))
	p.text["slug"], p.text["uuid"] = slug, uuid
	return p
}

// plain is an engine with nothing before it.
func (s *Server) plain(e *odata.Engine) http.Handler { return web.Handle(s.log, e.Handler()) }

// asker sends requests: to the whole server, or to an engine with a mutant of the rules.
type asker struct {
	w       *world
	db      *db.DB
	handler http.Handler
	engine  bool // the handler is an engine: the caller is put into the context instead of a token into the header
}

// ask sends one request of somebody about a resource.
func (a *asker) ask(p *who, method, path string, body string) (status int, answer string) {
	return a.send(p, method, "/v7/"+strings.ReplaceAll(path, " ", "%20"), body)
}

// send sends one request of somebody.
func (a *asker) send(p *who, method, path string, body string) (status int, answer string) {
	var in io.Reader = http.NoBody
	if body != "" {
		in = strings.NewReader(body)
	}
	ctx := context.WithValue(a.w.ctx, publicKey{}, true)
	if a.engine {
		ctx = access.With(a.w.ctx, p.caller)
	}
	r := httptest.NewRequestWithContext(ctx, method, path, in)
	r.Host = "api.roadstead.test"
	r.Header.Set("Content-Type", "application/json")
	if p.token != "" && !a.engine {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	rec := httptest.NewRecorder()
	a.handler.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}
