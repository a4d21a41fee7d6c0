package syntax

import (
	"strconv"
	"strings"
)

// ParseRule parses the filter text of an access rule.
func ParseRule(lim Limits, text string) (Expr, error) {
	var nodes, expands int
	p := &parser{lim: lim, part: "the rule", nodes: &nodes, expands: &expands, plain: true}
	if err := p.start(text); err != nil {
		return nil, err
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	return e, p.end()
}

// expression parses: (and, or) < not < comparison < add < mul < unary. As in Pine's grammar `and` and `or` bind alike, from left to
// right: `a or b and c` is `(a or b) and c`. A rule must say with parentheses what it means.
func (p *parser) expression() (Expr, error) {
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	left, err := p.unaryNot()
	var chain *Logical // of the operator just read, with left in it
	for err == nil && (p.isIdent("and") || p.isIdent("or")) {
		op := p.next().text
		var right Expr
		if right, err = p.unaryNot(); err != nil {
			return nil, err
		}
		switch {
		case chain != nil && chain.Op == op:
			chain.Terms = append(chain.Terms, right)
			left = *chain
		case chain != nil && p.plain:
			return nil, p.fail("`and` beside `or` needs parentheses")
		default:
			chain = &Logical{Op: op, Terms: []Expr{left, right}}
			left = *chain
		}
	}
	return left, err
}

// follows reports whether the word here is an operator or function, not a property of that name.
func (p *parser) callFollows() bool {
	n := p.toks[min(p.at+1, len(p.toks)-1)]
	return n.kind == tPunct && n.text == "("
}

func (p *parser) unaryNot() (Expr, error) {
	if !p.isIdent("not") {
		return p.comparison()
	}
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	p.next()
	of, err := p.unaryNot()
	return Not{of}, err
}

func (p *parser) comparison() (Expr, error) {
	l, err := p.sum()
	if err != nil {
		return nil, err
	}
	t := p.peek()
	if t.kind != tIdent {
		return l, nil
	}
	switch t.text {
	case "eq", "ne", "gt", "ge", "lt", "le":
		p.next()
		r, err := p.sum()
		return Compare{t.text, l, r}, err
	case "in":
		p.next()
		list, err := p.list()
		return InList{l, list}, err
	}
	return l, nil
}

func (p *parser) list() ([]Expr, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var list []Expr
	for !p.isPunct(")") {
		if len(list) >= p.lim.List {
			return nil, invalid("`in` may list at most %d values", p.lim.List)
		}
		var v Expr
		var err error
		if p.peek().kind == tAlias {
			v = Param{p.next().text[1:]}
		} else if v, err = p.literal(); err != nil {
			return nil, err
		}
		list = append(list, v)
		if !p.take(",") {
			break
		}
		if p.isPunct(")") {
			return nil, p.unexpected("expected a value")
		}
	}
	return list, p.expect(")")
}

func (p *parser) sum() (Expr, error) {
	return p.calculation(func() (Expr, error) { return p.calculation(p.unary, "mul", "div", "mod") }, "add", "sub")
}

func (p *parser) calculation(term func() (Expr, error), ops ...string) (Expr, error) {
	l, err := term()
	for n := 0; err == nil; n++ {
		op := ""
		for _, o := range ops {
			if p.isIdent(o) {
				op = o
			}
		}
		if op == "" {
			return l, nil
		}
		if n >= p.lim.Depth {
			return nil, invalid("a calculation of more than %d steps", p.lim.Depth)
		}
		p.next()
		var r Expr
		r, err = term()
		l = Arithmetic{op, l, r}
	}
	return nil, err
}

func (p *parser) unary() (Expr, error) {
	if p.isPunct("-") && p.toks[p.at+1].kind != tNumber {
		up, err := p.deeper()
		if err != nil {
			return nil, err
		}
		defer up()
		p.next()
		of, err := p.unary()
		return Neg{of}, err
	}
	return p.primary()
}

func (p *parser) primary() (Expr, error) {
	if err := p.node(); err != nil {
		return nil, err
	}
	switch t := p.peek(); {
	case p.take("("):
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		return e, p.expect(")")
	case t.kind == tAlias:
		p.next()
		return Param{t.text[1:]}, nil
	case t.kind == tNumber, t.kind == tString, t.kind == tPunct && t.text == "-":
		return p.literal()
	case t.kind == tIdent && p.callFollows():
		if _, known := functions[t.text]; known {
			return p.function()
		}
		return nil, p.fail("there is no function " + Echo(t.text))
	case t.kind == tIdent && literalWord(t.text, p.toks[p.at+1]):
		return p.literal()
	case t.kind == tIdent:
		return p.path()
	}
	return nil, p.unexpected("expected an expression")
}

// literalWord reports whether a word starts a literal: null, true, false, datetime'…'.
func literalWord(word string, next token) bool {
	switch word {
	case "null", "true", "false":
		return next.kind != tPunct || next.text != "/"
	case "datetime", "datetimeoffset", "date", "time", "duration":
		return next.kind == tString && !next.ws
	}
	return false
}

// literal parses one constant.
func (p *parser) literal() (Expr, error) {
	t := p.peek()
	sign := ""
	if p.take("-") {
		sign, t = "-", p.peek()
		if t.kind != tNumber {
			return nil, p.unexpected("expected a number")
		}
	}
	switch {
	case t.kind == tString:
		p.next()
		return Literal{t.text}, nil
	case t.kind == tNumber:
		v, err := p.number(sign, t.text)
		if err == nil {
			p.next()
		}
		return v, err
	case t.kind == tIdent && literalWord(t.text, p.toks[p.at+1]):
		p.next()
		return p.wordLiteral(t)
	}
	return nil, p.unexpected("expected a value")
}

func (p *parser) number(sign, text string) (Expr, error) {
	if strings.ContainsAny(text, ".eE-T") {
		if d, err := ParseDate(text); sign == "" && err == nil {
			return Literal{d}, nil
		}
		f, err := strconv.ParseFloat(sign+text, 64)
		if err != nil {
			return nil, p.fail("a number or date that cannot be read")
		}
		return Literal{f}, nil
	}
	n, err := strconv.ParseInt(sign+text, 10, 64)
	if err != nil {
		return nil, p.fail("a number that is too large")
	}
	return Literal{n}, nil
}

func (p *parser) wordLiteral(t token) (Expr, error) {
	switch t.text {
	case "null":
		return Literal{nil}, nil
	case "true", "false":
		return Literal{t.text == "true"}, nil
	case "datetime", "datetimeoffset", "date":
		d, err := ParseDate(p.peek().text)
		if err != nil {
			return nil, p.fail("not a date")
		}
		p.next()
		return Literal{d}, nil
	case "duration":
		d, err := ParseDuration(p.peek().text)
		if err != nil {
			return nil, p.fail("not a duration of days, hours, minutes and seconds, at most 100,000 days")
		}
		p.next()
		return Literal{d}, nil
	}
	return nil, p.fail(t.text + " literals are not supported")
}

func (p *parser) function() (Expr, error) {
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	f := Call{Name: p.next().text}
	p.next() // (
	for !p.isPunct(")") {
		arg, err := p.expression()
		if err != nil {
			return nil, err
		}
		f.Args = append(f.Args, arg)
		if !p.take(",") {
			break
		}
	}
	if n := functions[f.Name]; len(f.Args) < n.min || len(f.Args) > n.max {
		return nil, p.fail(f.Name + " has the wrong number of arguments")
	}
	return f, p.expect(")")
}

// path parses a/b/c, a/b/any(…), a/$count and a/$count($filter=…).
func (p *parser) path() (Expr, error) {
	names := []string{p.next().text}
	for p.take("/") {
		if len(names) >= p.lim.Lambdas {
			return nil, invalid("a path of more than %d steps", p.lim.Lambdas)
		}
		t := p.peek()
		switch {
		case t.kind == tOption && t.text == "$count":
			p.next()
			return p.count(names)
		case t.kind == tIdent && (t.text == "any" || t.text == "all") && p.callFollows():
			return p.lambda(names)
		}
		name, err := p.ident("a property")
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return Path{names}, nil
}

func (p *parser) count(nav []string) (Expr, error) {
	c := CountOf{Nav: nav}
	if !p.take("(") {
		return c, nil
	}
	if t := p.peek(); t.kind != tOption || t.text != "$filter" {
		return nil, p.unexpected("expected $filter")
	}
	p.next()
	if err := p.expect("="); err != nil {
		return nil, err
	}
	var err error
	if c.Filter, err = p.expression(); err != nil {
		return nil, err
	}
	return c, p.expect(")")
}

func (p *parser) lambda(nav []string) (Expr, error) {
	if p.lambdas++; p.lambdas > p.lim.Lambdas {
		return nil, invalid("any and all are nested deeper than %d levels", p.lim.Lambdas)
	}
	defer func() { p.lambdas-- }()
	l := Lambda{Nav: nav, All: p.next().text == "all"}
	p.next() // (
	if p.take(")") {
		if l.All {
			return nil, p.fail("all needs a condition")
		}
		return l, nil
	}
	var err error
	if l.Name, err = p.ident("a variable"); err != nil {
		return nil, err
	}
	if err := p.expect(":"); err != nil {
		return nil, err
	}
	if l.Body, err = p.expression(); err != nil {
		return nil, err
	}
	return l, p.expect(")")
}

// arity is how many arguments a function takes.
type arity struct{ min, max int }

// functions is every function of the dialect.
var functions = map[string]arity{
	"startswith": {2, 2}, "endswith": {2, 2}, "contains": {2, 2}, "substringof": {2, 2}, "tolower": {1, 1}, "toupper": {1, 1},
	"concat": {2, 2}, "length": {1, 1}, "indexof": {2, 2}, "substring": {2, 3}, "trim": {1, 1}, "replace": {3, 3},
	"now": {0, 0}, "year": {1, 1}, "month": {1, 1}, "day": {1, 1}, "hour": {1, 1}, "minute": {1, 1}, "second": {1, 1},
	"round": {1, 1}, "floor": {1, 1}, "ceiling": {1, 1},
}
