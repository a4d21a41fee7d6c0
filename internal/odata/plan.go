package odata

import (
	"strings"

	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// A plan is a compiled GET: one statement for the rows of the resource and of every link to one row, and one more for each
// expanded list, for all its parents at once. The statements give plain columns, or objects without their lists; [runner] writes
// the rest of the JSON.
type plan struct {
	count bool // the statement gives a number and nothing else
	root  *level
}

// size is about how much memory a plan takes.
func (l *level) size() int {
	n := len(l.text) + 64*len(l.args) + 512
	for _, f := range l.lists {
		n += f.list.size()
	}
	return n
}

// level is one statement with the shape of its rows.
type level struct {
	text  string
	args  []any
	width int // columns
	row   *node
	// Of an expanded list: the columns with the parent's id and the row's own.
	parent, own int
	packed      int      // the column that holds the object of the row but for its lists; -1: there is none
	whole       bool     // the statement gives one row: how many there are, and all their objects with commas between
	sorted      bool     // the statement gives the rows in order; otherwise they are put in the order of their ids
	lists       []*field // the expanded lists of its rows, at any depth of links to one row
}

// node is the object of one row, or of a row joined to it.
type node struct {
	present int // the column that is null when there is no such row; -1: there always is
	fields  []*field
}

// field is one property.
type field struct {
	key  string // "name":
	kind Type
	col  int
	// one is the row behind a link; list the level of an expanded list, whose rows hang on the id in column col. none is a link
	// that is asked to show nothing.
	one  *node
	list *level
	none bool
	at   int // of a list: its place in the level's lists
}

// builder collects the columns and joins of one statement.
type builder struct {
	columns []string
	index   map[string]int
	joins   strings.Builder
	level   *level
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
	return &builder{index: map[string]int{}, level: &level{parent: -1, own: -1, packed: -1}}
}

// plan compiles a whole GET. allowed narrows it to rows that a filter of the model's rules allows; nil: all that may be read.
func (c *compiler) plan(r *resource, req *syntax.Request, allowed syntax.Expr) (*plan, error) {
	s, where, err := c.selection(r, req)
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
		return &plan{count: true, root: &level{text: text, args: c.args, width: 1}}, nil
	}
	shown, from := s, s.from()
	page := c.page(&req.Query)
	if c.d.packs && req.Query.OrderBy != nil && page != "" { // find the page first: only its rows are worth writing
		keys, err := c.orderKeys(s, &req.Query)
		if err != nil {
			return nil, err
		}
		if shown, err = c.open(r, scope{}); err != nil {
			return nil, err
		}
		from = "(SELECT " + s.id() + " AS id FROM " + s.from() + conditions(where) + keys + page + ") _p CROSS JOIN " +
			shown.from() + " ON " + shown.id() + " = _p.id"
		where, page = nil, ""
	}
	b := newBuilder()
	b.level.sorted = true
	if b.level.row, err = c.row(shown, &req.Query, b, c.known(s.res)); err != nil {
		return nil, err
	}
	keys, err := c.orderKeys(shown, &req.Query)
	if err != nil {
		return nil, err
	}
	return &plan{root: c.finish(b, from, where, keys, page)}, nil
}

// finish puts a statement together.
func (c *compiler) finish(b *builder, from string, where []string, keys, page string) *level {
	if c.d.packs {
		b.pack()
	}
	l := b.level
	if len(b.columns) == 0 {
		b.columns = []string{"1"}
	}
	tail := " FROM " + from + b.joins.String() + conditions(where) + keys
	if l.packed >= 0 && l.parent < 0 && len(l.lists) == 0 {
		l.whole = true
		if page == "" {
			page = " LIMIT " + c.bind(int64(c.rows)+1) // one more than may be: the runner refuses it
		}
		l.text = "SELECT count(*),group_concat(x,',') FROM (SELECT " + b.columns[l.packed] + " AS x" + tail + page + ")"
		l.args, l.width = c.args, 2
		return l
	}
	l.text = "SELECT " + strings.Join(b.columns, ",") + tail + page
	l.args, l.width = c.args, len(b.columns)
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
func (c *compiler) row(s scope, q *syntax.Query, b *builder, known []syntax.Expr) (*node, error) {
	n := &node{present: -1}
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
			n.fields = append(n.fields, &field{key: jsonKey(name), kind: col.Type, col: b.column(c.raw(s, col))})
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
	var lists []*field // they come last, after all that one statement gives
	for i := range q.Expand {
		f, err := c.expand(s, &q.Expand[i], b, known)
		if err != nil {
			return nil, err
		}
		if f.list != nil {
			lists = append(lists, f)
		} else {
			n.fields = append(n.fields, f)
		}
	}
	n.fields = append(n.fields, lists...)
	return n, nil
}

// expand is what stands behind a navigation: rows, or their number.
func (c *compiler) expand(s scope, e *syntax.Expand, b *builder, known []syntax.Expr) (*field, error) {
	col, many, err := c.navigation(s, e.Name)
	if err != nil {
		return nil, err
	}
	f := &field{key: jsonKey(e.Name), kind: Integer}
	if many && !e.Count {
		f.at = len(b.level.lists)
		b.level.lists = append(b.level.lists, f)
		f.col = b.column(s.id())
		f.list, err = c.list(col, &e.Query, known)
		return f, err
	}
	var there []syntax.Expr
	if !many {
		there = beyond(col, known)
	}
	to, where, err := c.join(s, col, many, there...)
	if err != nil {
		return nil, err
	}
	if e.Query.Filter != nil {
		cond, err := c.condition(scope{res: to.res, alias: to.alias}, e.Query.Filter)
		if err != nil {
			return nil, err
		}
		where = append(where, cond)
	}
	if e.Count {
		f.col = b.column("(SELECT count(*) FROM " + to.from() + conditions(where) + ")")
		return f, nil
	}
	if e.Query.Top == 0 || e.Query.Skip > 0 {
		f.none = true
	}
	b.joins.WriteString(" LEFT JOIN " + to.from() + " ON " + strings.Join(where, " AND "))
	present := b.column(to.id())
	if f.one, err = c.row(to, &e.Query, b, append(there, c.known(to.res)...)); err == nil {
		f.one.present = present
	}
	return f, err
}

// maxLevels bounds the statements of one request.
const maxLevels = 40

// list is the level of the rows that hang on others by a foreign key.
func (c *compiler) list(col *column, q *syntax.Query, known []syntax.Expr) (*level, error) {
	if c.levels++; c.levels > maxLevels {
		return nil, invalid("the request expands more than %d lists", maxLevels)
	}
	args, bound := c.args, c.bound // those of the statement above
	defer func() { c.args, c.bound = args, bound }()
	c.args, c.bound = nil, map[string]string{}

	ids := c.bind(parents{})
	s, err := c.open(col.of, scope{})
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	b.level.parent, b.level.own = b.column(c.raw(s, col)), b.column(s.id())
	b.level.sorted = q.OrderBy != nil
	here := append(under(col, known), c.known(col.of)...)
	if b.level.row, err = c.row(s, q, b, here); err != nil {
		return nil, err
	}
	keys := ""
	if b.level.sorted {
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
	where, err := c.listed(s, q, under(col, known), c.d.idsIn(c.raw(s, col), ids))
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
	inner, err := c.open(col.of, scope{})
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
	return c.d.first(c.d.each(ids, "_p"), find, s.res.table, s.alias), nil
}

func jsonKey(name string) string { return `"` + name + `":` }
