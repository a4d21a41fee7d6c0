package odata

import (
	"time"

	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// dateParts are where the parts of a date stand in its stored form.
var dateParts = map[string]string{"year": "1,4", "month": "6,2", "day": "9,2", "hour": "12,2", "minute": "15,2", "second": "18,2"}

func (c *compiler) function(s scope, f syntax.Call) (value, error) {
	switch f.Name {
	case "now":
		return value{sql: c.about("now"), class: cDate}, nil
	case "year", "month", "day", "hour", "minute", "second":
		v, err := c.of(s, f.Args[0], cDate)
		sql := "CAST(substr(" + v.sql + "," + dateParts[f.Name] + ") AS INTEGER)"
		return value{sql: sql, class: cNumber, null: v.null}, err
	case "round":
		v, err := c.number(s, f.Args[0])
		return value{sql: c.d.Round(v.sql), class: cNumber, null: v.null}, err
	case "floor":
		v, err := c.number(s, f.Args[0])
		return value{sql: dialect.Call("floor", v.sql), class: cNumber, null: v.null}, err
	case "ceiling":
		v, err := c.number(s, f.Args[0])
		return value{sql: dialect.Call("ceil", v.sql), class: cNumber, null: v.null}, err
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
		return truth(c.d.End(a[0], a[1]) + " = " + a[1])
	case "contains":
		return truth(c.d.Position(a[0], a[1]) + " > 0")
	case "substringof":
		return truth(c.d.Position(a[1], a[0]) + " > 0")
	case "tolower":
		return text(dialect.Call("lower", c.d.Bytewise(a[0])))
	case "toupper":
		return text(dialect.Call("upper", c.d.Bytewise(a[0])))
	case "trim":
		return text(dialect.Call("trim", a[0]))
	case "concat":
		return text("(" + a[0] + " || " + a[1] + ")")
	case "replace":
		if c.growth(f) > maxGrowth {
			return value{}, invalid("the request makes a text grow too much")
		}
		return text(dialect.Call("replace", a[:]...))
	case "length":
		return number(dialect.Call("length", a[0]))
	case "indexof":
		return number(c.d.Position(a[0], a[1]) + " - 1")
	case "substring":
		return text(c.d.Part(a[0], a[1], a[2]))
	}
	return value{}, invalid("there is no function %s", syntax.Echo(f.Name))
}

// prefix compiles startswith(column,'text') as a range, which an index can answer.
func (c *compiler) prefix(s scope, f syntax.Call) (value, bool, error) {
	arg := f.Args[1]
	if alias, ok := arg.(syntax.Param); ok && !s.inRule {
		arg = c.aliases[alias.Name]
	}
	literal, _ := arg.(syntax.Literal)
	text, ok := literal.Value.(string)
	if !ok || text == "" {
		return value{}, false, nil
	}
	if _, isPath := f.Args[0].(syntax.Path); !isPath {
		return value{}, false, nil
	}
	of, err := c.of(s, f.Args[0], cText)
	from, to := c.bind(text), c.bind(text+"\U0010FFFF")
	if !of.stored {
		of.sql = c.d.Bytewise(of.sql)
	}
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
	if v.class == cNull {
		v.sql = "CAST(NULL AS BIGINT)"
		if want != cNumber {
			v.sql = "CAST(NULL AS TEXT)"
		}
	} else {
		v.sql = c.sql(v)
	}
	v.lit = false
	return v, nil
}

func (c *compiler) number(s scope, e syntax.Expr) (value, error) { return c.of(s, e, cNumber) }

var calculations = map[string]string{"add": " + ", "sub": " - ", "mul": " * ", "div": " / "}

func (c *compiler) arithmetic(s scope, e syntax.Arithmetic) (value, error) {
	if span, ok := e.Right.(syntax.Literal); ok && (e.Op == "add" || e.Op == "sub") {
		if d, ok := span.Value.(time.Duration); ok {
			return c.shift(s, e, d)
		}
	}
	l, err := c.number(s, e.Left)
	if err != nil {
		return l, err
	}
	r, err := c.number(s, e.Right)
	v := value{class: cNumber, null: true}
	// Dividing by zero is null in one database and an error in the other; null it is.
	switch e.Op {
	case "mod":
		v.sql = c.d.Modulo(l.sql, "NULLIF("+r.sql+",0)")
	case "div":
		v.sql = "(" + l.sql + " / NULLIF(" + r.sql + ",0))"
	default:
		v.sql = "(" + l.sql + calculations[e.Op] + r.sql + ")"
	}
	return v, err
}

// shift compiles a date plus or minus a duration.
func (c *compiler) shift(s scope, e syntax.Arithmetic, d time.Duration) (value, error) {
	if e.Op == "sub" {
		d = -d
	}
	date, err := c.of(s, e.Left, cDate)
	return value{sql: c.d.Shift(date.sql, c.bind(c.d.Seconds(d.Seconds()))), class: cDate, null: true}, err
}

// maxGrowth is how many times longer a text may get by what is done to it.
const maxGrowth = 4096

// growth is how many times longer than its longest part a text may get, at worst.
func (c *compiler) growth(e syntax.Expr) float64 {
	f, ok := e.(syntax.Call)
	if !ok {
		return 1
	}
	most := 1.0
	for _, arg := range f.Args {
		most = max(most, c.growth(arg))
	}
	switch f.Name {
	case "concat":
		return most * 2
	case "replace":
		by := 1024.0
		if l, ok := f.Args[2].(syntax.Literal); ok {
			text, _ := l.Value.(string)
			by = max(1, float64(len(text)))
		}
		return most * by
	}
	return most
}
