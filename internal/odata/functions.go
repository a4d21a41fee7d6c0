package odata

import (
	"strings"
)

// arity is how many arguments a function takes.
type arity struct{ min, max int }

// functions is every function of the dialect.
var functions = map[string]arity{
	"startswith": {2, 2}, "endswith": {2, 2}, "contains": {2, 2}, "substringof": {2, 2}, "tolower": {1, 1}, "toupper": {1, 1},
	"concat": {2, 2}, "length": {1, 1}, "indexof": {2, 2}, "substring": {2, 3}, "trim": {1, 1}, "replace": {3, 3},
	"now": {0, 0}, "year": {1, 1}, "month": {1, 1}, "day": {1, 1}, "hour": {1, 1}, "minute": {1, 1}, "second": {1, 1},
	"round": {1, 1}, "floor": {1, 1}, "ceiling": {1, 1},
}

func (c *compiler) function(s scope, f call) (value, error) {
	switch f.name {
	case "now":
		return value{sql: c.bind(c.now), class: cDate}, nil
	case "year", "month", "day", "hour", "minute", "second":
		v, err := c.of(s, f.args[0], cDate)
		return value{sql: c.d.datePart(f.name, v.sql), class: cNumber, null: v.null}, err
	case "round", "floor":
		v, err := c.number(s, f.args[0])
		return value{sql: f.name + "(" + v.sql + ")", class: cNumber, null: v.null}, err
	case "ceiling":
		v, err := c.number(s, f.args[0])
		return value{sql: "ceil(" + v.sql + ")", class: cNumber, null: v.null}, err
	}
	return c.textFunction(s, f)
}

// textFunction compiles the functions whose arguments are texts (and, for substring, numbers).
func (c *compiler) textFunction(s scope, f call) (value, error) {
	if f.name == "startswith" {
		if v, ok, err := c.prefix(s, f); ok || err != nil {
			return v, err
		}
	}
	var a [3]string
	null := false
	for i, arg := range f.args {
		want := cText
		if f.name == "substring" && i > 0 {
			want = cNumber
		}
		v, err := c.of(s, arg, want)
		if err != nil {
			return value{}, err
		}
		a[i] = v.sql
		null = null || v.null
	}
	text := func(sql string) (value, error) { return value{sql: sql, class: cText, null: null}, nil }
	number := func(sql string) (value, error) { return value{sql: "(" + sql + ")", class: cNumber, null: null}, nil }
	truth := func(sql string) (value, error) { return value{sql: "(" + sql + ")", class: cBool, null: null}, nil }
	switch f.name {
	case "startswith":
		return truth("substr(" + a[0] + ",1,length(" + a[1] + ")) = " + a[1])
	case "endswith":
		return truth("length(" + a[1] + ") = 0 OR substr(" + a[0] + ",-length(" + a[1] + ")) = " + a[1])
	case "contains":
		return truth(c.d.position(a[0], a[1]) + " > 0")
	case "substringof":
		return truth(c.d.position(a[1], a[0]) + " > 0")
	case "tolower":
		return text("lower(" + a[0] + ")")
	case "toupper":
		return text("upper(" + a[0] + ")")
	case "trim":
		return text("trim(" + a[0] + ")")
	case "concat":
		return text("(" + a[0] + " || " + a[1] + ")")
	case "replace":
		return text("replace(" + strings.Join(a[:], ",") + ")")
	case "length":
		return number("length(" + a[0] + ")")
	case "indexof":
		return number(c.d.position(a[0], a[1]) + " - 1")
	case "substring":
		if len(f.args) == 2 {
			return text("substr(" + a[0] + "," + a[1] + " + 1)")
		}
		return text("substr(" + a[0] + "," + a[1] + " + 1," + a[2] + ")")
	}
	return value{}, invalid("there is no function %s", echo(f.name))
}

// prefix compiles startswith(column,'text') as a range, which an index can answer.
func (c *compiler) prefix(s scope, f call) (value, bool, error) {
	p, err := c.value(s, f.args[1])
	if err != nil || !p.lit {
		return value{}, false, err
	}
	text, ok := p.v.(string)
	if !ok || text == "" {
		return value{}, false, nil
	}
	if _, isPath := f.args[0].(path); !isPath {
		return value{}, false, nil
	}
	of, err := c.of(s, f.args[0], cText)
	from, to := c.bind(text), c.bind(text+"\U0010FFFF")
	return value{sql: "(" + of.sql + " >= " + from + " AND " + of.sql + " < " + to + ")", class: cBool, null: of.null}, true, err
}

// of compiles an argument that must be of a class; a literal is made to fit and bound.
func (c *compiler) of(s scope, e expr, want class) (value, error) {
	v, err := c.value(s, e)
	if err != nil {
		return v, err
	}
	if v.class != want && v.class != cNull {
		l, ok := value{}, false
		if v.lit {
			l, ok = convertLiteral(v.v, want)
		}
		if !ok {
			return v, invalid("%s is given where %s is needed", v.class, want)
		}
		v = l
	}
	v.sql = c.sql(v)
	v.lit = false
	return v, nil
}

func (c *compiler) number(s scope, e expr) (value, error) { return c.of(s, e, cNumber) }

var calculations = map[string]string{"add": " + ", "sub": " - ", "mul": " * ", "div": " / ", "mod": " % "}

func (c *compiler) arithmetic(s scope, e arithmetic) (value, error) {
	l, err := c.number(s, e.l)
	if err != nil {
		return l, err
	}
	r, err := c.number(s, e.r)
	// Dividing by zero is null in one database and an error in the other; null it is.
	sql := r.sql
	if e.op == "div" || e.op == "mod" {
		sql = "NULLIF(" + sql + ",0)"
	}
	return value{sql: "(" + l.sql + calculations[e.op] + sql + ")", class: cNumber, null: true}, err
}
