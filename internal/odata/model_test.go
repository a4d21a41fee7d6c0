package odata_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/web"
)

// The test model is a small fleet of two tenants: user 7 in organization 1, user 8 in organization 2.
const testSchema = `-- +goose Up
CREATE TABLE "user" (id INTEGER PRIMARY KEY, username TEXT NOT NULL UNIQUE, password TEXT NOT NULL DEFAULT 'secret');
CREATE TABLE organization (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, name TEXT NOT NULL, handle TEXT NOT NULL UNIQUE);
CREATE TABLE organization_membership (id INTEGER PRIMARY KEY, "user" INTEGER NOT NULL REFERENCES "user"(id),
  organization INTEGER NOT NULL REFERENCES organization(id) ON DELETE CASCADE, UNIQUE("user", organization));
CREATE TABLE cpu_architecture (id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE);
CREATE TABLE device_type (id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, contract TEXT,
  is_of__cpu_architecture INTEGER NOT NULL REFERENCES cpu_architecture(id));
CREATE TABLE device_type_alias (id INTEGER PRIMARY KEY, device_type INTEGER NOT NULL REFERENCES device_type(id),
  is_referenced_by__alias TEXT NOT NULL UNIQUE);
CREATE TABLE application (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, app_name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE,
  uuid TEXT UNIQUE, organization INTEGER NOT NULL REFERENCES organization(id), is_public INTEGER NOT NULL DEFAULT 0,
  is_host INTEGER NOT NULL DEFAULT 0, is_archived INTEGER NOT NULL DEFAULT 0, actor INTEGER,
  is_for__device_type INTEGER NOT NULL REFERENCES device_type(id), should_be_running__release INTEGER,
  UNIQUE(organization, app_name));
CREATE TABLE release (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, belongs_to__application INTEGER NOT NULL REFERENCES application(id),
  "commit" TEXT NOT NULL, status TEXT NOT NULL, composition TEXT NOT NULL DEFAULT '{}', is_final INTEGER NOT NULL DEFAULT 1,
  is_invalidated INTEGER NOT NULL DEFAULT 0, is_passing_tests INTEGER NOT NULL DEFAULT 1, end_timestamp TEXT, build_log TEXT,
  semver_major INTEGER NOT NULL DEFAULT 0, revision INTEGER);
CREATE TABLE device (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, modified_at TEXT NOT NULL, uuid TEXT NOT NULL UNIQUE,
  device_name TEXT NOT NULL, note TEXT, is_online INTEGER NOT NULL DEFAULT 0, memory_usage INTEGER, cpu_temp DOUBLE PRECISION,
  actor INTEGER, last_seen TEXT, secret_note TEXT,
  belongs_to__application INTEGER REFERENCES application(id), is_of__device_type INTEGER NOT NULL REFERENCES device_type(id),
  is_running__release INTEGER REFERENCES release(id), is_pinned_on__release INTEGER REFERENCES release(id),
  CHECK (device_name <> ''));
CREATE INDEX device_app ON device(belongs_to__application);
CREATE TABLE device_tag (id INTEGER PRIMARY KEY, device INTEGER NOT NULL REFERENCES device(id) ON DELETE CASCADE, tag_key TEXT NOT NULL,
  value TEXT NOT NULL, UNIQUE(device, tag_key));
CREATE TABLE device_environment_variable (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL,
  device INTEGER NOT NULL REFERENCES device(id) ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL, UNIQUE(device, name));
CREATE TABLE service (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, application INTEGER NOT NULL REFERENCES application(id),
  service_name TEXT NOT NULL, UNIQUE(application, service_name));
CREATE TABLE service_environment_variable (id INTEGER PRIMARY KEY, service INTEGER NOT NULL REFERENCES service(id), name TEXT NOT NULL,
  value TEXT NOT NULL, UNIQUE(service, name));
CREATE TABLE service_install (id INTEGER PRIMARY KEY, device INTEGER NOT NULL REFERENCES device(id) ON DELETE CASCADE,
  installs__service INTEGER NOT NULL REFERENCES service(id));
CREATE TABLE device_service_environment_variable (id INTEGER PRIMARY KEY,
  service_install INTEGER NOT NULL REFERENCES service_install(id) ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE release_asset (id INTEGER PRIMARY KEY, release INTEGER NOT NULL REFERENCES release(id), asset_key TEXT NOT NULL, asset TEXT,
  UNIQUE(release, asset_key));
CREATE TABLE release_tag (id INTEGER PRIMARY KEY, release INTEGER NOT NULL REFERENCES release(id), tag_key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE image (id INTEGER PRIMARY KEY, image_size INTEGER, is_stored_at__image_location TEXT NOT NULL,
  is_a_build_of__service INTEGER NOT NULL REFERENCES service(id));
CREATE TABLE release_image (id INTEGER PRIMARY KEY, image INTEGER NOT NULL REFERENCES image(id),
  is_part_of__release INTEGER NOT NULL REFERENCES release(id), UNIQUE(image, is_part_of__release));
CREATE TABLE image_install (id INTEGER PRIMARY KEY, device INTEGER NOT NULL REFERENCES device(id) ON DELETE CASCADE,
  installs__image INTEGER NOT NULL REFERENCES image(id), status TEXT NOT NULL);
CREATE TABLE api_key (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, name TEXT, is_of__actor INTEGER NOT NULL, hash TEXT NOT NULL);
CREATE VIEW direct_access AS SELECT m.id * 1000000 + a.id AS id, m."user" AS "user", a.id AS application
  FROM organization_membership m JOIN application a ON a.organization = m.organization;

INSERT INTO "user" (id, username) VALUES (7,'bob'),(8,'eve');
INSERT INTO organization VALUES (1,'2026-01-01T00:00:00.000Z','Acme','acme'),(2,'2026-01-02T00:00:00.000Z','Other','a''b/c d');
INSERT INTO organization_membership VALUES (1,7,1),(2,8,2);
INSERT INTO cpu_architecture VALUES (1,'aarch64'),(2,'amd64');
INSERT INTO device_type VALUES (5,'pi','Pi','{"slug":"pi","data":{"led":true}}',1),(6,'pc','PC',NULL,2);
INSERT INTO device_type_alias VALUES (1,5,'pi'),(2,6,'pc'),(3,5,'raspi');
INSERT INTO application (id,created_at,app_name,slug,uuid,organization,is_public,is_host,is_for__device_type,actor) VALUES
 (100,'2026-01-01T00:00:00.000Z','f','o/f','aaaa',1,0,0,5,50), (101,'2026-01-01T00:00:00.000Z','g','o/g','bbbb',1,0,0,6,51),
 (200,'2026-01-01T00:00:00.000Z','f','other/f','cccc',2,0,0,5,52), (300,'2026-01-01T00:00:00.000Z','os','balena_os/pi','dddd',2,1,1,5,53);
INSERT INTO release (id,created_at,belongs_to__application,"commit",status,build_log,semver_major,composition,end_timestamp) VALUES
 (700,'2026-02-01T00:00:00.000Z',100,'c0ffee','success','log',1,'{"services":{"main":{}}}','2026-02-01T00:10:00.000Z'),
 (701,'2026-02-02T00:00:00.000Z',100,'deadbeef','failed','oops',2,'{}',NULL),
 (710,'2026-02-03T00:00:00.000Z',200,'5ec2e7','success','log',1,'{}',NULL), (720,'2026-02-04T00:00:00.000Z',300,'05','success','',6,'{}',NULL);
UPDATE application SET should_be_running__release = 700 WHERE id = 100;
INSERT INTO release_tag VALUES (1,700,'a','1'),(2,700,'b','2');
INSERT INTO device (id,created_at,modified_at,uuid,device_name,note,is_online,memory_usage,cpu_temp,actor,last_seen,secret_note,
  belongs_to__application,is_of__device_type,is_running__release) VALUES
 (200,'2026-03-01T00:00:00.000Z','2026-03-01T00:00:00.000Z','aa11','alpha','it''s ok',1,512,41.5,55,'2026-03-05T12:30:45.000Z','x',100,5,700),
 (201,'2026-03-02T00:00:00.000Z','2026-03-02T00:00:00.000Z','aa22','beta',NULL,0,NULL,NULL,56,NULL,'y',100,5,NULL),
 (202,'2026-03-03T00:00:00.000Z','2026-03-03T00:00:00.000Z','bb33','gamma','',0,128,20,57,NULL,'z',101,6,NULL),
 (250,'2026-03-04T00:00:00.000Z','2026-03-04T00:00:00.000Z','ee99','enemy','theirs',1,1,1,58,NULL,'t',200,5,710);
INSERT INTO device_tag VALUES (1,200,'site','a;b)c'),(2,200,'floor','2'),(3,250,'site','x');
INSERT INTO device_environment_variable VALUES (1,'2026-03-01T00:00:00.000Z',200,'FOO','1'),(2,'2026-03-01T00:00:00.000Z',250,'FOO','2');
INSERT INTO service VALUES (60,'2026-01-01T00:00:00.000Z',100,'main'),(61,'2026-01-01T00:00:00.000Z',100,'db'),(62,'2026-01-01T00:00:00.000Z',200,'main');
INSERT INTO service_environment_variable VALUES (11,60,'A','1'),(12,61,'B','2'),(13,62,'C','3');
INSERT INTO service_install VALUES (66,200,60),(67,200,61),(68,250,62);
INSERT INTO device_service_environment_variable VALUES (21,66,'FOO','x'),(22,67,'BAR','y'),(23,68,'FOO','z');
INSERT INTO image VALUES (80,9007199254740993,'r/v2/80',60),(81,NULL,'r/v2/81',61),(82,5,'r/v2/82',62);
INSERT INTO release_image VALUES (90,80,700),(91,81,700),(92,82,710);
INSERT INTO image_install VALUES (95,200,80,'Running'),(96,200,81,'deleted');
INSERT INTO api_key VALUES (31,'2026-01-01T00:00:00.000Z','laptop',70,'abcdef'),(32,'2026-01-01T00:00:00.000Z',NULL,70,'123456'),(33,'2026-01-01T00:00:00.000Z','evekey',80,'fedcba');
`

const afterGivenIDs = `DO $do$ DECLARE t record; BEGIN
	FOR t IN SELECT table_name AS n FROM information_schema.columns WHERE column_name = 'id' AND is_identity = 'YES' LOOP
		EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, ''id''), (SELECT max(id) FROM %I))', quote_ident(t.n), t.n);
	END LOOP; END $do$`

const (
	mine       = "organization_membership/any(m:m/user eq @user)"
	mineByOrg  = "organization/any(o:o/" + mine + ")"
	mineByApp  = "belongs_to__application/any(a:a/" + mineByOrg + ")"
	mineByApp2 = "application/any(a:a/" + mineByOrg + ")"
)

func everybody(read string) map[access.Kind]odata.Rule {
	return map[access.Kind]odata.Rule{access.Anonymous: {Read: read}, access.User: {Read: read}, access.Device: {Read: read}}
}

func users(read string, write ...string) map[access.Kind]odata.Rule {
	r := odata.Rule{Read: read}
	if len(write) > 0 {
		r.Create, r.Update, r.Delete, r.Write = read, read, read, write
	}
	return map[access.Kind]odata.Rule{access.User: r}
}

func id() odata.Column { return odata.Column{Name: "id"} }

func text(name string) odata.Column { return odata.Column{Name: name, Type: odata.String} }

func date(name string) odata.Column { return odata.Column{Name: name, Type: odata.Date} }

func yesNo(name string) odata.Column { return odata.Column{Name: name, Type: odata.Boolean} }

func number(name string) odata.Column {
	return odata.Column{Name: name, Type: odata.Integer, Null: true}
}

func orNull(c odata.Column) odata.Column { c.Null = true; return c }

func key(name, to string, reverse ...string) odata.Column {
	return odata.Column{Name: name, Type: odata.ForeignKey, To: to, Reverse: reverse}
}

func testModel() odata.Model {
	app := key("application", "application")
	install := key("installs__service", "service")
	install.Synonyms = []string{"service", "application__has__service_name"}
	partOf := key("is_part_of__release", "release", "contains__image")
	partOf.Synonyms = []string{"release"}
	running := orNull(key("is_running__release", "release", "is_running_on__device"))
	pinned := orNull(key("is_pinned_on__release", "release", "is_pinned_to__device"))
	belongs := orNull(key("belongs_to__application", "application", "owns__device"))
	belongs.Unseen = "Application doesn't exist or you have no access to it."
	log := orNull(text("build_log"))
	log.Explicit = true
	status := text("overall_status")
	status.SQL, status.Explicit = "CASE WHEN {t}.is_online = 1 THEN 'operational@' WHEN {t}.last_seen < @now THEN 'disconnected' ELSE 'inactive' END", true
	secret := orNull(text("secret_note"))
	secret.Hidden = true
	hash := text("hash")
	hash.Hidden = true
	return odata.Model{Resources: []*odata.Resource{
		{Name: "user", Columns: []odata.Column{id(), text("username"), {Name: "password", Type: odata.String, Hidden: true}},
			Rules: users("id eq @user or " + "user__is_member_of__organization/any(a:a/organization/any(o:o/" + mine + "))")},
		{Name: "organization", Columns: []odata.Column{id(), date("created_at"), text("name"), text("handle")},
			Keys: [][]string{{"handle"}}, Rules: map[access.Kind]odata.Rule{access.User: {
				Read: mine, Create: "true", Update: mine, Delete: mine, Write: []string{"name", "handle"}}}},
		{Name: "organization_membership", Synonyms: []string{"user__is_member_of__organization"},
			Columns: []odata.Column{id(), key("user", "user"), key("organization", "organization", "includes__user")},
			Keys:    [][]string{{"user", "organization"}}, Rules: users("organization/any(o:o/" + mine + ")")},
		{Name: "cpu_architecture", Columns: []odata.Column{id(), text("slug")}, Keys: [][]string{{"slug"}}, Rules: everybody("true")},
		{Name: "device_type", Columns: []odata.Column{id(), text("slug"), text("name"), {Name: "contract", Type: odata.JSON, Null: true},
			key("is_of__cpu_architecture", "cpu_architecture", "is_supported_by__device_type")},
			Keys: [][]string{{"slug"}}, Rules: everybody("true")},
		{Name: "device_type_alias", Synonyms: []string{"device_type__is_referenced_by__alias"},
			Columns: []odata.Column{id(), key("device_type", "device_type"), text("is_referenced_by__alias")}, Rules: everybody("true")},
		{Name: "application", Columns: []odata.Column{id(), date("created_at"), text("app_name"), text("slug"), orNull(text("uuid")),
			yesNo("is_public"), yesNo("is_host"), yesNo("is_archived"), number("actor"), key("organization", "organization", "is_of__application"),
			key("is_for__device_type", "device_type", "is_default_for__application"),
			orNull(key("should_be_running__release", "release", "should_be_running_on__application"))},
			Keys:       [][]string{{"slug"}, {"uuid"}, {"organization", "app_name"}},
			UniqueText: map[string]string{"app_name,organization": `"app_name" and "organization" must be unique.`},
			Actions:    map[string]map[access.Kind]string{"ssh": {access.User: mineByOrg}, "reach-*": {access.User: mineByOrg}, "reach-5": {}},
			Rules: map[access.Kind]odata.Rule{
				access.Anonymous: {Read: "is_public"},
				access.User: {Read: "is_public or " + mineByOrg, Create: mineByOrg, Update: mineByOrg, Delete: mineByOrg,
					Write:  []string{"app_name", "organization", "is_for__device_type", "slug", "is_public", "should_be_running__release"},
					Ignore: []string{"legacy"}},
				access.Device: {Read: "id eq @fleet"},
			}},
		{Name: "direct_access", Columns: []odata.Column{id(), key("user", "user"), key("application", "application", "is_directly_accessible_by__user")},
			Rules: users("user eq @user")},
		{Name: "device", Columns: []odata.Column{id(), date("created_at"), date("modified_at"), text("uuid"),
			{Name: "device_name", Type: odata.String, MaxLen: 32}, orNull(text("note")), yesNo("is_online"), number("memory_usage"),
			{Name: "cpu_temp", Type: odata.Real, Null: true}, number("actor"), orNull(date("last_seen")), secret, belongs,
			key("is_of__device_type", "device_type", "describes__device"), running, pinned, status},
			Keys: [][]string{{"uuid"}}, Virtual: []string{"nickname"}, Before: []odata.Hook{nickname},
			Rules: map[access.Kind]odata.Rule{
				access.User: {Read: mineByApp, Create: mineByApp, Update: mineByApp, Delete: mineByApp, Write: []string{"uuid", "device_name", "note",
					"is_online", "memory_usage", "cpu_temp", "last_seen", "belongs_to__application", "is_of__device_type", "is_pinned_on__release", "nickname"}},
				access.Device: {Read: "id eq @device", Update: "id eq @device", Write: []string{"memory_usage"}, Ignore: []string{"device_name"},
					Hide: []string{"note"}},
			}},
		{Name: "device_tag", Synonyms: []string{"device__has__tag_key"}, Columns: []odata.Column{id(), key("device", "device"), text("tag_key"), text("value")},
			Keys: [][]string{{"device", "tag_key"}}, Rules: users("device/any(d:d/"+mineByApp+")", "device", "tag_key", "value")},
		{Name: "device_environment_variable", Synonyms: []string{"device__has__env_var_name"},
			Columns: []odata.Column{id(), date("created_at"), key("device", "device"), text("name"), text("value")},
			Rules:   users("device/any(d:d/"+mineByApp+")", "device", "name", "value")},
		{Name: "service", Synonyms: []string{"application__has__service_name"}, Columns: []odata.Column{id(), date("created_at"), app, text("service_name")},
			Keys: [][]string{{"application", "service_name"}}, Rules: users(mineByApp2, "application", "service_name")},
		{Name: "service_environment_variable", Columns: []odata.Column{id(), key("service", "service"), text("name"), text("value")},
			Rules: users("service/any(s:s/" + mineByApp2 + ")")},
		{Name: "service_install", Synonyms: []string{"device__installs__service"}, Columns: []odata.Column{id(), key("device", "device"), install},
			Rules: users("device/any(d:d/" + mineByApp + ")")},
		{Name: "device_service_environment_variable", Columns: []odata.Column{id(), key("service_install", "service_install"), text("name"), text("value")},
			Rules: users("service_install/any(i:i/device/any(d:d/"+mineByApp+"))", "value")},
		{Name: "release", Columns: []odata.Column{id(), date("created_at"), key("belongs_to__application", "application", "owns__release"),
			text("commit"), text("status"), {Name: "composition", Type: odata.JSON}, yesNo("is_final"), yesNo("is_invalidated"), yesNo("is_passing_tests"),
			orNull(date("end_timestamp")), log, number("semver_major"), number("revision")},
			Rules: map[access.Kind]odata.Rule{access.Anonymous: {Read: "belongs_to__application/is_public"},
				access.User: {Read: "belongs_to__application/is_public or " + mineByApp, Create: mineByApp, Update: mineByApp, Delete: mineByApp,
					Write: []string{"belongs_to__application", "commit", "status", "composition", "build_log"}}}},
		{Name: "release_tag", Columns: []odata.Column{id(), key("release", "release"), text("tag_key"), text("value")},
			Rules: users("release/any(r:r/" + mineByApp + ")")},
		{Name: "image", Columns: []odata.Column{id(), {Name: "image_size", Type: odata.BigInteger, Null: true}, text("is_stored_at__image_location"),
			key("is_a_build_of__service", "service", "is_built_by__image")},
			Rules: users("is_a_build_of__service/any(s:s/"+mineByApp2+")", "image_size", "is_stored_at__image_location", "is_a_build_of__service")},
		{Name: "release_image", Synonyms: []string{"image__is_part_of__release"}, Columns: []odata.Column{id(), key("image", "image"), partOf},
			Rules: users("is_part_of__release/any(r:r/" + mineByApp + ")")},
		{Name: "image_install", Columns: []odata.Column{id(), key("device", "device"), key("installs__image", "image"), text("status")},
			Rules: users("device/any(d:d/" + mineByApp + ")")},
		{Name: "api_key", Columns: []odata.Column{id(), date("created_at"), orNull(text("name")), number("is_of__actor"), hash},
			Rules: users("is_of__actor eq @actor")},
	}}
}

// nickname is a hook that turns a virtual field into a column.
func nickname(_ context.Context, _ *db.Tx, c *odata.Change) error {
	if n, ok := c.Values["nickname"].(string); ok {
		c.Values["device_name"] = n
		delete(c.Values, "nickname")
	}
	return nil
}

var (
	bob    = access.Caller{Kind: access.User, User: 7, Actor: 70, Name: "bob"}
	eve    = access.Caller{Kind: access.User, User: 8, Actor: 80, Name: "eve"}
	alpha  = access.Caller{Kind: access.Device, Device: 200, Fleet: 100, Actor: 55, Name: "d_aa11"}
	nobody = access.Nobody()
)

type server struct {
	*odata.Engine
	db *db.DB
	t  testing.TB
}

func newServer(t testing.TB, change ...func(*odata.Config)) *server {
	t.Helper()
	now := func() time.Time { return time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC) }
	d := dbtest.Open(t, now, dbtest.Schema("0001_test.sql", testSchema))
	if d.Dialect() == db.Postgres { // new ids come after those that the schema gives
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), afterGivenIDs)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := odata.Config{Model: testModel(), DB: d, Prefixes: []string{"/v7/"}}
	for _, f := range change {
		f(&cfg)
	}
	e, err := odata.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &server{e, d, t}
}

type answer struct {
	status   int
	body     string
	location string
}

// do sends one request as a caller. The URL is given as it would stand on the wire, except that spaces and quotes may be
// literal.
func (s *server) do(as access.Caller, method, url, body string) answer {
	s.t.Helper()
	url = strings.ReplaceAll(url, " ", "%20")
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return s.send(as, r)
}

func (s *server) send(as access.Caller, r *http.Request) answer {
	w := httptest.NewRecorder()
	h := web.Handle(slog.New(slog.NewTextHandler(s.t.Output(), nil)), s.Handler())
	h.ServeHTTP(w, r.WithContext(access.With(r.Context(), as)))
	data, _ := io.ReadAll(w.Body)
	return answer{w.Code, strings.TrimSuffix(string(data), "\n"), w.Header().Get("Location")}
}

// rows reads a list and gives the value of d.
func (s *server) rows(as access.Caller, url string) string {
	s.t.Helper()
	a := s.do(as, "GET", "/v7/"+url, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s", url, a.status, a.body)
	}
	var v struct {
		D json.RawMessage `json:"d"`
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || v.D == nil {
		s.t.Fatalf("GET %s: %v in %s", url, err, a.body)
	}
	return string(v.D)
}
