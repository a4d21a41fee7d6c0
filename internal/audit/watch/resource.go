package watch

import (
	"context"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Resource declares the audit log: administrators read what was done in their organizations, everybody what was done by them or to them.
// Its ids refer to things that may be gone, so none is a reference, and 0 is none. Nobody writes it, and no key that is limited reads it.
func Resource() *odata.Resource {
	text := func(name string) odata.Column { return odata.Column{Name: name, Type: odata.String} }
	number := func(name string) odata.Column { return odata.Column{Name: name, Type: odata.Integer} }
	return &odata.Resource{
		Name: "audit_entry",
		Columns: []odata.Column{
			number("id"), {Name: "created_at", Type: odata.Date}, text("act"), text("result"), text("thing"), number("thing_id"), text("thing_name"),
			number("organization"), number("application"), number("about_user"), {Name: "is_support", Type: odata.Boolean},
			{Name: "detail", Type: odata.JSON, Null: true}, text("by_kind"), number("by_user"), number("by_key"), number("by_session"),
			text("by_name"), text("address"), text("request"), {Name: "seq", Type: odata.Integer, Null: true}, {Name: "hash", Type: odata.String, Null: true},
			{Name: "is_seen", Type: odata.Boolean, SQL: rights.SeesEntry(), Hidden: true},
		},
		Rules: map[access.Kind]odata.Rule{access.User: {Read: "is_seen"}},
	}
}

// View is what a person may read in an export.
func View(by access.Caller) audit.View {
	return func(tx *db.Tx) (string, []any) { return rights.Bind(rights.SeesEntry(), "x", tx, by) }
}

// Support marks an entry about an act on a device as one of a support grant if the caller acts by one.
func Support(ctx context.Context, tx *db.Tx, by access.Caller, e *audit.Entry) error {
	entries := []audit.By{{Caller: by, Entry: *e}}
	err := markSupport(ctx, tx, by, entries, access.Actions)
	*e = entries[0].Entry
	return err
}
