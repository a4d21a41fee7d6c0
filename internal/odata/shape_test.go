package odata_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const shapedSchema = `-- +goose Up
CREATE TABLE fleet (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE device (id INTEGER PRIMARY KEY, fleet INTEGER NOT NULL);
INSERT INTO fleet VALUES (1, 'one');
INSERT INTO device VALUES (1, 1);
`

// A statement is written for who asks and for how its rows are found. Each shape of this rule holds in its own case only, which a
// real one must not: that shows which of them was taken.
func TestShapes(t *testing.T) {
	var only odata.Shape
	shaped := func(s odata.Shape) string {
		if s == only {
			return "({t}.id = 1)"
		}
		return "({t}.id = 0)"
	}
	rules := map[access.Kind]odata.Rule{access.User: {Read: "is_seen"}, access.ScopedKey: {Read: "is_seen"}}
	seen := odata.Column{Name: "is_seen", Type: odata.Boolean, Hidden: true, SQL: "({t}.id = 0)", Shaped: shaped}
	model := odata.Model{Resources: []*odata.Resource{
		{Name: "fleet", Keys: [][]string{{"name"}}, Rules: rules, Columns: []odata.Column{id(), text("name"), seen}},
		{Name: "device", Rules: map[access.Kind]odata.Rule{access.User: {Read: "true"}, access.ScopedKey: {Read: "true"}},
			Columns: []odata.Column{id(), key("fleet", "fleet", "owns__device")}},
	}}
	d := dbtest.Open(t, nil, dbtest.Schema("0001_shaped.sql", shapedSchema))
	user, staff := person(1), person(1)
	staff.Staff = true
	scoped := access.Caller{Kind: access.ScopedKey, User: 1}
	for _, c := range []struct {
		as    access.Caller
		url   string
		shape odata.Shape
	}{
		{user, "fleet?$select=id", odata.Shape{}},
		{staff, "fleet?$select=id", odata.Shape{Staff: true}},
		{scoped, "fleet?$select=id", odata.Shape{Scoped: true}},
		{user, "fleet?$select=id&$filter=startswith(name,'o')", odata.Shape{}},
		{user, "fleet(1)?$select=id", odata.Shape{Asked: true}},
		{staff, "fleet(name='one')?$select=id", odata.Shape{Staff: true, Asked: true}},
		{user, "fleet?$select=id&$top=1", odata.Shape{Asked: true}},
		{user, "device?$select=id&$expand=fleet($select=id)", odata.Shape{Asked: true}},
	} {
		for _, only = range []odata.Shape{c.shape, {Scoped: true, Staff: true}} {
			e, err := odata.New(odata.Config{DB: d, Prefixes: []string{"/v7/"}, Model: model})
			if err != nil {
				t.Fatal(err)
			}
			s := &server{e, d, t}
			want := `[]`
			if only == c.shape {
				want = `[{"id":1}]`
			}
			got := s.rows(c.as, c.url)
			if c.url == "device?$select=id&$expand=fleet($select=id)" {
				want = `[{"id":1,"fleet":` + want + `}]`
			}
			if got != want {
				t.Errorf("%s as %s with only %+v: got %s, want %s", c.url, c.as.Kind, only, got, want)
			}
		}
	}
}
