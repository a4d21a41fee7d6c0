package odata_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// olderVersion is to the test model what /v6/ is to the real one.
func olderVersion() odata.Version {
	number := func(name, of string) odata.OlderColumn {
		return odata.OlderColumn{Column: odata.Column{Name: name}, Of: of}
	}
	runs := odata.OlderColumn{Of: "is_pinned_on__release", Column: odata.Column{
		Name: "should_be_running__release", Type: odata.ForeignKey, To: "release", Reverse: []string{"should_run_on__device"}}}
	return odata.Version{Prefix: "/v6/", Resources: []odata.Older{
		{Name: "device", Gone: []string{"cpu_temp"}, Columns: []odata.OlderColumn{runs,
			{Column: odata.Column{Name: "logs_channel", Type: odata.String, Null: true, SQL: "CAST(NULL AS TEXT)"}},
			{Column: odata.Column{Name: "name_and_id", Type: odata.String, SQL: "{t}.device_name || '/' || {t}.id"}},
		}},
		{Name: "device_type", Columns: []odata.OlderColumn{{Column: odata.Column{Name: "contract", Type: odata.String}, Of: "contract"}}},
		{Name: "image", Columns: []odata.OlderColumn{number("image_size", "image_size")}},
		{Name: "service", Columns: []odata.OlderColumn{number("application", "application")}},
		{Name: "my_application", Of: "application", Only: "is_directly_accessible_by__user/any(u:u/user eq @user)"},
		{Name: "os_release", Of: "release", Only: "belongs_to__application/any(a:a/is_host)", Columns: []odata.OlderColumn{
			{Column: odata.Column{Name: "version", Type: odata.String}, Of: "commit"},
		}},
	}}
}

func TestOlderVersion(t *testing.T) {
	s := newServer(t, func(c *odata.Config) { c.Versions = []odata.Version{olderVersion()} })
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		as           string
		method, url  string
		body, answer string
		status       int
	}{
		{"bob", "GET", "device(200)?$select=uuid,should_be_running__release,logs_channel,name_and_id", "",
			`{"d":[{"uuid":"aa11","should_be_running__release":null,"logs_channel":null,"name_and_id":"alpha/200"}]}`, 200},
		{"bob", "GET", "device(200)?$select=cpu_temp", "", `"device has no property \"cpu_temp\""`, 400},
		{"bob", "GET", "device(200)?$select=is_pinned_on__release", "", `"device has no property \"is_pinned_on__release\""`, 400},
		{"bob", "PATCH", "device(uuid='aa11')", `{"should_be_running__release":700}`, "OK", 200},
		{"bob", "GET", "device?$filter=should_be_running__release/commit eq 'c0ffee'&$select=id&$expand=should_be_running__release($select=id)", "",
			`{"d":[{"id":200,"should_be_running__release":[{"id":700}]}]}`, 200},
		{"bob", "GET", "release(700)?$select=id&$expand=should_run_on__device($select=uuid)", "",
			`{"d":[{"id":700,"should_run_on__device":[{"uuid":"aa11"}]}]}`, 200},
		{"bob", "PATCH", "device(uuid='aa11')", `{"should_be_running__release":710}`, "", 401}, // eve's
		{"bob", "PATCH", "device(uuid='aa11')", `{"logs_channel":"x"}`, `"\"logs_channel\" may not be written"`, 403},
		{"bob", "GET", "device_type(5)?$select=contract", "", `{"d":[{"contract":"{\"slug\":\"pi\",\"data\":{\"led\":true}}"}]}`, 200},
		{"bob", "GET", "image(80)?$select=image_size", "", `{"d":[{"image_size":9007199254740993}]}`, 200},
		{"bob", "GET", "service(60)?$select=application", "", `{"d":[{"application":100}]}`, 200},
		{"bob", "GET", "service?$filter=application eq 100&$select=id", "", `{"d":[{"id":60},{"id":61}]}`, 200},
		{"bob", "GET", "my_application?$select=id", "", `{"d":[{"id":100},{"id":101}]}`, 200},
		{"bob", "GET", "my_application(300)?$select=id", "", `{"d":[]}`, 200},
		{"bob", "GET", "application(300)?$select=id", "", `{"d":[{"id":300}]}`, 200},
		{"nobody", "GET", "my_application?$select=id", "", `{"d":[]}`, 200},
		{"bob", "POST", "my_application", `{"app_name":"x"}`, "", 401},
		{"bob", "PATCH", "my_application(100)", `{"app_name":"renamed"}`, "OK", 200},
		{"bob", "PATCH", "my_application(200)", `{"app_name":"renamed"}`, "OK", 200}, // there is none that he sees
		{"bob", "GET", "application?$select=id,app_name", "", `{"d":[{"id":100,"app_name":"renamed"},{"id":101,"app_name":"g"},{"id":300,"app_name":"os"}]}`, 200},
		{"eve", "GET", "application(200)?$select=app_name", "", `{"d":[{"app_name":"f"}]}`, 200},
		{"eve", "GET", "os_release?$select=version&$expand=belongs_to__application($select=slug)", "",
			`{"d":[{"version":"05","belongs_to__application":[{"slug":"balena_os/pi"}]}]}`, 200},
		{"bob", "GET", "nothing", "", "", 401},
		{"bob", "GET", "os_release/$count", "", `{"d":1}`, 200}, // of a public fleet
	} {
		a := s.do(map[string]access.Caller{"bob": bob, "eve": eve, "nobody": nobody}[c.as], c.method, "/v6/"+c.url, c.body)
		if a.status != c.status || a.body != c.answer {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.url, a.status, a.body, c.status, c.answer)
		}
	}
	// What an older version calls otherwise, the model does not know.
	if a := s.do(bob, "GET", "/v7/my_application", ""); a.status != 401 {
		t.Errorf("/v7/my_application: got %d %s", a.status, a.body)
	}
}

// TestOlderVersionRefuses: a translation of something that is not there stops the start.
func TestOlderVersionRefuses(t *testing.T) {
	for want, o := range map[string]odata.Older{
		"which is no resource": {Name: "x", Of: "nope"},
		"never was":            {Name: "device", Gone: []string{"nope"}},
		"which is no column":   {Name: "device", Columns: []odata.OlderColumn{{Column: odata.Column{Name: "a"}, Of: "nope"}}},
		"of nothing":           {Name: "device", Columns: []odata.OlderColumn{{Column: odata.Column{Name: "a"}}}},
		"only":                 {Name: "x", Of: "device", Only: "nope eq 1"},
	} {
		_, err := odata.New(odata.Config{Model: testModel(), Versions: []odata.Version{{Prefix: "/v6/", Resources: []odata.Older{o}}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", o, err, want)
		}
	}
}
