package odata_test

import (
	"slices"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// A column may ask more of a row than the rule does, and say which rows it may be pointed to.
func TestNeedsAndRefs(t *testing.T) {
	s := newServer(t, func(c *odata.Config) {
		i := slices.IndexFunc(c.Model.Resources, func(r *odata.Resource) bool { return r.Name == "device" })
		rule := c.Model.Resources[i].Rules[access.User]
		rule.Needs = map[string]string{"note": "device_name ne 'beta'"}
		rule.Refs = map[string]string{"is_pinned_on__release": "belongs_to__application/any(a:a/id eq 100)"}
		c.Model.Resources[i].Rules[access.User] = rule
	})
	refused := `"you may not write \"note\" here"`
	check(t, s, []exchange{
		{bob, "PATCH", "device(202)", `{"note":"hello"}`, 200, ""},
		{bob, "PATCH", "device(202)", `{"device_name":"beta","note":"x"}`, 200, ""}, // the row as it was
		{bob, "PATCH", "device(202)", `{"note":"y"}`, 403, refused},
		{bob, "PATCH", "device(202)", `{"memory_usage":1}`, 200, ""},
		{bob, "PATCH", "device?$filter=id in (200,202)", `{"note":"z"}`, 403, refused},
		{bob, "", "device?$filter=id in (200,202)&$orderby=id asc&$select=note", "", 0, `[{"note":"it's ok"},{"note":"x"}]`},
		{bob, "POST", "device", `{"uuid":"ff","device_name":"beta","note":"n","is_of__device_type":5,"belongs_to__application":100}`, 403, refused},
		{bob, "PATCH", "device(200)", `{"is_pinned_on__release":700}`, 200, ""},
		{bob, "PATCH", "device(200)", `{"is_pinned_on__release":720}`, 401, ""},
	})
}

// A slip in these filters stops the server from starting, like one in any other.
func TestNeedsAndRefsAreChecked(t *testing.T) {
	for name, spoil := range map[string]func(*odata.Rule){
		"no such column":     func(r *odata.Rule) { r.Needs = map[string]string{"nose": "true"} },
		"not writable":       func(r *odata.Rule) { r.Needs = map[string]string{"id": "true"} },
		"does not parse":     func(r *odata.Rule) { r.Needs = map[string]string{"note": "id eq"} },
		"unknown property":   func(r *odata.Rule) { r.Needs = map[string]string{"note": "nose eq 1"} },
		"no foreign key":     func(r *odata.Rule) { r.Refs = map[string]string{"note": "true"} },
		"not of the target":  func(r *odata.Rule) { r.Refs = map[string]string{"is_pinned_on__release": "device_name eq 'x'"} },
		"no name for caller": func(r *odata.Rule) { r.Refs = map[string]string{"is_pinned_on__release": "id eq @who"} },
	} {
		m := testModel()
		i := slices.IndexFunc(m.Resources, func(r *odata.Resource) bool { return r.Name == "device" })
		rule := m.Resources[i].Rules[access.User]
		spoil(&rule)
		m.Resources[i].Rules[access.User] = rule
		if _, err := odata.New(odata.Config{Model: m, DB: newServer(t).db}); err == nil {
			t.Errorf("%s: the model is accepted", name)
		}
	}
}
