package odata

import (
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// class is what kind of value an expression gives; comparisons between different ones are refused.
type class int

const (
	cNull class = iota
	cBool
	cNumber
	cText
	cDate
	cJSON
	cSpan
)

func (k class) String() string {
	return [...]string{"null", "a boolean", "a number", "a text", "a date", "a JSON value", "a duration"}[k]
}

func classOf(t Type) class {
	switch t {
	case Boolean:
		return cBool
	case String:
		return cText
	case Date:
		return cDate
	case JSON, WebResource:
		return cJSON
	}
	return cNumber
}

// value is a compiled expression. A literal is bound late, once it is known what it is compared with.
type value struct {
	sql    string
	class  class
	null   bool // may be null
	lit    bool
	v      any  // of a literal
	stored bool // a column as it is in its table. A stored truth value is 0 or 1, every other one is a condition
}

// truth is a truth value as a condition.
func (v value) truth() string {
	switch {
	case v.lit && v.v == true:
		return "TRUE"
	case v.lit:
		return "FALSE"
	case v.stored:
		return "(" + v.sql + " = 1)"
	}
	return v.sql
}

// condition compiles an expression that is true or false for a row.
func (c *compiler) condition(s scope, e syntax.Expr) (string, error) {
	switch e := e.(type) {
	case syntax.Logical:
		terms := make([]string, len(e.Terms))
		for i, t := range e.Terms {
			var err error
			if terms[i], err = c.condition(s, t); err != nil {
				return "", err
			}
		}
		sql := balanced(terms, " "+strings.ToUpper(e.Op)+" ")
		if e.Op == "or" {
			if c.choices += len(terms); c.choices > maxChoices {
				sql = c.d.Opaque(sql)
			}
		}
		return sql, nil
	case syntax.Not:
		of, err := c.condition(s, e.Of)
		return "(NOT " + of + ")", err
	case syntax.Compare:
		return c.compare(s, e)
	case syntax.InList:
		return c.in(s, e)
	case syntax.Lambda:
		return c.lambda(s, e)
	}
	v, err := c.value(s, e)
	switch {
	case err != nil:
		return "", err
	case v.class != cBool && v.class != cNull:
		return "", invalid("%s is not a condition", v.class)
	}
	return v.truth(), nil
}

// balanced joins terms as a tree of little depth: databases bound the depth of an expression, not its width.
func balanced(terms []string, op string) string {
	if len(terms) == 1 {
		return terms[0]
	}
	half := len(terms) / 2
	return "(" + balanced(terms[:half], op) + op + balanced(terms[half:], op) + ")"
}

// value compiles an expression to a value.
func (c *compiler) value(s scope, e syntax.Expr) (value, error) {
	switch e := e.(type) {
	case syntax.Literal:
		return literalValue(e), nil
	case syntax.Param:
		return c.param(s, e)
	case syntax.Path:
		return c.path(s, e.Names)
	case syntax.CountOf:
		return c.count(s, e)
	case syntax.Call:
		return c.function(s, e)
	case syntax.Arithmetic:
		return c.arithmetic(s, e)
	case syntax.Neg:
		v, err := c.number(s, e.Of)
		return value{sql: "(-" + v.sql + ")", class: cNumber, null: v.null}, err
	}
	sql, err := c.condition(s, e)
	return value{sql: "(" + sql + ")", class: cBool, null: true}, err
}

func literalValue(l syntax.Literal) value {
	v := value{lit: true, v: l.Value}
	switch l.Value.(type) {
	case nil:
		v.class, v.null = cNull, true
	case bool:
		v.class = cBool
	case int64, float64:
		v.class = cNumber
	case string:
		v.class = cText
	case time.Time:
		v.class = cDate
	case time.Duration:
		v.class = cSpan
	}
	return v
}

// param is the caller in a rule, an alias of the URL elsewhere: neither can stand in for the other.
func (c *compiler) param(s scope, p syntax.Param) (value, error) {
	if s.inRule {
		if !knownParam(p.Name) {
			return value{}, invalid("a rule knows no @%s", p.Name)
		}
		v := value{sql: c.about(p.Name), class: cNumber}
		if p.Name == "now" {
			v.class = cDate
		}
		return v, nil
	}
	e, ok := c.aliases[p.Name]
	if !ok {
		return value{}, invalid("@%s is not given", syntax.Echo(p.Name))
	}
	return c.value(s, e)
}

// sql gives the SQL of a value, binding a literal as it is.
func (c *compiler) sql(v value) string {
	if !v.lit {
		return v.sql
	}
	switch x := v.v.(type) {
	case nil:
		return "NULL"
	case bool:
		return v.truth()
	case time.Time:
		return c.bind(db.FormatTime(x))
	default:
		return c.bind(x)
	}
}

// root resolves the first name of a path: a lambda variable, or the row itself.
func (s scope) root(names []string) (scope, []string) {
	for v := s.vars; v != nil; v = v.next {
		if v.name == names[0] {
			return v.scope, names[1:]
		}
	}
	return s, names
}

// through compiles inner at the end of a chain of to-one navigations; it is null when the chain breaks or a row on it is
// not visible.
func (c *compiler) through(s scope, nav []string, inner func(scope) (string, error)) (string, error) {
	if len(nav) == 0 {
		return inner(s)
	}
	col, many, err := c.navigation(s, nav[0])
	if err != nil {
		return "", err
	}
	if many {
		return "", invalid("%q of %s is a list of rows: use any, all or $count", nav[0], s.res.Name)
	}
	to, where, err := c.join(s, col, false)
	if err != nil {
		return "", err
	}
	sql, err := c.through(to, nav[1:], inner)
	return "(SELECT " + sql + " FROM " + to.from() + " WHERE " + strings.Join(where, " AND ") + ")", err
}

func (c *compiler) path(s scope, names []string) (value, error) {
	start, rest := s.root(names)
	if len(rest) == 0 {
		return value{}, invalid("%q stands for a row: name a property of it", syntax.Echo(names[0]))
	}
	var col *column
	last := len(rest) - 1
	sql, err := c.through(start, rest[:last], func(at scope) (_ string, err error) {
		if col, err = c.property(at, rest[last]); err != nil {
			return "", err
		}
		return c.raw(at, col), nil
	})
	if err != nil {
		return value{}, err
	}
	v := value{sql: sql, class: classOf(col.Type), null: col.Null || col.sql != nil || last > 0, stored: col.sql == nil}
	return v, nil
}

// lambda is any or all over the rows behind a navigation, to many or to one.
func (c *compiler) lambda(s scope, l syntax.Lambda) (string, error) {
	start, nav := s.root(l.Nav)
	if len(nav) == 0 {
		return "", invalid("any and all need a navigation")
	}
	last := len(nav) - 1
	sql, err := c.through(start, nav[:last], func(at scope) (string, error) {
		col, many, err := c.navigation(at, nav[last])
		if err != nil {
			return "", err
		}
		to, where, err := c.join(at, col, many)
		if err != nil {
			return "", err
		}
		if l.Body != nil {
			inner := s
			inner.vars = &variable{name: l.Name, scope: scope{res: to.res, alias: to.alias, inRule: to.inRule, asked: to.asked}, next: s.vars}
			body, err := c.condition(inner, l.Body)
			if err != nil {
				return "", err
			}
			if l.All {
				body = "(" + body + ") IS NOT TRUE"
			}
			where = append(where, body)
		}
		exists := "EXISTS (SELECT 1 FROM " + to.from() + conditions(where) + ")"
		if c.lambdas++; c.lambdas > maxJoins {
			exists = c.d.Apart(exists)
		}
		if l.All {
			exists = "NOT " + exists
		}
		return "(" + exists + ")", nil
	})
	if last > 0 {
		sql = "COALESCE(" + sql + ",FALSE)"
	}
	return sql, err
}

func (c *compiler) count(s scope, e syntax.CountOf) (value, error) {
	start, nav := s.root(e.Nav)
	if len(nav) == 0 {
		return value{}, invalid("$count needs a navigation")
	}
	last := len(nav) - 1
	sql, err := c.through(start, nav[:last], func(at scope) (string, error) {
		col, many, err := c.navigation(at, nav[last])
		if err != nil {
			return "", err
		}
		to, where, err := c.join(at, col, many)
		if err != nil {
			return "", err
		}
		if e.Filter != nil {
			f, err := c.condition(scope{res: to.res, alias: to.alias, inRule: to.inRule, asked: to.asked, vars: s.vars}, e.Filter)
			if err != nil {
				return "", err
			}
			where = append(where, f)
		}
		return "(SELECT count(*) FROM " + to.from() + " WHERE " + strings.Join(where, " AND ") + ")", nil
	})
	return value{sql: "COALESCE(" + sql + ",0)", class: cNumber}, err
}

var operators = map[string]string{"eq": "=", "ne": "<>", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}

func (c *compiler) compare(s scope, e syntax.Compare) (string, error) {
	l, err := c.value(s, e.Left)
	if err != nil {
		return "", err
	}
	r, err := c.value(s, e.Right)
	if err != nil {
		return "", err
	}
	if l.class == cNull {
		l, r = r, l
	}
	if r.class == cNull {
		switch e.Op {
		case "eq":
			return "(" + c.sql(l) + " IS NULL)", nil
		case "ne":
			return "(" + c.sql(l) + " IS NOT NULL)", nil
		}
		return "FALSE", nil // nothing is greater or less than null
	}
	if l, err = adapt(l, r); err != nil {
		return "", err
	}
	if r, err = adapt(r, l); err != nil {
		return "", err
	}
	return c.comparison(e.Op, l, r), nil
}

// comparison compares two values of the same class, neither of which is the word null.
func (c *compiler) comparison(op string, l, r value) string {
	if l.class == cBool {
		l.sql, r.sql = booleans(l, r)
	} else {
		l.sql, r.sql = c.sql(l), c.sql(r)
	}
	if op != "eq" && op != "ne" && l.class == cText {
		l.sql = c.d.Bytewise(l.sql)
	}
	sign := operators[op]
	switch {
	case op == "eq" && l.stored && l.null && !r.null:
		return c.d.SameValue(l.sql, r.sql)
	case op == "eq" && r.stored && r.null && !l.null:
		return c.d.SameValue(r.sql, l.sql)
	case op == "eq" && (l.null || r.null):
		sign = c.d.Same
	case op == "ne" && (l.null || r.null):
		sign = c.d.Differ
	}
	return "(" + l.sql + sign + r.sql + ")"
}

// booleans gives two truth values in a form that they can be compared in: as stored, where that is possible, for an index' sake.
func booleans(l, r value) (string, string) {
	if (l.stored || l.lit) && (r.stored || r.lit) && (l.stored || r.stored) {
		return asStored(l), asStored(r)
	}
	return l.truth(), r.truth()
}

func asStored(v value) string {
	switch {
	case !v.lit:
		return v.sql
	case v.v == true:
		return "1"
	}
	return "0"
}

// adapt makes a literal fit what it is compared with, and refuses what cannot be compared.
func adapt(v, to value) (value, error) {
	if v.class == to.class && v.class != cJSON || v.class == cNull {
		return v, nil
	}
	if v.lit {
		if l, ok := convertLiteral(v.v, to.class); ok {
			return l, nil
		}
	}
	if to.lit {
		if _, ok := convertLiteral(to.v, v.class); ok {
			return v, nil // the other side is adapted to this one
		}
	}
	if v.class == cJSON || to.class == cJSON {
		return v, invalid("a JSON value can only be compared with null")
	}
	return v, invalid("%s cannot be compared with %s", v.class, to.class)
}

func convertLiteral(v any, to class) (value, bool) {
	switch x := v.(type) {
	case string:
		if to == cDate {
			d, err := syntax.ParseDate(x)
			return value{lit: true, v: d, class: cDate}, err == nil
		}
		if n, err := strconv.ParseInt(x, 10, 64); to == cNumber && err == nil {
			return value{lit: true, v: n, class: cNumber}, true
		}
	case int64:
		if to == cDate {
			d, ok := syntax.DateOfMillis(x)
			return value{lit: true, v: d, class: cDate}, ok
		}
		if to == cBool && (x == 0 || x == 1) {
			return value{lit: true, v: x == 1, class: cBool}, true
		}
	case time.Time:
		if to == cText {
			return value{lit: true, v: db.FormatTime(x), class: cText}, true
		}
	}
	return value{}, false
}

func (c *compiler) in(s scope, e syntax.InList) (string, error) {
	item, err := c.value(s, e.Item)
	if err != nil {
		return "", err
	}
	if item.lit {
		item.sql, item.lit = c.sql(item), false
	}
	var list []string
	orNull := false
	for _, x := range e.List {
		v, err := c.value(s, x)
		if err != nil {
			return "", err
		}
		if v.class == cNull {
			orNull = true
			continue
		}
		if v, err = adapt(v, item); err != nil {
			return "", err
		}
		if v.class == cBool && item.stored {
			v.sql, v.lit = asStored(v), false
		}
		list = append(list, c.sql(v))
	}
	sql := "FALSE"
	if len(list) > 0 {
		sql = item.sql + " IN (" + strings.Join(list, ",") + ")"
	}
	if orNull {
		sql += " OR " + item.sql + " IS NULL"
	}
	return "(" + sql + ")", nil
}
