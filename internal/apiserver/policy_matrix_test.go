package apiserver

import (
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// Everybody × every resource × every verb × a row of their own fleet, of the fleet beside it, of a public one, of another tenant, and
// one that is not there. What may be is told in the tables of this package's policy tests, which nobody computed from the rules.
func TestPolicyMatrix(t *testing.T) {
	w := newPolicyWorld(t, policySQL(t))
	a := w.asker()
	tried := map[string]int{}
	for _, name := range w.names() {
		p := w.people[name]
		grantee := "sue"
		if strings.HasPrefix(name, "sam") {
			grantee = "sam"
		}
		w.grant(grantee)
		for _, r := range allRows() {
			for _, c := range w.cellsOf(p, r) {
				tried[c.verb]++
				if wrong := c.try(a); wrong != "" {
					t.Errorf("%s × %s × %s × %s: %s", p.name, r.name, c.verb, c.place, wrong)
				}
			}
		}
	}
	total := 0
	for _, n := range tried {
		total += n
	}
	t.Logf("%d cells: %d somebodies, %d resources, %v", total, len(w.people), len(allRows()), tried)
}

// policySQL is the database of these tests: a file, or the server of the tests.
func policySQL(t testing.TB) string { return dbtest.Config(t, Migrations()...).DSN }

func (w *world) names() (names []string) {
	for name := range w.people {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// A resource that is in no table has not been thought about.
func TestEveryResourceIsInAPolicyTable(t *testing.T) {
	w := newPolicyWorld(t, "")
	var known []string
	for _, r := range allRows() {
		known = append(known, r.name)
		if inFleets[r.name] == nil && inOrganizations[r.name] == nil && inOwn[r.name] == nil {
			t.Errorf("%s is in no table", r.name)
		}
	}
	for name, p := range w.people {
		if p.own == "" {
			t.Errorf("the table of what is somebody's own has no column for %s", name)
		}
	}
	var declared []string
	for _, r := range w.server.model().Resources {
		declared = append(declared, r.Name)
		if !slices.Contains(known, r.Name) {
			t.Errorf("no table says who may do what with %s", r.Name)
		}
	}
	for _, name := range known {
		if !slices.Contains(declared, name) {
			t.Errorf("the tables speak of %s, which is no resource", name)
		}
	}
}
