package odata

import (
	"strings"

	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// kinds is how the values of each type are written.
var kinds = map[Type]rows.Kind{
	Integer: rows.Number, BigInteger: rows.Digits, Real: rows.Fraction, Boolean: rows.Truth, String: rows.Text, Date: rows.Text,
	JSON: rows.JSON, ForeignKey: rows.Link, WebResource: rows.File,
}

// kind is how a column is written; of a computation that never gives null, no third way is asked for.
func (col *column) kind() rows.Kind {
	if col.Type == Boolean && col.sql != nil && !col.Null {
		return rows.Sure
	}
	return kinds[col.Type]
}

// builder collects the columns and joins of one statement.
type builder struct {
	columns []string
	index   map[string]int
	joins   strings.Builder
	level   *rows.Level
}

func (b *builder) column(sql string) int {
	i, ok := b.index[sql]
	if !ok {
		i = len(b.columns)
		b.columns, b.index[sql] = append(b.columns, sql), i
	}
	return i
}

func newBuilder() *builder {
	return &builder{index: map[string]int{}, level: &rows.Level{Parent: -1, Own: -1, Packed: -1}}
}

// plan compiles a whole GET. allowed narrows it to rows that a filter of the model's rules allows; nil: all that may be read.
func (c *compiler) plan(r *resource, req *syntax.Request, allowed syntax.Expr) (*rows.Plan, error) {
	w := window(r, req)
	if w == nil || allowed != nil {
		return c.whole(r, req, allowed, nil)
	}
	rest := newCompiler(c.d, c.kind, c.aliases)
	rest.rows, rest.staff, rest.few = c.rows, c.staff, true
	p, err := c.whole(r, req, nil, w)
	if err != nil || !w.narrows {
		return p, err
	}
	all, err := rest.whole(r, req, nil, nil)
	if err != nil {
		return nil, err
	}
	p.Root.Else, p.Root.Full = all.Root, req.Query.Top
	return p, nil
}

// whole compiles a GET that looks at the rows in a window only, or at all.
func (c *compiler) whole(r *resource, req *syntax.Request, allowed syntax.Expr, w *span) (*rows.Plan, error) {
	s, where, err := c.selection(r, req, w != nil)
	if err != nil {
		return nil, err
	}
	if allowed != nil {
		more, err := c.ruleFilter(s, allowed)
		if err != nil {
			return nil, err
		}
		if more != "" {
			where = append(where, more)
		}
	}
	if req.Action == "$count" {
		text := "SELECT count(*) FROM " + s.from() + conditions(where)
		return &rows.Plan{Count: true, Root: &rows.Level{Text: text, Args: c.args, Width: 1}}, nil
	}
	shown, from := s, s.from()
	page := c.page(&req.Query)
	if w != nil && len(where) > 0 {
		where = c.within(w, s, where)
	} else if found := c.d.Found(s.res.table, s.alias, conditions(where)); c.few && found != "" {
		from, where = found, nil
	}
	if c.d.Packs && page != "" && !byIDs(&req.Query) { // find the page first: only its rows are worth writing
		keys, err := c.orderKeys(s, &req.Query)
		if err != nil {
			return nil, err
		}
		if shown, err = c.open(r, scope{}); err != nil {
			return nil, err
		}
		from = "(SELECT " + s.id() + " AS id FROM " + from + conditions(where) + keys + page + ") _p CROSS JOIN " +
			shown.from() + " ON " + shown.id() + " = _p.id"
		where, page = nil, ""
	}
	b := newBuilder()
	b.level.Sorted = true
	if b.level.Row, err = c.row(shown, &req.Query, b, c.known(s.res)); err != nil {
		return nil, err
	}
	keys, err := c.orderKeys(shown, &req.Query)
	if err != nil {
		return nil, err
	}
	return &rows.Plan{Root: c.finish(b, from, where, keys, page)}, nil
}

// finish puts a statement together.
func (c *compiler) finish(b *builder, from string, where []string, keys, page string) *rows.Level {
	if c.d.Packs {
		b.pack()
	}
	l := b.level
	if len(b.columns) == 0 {
		b.columns = []string{"1"}
	}
	tail := " FROM " + from + b.joins.String() + conditions(where) + keys
	if l.Packed >= 0 && page == "" {
		page = " LIMIT " + c.bind(int64(c.rows)+1) // one more than may be: the runner refuses it
	}
	switch {
	case l.Packed >= 0 && (l.Parent >= 0 || len(l.Lists) > 0):
		l.Batch = true
		l.Text, l.Args, l.Width = b.batched(tail+page), c.args, 2
		return l
	case l.Packed >= 0:
		l.Whole = true
		l.Text = "SELECT count(*),group_concat(x,',') FROM (SELECT " + b.columns[l.Packed] + " AS x" + tail + page + ")"
		l.Args, l.Width = c.args, 2
		return l
	}
	l.Text = "SELECT " + strings.Join(b.columns, ",") + tail + page
	l.Args, l.Width = c.args, len(b.columns)
	return l
}

func conditions(where []string) string {
	if len(where) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(where, " AND ")
}

// known is what holds for every row of a resource that the caller was given.
func (c *compiler) known(r *resource) []syntax.Expr {
	if e := c.readRule(r); e != nil {
		return []syntax.Expr{e}
	}
	return nil
}

// row is the object of one row.
func (c *compiler) row(s scope, q *syntax.Query, b *builder, known []syntax.Expr) (*rows.Node, error) {
	n := &rows.Node{Present: -1}
	expanded := map[string]bool{}
	for _, e := range q.Expand {
		if expanded[e.Name] {
			return nil, invalid("%q is expanded twice", e.Name)
		}
		expanded[e.Name] = true
	}
	given := map[string]bool{}
	show := func(name string, col *column) {
		if !given[name] && !expanded[name] {
			given[name] = true
			n.Fields = append(n.Fields, &rows.Field{Key: jsonKey(name), Kind: col.kind(), Col: b.column(c.raw(s, col))})
		}
	}
	if q.Select == nil || q.All {
		for _, name := range s.res.order {
			if col := s.res.columns[name]; !col.Explicit && c.sees(s, col) {
				show(name, col)
			}
		}
	}
	for _, name := range q.Select {
		if expanded[name] {
			continue // the expanded rows win; expand checks the name
		}
		col, err := c.property(s, name)
		if err != nil {
			return nil, err
		}
		show(name, col)
	}
	var lists []*rows.Field // they come last, after all that one statement gives
	for i := range q.Expand {
		f, err := c.expand(s, &q.Expand[i], b, known)
		if err != nil {
			return nil, err
		}
		if f.List != nil {
			lists = append(lists, f)
		} else {
			n.Fields = append(n.Fields, f)
		}
	}
	n.Fields = append(n.Fields, lists...)
	return n, nil
}

// expand is what stands behind a navigation: rows, or their number.
func (c *compiler) expand(s scope, e *syntax.Expand, b *builder, known []syntax.Expr) (*rows.Field, error) {
	col, many, err := c.navigation(s, e.Name)
	if err != nil {
		return nil, err
	}
	f := &rows.Field{Key: jsonKey(e.Name), Kind: rows.Number}
	if many && !e.Count {
		f.At = len(b.level.Lists)
		b.level.Lists = append(b.level.Lists, f)
		f.Col = b.column(s.id())
		f.List, err = c.list(col, &e.Query, known)
		return f, err
	}
	s.asked = true
	var there []syntax.Expr
	if !many {
		there = beyond(col, known)
	}
	to, where, err := c.join(s, col, many, there...)
	if err != nil {
		return nil, err
	}
	if e.Query.Filter != nil {
		cond, err := c.condition(scope{res: to.res, alias: to.alias, asked: true}, e.Query.Filter)
		if err != nil {
			return nil, err
		}
		where = append(where, cond)
	}
	if e.Count {
		f.Col = b.column("(SELECT count(*) FROM " + to.from() + conditions(where) + ")")
		return f, nil
	}
	if e.Query.Top == 0 || e.Query.Skip > 0 {
		f.None = true
	}
	b.joins.WriteString(" LEFT JOIN " + to.from() + " ON " + strings.Join(where, " AND "))
	present := b.column(to.id())
	if f.One, err = c.row(to, &e.Query, b, append(there, c.known(to.res)...)); err == nil {
		f.One.Present = present
	}
	return f, err
}

// maxLevels bounds the statements of one request.
const maxLevels = 40

// list is the level of the rows that hang on others by a foreign key.
func (c *compiler) list(col *column, q *syntax.Query, known []syntax.Expr) (*rows.Level, error) {
	if c.levels++; c.levels > maxLevels {
		return nil, invalid("the request expands more than %d lists", maxLevels)
	}
	args, bound := c.args, c.bound // those of the statement above
	defer func() { c.args, c.bound = args, bound }()
	c.args, c.bound = nil, map[string]string{}

	ids := c.bind(parents{})
	s, err := c.open(col.of, scope{asked: true})
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	b.level.Parent, b.level.Own = b.column(c.raw(s, col)), b.column(s.id())
	b.level.Sorted = q.OrderBy != nil
	here := append(under(col, known), c.known(col.of)...)
	if b.level.Row, err = c.row(s, q, b, here); err != nil {
		return nil, err
	}
	keys := ""
	if b.level.Sorted {
		if keys, err = c.orderKeys(s, q); err != nil {
			return nil, err
		}
	}
	if q.Paged() {
		from, err := c.pages(col, q, known, ids, s)
		if err != nil {
			return nil, err
		}
		return c.finish(b, from, nil, keys, ""), nil
	}
	where, err := c.listed(s, q, under(col, known), c.d.IDsIn(c.raw(s, col), ids))
	if err != nil {
		return nil, err
	}
	return c.finish(b, s.from(), where, keys, ""), nil
}

// listed gives the conditions of an expanded list's rows.
func (c *compiler) listed(s scope, q *syntax.Query, known []syntax.Expr, tie string) ([]string, error) {
	rule, err := c.visible(s, known...)
	if err != nil {
		return nil, err
	}
	where := append([]string{tie}, rule...)
	if q.Filter != nil {
		cond, err := c.condition(s, q.Filter)
		if err != nil {
			return nil, err
		}
		where = append(where, cond)
	}
	return where, nil
}

// pages is the table of a list of which every parent shows only some rows: its first ones are found parent by parent, which an
// index can answer, and their columns are read after that.
func (c *compiler) pages(col *column, q *syntax.Query, known []syntax.Expr, ids string, s scope) (string, error) {
	inner, err := c.open(col.of, scope{asked: true})
	if err != nil {
		return "", err
	}
	where, err := c.listed(inner, q, under(col, known), c.raw(inner, col)+" = _p.value")
	if err != nil {
		return "", err
	}
	keys, err := c.orderKeys(inner, q)
	if err != nil {
		return "", err
	}
	find := "SELECT " + inner.id() + " AS id FROM " + inner.from() + conditions(where) + keys + c.page(q)
	return c.d.First(c.d.Each(ids, "_p"), find, s.res.table, s.alias), nil
}

func jsonKey(name string) string { return `"` + name + `":` }

// pack has SQLite write the objects of a statement's rows: the statement then gives one text instead of a column for each
// property, which costs this driver less than half. Rows whose lists hang on a row joined to them, and files, are left to the
// runner.
func (b *builder) pack() {
	l := b.level
	object, ok := rows.Object(l.Row, b.columns, true)
	if !ok {
		return
	}
	old := b.columns
	b.columns, b.index = nil, map[string]int{}
	if l.Parent >= 0 {
		l.Parent, l.Own = b.column(old[l.Parent]), b.column(old[l.Own])
	}
	row := &rows.Node{Present: -1}
	for _, f := range l.Row.Fields {
		if f.List != nil {
			f.Col = b.column(old[f.Col])
			row.Fields = append(row.Fields, f)
		}
	}
	l.Row, l.Packed = row, len(b.columns)
	b.columns = append(b.columns, object)
}

// batched is a statement that gives its rows in one, see [rows.Level].
func (b *builder) batched(tail string) string {
	return "SELECT count(*),group_concat(x,char(10)) FROM (SELECT " + dialect.Call("json_array", b.columns...) + " AS x" + tail + ")"
}
