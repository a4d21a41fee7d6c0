package odata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// writer is one write: on what, by whom, under which rule.
type writer struct {
	e      *Engine
	ctx    context.Context // a writer lives for one call
	tx     *db.Tx
	caller access.Caller
	r      *resource
	rule   *rule
	d      *dialect.Dialect
	then   func(ctx context.Context) error // what a hook wants done after the commit, see Change.Then
}

// writer finds the resource and the caller's rule for a kind of write, or says that there is none.
func (e *Engine) writer(ctx context.Context, tx *db.Tx, caller access.Caller, s *schema, name string, op Op) (*writer, error) {
	w := &writer{e: e, ctx: ctx, tx: tx, caller: caller, r: s.byName[name], d: e.d}
	if w.r == nil {
		return nil, errUnauthorized
	}
	if caller.Kind == access.System {
		return w, nil
	}
	if w.rule = w.r.rules[caller.Kind]; w.rule == nil {
		return nil, errUnauthorized
	}
	if op == Create && w.r.only != nil {
		return nil, errUnauthorized
	}
	if w.filter(op) == nil {
		if caller.Kind == access.Anonymous {
			return nil, errUnauthorized
		}
		if text := w.r.Refused[op]; text != "" {
			return nil, api.Errorf(api.Forbidden, "%s", text)
		}
		return nil, api.Errorf(api.Forbidden, "a %s may not %s %s", caller.Kind, op, w.r.Name)
	}
	return w, nil
}

// in is the same write inside a transaction.
func (w *writer) in(tx *db.Tx) *writer {
	in := *w
	in.tx = tx
	return &in
}

func (w *writer) filter(op Op) syntax.Expr {
	switch op {
	case Create:
		return w.rule.create
	case Update:
		return w.rule.update
	}
	return w.rule.delete
}

// Insert makes one row, with the caller's rules and all hooks, and returns its id. On an error the transaction must be
// given up: the row may be there already.
func (e *Engine) Insert(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, values map[string]any) (int64, error) {
	w, err := e.writer(ctx, tx, caller, e.schema, resource, Create)
	if err != nil {
		return 0, err
	}
	return w.insert(values)
}

func (w *writer) insert(given map[string]any) (int64, error) {
	values, err := w.e.accept(w.r, w.rule, w.caller, given)
	if err != nil {
		return 0, err
	}
	if err := w.references(values, Create); err != nil {
		return 0, err
	}
	ch := &Change{Op: Create, Caller: w.caller, Values: values}
	chosen := slices.Collect(maps.Keys(values)) // by the caller, not by hooks
	if err := w.hooks(w.r.Before, ch); err != nil {
		return 0, err
	}
	w.stamp(ch.Values, "created_at")
	w.stamp(ch.Values, "modified_at")
	names, args, err := assignments(w.r.base, ch.Values)
	if err != nil {
		return 0, err
	}
	text := "INSERT INTO " + w.r.table + " DEFAULT VALUES RETURNING id"
	if len(names) > 0 {
		var cols, marks []string
		for i, n := range names {
			cols, marks = append(cols, dialect.Quote(n)), append(marks, w.d.Typed("?"+strconv.Itoa(i+1), args[i]))
		}
		text = "INSERT INTO " + w.r.table + " (" + strings.Join(cols, ",") + ") VALUES (" + strings.Join(marks, ",") + ") RETURNING id"
	}
	var id int64
	if err := w.tx.QueryRowContext(w.ctx, text, args...).Scan(&id); err != nil {
		return 0, w.refused(err, Create, nil)
	}
	ch.IDs = []int64{id}
	if err := w.holds(Create, ch.IDs); err != nil {
		return 0, err
	}
	if err := w.needs(chosen, ch.IDs); err != nil {
		return 0, err
	}
	return id, w.hooks(w.r.After, ch)
}

// Update changes one row. A row that the caller may not see is not found.
func (e *Engine) Update(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, id int64, values map[string]any) error {
	w, ids, err := e.one(ctx, tx, caller, resource, id, Update)
	if err != nil {
		return err
	}
	return w.update(ids, values)
}

// Remove deletes one row. A row that the caller may not see is not found.
func (e *Engine) Remove(ctx context.Context, tx *db.Tx, caller access.Caller, resource string, id int64) error {
	w, ids, err := e.one(ctx, tx, caller, resource, id, Delete)
	if err != nil {
		return err
	}
	return w.remove(ids)
}

func (e *Engine) one(ctx context.Context, tx *db.Tx, caller access.Caller, name string, id int64, op Op) (*writer, []int64, error) {
	w, err := e.writer(ctx, tx, caller, e.schema, name, op)
	if err != nil {
		return nil, nil, err
	}
	ids, err := w.targets(byID(name, id), op)
	if err == nil && len(ids) == 0 {
		err = api.Errorf(api.NotFound, "there is no %s %d", w.r.Name, id)
	}
	return w, ids, err
}

// update changes rows that targets found.
func (w *writer) update(ids []int64, given map[string]any) error {
	if len(given) == 0 {
		return invalid("No fields to update")
	}
	values, err := w.e.accept(w.r, w.rule, w.caller, given)
	if err != nil || len(ids) == 0 || len(values) == 0 {
		return err
	}
	if err := w.needs(slices.Collect(maps.Keys(values)), ids); err != nil {
		return err
	}
	if err := w.references(values, Update); err != nil {
		return err
	}
	ch := &Change{Op: Update, Caller: w.caller, IDs: ids, Values: values}
	if err := w.hooks(w.r.Before, ch); err != nil {
		return err
	}
	names, args, err := assignments(w.r.base, ch.Values)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		if _, given := ch.Values["modified_at"]; !given && w.stamp(ch.Values, "modified_at") {
			names, args = append(names, "modified_at"), append(args, w.tx.NowText())
		}
		var sets []string
		for i, n := range names {
			sets = append(sets, dialect.Quote(n)+" = "+w.d.Typed("?"+strconv.Itoa(i+1), args[i]))
		}
		args = append(args, w.d.IDs(ids))
		text := "UPDATE " + w.r.table + " SET " + strings.Join(sets, ", ") + " WHERE " + w.d.IDsIn("id", "?"+strconv.Itoa(len(args)))
		if _, err := w.tx.ExecContext(w.ctx, text, args...); err != nil {
			return w.refused(err, Update, ids)
		}
		if err := w.holds(Update, ids); err != nil {
			return err
		}
	}
	defer func() { w.then = ch.Then }()
	return w.hooks(w.r.After, ch)
}

// remove deletes rows that targets found.
func (w *writer) remove(ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	ch := &Change{Op: Delete, Caller: w.caller, IDs: ids}
	if err := w.hooks(w.r.Before, ch); err != nil {
		return err
	}
	text := "DELETE FROM " + w.r.table + " WHERE " + w.d.IDsIn("id", "?1")
	if _, err := w.tx.ExecContext(w.ctx, text, w.d.IDs(ids)); err != nil {
		return w.refused(err, Delete, ids)
	}
	return w.hooks(w.r.After, ch)
}

// stamp fills a time column that the resource has and nobody gave.
func (w *writer) stamp(values map[string]any, name string) bool {
	col := w.r.base.columns[name]
	if col == nil || col.Type != Date || col.SQL != "" {
		return false
	}
	if _, given := values[name]; !given {
		values[name] = w.tx.NowText()
	}
	return true
}

func (w *writer) hooks(list []Hook, ch *Change) error {
	for _, h := range list {
		if err := h(w.ctx, w.tx, ch); err != nil {
			return err
		}
	}
	return nil
}

// compiler compiles for the caller of the write.
func (w *writer) compiler(aliases map[string]syntax.Expr) *compiler {
	c := w.e.compiler(w.caller.Kind, aliases)
	c.staff = w.caller.Staff
	return c
}

// values are what the statement that a compiler made is run with.
func (w *writer) values(c *compiler) []any {
	return values(w.d, c.args, w.caller, w.tx.NowText(), nil)
}

// targets finds the rows that a request means, which the caller sees and may change. Rows that may not be changed are left
// out; when none of those that the caller sees may be changed, the verb is refused.
func (w *writer) targets(req *syntax.Request, op Op) ([]int64, error) {
	c := w.compiler(req.Aliases)
	s, where, err := c.selection(w.r, req, false)
	if err != nil {
		return nil, err
	}
	allowed := "TRUE"
	if w.rule != nil {
		rule, err := c.ruleFilter(s, w.filter(op))
		if err != nil {
			return nil, err
		}
		if rule != "" {
			allowed = rule
		}
	}
	text := "SELECT " + s.id() + ", " + allowed + " FROM " + s.from() + conditions(where) + " ORDER BY " + s.id()
	found, err := w.tx.QueryContext(w.ctx, text, w.values(c)...)
	if err != nil {
		return nil, rows.Refused(err)
	}
	defer func() { _ = found.Close() }() // Err tells what there is to tell
	var ids []int64
	seen := 0
	for ; found.Next(); seen++ {
		if seen >= w.e.lim.Top {
			return nil, invalid("the request would %s more than %d rows", op, w.e.lim.Top)
		}
		var id int64
		var may *bool
		if err := found.Scan(&id, &may); err != nil {
			return nil, fmt.Errorf("odata: %s %s: %w", op, w.r.Name, err)
		}
		if may != nil && *may {
			ids = append(ids, id)
		}
	}
	if err := found.Err(); err != nil {
		return nil, rows.Refused(err)
	}
	if seen > 0 && len(ids) == 0 {
		if w.caller.Kind == access.Anonymous {
			return nil, errUnauthorized
		}
		return nil, api.Errorf(api.Forbidden, "you may not %s this %s", op, w.r.Name)
	}
	return ids, nil
}

// holds checks that rows just written still are ones that the rule allows. If not, the whole write is undone by its error.
func (w *writer) holds(op Op, ids []int64) error {
	if w.rule == nil {
		return nil
	}
	n, err := w.satisfying(w.filter(op), ids)
	if err != nil {
		return err
	}
	if n != len(ids) {
		return errUnauthorized
	}
	return nil
}

// references checks that every row that a caller points to is one that the caller may see: nobody learns of, or ties
// something to, a row of somebody else.
func (w *writer) references(values map[string]any, op Op) error {
	if w.rule == nil {
		return nil
	}
	for name, v := range values {
		col := w.r.base.columns[name]
		id, isID := v.(int64)
		if col == nil || col.target == nil || !isID {
			continue
		}
		c := w.compiler(nil)
		s, err := c.open(col.target, scope{asked: true})
		if err != nil {
			return err
		}
		visible, err := w.mayPoint(c, s, name)
		if err != nil {
			return err
		}
		n := 0
		text := "SELECT count(*) FROM " + s.from() + conditions(append(visible, s.id()+" = "+c.bind(id)))
		if err := w.tx.QueryRowContext(w.ctx, text, w.values(c)...).Scan(&n); err != nil {
			return rows.Refused(err)
		}
		if n == 0 && op == Update && col.Unseen != "" {
			return api.Errorf(api.NotFound, "%s", col.Unseen)
		}
		if n == 0 {
			return errUnauthorized
		}
	}
	return nil
}

// mayPoint is the condition on the rows that the caller may point a foreign key to.
func (w *writer) mayPoint(c *compiler, to scope, name string) ([]string, error) {
	f, special := w.rule.refs[name]
	if !special {
		return c.visible(to)
	}
	sql, err := c.ruleFilter(to, f)
	if err != nil || sql == "" {
		return nil, err
	}
	return []string{sql}, nil
}

// needs checks that the rows are ones in which the caller may give these columns.
func (w *writer) needs(columns []string, ids []int64) error {
	if w.rule == nil {
		return nil
	}
	slices.Sort(columns)
	for _, name := range columns {
		f, more := w.rule.needs[name]
		if !more {
			continue
		}
		n, err := w.satisfying(f, ids)
		if err != nil {
			return err
		}
		if n != len(ids) {
			return api.Errorf(api.Forbidden, "you may not write %q here", name)
		}
	}
	return nil
}

// satisfying counts the rows that a rule's filter holds for.
func (w *writer) satisfying(f syntax.Expr, ids []int64) (n int, err error) {
	c := w.compiler(nil)
	s, err := c.open(w.r, scope{asked: true})
	if err != nil {
		return 0, err
	}
	rule, err := c.ruleFilter(s, f)
	if err != nil || rule == "" {
		return len(ids), err
	}
	text := "SELECT count(*) FROM " + s.from() + " WHERE " + c.d.IDsIn(s.id(), c.bind(w.d.IDs(ids))) + " AND " + rule
	if err := w.tx.QueryRowContext(w.ctx, text, w.values(c)...).Scan(&n); err != nil {
		return 0, rows.Refused(err)
	}
	return n, nil
}

// refused says in the dialect's words why the database did not take a write.
func (w *writer) refused(err error, op Op, ids []int64) error {
	names := db.Violated(err)
	switch {
	case db.IsUnique(err):
		return api.Errorf(api.Conflict, "%s", w.r.uniqueText(names))
	case db.IsForeignKey(err):
		if by := w.referencedBy(err, op, ids); by != "" {
			return api.Errorf(api.Conflict, "Data is referenced by %s.", by)
		}
		return api.Errorf(api.Conflict, "Foreign key constraint violated")
	case db.IsNotNull(err) && len(names) == 1:
		return invalid("%q cannot be null", names[0])
	case db.IsCheck(err):
		return invalid("a value is not one that %s allows", w.r.Name)
	case db.IsFull(err):
		return errors.Join(api.Errorf(api.Unavailable, "the server's disk is full"), err)
	}
	return fmt.Errorf("odata: %s %s: %w", op, w.r.Name, err)
}

func (r *resource) uniqueText(names []string) string {
	want := set(names)
	for key, text := range r.UniqueText {
		got := strings.Split(key, ",")
		match := len(got) == len(want)
		for _, n := range got {
			match = match && want[n]
		}
		if match {
			return text
		}
	}
	return "Unique key constraint violated"
}

// referencedBy names a resource whose rows point to ones that could not be deleted.
func (w *writer) referencedBy(err error, op Op, ids []int64) string {
	if op != Delete {
		return ""
	}
	if w.d.Blocks == "" {
		table := db.Referencing(err)
		for _, r := range w.e.schema.resources {
			if r.table == dialect.Quote(table) {
				return r.Name
			}
		}
		return ""
	}
	for _, r := range w.e.schema.resources {
		for _, def := range r.Columns {
			col := r.columns[def.Name]
			n := 0
			if col.target != w.r.base || w.tx.QueryRowContext(w.ctx, w.d.Blocks, r.table[1:len(r.table)-1], col.Name).Scan(&n) != nil || n == 0 {
				continue
			}
			text := "SELECT EXISTS (SELECT 1 FROM " + r.table + " WHERE " + w.d.IDsIn(dialect.Quote(col.Name), "?1") + ")"
			if w.tx.QueryRowContext(w.ctx, text, w.d.IDs(ids)).Scan(&n) == nil && n == 1 {
				return r.Name
			}
		}
	}
	return ""
}
