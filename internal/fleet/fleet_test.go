package fleet_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

func TestEngineKnowsEveryColumn(t *testing.T) {
	w := releasetest.New(t)
	if err := w.Engine.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFleetIsMadeAsTheCLIDoes(t *testing.T) {
	w := releasetest.New(t)
	org := w.ID(w.Alice, "organization(handle='alice')?$select=id")
	dt := w.ID(w.Alice, "device_type?$filter=device_type_alias/any(a:a/is_referenced_by__alias in ('nuc'))&$select=id")
	body := w.Want(w.Alice, "POST", "application", map[string]any{
		"app_name": "Harbour", "organization": org, "is_for__device_type": dt, "is_of__class": "fleet",
	}, http.StatusCreated, `"slug":"alice/harbour"`)
	for _, want := range []string{`"should_track_latest_release":true`, `"is_of__class":"fleet"`, `"is_host":false`,
		`"is_archived":false`,
		`"is_public":false`, `"should_be_running__release":null`, `"app_name":"Harbour"`,
		fmt.Sprintf(`"is_for__device_type":{"__id":%d}`, dt)} {
		if !strings.Contains(body, want) {
			t.Errorf("new fleet: %s lacks %s", body, want)
		}
	}
	rows := w.Rows(w.Alice, "application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1)&$orderby=app_name asc"+
		"&$select=id,app_name,slug&$expand=is_for__device_type($select=slug),application_type($select=slug,supports_multicontainer),service($select=id)")
	want := []map[string]any{{
		"id": 1.0, "app_name": "Harbour", "slug": "alice/harbour",
		"is_for__device_type": []any{map[string]any{"slug": "intel-nuc"}},
		"application_type":    []any{map[string]any{"slug": "default", "supports_multicontainer": true}}, "service": []any{},
	}}
	if d := cmp.Diff(want, rows); d != "" {
		t.Error(d)
	}
	if got := w.Rows(w.Alice,
		"application(slug='alice/harbour')?$select=uuid")[0]["uuid"].(string); len(got) != 32 || got[12] != '4' {
		t.Errorf("uuid %q is not of version 4", got)
	}
	if n := len(w.Rows(w.Alice, "actor?$filter=is_of__application/any(a:a/slug eq 'alice/harbour')")); n != 1 {
		t.Errorf("the fleet has %d actors", n)
	}
}

func TestFleetRefusals(t *testing.T) {
	w := releasetest.New(t)
	mine := w.Fleet(w.Alice, "harbour", "intel-nuc")
	theirs := w.Fleet(w.Bob, "depot", "intel-nuc")
	org := w.ID(w.Alice, "organization(handle='alice')?$select=id")
	bobs := w.ID(w.Bob, "organization(handle='bob')?$select=id")
	dt := w.ID(w.Alice, "device_type(slug='intel-nuc')?$select=id")
	pi := w.ID(w.Alice, "device_type(slug='raspberrypi3')?$select=id")
	with := func(change map[string]any) map[string]any {
		body := map[string]any{"app_name": "harbour2", "organization": org, "is_for__device_type": dt}
		for k, v := range change {
			if v == "" {
				delete(body, k)
			} else {
				body[k] = v
			}
		}
		return body
	}
	const length = "It is necessary that each application has an app name that has a Length (Type) that is greater than or equal to 4 and " +
		"is less than or equal to 100"
	one := fmt.Sprintf("application(%d)", mine)
	for _, tc := range []struct {
		name, method, path string
		body               map[string]any
		status             int
		text               string
	}{
		{"characters", "POST", "application", with(map[string]any{"app_name": "har bour"}), 400,
			"App name may only contain [a-zA-Z0-9_-]."},
		{"slash", "POST", "application", with(map[string]any{"app_name": "../harbour"}), 400, "App name may only contain"},
		{"short", "POST", "application", with(map[string]any{"app_name": "abc"}), 400, length},
		{"long", "POST", "application", with(map[string]any{"app_name": strings.Repeat("a", 101)}), 400, length},
		{"no name", "POST", "application", with(map[string]any{"app_name": ""}), 400, length},
		{"no organization", "POST", "application", with(map[string]any{"organization": ""}), 400, "organization"},
		{"no type", "POST", "application", with(map[string]any{"is_for__device_type": ""}), 400, "device type"},
		{"taken", "POST", "application", with(map[string]any{"app_name": "harbour"}), 409, "must be unique"},
		{"taken but for case", "POST", "application", with(map[string]any{"app_name": "HARBOUR"}), 409, "must be unique"},
		{"class", "POST", "application", with(map[string]any{"is_of__class": "ship"}), 400, "class"},
		{"uuid", "POST", "application", with(map[string]any{"uuid": strings.Repeat("a", 32)}), 400,
			"Application UUID must be a 32 character long lower case UUID version 4."},
		{"another's organization", "POST", "application", with(map[string]any{"organization": bobs}), 401, ""},
		{"slug is the server's", "POST", "application", with(map[string]any{"slug": "bob/depot"}), 403, "slug"},
		{"actor is the server's", "POST", "application", with(map[string]any{"actor": 1}), 403, "actor"},
		{"public with an odd value", "PATCH", one, map[string]any{"is_public": "yes"}, 400, "is_public"},
		{"support until never", "PATCH", one, map[string]any{"is_accessible_by_support_until__date": "soon"}, 400,
			`\"is_accessible_by_support_until__date\" is not a date`},
		{"host", "PATCH", one, map[string]any{"is_host": true}, 403, "is_host"},
		{"architecture", "PATCH", one, map[string]any{"is_for__device_type": pi}, 400,
			"The new default device type should be of the same cpu architecture as the previous one."},
		{"rename", "PATCH", one, map[string]any{"app_name": "x"}, 400, length},
		{"move to another's organization", "PATCH", one, map[string]any{"organization": bobs}, 401, ""},
		{"new uuid", "PATCH", one, map[string]any{"uuid": strings.Repeat("a", 32)}, 400, "uuid"},
	} {
		t.Run(tc.name, func(t *testing.T) { w.Want(w.Alice, tc.method, tc.path, tc.body, tc.status, tc.text) })
	}

	// Another tenant's fleet is not there at all.
	path := fmt.Sprintf("application(%d)", theirs)
	w.Want(w.Alice, "GET", path, nil, 200, `{"d":[]}`)
	w.Want(w.Alice, "PATCH", path, map[string]any{"app_name": "mine_now"}, 200, "")
	w.Want(w.Alice, "DELETE", path, nil, 404, `"there is no such fleet"`)
	w.Want(w.Alice, "DELETE", "application?$filter=id eq "+fmt.Sprint(theirs), nil, 200, "")
	w.Want(w.Alice, "GET", "application/$count", nil, 200, `{"d":1}`)
	w.Want(w.Bob, "GET", path+"?$select=app_name", nil, 200, `{"d":[{"app_name":"depot"}]}`)
	for _, resource := range []string{"application_environment_variable", "application_config_variable",
		"build_environment_variable"} {
		w.Want(w.Alice, "POST", resource, map[string]any{"application": theirs, "name": "BALENA_A", "value": "1"}, 401, "")
	}
	w.Want(w.Alice, "POST", "service", map[string]any{"application": theirs, "service_name": "web"}, 401, "")
	w.Want(w.Alice, "POST", "application_tag", map[string]any{"application": theirs, "tag_key": "a", "value": "1"}, 401, "")
}

func TestSlugFollowsNameAndHandle(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	slug := func(want string) {
		t.Helper()
		w.Want(w.Alice, "GET", fmt.Sprintf("application(%d)?$select=slug", id), nil, 200, `"slug":"`+want+`"`)
	}
	w.Want(w.Alice, "PATCH", fmt.Sprintf("application(%d)", id), map[string]any{"app_name": "Quay-1"}, 200, "")
	slug("alice/quay-1")
	org := w.ID(w.Alice, "organization(handle='alice')?$select=id")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("organization(%d)", org), map[string]any{"handle": "wonder"}, 200, "")
	slug("wonder/quay-1")
}

func TestDevicesAndStrangers(t *testing.T) {
	w := releasetest.New(t)
	mine, other := w.Fleet(w.Alice, "harbour", "intel-nuc"), w.Fleet(w.Alice, "depot", "intel-nuc")
	for _, id := range []int64{mine, other} {
		w.Create(w.Alice, "application_environment_variable", map[string]any{"application": id, "name": "A", "value": "1"})
		w.Create(w.Alice, "application_config_variable", map[string]any{"application": id, "name": "RESIN_A", "value": "1"})
		w.Create(w.Alice, "build_environment_variable", map[string]any{"application": id, "name": "B", "value": "secret"})
		svc := w.Create(w.Alice, "service", map[string]any{"application": id, "service_name": "web"})
		w.Create(w.Alice, "service_environment_variable", map[string]any{"service": svc, "name": "C", "value": "1"})
		w.Create(w.Alice, "service_label", map[string]any{"service": svc, "label_name": "io.example", "value": "1"})
		w.Create(w.Alice, "application_tag", map[string]any{"application": id, "tag_key": "k", "value": "1"})
	}
	dev := w.Device(mine)
	for _, resource := range []string{"application", "application_environment_variable", "application_config_variable",
		"service",
		"service_environment_variable", "service_label", "application_tag"} {
		if rows := w.Rows(dev, resource); len(rows) != 1 {
			t.Errorf("a device sees %d rows of %s", len(rows), resource)
		}
		if n := len(w.Rows(w.Alice, resource)); n != 2 {
			t.Errorf("the owner sees %d rows of %s", n, resource)
		}
		if n := len(w.Rows(w.Bob, resource)); n != 0 {
			t.Errorf("a stranger sees %d rows of %s", n, resource)
		}
		if resource == "application" || resource == "service" || resource == "application_tag" { // public fleets may be read by anybody, and these are not
			w.Want(access.Nobody(), "GET", resource, nil, 200, `{"d":[]}`)
		} else {
			w.Want(access.Nobody(), "GET", resource, nil, 401, "")
		}
		w.Want(access.Caller{Kind: access.Provisioning, Fleet: mine}, "GET", resource, nil, 401, "")
		for _, method := range []string{"PATCH", "DELETE"} {
			w.Want(dev, method, resource+"?$filter=id gt 0", map[string]any{"value": "2"}, 403, "")
		}
	}
	w.Want(dev, "GET", "build_environment_variable", nil, 401, "")
	w.Want(dev, "POST", "application_environment_variable", map[string]any{"application": mine, "name": "D", "value": "1"},
		403, "")
	for _, public := range []string{"device_type", "device_type_alias", "cpu_architecture", "application_type"} {
		for _, c := range []access.Caller{access.Nobody(), dev, w.Bob} {
			if len(w.Rows(c, public)) == 0 {
				t.Errorf("%s sees no %s", c.Name, public)
			}
			w.Want(c, "PATCH", public+"(1)", map[string]any{"slug": "x"}, map[bool]int{true: 401,
				false: 403}[c.Kind == access.Anonymous], "")
		}
	}
	// Links lead nowhere that the rules do not.
	w.Want(access.Nobody(), "GET", "device_type?$filter=is_default_for__application/any(a:a/id gt 0)", nil, 200, `{"d":[]}`)
	w.Want(w.Bob, "GET", "device_type(slug='intel-nuc')?$select=id&$expand=is_default_for__application($select=id)", nil,
		200, `"is_default_for__application":[]`)
	w.Want(dev, "GET", "application?$select=id&$expand=is_directly_accessible_by__user", nil, 200, "")
}

func TestVariablesAndTags(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	const env, cfg, tag = "application_environment_variable", "application_config_variable", "application_tag"
	for _, tc := range []struct {
		resource, name, value string
		status                int
		text                  string
	}{
		{env, "GOOD_1", "x y=z", 201, ""},
		{env, "GOOD_1", "x", 409, "nique"},
		{env, "1BAD", "", 400, "Environment variable names can only contain alphanumeric characters and underscores."},
		{env, "A-B", "", 400, "Environment variable names can only contain"},
		{env, "", "", 400, "Environment variable names can only contain"},
		{env, "RESIN_X", "", 400, "Environment variables beginning with RESIN_, BALENA_ are reserved."},
		{env, "USER", "", 400, "s RESIN, BALENA, USER are reserved"},
		{env, "A", "a\nb", 400, "Variable values cannot contain line break characters"},
		{cfg, "RESIN_HOST_CONFIG_x:y", "1", 201, ""},
		{cfg, "BALENA_SUPERVISOR_POLL_INTERVAL", "1", 201, ""},
		{cfg, "FOO", "1", 400, "Configuration variables must be part of one of the following namespaces: RESIN_, BALENA_"},
		{cfg, "RESIN-FOO", "1", 400,
			"Configuration variable names can only contain alphanumeric characters, underscores or a colon"},
		{cfg, "BALENA", "1", 400, "s RESIN, BALENA, USER are reserved"},
		{tag, "place", "dock 3", 201, ""},
		{tag, "a b", "", 400, "Tag keys cannot contain whitespace."},
		{tag, "io.resin.x", "", 400, "Tag keys beginning with io.resin. are reserved."},
		{tag, "io.balena.x", "", 400, "Tag keys beginning with io.balena. are reserved."},
		{tag, "", "", 400, "It is necessary"},
	} {
		body := map[string]any{"application": id, "name": tc.name, "value": tc.value}
		if tc.resource == tag {
			body = map[string]any{"application": id, "tag_key": tc.name, "value": tc.value}
		}
		w.Want(w.Alice, "POST", tc.resource, body, tc.status, tc.text)
	}
	w.Want(w.Alice, "PATCH", env+"?$filter=name eq 'GOOD_1' and application eq "+fmt.Sprint(id),
		map[string]any{"value": "new"}, 200, "")
	w.Want(w.Alice, "GET", env+"?$orderby=name asc&$select=name,value", nil, 200, `[{"name":"GOOD_1","value":"new"}]`)
	w.Want(w.Alice, "PATCH", env+"(1)", map[string]any{"value": "a\r"}, 400, "line break")
	w.Want(w.Alice, "GET", "application__has__env_var_name?$select=id", nil, 200, `[{"id":1}]`)
	w.Want(w.Alice, "DELETE", env+"(1)", nil, 200, "")
	w.Want(w.Alice, "GET", env+"/$count", nil, 200, `{"d":0}`)
}

func TestServices(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	svc := w.Create(w.Alice, "service", map[string]any{"application": id, "service_name": "web"})
	w.Want(w.Alice, "POST", "service", map[string]any{"application": id, "service_name": "web"}, 409, "nique")
	w.Want(w.Alice, "POST", "service", map[string]any{"application": id, "service_name": "we b"}, 400, "Service names")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("service(%d)", svc), map[string]any{"service_name": "www"}, 403, "")
	w.Want(w.Alice, "GET", fmt.Sprintf("service(application=%d,service_name='web')?$select=id", id), nil, 200,
		fmt.Sprintf(`"id":%d`, svc))
	w.Release(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "DELETE", fmt.Sprintf("service(%d)", svc), nil, 409, "")
	idle := w.Create(w.Alice, "service", map[string]any{"application": id, "service_name": "idle"})
	w.Want(w.Alice, "DELETE", fmt.Sprintf("service(%d)", idle), nil, 200, "")
}

func TestDeletedFleetLeavesNothing(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	keep := w.Fleet(w.Alice, "depot", "intel-nuc")
	w.Create(w.Alice, "application_tag", map[string]any{"application": id, "tag_key": "k"})
	w.Release(w.Alice, "alice/harbour", false, "web", "db")
	w.Open(w.Alice, "alice/harbour", false, "web")
	w.Release(w.Alice, "alice/depot", false, "web")
	dev := w.Device(id)
	w.Write(func(tx *db.Tx) error {
		_, err := w.Fleets.DeviceConfig(t.Context(), tx, w.Alice, fleet.Answers{"appId": float64(id), "version": "6.0.0"})
		return err
	})
	w.Want(w.Alice, "DELETE", fmt.Sprintf("application(%d)", id), nil, 200, "")
	count := func(want int, query string, args ...any) {
		t.Helper()
		var n int
		w.Read(func(tx *db.Tx) error { return tx.QueryRowContext(t.Context(), query, args...).Scan(&n) })
		if n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	count(1, `SELECT count(*) FROM application`)
	count(1, `SELECT count(*) FROM "release"`)
	count(1, `SELECT count(*) FROM image`)
	count(1, `SELECT count(*) FROM release_image`)
	count(1, `SELECT count(*) FROM service`)
	count(0, `SELECT count(*) FROM application_tag`)
	count(0, `SELECT count(*) FROM api_key WHERE kind = 'provisioning'`)
	count(0, `SELECT count(*) FROM device WHERE id = $1`, dev.Device)
	if w.DB.Dialect() == db.SQLite { // PostgreSQL checks every reference by itself
		count(0, `SELECT count(*) FROM pragma_foreign_key_check`)
	}
	if w.Target(keep) == 0 {
		t.Error("the other fleet lost its target")
	}
}

// The attack: a member on his way out takes a fleet along into an organization of his own.
func TestAMemberDoesNotTakeFleetsAway(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	one := fmt.Sprintf("application(%d)", id)
	bobs := w.ID(w.Bob, "organization(handle='bob')?$select=id")
	join := func(role string) {
		w.Write(func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO organization_membership ("user", is_member_of__organization,
				organization_membership_role) SELECT ?, o.id, r.id FROM organization o, organization_membership_role r
				WHERE o.handle = 'alice' AND r.name = ?
				ON CONFLICT ("user", is_member_of__organization)
				DO UPDATE SET organization_membership_role = excluded.organization_membership_role`, w.Bob.User, role)
			return err
		})
	}
	join("member")
	w.Want(w.Bob, "GET", one, nil, 200, `{"d":[]}`)
	w.Join(w.Bob, id, access.Developer)
	w.Want(w.Bob, "PATCH", one, map[string]any{"app_name": "haven"}, 200, "")
	w.Want(w.LoggedIn(w.Bob), "PATCH", one, map[string]any{"organization": bobs}, 403, "administrator")
	join("administrator")
	w.Want(w.Bob, "PATCH", one, map[string]any{"organization": bobs}, 403, "log in") // it is not done with a key
	w.Want(w.LoggedIn(w.Bob), "PATCH", one, map[string]any{"organization": bobs}, 200, "")
	if rows := w.Rows(w.Bob, one+"?$select=slug"); len(rows) != 1 || rows[0]["slug"] != "bob/haven" {
		t.Errorf("given away by an administrator: %v", rows)
	}
}
