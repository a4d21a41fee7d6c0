package odata

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// maxTables bounds how many tables one statement may open, those of access rules included.
const maxTables = 500

// maxChoices is how many terms of `or` a statement may offer the planner. Beyond, it is not shown them: SQLite weighs each term
// with every other condition, which takes seconds for a thousand.
const maxChoices = 64

// maxJoins is how many times a request may have `any` or `all` that the planner may make a join of. PostgreSQL looks for the best
// order of all joins, which takes seconds for ninety.
const maxJoins = 8

// compiler makes the SQL of one request. It carries the bound values of the statement at hand and whose rules apply; what it
// makes depends on the kind of the caller alone, so that it can be kept for the next one.
type compiler struct {
	d       *dialect.Dialect
	kind    access.Kind
	staff   bool                   // the caller may be support staff
	aliases map[string]syntax.Expr // of the URL
	args    []any                  // values, or what stands for one until the statement runs: asked, parents
	bound   map[string]string      // caller parameters that are bound already → placeholder
	tables  int
	choices int  // terms of every `or` so far
	lambdas int  // of every any and all so far
	levels  int  // statements of the request so far
	rows    int  // how many an answer may have
	few     bool // the caller sees few rows of the table, as far as is known
}

// asked is a value that is known when the statement runs: something about the caller, or the time.
type asked string

// parents is the list of ids that the rows of a level hang on.
type parents struct{}

func newCompiler(d *dialect.Dialect, kind access.Kind, aliases map[string]syntax.Expr) *compiler {
	return &compiler{d: d, kind: kind, staff: true, aliases: aliases, bound: map[string]string{}}
}

// scope is one opened table and the names that an expression over it may use.
type scope struct {
	res   *resource
	alias string
	// inRule is set inside access rules: every row and column is visible there, and @names mean the caller.
	inRule bool
	asked  bool      // the rows are at hand: an expression is asked of each, and finds none
	vars   *variable // lambda variables, innermost first
}

type variable struct {
	name  string
	scope scope
	next  *variable
}

func (c *compiler) bind(v any) string {
	c.args = append(c.args, v)
	if a, ok := v.(asked); ok {
		v = a.sample()
	}
	return c.d.Typed("?"+strconv.Itoa(len(c.args)), v)
}

func (a asked) sample() any {
	if a == "now" {
		return ""
	}
	return int64(0)
}

// of gives the value that stands for something about a caller. What the caller is not is 0, which is no row's id.
func (a asked) of(caller access.Caller, now string) any {
	switch a {
	case "user":
		return caller.User
	case "device":
		return caller.Device
	case "fleet":
		return caller.Fleet
	case "actor":
		return caller.Actor
	case "key":
		return caller.Key
	}
	return now
}

// values gives the values to run a statement with.
func values(d *dialect.Dialect, args []any, caller access.Caller, now string, ids []int64) []any {
	out := make([]any, len(args))
	for i, v := range args {
		switch v := v.(type) {
		case asked:
			out[i] = v.of(caller, now)
		case parents:
			out[i] = d.IDs(ids)
		default:
			out[i] = v
		}
	}
	return out
}

// open gives a table a new alias.
func (c *compiler) open(r *resource, from scope) (scope, error) {
	if c.tables++; c.tables > maxTables {
		return scope{}, invalid("the request touches too many tables")
	}
	return scope{res: r, alias: "_t" + strconv.Itoa(c.tables), inRule: from.inRule, asked: from.asked, vars: from.vars}, nil
}

func (s scope) id() string { return s.alias + `."id"` }

// from is the table with its alias, for a FROM clause.
func (s scope) from() string { return s.res.table + " " + s.alias }

// visible gives the conditions that let the caller read a row; none is every row. known are filters that are known to hold for
// the row: a rule that follows from them is not asked again.
func (c *compiler) visible(s scope, known ...syntax.Expr) ([]string, error) {
	if s.inRule {
		return nil, nil
	}
	var where []string
	if s.res.only != nil {
		only, err := c.ruleFilter(s, s.res.only)
		if err != nil {
			return nil, err
		}
		where = append(where, only)
	}
	rule := c.readRule(s.res)
	if slices.ContainsFunc(known, func(e syntax.Expr) bool { return implies(e, rule) }) {
		return where, nil
	}
	sql, err := c.ruleFilter(s, rule)
	if sql != "" {
		where = append(where, sql)
	}
	return where, err
}

// readRule is the filter of the rows that the caller may read; nil is never.
func (c *compiler) readRule(r *resource) syntax.Expr {
	if c.kind == access.System {
		return syntax.Literal{Value: true}
	}
	if ru := r.rules[c.kind]; ru != nil {
		return ru.read
	}
	return nil
}

// ruleFilter compiles one filter of a rule; nil is never, "" is always.
func (c *compiler) ruleFilter(s scope, e syntax.Expr) (string, error) {
	if e == nil {
		return "FALSE", nil
	}
	if l, ok := e.(syntax.Literal); ok && l.Value == true {
		return "", nil
	}
	return c.condition(scope{res: s.res.base, alias: s.alias, inRule: true, asked: s.asked}, e)
}

// sees reports whether the caller may know that a column exists.
func (c *compiler) sees(s scope, col *column) bool {
	switch {
	case s.inRule:
		return true
	case col.Hidden:
		return false
	case c.kind == access.System:
		return true
	}
	r := s.res.rules[c.kind]
	return r == nil || col.base == nil || !r.hide[col.base.Name]
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
// may see. known are filters that are known to hold for the row it leads to.
func (c *compiler) join(s scope, col *column, many bool, known ...syntax.Expr) (to scope, where []string, err error) {
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
	rule, err := c.visible(to, known...)
	return to, append(where, rule...), err
}

// raw is a column as it is stored, or its computation.
func (c *compiler) raw(s scope, col *column) string {
	if col.sql == nil {
		return s.alias + "." + dialect.Quote(col.base.Name)
	}
	parts := col.sql
	if col.shaped != nil {
		parts = col.shaped[Shape{Scoped: c.kind != access.User, Staff: c.staff, Asked: s.asked}]
	}
	var b strings.Builder
	b.WriteByte('(')
	for _, p := range parts {
		switch {
		case p.Alias:
			b.WriteString(s.alias)
		case p.Param != "":
			b.WriteString(c.about(p.Param))
		case p.Opens && c.few:
			b.WriteString(c.d.InFew[0])
		case p.Opens:
			b.WriteString("IN (")
		case p.Shuts && c.few:
			b.WriteString(c.d.InFew[1])
		case p.Shuts:
			b.WriteString(")")
		default:
			b.WriteString(p.Text)
		}
	}
	b.WriteByte(')')
	return b.String()
}

// callerParams are the names that rules and computed columns may use.
var callerParams = []string{"user", "device", "fleet", "actor", "key", "now"}

// about binds something about the caller.
func (c *compiler) about(name string) string {
	ph, ok := c.bound[name]
	if !ok {
		ph = c.bind(asked(name))
		c.bound[name] = ph
	}
	return ph
}

// orderKeys is ORDER BY. Rows that $orderby does not tell apart stand in the order of their ids: the same question gets the
// same answer, and pages do not overlap.
func (c *compiler) orderKeys(s scope, q *syntax.Query) (string, error) {
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
			dir = dialect.Ascending
		case v.null:
			dir = dialect.Descending
		case o.Asc:
			dir = " ASC"
		}
		if v.class == cText && !v.stored {
			v.sql = c.d.Bytewise(v.sql)
		}
		if v.sql == s.id() { // nothing that follows can tell rows apart
			return " ORDER BY " + strings.Join(append(keys, v.sql+dir), ", "), nil
		}
		keys = append(keys, v.sql+dir)
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
