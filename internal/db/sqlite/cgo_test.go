//go:build cgo

package sqlite_test

import (
	"strings"
	"testing"
)

// Where a plan would depend on the values that are bound, the C library would make it anew for each of them: so it must not.
func TestAPlanDoesNotDependOnValues(t *testing.T) {
	d := open(t)
	if _, err := d.Exec(`CREATE INDEX some ON device (fleet) WHERE kind = 'x'`); err != nil {
		t.Fatal(err)
	}
	plan := func(query string, args ...any) string {
		var id, parent, unused int
		var text string
		if err := d.QueryRow(`EXPLAIN QUERY PLAN `+query, args...).Scan(&id, &parent, &unused, &text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if got := plan(`SELECT id FROM device WHERE fleet = 1 AND kind = 'x'`); !strings.Contains(got, "INDEX some") {
		t.Errorf("the index is of no use: %s", got)
	}
	if got := plan(`SELECT id FROM device WHERE fleet = 1 AND kind = ?`, "x"); strings.Contains(got, "INDEX some") {
		t.Errorf("the plan knows the value: %s", got)
	}
}
