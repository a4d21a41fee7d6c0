package odata_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// exchange is one write and what must come back. In want, "" is an empty body.
type exchange struct {
	as     access.Caller
	method string
	url    string
	body   string
	status int
	want   string
}

// check runs exchanges in order on one server; a step without a status reads and compares the rows.
func check(t *testing.T, s *server, steps []exchange) {
	t.Helper()
	for _, x := range steps {
		if x.status == 0 {
			if got := s.rows(x.as, x.url); got != x.want {
				t.Errorf("GET %s as %s:\n got %s\nwant %s", x.url, x.as.Name, got, x.want)
			}
			continue
		}
		a := s.do(x.as, x.method, "/v7/"+x.url, x.body)
		if a.status != x.status || a.body != x.want {
			t.Errorf("%s %s %s as %s:\n got %d %s\nwant %d %s", x.method, x.url, x.body, x.as.Name, a.status, a.body, x.status, x.want)
		}
	}
}

func TestCreate(t *testing.T) {
	s := newServer(t)
	a := s.do(bob, "POST", "/v7/device_tag", `{"device":200,"tag_key":"new","value":"v"}`)
	if a.status != http.StatusCreated || a.body != `{"id":4,"device":{"__id":200},"tag_key":"new","value":"v"}` {
		t.Errorf("POST device_tag: got %d %s", a.status, a.body)
	}
	if a.location != "/v7/device_tag(@id)?@id=4" {
		t.Errorf("Location: got %q", a.location)
	}
	check(t, s, []exchange{
		{bob, "", strings.ReplaceAll("device_tag(@id)?@id=4&$select=value", " ", "%20"), "", 0, `[{"value":"v"}]`},
		{bob, "POST", "device_tag?returnResource=false", `{"device":201,"tag_key":"k","value":""}`, 201, `{"id":5}`},
		{bob, "POST", "device_tag?returnResource=0", `{"device":202,"tag_key":"k","value":""}`, 201, `{"id":6}`},
		{bob, "POST", "device__has__tag_key?apikey=x", `{"device":201,"tag_key":"l","value":"é"}`, 201,
			`{"id":7,"device":{"__id":201},"tag_key":"l","value":"é"}`},
		// created_at is stamped; a synonym of a foreign key is as good as its name.
		{bob, "POST", "device_environment_variable", `{"device":200,"name":"N","value":"1"}`, 201,
			`{"id":3,"created_at":"2026-04-01T00:00:00.000Z","device":{"__id":200},"name":"N","value":"1"}`},
		// who makes what he may not read learns only its id
		{bob, "POST", "organization", `{"name":"New","handle":"new"}`, 201, `{"id":3}`},
		// a hook turned the virtual field into a column
		{bob, "POST", "device?returnResource=false", `{"uuid":"ff","nickname":"nick","is_of__device_type":5,"belongs_to__application":100}`, 201, `{"id":251}`},
		{bob, "", "device(251)?$select=device_name,is_online,created_at", "", 0,
			`[{"device_name":"nick","is_online":false,"created_at":"2026-04-01T00:00:00.000Z"}]`},
		{bob, "POST", "application?returnResource=false", `{"app_name":"n","slug":"o/n","organization":1,"is_for__device_type":5,"legacy":{"x":1}}`, 201, `{"id":301}`},
	})
}

func TestTypes(t *testing.T) {
	s := newServer(t)
	patch := func(body string, status int, want string) exchange {
		return exchange{bob, "PATCH", "device(200)", body, status, want}
	}
	check(t, s, []exchange{
		patch(`{"is_online":0,"memory_usage":12.0,"cpu_temp":1,"last_seen":1772323200000,"note":null}`, 200, ""),
		{bob, "", "device(200)?$select=is_online,memory_usage,cpu_temp,last_seen,note,modified_at", "", 0,
			`[{"is_online":false,"memory_usage":12,"cpu_temp":1,"last_seen":"2026-03-01T00:00:00.000Z","note":null,"modified_at":"2026-04-01T00:00:00.000Z"}]`},
		patch(`{"is_online":true,"last_seen":"2017-10-01"}`, 200, ""),
		{bob, "", "device(200)?$select=is_online,last_seen", "", 0, `[{"is_online":true,"last_seen":"2017-10-01T00:00:00.000Z"}]`},
		patch(`{"last_seen":"2017-10-01T02:00:00+02:00"}`, 200, ""),
		{bob, "", "device(200)?$select=last_seen", "", 0, `[{"last_seen":"2017-10-01T00:00:00.000Z"}]`},
		patch(`{"device_name":5}`, 400, `"\"device_name\" is not a string"`),
		patch(`{"device_name":null}`, 400, `"\"device_name\" cannot be null"`),
		patch(`{"device_name":""}`, 400, `"a value is not one that device allows"`),
		patch(`{"device_name":"`+strings.Repeat("x", 33)+`"}`, 400, `"\"device_name\" is longer than 32 bytes"`),
		patch(`{"note":"`+strings.Repeat("x", 64<<10+1)+`"}`, 400, `"\"note\" is longer than 65536 bytes"`),
		patch(`{"note":"a\u0000b"}`, 400, `"\"note\" holds a zero byte or is not valid UTF-8"`),
		patch(`{"is_online":"yes"}`, 400, `"\"is_online\" is not a boolean"`),
		patch(`{"is_online":2}`, 400, `"\"is_online\" is not a boolean"`),
		patch(`{"memory_usage":"5"}`, 400, `"\"memory_usage\" is not a whole number"`),
		patch(`{"memory_usage":1.5}`, 400, `"\"memory_usage\" is not a whole number"`),
		patch(`{"memory_usage":1e400}`, 400, `"\"memory_usage\" is not a whole number"`),
		patch(`{"cpu_temp":"hot"}`, 400, `"\"cpu_temp\" is not a number"`),
		patch(`{"last_seen":"soon"}`, 400, `"\"last_seen\" is not a date"`),
		patch(`{"last_seen":9e18}`, 400, `"\"last_seen\" is not a date"`),
		patch(`{"belongs_to__application":{"id":1}}`, 400, `"\"belongs_to__application\" is not a whole number"`),
		patch(`{"overall_status":"x"}`, 403, `"\"overall_status\" may not be written"`),
		patch(`{"actor":1}`, 403, `"\"actor\" may not be written"`),
		patch(`{"secret_note":"x"}`, 400, `"device has no property \"secret_note\""`),
		patch(`{"nope":1}`, 400, `"device has no property \"nope\""`),
		patch(`{}`, 400, `"No fields to update"`),
		patch(``, 400, `"No fields to update"`),
		patch(`null`, 400, `"No fields to update"`),
		patch(`[]`, 400, `"the body is not a JSON object"`),
		patch(`{"note":"a"} x`, 400, `"the body holds more than one JSON value"`),
		patch(`{"note":"`+strings.Repeat("x", 600<<10)+`"}`, 413, `"the body is larger than 524288 bytes"`),
		{bob, "PATCH", "image(80)", `{"image_size":"9007199254740995"}`, 200, ""},
		{bob, "", "image(80)?$select=image_size", "", 0, `[{"image_size":"9007199254740995"}]`},
		{bob, "PATCH", "image(80)", `{"image_size":7}`, 200, ""},
		{bob, "PATCH", "release(700)", `{"composition":{"a":[1,{"b":null}]}}`, 200, ""},
		{bob, "PATCH", "release(700)", `{"composition":"{\"a\":1}"}`, 200, ""},
		{bob, "", "release(700)?$select=composition", "", 0, `[{"composition":{"a":1}}]`},
		{bob, "PATCH", "release(700)", `{"composition":"text"}`, 400, `"\"composition\" is not a JSON object"`},
		{bob, "PATCH", "release(700)", `{"composition":5}`, 400, `"\"composition\" is not a JSON object"`},
	})
}

func TestForm(t *testing.T) {
	s := newServer(t)
	r := httptest.NewRequest("PATCH", "/v7/device(200)", strings.NewReader("is_online=false&memory_usage=7&device_name=a+b&last_seen=2020-01-01"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a := s.send(bob, r); a.status != http.StatusOK {
		t.Errorf("form PATCH: got %d %s", a.status, a.body)
	}
	check(t, s, []exchange{{bob, "", "device(200)?$select=is_online,memory_usage,device_name,last_seen", "", 0,
		`[{"is_online":false,"memory_usage":7,"device_name":"a b","last_seen":"2020-01-01T00:00:00.000Z"}]`}})
	r = httptest.NewRequest("PATCH", "/v7/device(200)", strings.NewReader("x"))
	r.Header.Set("Content-Type", "text/plain")
	if a := s.send(bob, r); a.status != http.StatusUnsupportedMediaType {
		t.Errorf("text PATCH: got %d %s", a.status, a.body)
	}
}

func TestConflicts(t *testing.T) {
	check(t, newServer(t), []exchange{
		{bob, "POST", "device_tag", `{"device":200,"tag_key":"site","value":"v"}`, 409, `"Unique key constraint violated"`},
		{bob, "PATCH", "device_tag?$filter=device eq 200 and tag_key eq 'site'", `{"value":"v2"}`, 200, ""}, // the other half of an upsert
		{bob, "", "device_tag(device=200,tag_key='site')?$select=value", "", 0, `[{"value":"v2"}]`},
		{bob, "POST", "application", `{"app_name":"f","slug":"o/f2","organization":1,"is_for__device_type":5}`, 409,
			`"\"app_name\" and \"organization\" must be unique."`},
		{bob, "POST", "application", `{"app_name":"f2","slug":"o/f","organization":1,"is_for__device_type":5}`, 409, `"Unique key constraint violated"`},
		{bob, "POST", "application", `{"app_name":"f2","slug":"o/f2","organization":1}`, 400, `"\"is_for__device_type\" cannot be null"`},
		{bob, "DELETE", "service(60)", "", 409, `"Data is referenced by service_environment_variable."`},
		{bob, "DELETE", "application(101)", "", 409, `"Data is referenced by device."`},
	})
}

// A resource may say 404 of what is not there to be deleted. By a filter nothing is missing, and a change stays silent.
func TestWhatIsMissing(t *testing.T) {
	s := newServer(t, func(c *odata.Config) {
		for _, r := range c.Model.Resources {
			if r.Name == "application" {
				r.Missing = "there is no such thing"
			}
		}
	})
	check(t, s, []exchange{
		{bob, "DELETE", "application(999)", "", 404, `"there is no such thing"`},
		{bob, "DELETE", "application(slug='no/where')", "", 404, `"there is no such thing"`},
		{eve, "DELETE", "application(101)", "", 404, `"there is no such thing"`}, // bob's
		{bob, "DELETE", "application?$filter=id eq 999", "", 200, ""},
		{bob, "PATCH", "application(999)", `{"app_name":"x"}`, 200, ""},
		{bob, "DELETE", "device_tag(999)", "", 200, ""},
		{bob, "", "application(101)?$select=id", "", 0, `[{"id":101}]`},
	})
}

func TestChangeByKeyAndFilter(t *testing.T) {
	check(t, newServer(t), []exchange{
		{bob, "PATCH", "device(uuid='aa11')", `{"note":"n1"}`, 200, ""},
		{bob, "PATCH", "device?$filter=id in (200,201,250)", `{"note":"all"}`, 200, ""},
		{bob, "", "device?$filter=note eq 'all'&$select=id", "", 0, `[{"id":200},{"id":201}]`},
		{eve, "", "device(250)?$select=note", "", 0, `[{"note":"theirs"}]`},
		{bob, "PATCH", "device?$filter=belongs_to__application/any(a:a/slug eq 'o/f')", `{"nickname":"same"}`, 200, ""},
		{bob, "", "device?$select=device_name", "", 0, `[{"device_name":"same"},{"device_name":"same"},{"device_name":"gamma"}]`},
		{bob, "PATCH", "device?$filter=id eq 999", `{"note":"x"}`, 200, ""},
		{bob, "PATCH", "device(250)", `{"note":"x"}`, 200, ""},
		{bob, "PATCH", "device", `{"note":"x"}`, 400, `"PATCH of every device at once is refused: give a key or a $filter"`},
		{bob, "DELETE", "device", "", 400, `"DELETE of every device at once is refused: give a key or a $filter"`},
		{bob, "PATCH", "device(200)?$select=id", `{"note":"x"}`, 400, `"PATCH takes no query option but $filter"`},
		{bob, "PATCH", "device(200)/$count", `{"note":"x"}`, 400, `"PATCH takes no /$count"`},
		{bob, "POST", "device(200)", `{"note":"x"}`, 400, `"a POST takes neither a key nor query options"`},
		{bob, "DELETE", "device_tag(device=200,tag_key='site')", "", 200, ""},
		{bob, "DELETE", "device_tag?$filter=device eq 200 and tag_key eq 'floor'", "", 200, ""},
		{bob, "", "device_tag?$select=id", "", 0, `[]`},
		{eve, "", "device_tag?$select=id", "", 0, `[{"id":3}]`},
		{bob, "DELETE", "device?$filter=id in (200,250)", "", 200, ""},
		{bob, "DELETE", "device(200)", "", 200, ""},
		{bob, "", "device?$select=id", "", 0, `[{"id":201},{"id":202}]`},
		{eve, "", "device?$select=id", "", 0, `[{"id":250}]`},
		{bob, "TRACE", "device(201)", `{}`, 405, ""},
	})
}

func TestWritesOfOthers(t *testing.T) {
	check(t, newServer(t), []exchange{
		// a row under somebody else's parent: as if the parent were not there
		{bob, "POST", "device_tag", `{"device":250,"tag_key":"k","value":"v"}`, 401, ""},
		{bob, "POST", "device_tag", `{"device":999,"tag_key":"k","value":"v"}`, 401, ""},
		{bob, "POST", "application", `{"app_name":"n","slug":"x","organization":2,"is_for__device_type":5}`, 401, ""},
		// visible is not enough: fleet 300 is public, but not bob's
		{bob, "POST", "device", `{"uuid":"x","device_name":"x","belongs_to__application":300,"is_of__device_type":5}`, 401, ""},
		{bob, "", "device/$count", "", 0, "3"},
		{eve, "", "device/$count", "", 0, "1"},
		{bob, "PATCH", "application(300)", `{"app_name":"x"}`, 403, `"you may not update this application"`},
		{bob, "DELETE", "application(300)", "", 403, `"you may not delete this application"`},
		// moving a row to where one may not, or may not see
		{bob, "PATCH", "device(200)", `{"belongs_to__application":200}`, 404, `"Application doesn't exist or you have no access to it."`},
		{bob, "PATCH", "device(200)", `{"belongs_to__application":300}`, 401, ""},
		{bob, "PATCH", "device(200)", `{"is_pinned_on__release":710}`, 401, ""},
		{bob, "PATCH", "application(100)", `{"organization":2}`, 401, ""},
		{bob, "PATCH", "device(200)", `{"belongs_to__application":null}`, 401, ""}, // it would be nobody's
		{bob, "", "device(200)?$select=belongs_to__application,is_pinned_on__release", "", 0, `[{"belongs_to__application":{"__id":100},"is_pinned_on__release":null}]`},
		// verbs that a kind never has
		{bob, "POST", "device_type", `{"slug":"x"}`, 403, `"a user may not create device_type"`},
		{bob, "DELETE", "release_tag(1)", "", 403, `"a user may not delete release_tag"`},
		{nobody, "POST", "device_type", `{"slug":"x"}`, 401, ""},
		{nobody, "PATCH", "device(200)", `{"note":"x"}`, 401, ""},
		{nobody, "DELETE", "application(300)", "", 401, ""},
		{bob, "POST", "nothing", `{}`, 401, ""},
		{bob, "DELETE", "nothing(1)", "", 401, ""},
		// a device key: its own row, its own fields; what old clients send is dropped
		{alpha, "PATCH", "device(200)", `{"memory_usage":1,"device_name":"mine"}`, 200, ""},
		{alpha, "PATCH", "device(200)", `{"device_name":"mine"}`, 200, ""},
		{alpha, "PATCH", "device(200)", `{"is_pinned_on__release":700}`, 403, `"\"is_pinned_on__release\" may not be written"`},
		{alpha, "PATCH", "device(200)", `{"note":"x"}`, 400, `"device has no property \"note\""`},
		{alpha, "PATCH", "device(201)", `{"memory_usage":1}`, 200, ""},
		{alpha, "PATCH", "device?$filter=true", `{"memory_usage":3}`, 200, ""},
		{alpha, "DELETE", "device(200)", "", 403, `"a device may not delete device"`},
		{alpha, "POST", "device_tag", `{"device":200,"tag_key":"k","value":"v"}`, 401, ""},
		{bob, "", "device?$select=memory_usage,device_name", "", 0,
			`[{"memory_usage":3,"device_name":"alpha"},{"memory_usage":null,"device_name":"beta"},{"memory_usage":128,"device_name":"gamma"}]`},
	})
}

func TestCanAccess(t *testing.T) {
	check(t, newServer(t), []exchange{
		{bob, "POST", "device(200)/canAccess", `{"action":"update"}`, 200, `{"d":[{"id":200}]}`},
		{bob, "POST", "device(uuid='aa11')/canAccess", `{"method":"DELETE"}`, 200, `{"d":[{"id":200}]}`},
		{bob, "POST", "device(250)/canAccess", `{"action":"read"}`, 401, ""},
		{bob, "POST", "application(300)/canAccess", `{"action":"read"}`, 200, `{"d":[{"id":300}]}`},
		{bob, "POST", "application(300)/canAccess", `{"action":"update"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":"ssh"}`, 200, `{"d":[{"id":100}]}`},
		{bob, "POST", "application(300)/canAccess", `{"action":"ssh"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":"reach-22"}`, 200, `{"d":[{"id":100}]}`},
		{bob, "POST", "application(300)/canAccess", `{"action":"reach-22"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":"reach-5"}`, 401, ""}, // which has a rule of its own
		{bob, "POST", "application(100)/canAccess", `{"action":"reach"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":"-"}`, 401, ""},
		{alpha, "POST", "application(100)/canAccess", `{"action":"ssh"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":"fly"}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":{"or":["fly","ssh"]}}`, 200, `{"d":[{"id":100}]}`},
		{bob, "POST", "application(300)/canAccess", `{"action":{"or":["update","ssh"]}}`, 401, ""},
		{bob, "POST", "application(300)/canAccess", `{"action":{"or":["update","read"]}}`, 200, `{"d":[{"id":300}]}`},
		{bob, "POST", "application(100)/canAccess", `{"action":{"or":[]}}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":{"or":"ssh"}}`, 401, ""},
		{bob, "POST", "application(100)/canAccess", `{"action":7}`, 401, ""},
		{bob, "POST", "device(uuid=@uuid)/canAccess?@uuid='aa11'", `{"action":"update"}`, 200, `{"d":[{"id":200}]}`},
		{bob, "POST", "application(100)/canAccess", `{}`, 401, ""},
		{bob, "POST", "application/canAccess", `{"action":"read"}`, 400, `"canAccess needs a key"`},
		{nobody, "POST", "device(200)/canAccess", `{"action":"read"}`, 401, ""},
	})
}

// TestPut: a PUT gives the row with a key its fields, or makes it.
func TestPut(t *testing.T) {
	check(t, newServer(t), []exchange{
		{bob, "PUT", "device(201)", `{"note":"put"}`, 200, ""},
		{bob, "MERGE", "device(202)", `{"note":"merged"}`, 200, ""},
		{bob, "", "device?$filter=id in (201,202)&$select=note", "", 0, `[{"note":"put"},{"note":"merged"}]`},
		{bob, "PUT", "device_tag(device=200,tag_key='site')", `{"value":"v2"}`, 200, ""},
		{bob, "PUT", "device_tag(device=200,tag_key='new')", `{"value":"v"}`, 201, `{"id":4,"device":{"__id":200},"tag_key":"new","value":"v"}`},
		{bob, "PUT", "device_tag(tag_key=@k,device=200)?@k='alias'", `{"value":"v","tag_key":"alias"}`, 201,
			`{"id":5,"device":{"__id":200},"tag_key":"alias","value":"v"}`},
		{bob, "PUT", "device_tag(device=200,tag_key='new')", `{"tag_key":"other","value":"v"}`, 200, ""},
		{bob, "PUT", "device_tag(device=200,tag_key='x')", `{"tag_key":"y","value":"v"}`, 400, `"\"tag_key\" is one thing in the key and another in the body"`},
		{bob, "PUT", "device_tag(99)", `{"device":200,"tag_key":"k","value":"v"}`, 404, `"there is no such device_tag, and an id cannot be chosen"`},
		{bob, "PUT", "device_tag(device=250,tag_key='k')", `{"value":"v"}`, 401, ""}, // as if the device were not there
		{bob, "PUT", "device_tag(3)", `{"value":"mine"}`, 404, `"there is no such device_tag, and an id cannot be chosen"`},
		{eve, "", "device_tag(3)?$select=value", "", 0, `[{"value":"x"}]`},
		{bob, "PUT", "device_tag", `{"value":"v"}`, 400, `"a PUT takes a key and nothing else"`},
		{bob, "PUT", "device_tag(1)?$filter=true", `{"value":"v"}`, 400, `"a PUT takes a key and nothing else"`},
		{nobody, "PUT", "device_tag(1)", `{"value":"v"}`, 401, ""},
	})
}
