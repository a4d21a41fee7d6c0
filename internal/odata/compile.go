package odata

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// maxTables bounds how many tables one statement may open, those of access rules included.
const maxTables = 500

// maxChoices is how many terms of `or` a statement may offer the planner. Beyond, it is not shown them: SQLite weighs each term
// with every other condition, which takes seconds for a thousand.
const maxChoices = 64

// compiler makes one SQL statement. It carries the bound values and whose rules apply.
type compiler struct {
	d       *dialect
	caller  access.Caller
	now     string
	aliases map[string]syntax.Expr // of the URL
	args    []any
	bound   map[string]string // caller parameters that are bound already → placeholder
	tables  int
	choices int // terms of every `or` so far
}

func newCompiler(d *dialect, caller access.Caller, now time.Time, aliases map[string]syntax.Expr) *compiler {
	return &compiler{d: d, caller: caller, now: db.FormatTime(now), aliases: aliases, bound: map[string]string{}}
}

// scope is one opened table and the names that an expression over it may use.
type scope struct {
	res   *resource
	alias string
	// inRule is set inside access rules: every row and column is visible there, and @names mean the caller.
	inRule bool
	vars   *variable // lambda variables, innermost first
}

type variable struct {
	name  string
	scope scope
	next  *variable
}

func (c *compiler) bind(v any) string {
	c.args = append(c.args, v)
	return c.d.placeholder(len(c.args))
}

// open gives a table a new alias.
func (c *compiler) open(r *resource, from scope) (scope, error) {
	if c.tables++; c.tables > maxTables {
		return scope{}, invalid("the request touches too many tables")
	}
	return scope{res: r, alias: "_t" + strconv.Itoa(c.tables), inRule: from.inRule, vars: from.vars}, nil
}

func (s scope) id() string { return s.alias + `."id"` }

// from is the table with its alias, for a FROM clause.
func (s scope) from() string { return s.res.table + " " + s.alias }

// visible is the condition that lets the caller read a row; "" is every row.
func (c *compiler) visible(s scope) (string, error) {
	if s.inRule || c.caller.Kind == access.System {
		return "", nil
	}
	r := s.res.rules[c.caller.Kind]
	if r == nil {
		return c.d.no, nil
	}
	return c.ruleFilter(s, r.read)
}

// ruleFilter compiles one filter of a rule; nil is never, "" is always.
func (c *compiler) ruleFilter(s scope, e syntax.Expr) (string, error) {
	if e == nil {
		return c.d.no, nil
	}
	if l, ok := e.(syntax.Literal); ok && l.Value == true {
		return "", nil
	}
	return c.condition(scope{res: s.res, alias: s.alias, inRule: true}, e)
}

// sees reports whether the caller may know that a column exists.
func (c *compiler) sees(s scope, col *column) bool {
	switch {
	case s.inRule:
		return true
	case col.Hidden:
		return false
	case c.caller.Kind == access.System:
		return true
	}
	r := s.res.rules[c.caller.Kind]
	return r == nil || !r.hide[col.Name]
}

// property finds a column by name as the caller may know it.
func (c *compiler) property(s scope, name string) (*column, error) {
	if col := s.res.column(name); col != nil && c.sees(s, col) {
		return col, nil
	}
	if s.res.toMany[name] != nil {
		return nil, invalid("%q of %s is a list of rows, not a property", name, s.res.Name)
	}
	return nil, invalid("%s has no property %q", s.res.Name, syntax.Echo(name))
}

// navigation finds a relation by name: the column that makes it, and whether it leads to many rows.
func (c *compiler) navigation(s scope, name string) (col *column, many bool, err error) {
	if col = s.res.toOne[name]; col != nil && c.sees(s, col) {
		return col, false, nil
	}
	if col = s.res.toMany[name]; col != nil && c.sees(scope{res: col.of, inRule: s.inRule}, col) {
		return col, true, nil
	}
	return nil, false, invalid("%s has no navigation %q", s.res.Name, syntax.Echo(name))
}

// join opens the table that a navigation leads to and gives the conditions that tie it to its origin and to what the caller
// may see.
func (c *compiler) join(s scope, col *column, many bool) (to scope, where []string, err error) {
	target := col.target
	if many {
		target = col.of
	}
	if to, err = c.open(target, s); err != nil {
		return to, nil, err
	}
	if many {
		where = append(where, c.raw(to, col)+" = "+s.id())
	} else {
		where = append(where, to.id()+" = "+c.raw(s, col))
	}
	rule, err := c.visible(to)
	if rule != "" {
		where = append(where, rule)
	}
	return to, where, err
}

// raw is a column as it is stored, or its computation.
func (c *compiler) raw(s scope, col *column) string {
	if col.sql == nil {
		return s.alias + "." + quoteName(col.Name)
	}
	var b strings.Builder
	b.WriteByte('(')
	for _, p := range col.sql {
		switch {
		case p.alias:
			b.WriteString(s.alias)
		case p.param != "":
			b.WriteString(c.about(p.param))
		default:
			b.WriteString(p.text)
		}
	}
	b.WriteByte(')')
	return b.String()
}

// callerParams are the names that rules and computed columns may use.
var callerParams = []string{"user", "device", "fleet", "actor", "key", "now"}

// about binds something about the caller. What the caller is not is 0, which is no row's id.
func (c *compiler) about(name string) string {
	if ph, ok := c.bound[name]; ok {
		return ph
	}
	var v any
	switch name {
	case "user":
		v = c.caller.User
	case "device":
		v = c.caller.Device
	case "fleet":
		v = c.caller.Fleet
	case "actor":
		v = c.caller.Actor
	case "key":
		v = c.caller.Key
	case "now":
		v = c.now
	}
	ph := c.bind(v)
	c.bound[name] = ph
	return ph
}

// shown is a column as it stands in an answer.
func (c *compiler) shown(s scope, col *column) string {
	v := c.raw(s, col)
	switch col.Type {
	case Boolean:
		return c.d.jsonBool(v)
	case BigInteger:
		return c.d.jsonText(v)
	case JSON:
		return c.d.nested(v)
	case ForeignKey:
		return c.d.deferred(v)
	}
	return v
}

// row is the JSON object of one row.
func (c *compiler) row(s scope, q *syntax.Query) (string, error) {
	expanded := map[string]bool{}
	for _, e := range q.Expand {
		if expanded[e.Name] {
			return "", invalid("%q is expanded twice", e.Name)
		}
		expanded[e.Name] = true
	}
	var pairs []string
	given := map[string]bool{}
	show := func(name string, col *column) {
		if !given[name] && !expanded[name] {
			given[name] = true
			pairs = append(pairs, "'"+name+"'", c.shown(s, col))
		}
	}
	if q.Select == nil || q.All {
		for i := range s.res.Columns {
			if col := s.res.columns[s.res.Columns[i].Name]; !col.Explicit && c.sees(s, col) {
				show(col.Name, col)
			}
		}
	}
	for _, name := range q.Select {
		if expanded[name] {
			continue // the expanded rows win; expand checks the name
		}
		col, err := c.property(s, name)
		if err != nil {
			return "", err
		}
		show(name, col)
	}
	for i := range q.Expand {
		sql, err := c.expand(s, &q.Expand[i])
		if err != nil {
			return "", err
		}
		pairs = append(pairs, "'"+q.Expand[i].Name+"'", sql)
	}
	return c.d.object(pairs), nil
}

// expand is the array of the rows behind a navigation, or their number.
func (c *compiler) expand(s scope, e *syntax.Expand) (string, error) {
	col, many, err := c.navigation(s, e.Name)
	if err != nil {
		return "", err
	}
	to, where, err := c.join(s, col, many)
	if err != nil {
		return "", err
	}
	if e.Query.Filter != nil {
		f, err := c.condition(scope{res: to.res, alias: to.alias, inRule: to.inRule}, e.Query.Filter)
		if err != nil {
			return "", err
		}
		where = append(where, f)
	}
	tail := " FROM " + to.from() + " WHERE " + strings.Join(where, " AND ")
	if e.Count {
		return "(SELECT count(*)" + tail + ")", nil
	}
	row, err := c.row(to, &e.Query)
	if err != nil {
		return "", err
	}
	keys, err := c.orderKeys(to, &e.Query, many)
	if err != nil {
		return "", err
	}
	if !e.Query.Paged() {
		return c.d.nested("(SELECT " + c.d.array(row+keys) + tail + ")"), nil
	}
	return c.d.nested("(SELECT " + c.d.array(c.d.nested("x")) + " FROM (SELECT " + row + " AS x" + tail + keys + c.page(&e.Query) + "))"), nil
}

// orderKeys is ORDER BY. Rows that $orderby does not tell apart stand in the order of their ids: the same question gets the
// same answer, and pages do not overlap. One row needs no order.
func (c *compiler) orderKeys(s scope, q *syntax.Query, many bool) (string, error) {
	const maxKeys = 16
	if len(q.OrderBy) > maxKeys {
		return "", invalid("$orderby may hold at most %d keys", maxKeys)
	}
	keys := make([]string, 0, len(q.OrderBy)+1)
	for _, o := range q.OrderBy {
		v, err := c.value(s, o.By)
		if err != nil {
			return "", err
		}
		dir := " DESC"
		switch {
		case v.lit:
			return "", invalid("$orderby needs properties, not values")
		case v.null && o.Asc:
			dir = c.d.ascending
		case v.null:
			dir = c.d.descending
		case o.Asc:
			dir = " ASC"
		}
		keys = append(keys, v.sql+dir)
	}
	if !many {
		return "", nil
	}
	return " ORDER BY " + strings.Join(append(keys, s.id()), ", "), nil
}

// page is LIMIT and OFFSET.
func (c *compiler) page(q *syntax.Query) string {
	if !q.Paged() {
		return ""
	}
	top := int64(math.MaxInt64)
	if q.Top >= 0 {
		top = int64(q.Top)
	}
	return " LIMIT " + c.bind(top) + " OFFSET " + c.bind(int64(q.Skip))
}
