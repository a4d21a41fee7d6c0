// Package syntax parses OData URLs and filters (the dialect of balena's Pine) into trees. It knows no model: what the names in
// a tree mean, and whether they may be said, is for its caller to find out.
package syntax

import (
	"net/url"
	"strconv"
	"strings"
)

// parser turns tokens into a tree, within limits.
type parser struct {
	lim     Limits
	part    string
	toks    []token
	at      int
	depth   int
	lambdas int
	nodes   *int
	expands *int
	plain   bool // of a rule: no mixing of `and` and `or` without parentheses
}

// ParseRequest parses the escaped path below the prefix it is mounted under, and the raw query. The query is split by hand: net/url drops
// parameters that hold a semicolon, which $expand is full of.
func ParseRequest(lim Limits, prefix, escapedPath, rawQuery string) (*Request, error) {
	if len(escapedPath)+len(rawQuery) > lim.URL {
		return nil, invalid("the URL is longer than %d bytes", lim.URL)
	}
	req, err := parseURL(lim, escapedPath, rawQuery)
	if se := (*syntaxError)(nil); err != nil && asSyntax(err, &se) {
		full := prefix + escapedPath
		if rawQuery != "" {
			full += "?" + rawQuery
		}
		return nil, malformed(full, se)
	}
	return req, err
}

func parseURL(lim Limits, escapedPath, rawQuery string) (*Request, error) {
	var nodes, expands int
	req := &Request{Query: Query{Top: -1}, Aliases: map[string]Expr{}, ReturnResource: true, Given: map[string]bool{}}
	decoded, err := url.PathUnescape(escapedPath)
	if err != nil {
		return nil, &syntaxError{"the path", 0, "a wrong percent-encoding"}
	}
	p := &parser{lim: lim, part: "the path", nodes: &nodes, expands: &expands}
	if err := p.start(decoded); err != nil {
		return nil, err
	}
	if err := p.resourcePath(req); err != nil {
		return nil, err
	}
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return nil, &syntaxError{"the query", 0, "a wrong percent-encoding"}
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return nil, &syntaxError{Echo(name), 0, "a wrong percent-encoding"}
		}
		if err := p.parameter(req, name, value); err != nil {
			return nil, err
		}
	}
	return req, nil
}

// parameter takes one name=value of the query. Parameters without a $ or @ are the transport's business (apikey …).
func (p *parser) parameter(req *Request, name, value string) error {
	switch {
	case name == "returnResource":
		req.ReturnResource = value != "false" && value != "0"
		return nil
	case !strings.HasPrefix(name, "$") && !strings.HasPrefix(name, "@"):
		return nil
	}
	p.part = Echo(name)
	if err := p.start(value); err != nil {
		return err
	}
	if name[0] == '@' {
		if _, twice := req.Aliases[name[1:]]; twice {
			return invalid("%s is given twice", Echo(name))
		}
		if len(req.Aliases) >= p.lim.Expands {
			return invalid("more than %d parameter aliases", p.lim.Expands)
		}
		v, err := p.literal()
		if err != nil {
			return err
		}
		req.Aliases[name[1:]] = v
		return p.end()
	}
	if err := p.option(name, req.Given, &req.Query); err != nil {
		return err
	}
	return p.end()
}

func (p *parser) start(text string) error {
	toks, err := lex(p.part, text)
	p.toks, p.at = toks, 0
	return err
}

func (p *parser) peek() token { return p.toks[p.at] }

func (p *parser) next() token {
	t := p.toks[p.at]
	if t.kind != tEOF {
		p.at++
	}
	return t
}

func (p *parser) isPunct(text string) bool {
	t := p.peek()
	return t.kind == tPunct && t.text == text
}

func (p *parser) isIdent(text string) bool {
	t := p.peek()
	return t.kind == tIdent && t.text == text
}

// take consumes a punctuation mark if it stands here.
func (p *parser) take(text string) bool {
	if p.isPunct(text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(text string) error {
	if p.take(text) {
		return nil
	}
	return p.unexpected("expected " + text)
}

func (p *parser) fail(hint string) error { return &syntaxError{p.part, p.peek().pos, hint} }

func (p *parser) unexpected(want string) error {
	t := p.peek()
	if t.kind == tEOF {
		return p.fail(want + " before the end")
	}
	return p.fail(want + " instead of " + Echo(t.text))
}

func (p *parser) ident(what string) (string, error) {
	if p.peek().kind != tIdent {
		return "", p.unexpected("expected " + what)
	}
	return p.next().text, nil
}

func (p *parser) end() error {
	if p.peek().kind == tEOF {
		return nil
	}
	return p.unexpected("expected nothing more")
}

// node counts a part of an expression against the limit.
func (p *parser) node() error {
	if *p.nodes++; *p.nodes > p.lim.Nodes {
		return invalid("the request has more than %d parts", p.lim.Nodes)
	}
	return nil
}

// deeper counts nesting; the returned function undoes it.
func (p *parser) deeper() (func(), error) {
	if p.depth++; p.depth > p.lim.Depth {
		return nil, invalid("the request is nested deeper than %d levels", p.lim.Depth)
	}
	return func() { p.depth-- }, nil
}

// actions may follow a key.
var actions = map[string]bool{"canAccess": true, "beginUpload": true, "commitUpload": true, "cancelUpload": true}

// resourcePath parses device(uuid='x')/$count.
func (p *parser) resourcePath(req *Request) (err error) {
	if p.peek().kind == tOption && p.peek().text == "$metadata" {
		req.Resource = p.next().text
		return p.end()
	}
	if req.Resource, err = p.ident("a resource"); err != nil {
		return err
	}
	if p.take("(") {
		if req.Key, err = p.key(); err != nil {
			return err
		}
	}
	if p.take("/") {
		switch t := p.peek(); {
		case t.kind == tOption && t.text == "$count", t.kind == tIdent && actions[t.text]:
			req.Action = p.next().text
		case t.kind == tEOF: // a trailing slash
		default:
			return p.unexpected("expected $count or an action such as canAccess")
		}
	}
	return p.end()
}

// key parses what stands between the parentheses of a resource: 5, @id, or name=value,…
func (p *parser) key() ([]KeyPart, error) {
	var parts []KeyPart
	for {
		if err := p.node(); err != nil {
			return nil, err
		}
		var part KeyPart
		if p.peek().kind == tIdent && p.toks[p.at+1].kind == tPunct && p.toks[p.at+1].text == "=" {
			part.Name = p.next().text
			p.next()
		}
		var err error
		if p.peek().kind == tAlias {
			part.Value = Param{p.next().text[1:]}
		} else if part.Value, err = p.literal(); err != nil {
			return nil, err
		}
		parts = append(parts, part)
		if p.take(",") {
			continue
		}
		if err := p.expect(")"); err != nil {
			return nil, err
		}
		if len(parts) > 1 {
			for _, k := range parts {
				if k.Name == "" {
					return nil, p.fail("a key of several parts needs their names")
				}
			}
		}
		return parts, nil
	}
}

// option parses the value of one $option, of the request or of an expand.
func (p *parser) option(name string, given map[string]bool, q *Query) (err error) {
	switch name {
	case "$select", "$filter", "$expand", "$orderby", "$top", "$skip", "$count", "$format":
	default:
		return invalid("%s is not a query option of this API", Echo(name))
	}
	if given[name] {
		return invalid("%s is given twice", name)
	}
	given[name] = true
	switch name {
	case "$select":
		return p.selectList(q)
	case "$filter":
		q.Filter, err = p.expression()
	case "$expand":
		q.Expand, err = p.expandList()
	case "$orderby":
		q.OrderBy, err = p.orderList()
	case "$top":
		if q.Top, err = p.integer(name); err == nil && q.Top > p.lim.Top {
			err = invalid("$top may be at most %d", p.lim.Top)
		}
	case "$skip":
		q.Skip, err = p.integer(name)
	case "$count":
		if t := p.next(); t.kind != tIdent || (t.text != "true" && t.text != "false") {
			err = invalid("$count must be true or false; to count rows ask for /$count")
		}
	case "$format":
		if t := p.next(); t.kind != tIdent || t.text != "json" {
			err = invalid("$format may only be json")
		}
	}
	return err
}

func (p *parser) integer(name string) (int, error) {
	t := p.next()
	n, err := strconv.ParseInt(t.text, 10, 64)
	if t.kind != tNumber || err != nil || n < 0 {
		return 0, invalid("%s must be a whole number, zero or more", name)
	}
	return int(n), nil
}

func (p *parser) selectList(q *Query) error {
	q.Select = []string{}
	for {
		if err := p.node(); err != nil {
			return err
		}
		if p.take("*") {
			q.All = true
		} else {
			name, err := p.ident("a property")
			if err != nil {
				return err
			}
			q.Select = append(q.Select, name)
		}
		if !p.take(",") {
			return nil
		}
	}
}

func (p *parser) orderList() ([]Order, error) {
	var items []Order
	for {
		by, err := p.expression()
		if err != nil {
			return nil, err
		}
		item := Order{By: by} // without a direction the dialect means descending
		switch {
		case p.isIdent("asc"):
			item.Asc = true
			p.next()
		case p.isIdent("desc"):
			p.next()
		}
		items = append(items, item)
		if !p.take(",") {
			return items, nil
		}
	}
}

func (p *parser) expandList() ([]Expand, error) {
	up, err := p.deeper()
	if err != nil {
		return nil, err
	}
	defer up()
	var items []Expand
	for {
		if *p.expands++; *p.expands > p.lim.Expands {
			return nil, invalid("the request expands more than %d navigations", p.lim.Expands)
		}
		item := Expand{Query: Query{Top: -1}}
		if item.Name, err = p.ident("a navigation"); err != nil {
			return nil, err
		}
		if p.take("/") {
			if t := p.peek(); t.kind != tOption || t.text != "$count" {
				return nil, p.unexpected("expected $count")
			}
			p.next()
			item.Count = true
		}
		if p.take("(") {
			if err := p.nestedOptions(&item.Query); err != nil {
				return nil, err
			}
		}
		items = append(items, item)
		if !p.take(",") {
			return items, nil
		}
	}
}

// nestedOptions parses $select=…;$filter=… up to the closing parenthesis.
func (p *parser) nestedOptions(q *Query) error {
	given := map[string]bool{}
	for {
		if p.peek().kind != tOption {
			return p.unexpected("expected an option such as $select")
		}
		name := p.next().text
		if err := p.expect("="); err != nil {
			return err
		}
		if err := p.option(name, given, q); err != nil {
			return err
		}
		if p.take(";") {
			if p.take(")") {
				return nil
			}
			continue
		}
		return p.expect(")")
	}
}
