package odata

import (
	"strings"

	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

func (c *compiler) function(s scope, f syntax.Call) (value, error) {
	switch f.Name {
	case "now":
		return value{sql: c.bind(c.now), class: cDate}, nil
	case "year", "month", "day", "hour", "minute", "second":
		v, err := c.of(s, f.Args[0], cDate)
		return value{sql: c.d.datePart(f.Name, v.sql), class: cNumber, null: v.null}, err
	case "round", "floor":
		v, err := c.number(s, f.Args[0])
		return value{sql: f.Name + "(" + v.sql + ")", class: cNumber, null: v.null}, err
	case "ceiling":
		v, err := c.number(s, f.Args[0])
		return value{sql: "ceil(" + v.sql + ")", class: cNumber, null: v.null}, err
	}
	return c.textFunction(s, f)
}

// textFunction compiles the functions whose arguments are texts (and, for substring, numbers).
func (c *compiler) textFunction(s scope, f syntax.Call) (value, error) {
	if f.Name == "startswith" {
		if v, ok, err := c.prefix(s, f); ok || err != nil {
			return v, err
		}
	}
	var a [3]string
	null := false
	for i, arg := range f.Args {
		want := cText
		if f.Name == "substring" && i > 0 {
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
	switch f.Name {
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
		if len(f.Args) == 2 {
			return text("substr(" + a[0] + "," + a[1] + " + 1)")
		}
		return text("substr(" + a[0] + "," + a[1] + " + 1," + a[2] + ")")
	}
	return value{}, invalid("there is no function %s", syntax.Echo(f.Name))
}

// prefix compiles startswith(column,'text') as a range, which an index can answer.
func (c *compiler) prefix(s scope, f syntax.Call) (value, bool, error) {
	p, err := c.value(s, f.Args[1])
	if err != nil || !p.lit {
		return value{}, false, err
	}
	text, ok := p.v.(string)
	if !ok || text == "" {
		return value{}, false, nil
	}
	if _, isPath := f.Args[0].(syntax.Path); !isPath {
		return value{}, false, nil
	}
	of, err := c.of(s, f.Args[0], cText)
	from, to := c.bind(text), c.bind(text+"\U0010FFFF")
	return value{sql: "(" + of.sql + " >= " + from + " AND " + of.sql + " < " + to + ")", class: cBool, null: of.null}, true, err
}

// of compiles an argument that must be of a class; a literal is made to fit and bound.
func (c *compiler) of(s scope, e syntax.Expr, want class) (value, error) {
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

func (c *compiler) number(s scope, e syntax.Expr) (value, error) { return c.of(s, e, cNumber) }

var calculations = map[string]string{"add": " + ", "sub": " - ", "mul": " * ", "div": " / ", "mod": " % "}

func (c *compiler) arithmetic(s scope, e syntax.Arithmetic) (value, error) {
	l, err := c.number(s, e.Left)
	if err != nil {
		return l, err
	}
	r, err := c.number(s, e.Right)
	// Dividing by zero is null in one database and an error in the other; null it is.
	sql := r.sql
	if e.Op == "div" || e.Op == "mod" {
		sql = "NULLIF(" + sql + ",0)"
	}
	return value{sql: "(" + l.sql + calculations[e.Op] + sql + ")", class: cNumber, null: true}, err
}
