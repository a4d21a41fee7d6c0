// Package watch writes into the audit log what people do to the resources of the API, and what support staff look at. It hangs itself
// around the resources where the model is put together, so that no package that declares one can forget it. It declares the log as a
// resource, too.
package watch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// manyRows is from how many rows on a write is one entry for each fleet instead of one for each row.
const manyRows = 20

// owners are the foreign keys along which a row's organization and fleet are found, the first of them that a resource has.
var owners = []string{
	"organization", "belongs_to__organization", "is_member_of__organization", "is_invited_to__organization", "application",
	"belongs_to__application", "is_member_of__application", "is_invited_to__application", "grants_access_to__application", "device",
	"service_install", "release", "is_part_of__release", "service", "is_a_build_of__service", "release_image", "is_member_of__team", "team",
	"organization_membership",
}

// names are the columns that a thing is called by, the first of them that a resource has.
var names = []string{"slug", "handle", "uuid", "username", "commit", "name", "service_name", "tag_key", "label_name", "title", "asset_key"}

// texts are the columns of text whose values are told, before and after. Of every other text only its column is: it may be a secret.
var texts = []string{
	"slug", "handle", "uuid", "username", "name", "app_name", "device_name", "service_name", "tag_key", "label_name", "title", "is_of__class",
	"raw_version", "release_version", "semver", "phase", "status", "os_version", "supervisor_version",
}

// watched is one resource that is watched.
type watched struct {
	*odata.Resource
	table   string
	columns map[string]odata.Column
	facts   string // query for id, organization, fleet, user, name of rows; a list of ids follows
}

// Resources puts every resource of a model that somebody may write under watch.
func Resources(m odata.Model) {
	byName := map[string]*odata.Resource{}
	for _, r := range m.Resources {
		byName[r.Name] = r
	}
	for _, r := range m.Resources {
		if r.View || !writable(r) {
			continue
		}
		w := &watched{Resource: r, table: tableOf(r), columns: map[string]odata.Column{}}
		for _, c := range r.Columns {
			if c.SQL == "" {
				w.columns[c.Name] = c
			}
		}
		w.facts = w.factsQuery(byName)
		if _, ok := w.columns[rights.SupportColumn]; ok {
			r.Before = append(slices.Clip(r.Before), rights.BoundSupport(r.Name))
		}
		r.Before = slices.Concat([]odata.Hook{w.deleting}, r.Before, []odata.Hook{w.updating})
		r.After = append(slices.Clip(r.After), w.created)
	}
}

// writable reports whether there is a rule by which people write a resource.
func writable(r *odata.Resource) bool {
	for _, kind := range []access.Kind{access.User, access.ScopedKey} {
		if rule := r.Rules[kind]; rule.Create+rule.Update+rule.Delete != "" {
			return true
		}
	}
	return false
}

func tableOf(r *odata.Resource) string {
	if r.Table != "" {
		return `"` + r.Table + `"`
	}
	return `"` + r.Name + `"`
}

// isPerson reports whether somebody's writes are told of. Devices write their own state, all the time; the server acts for people whose
// own write was told.
func isPerson(by access.Caller) bool { return by.Kind == access.User || by.Kind == access.ScopedKey }

// deleting runs before everything else that a deletion does: what the rows hang on is still there.
func (w *watched) deleting(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Delete || !isPerson(c.Caller) {
		return nil
	}
	return w.record(ctx, tx, c, c.Values, nil)
}

// updating runs after everything that may change what is written, and before it is.
func (w *watched) updating(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Update || !isPerson(c.Caller) || len(c.Values) == 0 {
		return nil
	}
	var before map[int64]map[string]any
	if len(c.IDs) <= manyRows {
		var err error
		if before, err = w.before(ctx, tx, c); err != nil {
			return err
		}
	}
	opening, rest := apart(c.Values)
	if len(opening) > 0 {
		if err := w.record(ctx, tx, c, opening, before); err != nil {
			return err
		}
	}
	if after, others := w.shown(rest); len(opening) > 0 && len(after)+len(others) == 0 {
		return nil
	}
	return w.record(ctx, tx, c, rest, before)
}

func (w *watched) created(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op != odata.Create || !isPerson(c.Caller) {
		return nil
	}
	if err := w.record(ctx, tx, c, c.Values, nil); err != nil {
		return err
	}
	if opening, _ := apart(c.Values); opening[rights.SupportColumn] != nil {
		return w.record(ctx, tx, c, opening, nil)
	}
	return nil
}

// apart takes what lets support in from the other values of a change: it is an act of its own, whatever is changed beside it.
func apart(values map[string]any) (opening, rest map[string]any) {
	until, given := values[rights.SupportColumn]
	if !given {
		return nil, values
	}
	rest = maps.Clone(values)
	delete(rest, rights.SupportColumn)
	return map[string]any{rights.SupportColumn: until}, rest
}

// fact is what an entry says of a row.
type fact struct {
	id, organization, fleet, user int64
	name                          string
}

// record writes the entries of a change, or of some of its values.
func (w *watched) record(ctx context.Context, tx *db.Tx, c *odata.Change, values map[string]any, before map[int64]map[string]any) error {
	facts, err := w.find(ctx, tx, c.IDs)
	if err != nil {
		return fmt.Errorf("audit %s of %s: %w", c.Op, w.Name, err)
	}
	after, others := w.shown(values)
	base := audit.Entry{Act: w.Name + "." + string(c.Op), Kind: w.Name}
	if until, opening := values[rights.SupportColumn]; opening && len(values) == 1 {
		base.Act = "support.enable"
		if text, _ := until.(string); text <= tx.NowText() {
			base.Act = "support.disable"
		}
	}
	detail := func() map[string]any {
		d := map[string]any{}
		if c.Op != odata.Delete && len(after) > 0 {
			d["after"] = after
		}
		if c.Op != odata.Delete && len(others) > 0 {
			d["columns"] = others
		}
		return d
	}
	var entries []audit.By
	if len(facts) > manyRows {
		entries = grouped(base, c.Caller, facts, detail)
	} else {
		for _, f := range facts {
			e := base
			e.ID, e.Name, e.Organization, e.Fleet, e.User, e.Detail = f.id, f.name, f.organization, f.fleet, f.user, detail()
			was := maps.Clone(before[f.id])
			maps.DeleteFunc(was, func(name string, _ any) bool { _, told := after[name]; return !told })
			if len(was) > 0 {
				e.Detail["before"] = was
			}
			entries = append(entries, audit.By{Caller: c.Caller, Entry: e})
		}
	}
	if err := markSupport(ctx, tx, c.Caller, entries, access.Devices); err != nil {
		return err
	}
	return audit.RecordAll(ctx, tx, entries)
}

// grouped makes one entry for all rows of a fleet, or of an organization, with their number and the ids of the first of them.
func grouped(base audit.Entry, by access.Caller, facts []fact, detail func() map[string]any) []audit.By {
	groups := map[fact][]int64{}
	for _, f := range facts {
		key := fact{organization: f.organization, fleet: f.fleet, user: f.user}
		groups[key] = append(groups[key], f.id)
	}
	var entries []audit.By
	for _, key := range slices.SortedFunc(maps.Keys(groups), func(a, b fact) int { return int(groups[a][0] - groups[b][0]) }) {
		e := base
		e.Organization, e.Fleet, e.User, e.Detail = key.organization, key.fleet, key.user, detail()
		e.Detail["rows"], e.Detail["first_ids"] = len(groups[key]), groups[key][:min(manyRows, len(groups[key]))]
		entries = append(entries, audit.By{Caller: by, Entry: e})
	}
	return entries
}

// markSupport marks the entries of acts that the caller has a right to only by a support grant.
func markSupport(ctx context.Context, tx *db.Tx, by access.Caller, entries []audit.By, need access.Verbs) error {
	if !by.Staff {
		return nil
	}
	known := map[int64]bool{0: false}
	for i := range entries {
		fleet := entries[i].Fleet
		granted, ok := known[fleet]
		if !ok {
			var err error
			if granted, err = rights.ByGrant(ctx, tx, by, fleet, need); err != nil {
				return err
			}
			known[fleet] = granted
		}
		entries[i].Support = granted
	}
	return nil
}

// shown sorts the columns of a change into those whose values may be told and the names of the others.
func (w *watched) shown(values map[string]any) (after map[string]any, others []string) {
	after = map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case bookkeeping(name):
		case w.tells(name):
			after[name] = values[name]
		default:
			others = append(others, name)
		}
	}
	return after, others
}

// bookkeeping are columns that the server fills by itself.
func bookkeeping(name string) bool {
	return name == "created_at" || name == "modified_at" || name == "actor"
}

// tells reports whether the values of a column may be told.
func (w *watched) tells(name string) bool {
	c, stored := w.columns[name]
	if !stored || c.Hidden || c.Read != "" && name != rights.SupportColumn {
		return false
	}
	switch c.Type {
	case odata.Integer, odata.BigInteger, odata.Boolean, odata.Date, odata.ForeignKey:
		return true
	case odata.String:
		return slices.Contains(texts, name) || name == "value" && strings.HasSuffix(w.Name, "_tag")
	default:
		return false
	}
}

// before reads what the columns that may be told are before the change.
func (w *watched) before(ctx context.Context, tx *db.Tx, c *odata.Change) (map[int64]map[string]any, error) {
	var cols []string
	for name := range c.Values {
		if w.tells(name) && !bookkeeping(name) {
			cols = append(cols, name)
		}
	}
	if len(cols) == 0 {
		return nil, nil
	}
	slices.Sort(cols)
	list, args := db.In(c.IDs)
	rows, err := tx.QueryContext(ctx, `SELECT id, "`+strings.Join(cols, `", "`)+`" FROM `+w.table+` WHERE id IN `+list, args...)
	if err != nil {
		return nil, fmt.Errorf("audit %s of %s: %w", c.Op, w.Name, err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	out := map[int64]map[string]any{}
	for rows.Next() {
		var id int64
		values := make([]any, len(cols))
		into := []any{&id}
		for i := range values {
			into = append(into, &values[i])
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		out[id] = map[string]any{}
		for i, name := range cols {
			out[id][name] = w.value(name, values[i])
		}
	}
	return out, rows.Err()
}

// value is a stored value as the API shows it.
func (w *watched) value(name string, v any) any {
	switch given := v.(type) {
	case []byte:
		return string(given)
	case int64:
		if w.columns[name].Type == odata.Boolean {
			return given != 0
		}
	}
	return v
}

// find reads whose rows are.
func (w *watched) find(ctx context.Context, tx *db.Tx, ids []int64) ([]fact, error) {
	list, args := db.In(ids)
	rows, err := tx.QueryContext(ctx, w.facts+list+` ORDER BY t0.id`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var out []fact
	for rows.Next() {
		var f fact
		if err := rows.Scan(&f.id, &f.organization, &f.fleet, &f.user, &f.name); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, rows.Err()
}

// factsQuery follows the owners' keys from a resource up to an organization.
func (w *watched) factsQuery(byName map[string]*odata.Resource) string {
	if w.Name == "api_key" { // of an actor, which is one of three things
		return `SELECT t0.id, coalesce(f.organization, g.organization, u.is_service_account_of__organization, 0), coalesce(f.id, g.id, 0), coalesce(u.id, 0), coalesce(t0.name, '')
			FROM api_key t0 LEFT JOIN "user" u ON u.actor = t0.is_of__actor LEFT JOIN application f ON f.actor = t0.is_of__actor
			LEFT JOIN device d ON d.actor = t0.is_of__actor LEFT JOIN application g ON g.id = d.belongs_to__application WHERE t0.id IN `
	}
	organization, fleet, user, name := "0", "0", "0", "''"
	joins := ""
	r := w.Resource
	for i := 0; ; i++ {
		at := fmt.Sprintf("t%d", i)
		if r.Name == "application" {
			fleet = at + ".id"
		}
		if r.Name == "organization" {
			organization = at + ".id"
			break
		}
		key, ok := owner(r)
		if !ok {
			break
		}
		r = byName[key.To]
		joins += fmt.Sprintf(` LEFT JOIN %s t%d ON t%d.id = %s."%s"`, tableOf(r), i+1, i+1, at, key.Name)
	}
	for _, n := range names {
		if c, ok := w.columns[n]; ok && c.Type == odata.String {
			name = `t0."` + n + `"`
			break
		}
	}
	switch c, ok := w.columns["user"]; {
	case ok && c.To == "user":
		user = `t0."user"`
		joins += ` LEFT JOIN "user" u ON u.id = t0."user"`
		if name == "''" {
			name = "u.username"
		}
	case w.Name == "user":
		user = "t0.id"
	}
	return `SELECT t0.id, coalesce(` + organization + `, 0), coalesce(` + fleet + `, 0), coalesce(` + user + `, 0), coalesce(` + name + `, '')
		FROM ` + w.table + ` t0` + joins + ` WHERE t0.id IN `
}

// owner is the first of the owners' keys that a resource has.
func owner(r *odata.Resource) (odata.Column, bool) {
	for _, name := range owners {
		for _, c := range r.Columns {
			if c.Name == name && c.Type == odata.ForeignKey && c.SQL == "" && c.To != r.Name {
				return c, true
			}
		}
	}
	return odata.Column{}, false
}
