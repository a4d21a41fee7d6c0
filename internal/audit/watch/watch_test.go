package watch_test

import (
	"context"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// A resource that somebody declares tomorrow is under watch without a word about it: its hooks begin and end with those of the log. What
// people cannot write is left alone.
func TestNewResourcesAreWatched(t *testing.T) {
	order := ""
	own := func(name string) odata.Hook {
		return func(context.Context, *db.Tx, *odata.Change) error {
			order += name
			return nil
		}
	}
	may := func(r odata.Rule) map[access.Kind]odata.Rule { return map[access.Kind]odata.Rule{access.User: r} }
	id := odata.Column{Name: "id"}
	m := odata.Model{Resources: []*odata.Resource{
		{Name: "tomorrow", Columns: []odata.Column{id}, Rules: may(odata.Rule{Read: "true", Delete: "id eq @user"}), Before: []odata.Hook{own("b")}, After: []odata.Hook{own("a")}},
		{Name: "read_only", Columns: []odata.Column{id}, Rules: may(odata.Rule{Read: "true"}), Before: []odata.Hook{own("x")}},
		{Name: "of_devices", Columns: []odata.Column{id}, Rules: map[access.Kind]odata.Rule{access.Device: {Update: "true"}}},
	}}
	watch.Resources(m)
	for _, r := range m.Resources[1:] {
		if len(r.Before) > 1 || len(r.After) > 0 {
			t.Errorf("%s is watched", r.Name)
		}
	}
	w := m.Resources[0]
	if len(w.Before) != 3 || len(w.After) != 2 {
		t.Fatalf("%d hooks before and %d after, want 3 and 2", len(w.Before), len(w.After))
	}
	device := &odata.Change{Op: odata.Delete, Caller: access.Caller{Kind: access.Device}, IDs: []int64{1}}
	for _, h := range append(w.Before, w.After...) { // of a device nothing is recorded, and the database not even asked
		if err := h(t.Context(), nil, device); err != nil {
			t.Fatal(err)
		}
	}
	if order != "ba" {
		t.Errorf("its own hooks ran as %q", order)
	}
}

// Every resource of the log itself is read only.
func TestNobodyWritesTheLog(t *testing.T) {
	for kind, rule := range watch.Resource().Rules {
		if rule.Create+rule.Update+rule.Delete+strings.Join(rule.Write, "") != "" || kind != access.User {
			t.Errorf("%s: %+v", kind, rule)
		}
	}
}
