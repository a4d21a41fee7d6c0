package odata

import (
	"errors"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/db"
)

func asSyntax(err error, into **syntaxError) bool { return errors.As(err, into) }

// parseRule parses the filter text of an access rule.
func parseRule(lim Limits, text string) (expr, error) {
	var nodes, expands int
	p := &parser{lim: lim, part: "the rule", nodes: &nodes, expands: &expands}
	if err := p.start(text); err != nil {
		return nil, err
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	return e, p.end()
}

// expression parses: or < and < not < comparison < add < mul < unary.
func (p *parser) expression() (expr, error) {
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	return p.chain("or", func() (expr, error) { return p.chain("and", p.unaryNot) })
}

func (p *parser) chain(op string, term func() (expr, error)) (expr, error) {
	first, err := term()
	if err != nil || !p.isIdent(op) {
		return first, err
	}
	l := logical{op: op, terms: []expr{first}}
	for p.isIdent(op) {
		p.next()
		t, err := term()
		if err != nil {
			return nil, err
		}
		l.terms = append(l.terms, t)
	}
	return l, nil
}

// follows reports whether the word here is an operator or function, not a property of that name.
func (p *parser) callFollows() bool {
	n := p.toks[min(p.at+1, len(p.toks)-1)]
	return n.kind == tPunct && n.text == "("
}

func (p *parser) unaryNot() (expr, error) {
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
	return not{of}, err
}

func (p *parser) comparison() (expr, error) {
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
		return compare{t.text, l, r}, err
	case "in":
		p.next()
		list, err := p.list()
		return inList{l, list}, err
	}
	return l, nil
}

func (p *parser) list() ([]expr, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var list []expr
	for !p.isPunct(")") {
		if len(list) >= p.lim.List {
			return nil, invalid("`in` may list at most %d values", p.lim.List)
		}
		var v expr
		var err error
		if p.peek().kind == tAlias {
			v = param{p.next().text[1:]}
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

func (p *parser) sum() (expr, error) {
	return p.calculation(func() (expr, error) { return p.calculation(p.unary, "mul", "div", "mod") }, "add", "sub")
}

func (p *parser) calculation(term func() (expr, error), ops ...string) (expr, error) {
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
		var r expr
		r, err = term()
		l = arithmetic{op, l, r}
	}
	return nil, err
}

func (p *parser) unary() (expr, error) {
	if p.isPunct("-") && p.toks[p.at+1].kind != tNumber {
		up, err := p.deeper()
		if err != nil {
			return nil, err
		}
		defer up()
		p.next()
		of, err := p.unary()
		return neg{of}, err
	}
	return p.primary()
}

func (p *parser) primary() (expr, error) {
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
		return param{t.text[1:]}, nil
	case t.kind == tNumber, t.kind == tString, t.kind == tPunct && t.text == "-":
		return p.literal()
	case t.kind == tIdent && p.callFollows():
		if _, known := functions[t.text]; known {
			return p.function()
		}
		return nil, p.fail("there is no function " + echo(t.text))
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
func (p *parser) literal() (expr, error) {
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
		return literal{t.text}, nil
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

func (p *parser) number(sign, text string) (expr, error) {
	if strings.ContainsAny(text, ".eE-T") {
		if d, err := parseDate(text); sign == "" && err == nil {
			return literal{dateText(d)}, nil
		}
		f, err := strconv.ParseFloat(sign+text, 64)
		if err != nil {
			return nil, p.fail("a number or date that cannot be read")
		}
		return literal{f}, nil
	}
	n, err := strconv.ParseInt(sign+text, 10, 64)
	if err != nil {
		return nil, p.fail("a number that is too large")
	}
	return literal{n}, nil
}

func (p *parser) wordLiteral(t token) (expr, error) {
	switch t.text {
	case "null":
		return literal{nil}, nil
	case "true", "false":
		return literal{t.text == "true"}, nil
	case "datetime", "datetimeoffset", "date":
		d, err := parseDate(p.peek().text)
		if err != nil {
			return nil, p.fail("not a date")
		}
		p.next()
		return literal{dateText(d)}, nil
	}
	return nil, p.fail(t.text + " literals are not supported")
}

func (p *parser) function() (expr, error) {
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	f := call{name: p.next().text}
	p.next() // (
	for !p.isPunct(")") {
		arg, err := p.expression()
		if err != nil {
			return nil, err
		}
		f.args = append(f.args, arg)
		if !p.take(",") {
			break
		}
	}
	if n := functions[f.name]; len(f.args) < n.min || len(f.args) > n.max {
		return nil, p.fail(f.name + " has the wrong number of arguments")
	}
	return f, p.expect(")")
}

// path parses a/b/c, a/b/any(…), a/$count and a/$count($filter=…).
func (p *parser) path() (expr, error) {
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
	return path{names}, nil
}

func (p *parser) count(nav []string) (expr, error) {
	c := countOf{nav: nav}
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
	if c.filter, err = p.expression(); err != nil {
		return nil, err
	}
	return c, p.expect(")")
}

func (p *parser) lambda(nav []string) (expr, error) {
	if p.lambdas++; p.lambdas > p.lim.Lambdas {
		return nil, invalid("any and all are nested deeper than %d levels", p.lim.Lambdas)
	}
	defer func() { p.lambdas-- }()
	l := lambda{nav: nav, all: p.next().text == "all"}
	p.next() // (
	if p.take(")") {
		if l.all {
			return nil, p.fail("all needs a condition")
		}
		return l, nil
	}
	var err error
	if l.name, err = p.ident("a variable"); err != nil {
		return nil, err
	}
	if err := p.expect(":"); err != nil {
		return nil, err
	}
	if l.body, err = p.expression(); err != nil {
		return nil, err
	}
	return l, p.expect(")")
}

// parseDate reads what clients write for a point in time and gives the database's form.
func parseDate(s string) (string, error) {
	for _, layout := range dateLayouts {
		if t, err := timeParse(layout, s); err == nil {
			return db.FormatTime(t), nil
		}
	}
	return "", errors.New("not a date")
}
