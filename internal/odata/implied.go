package odata

import (
	"reflect"
	"slices"
	"strconv"

	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// Most rules of a row on which others hang say "whoever may see the row above". Where the row above has just been found, that
// need not be asked again, row by row. What follows is only used to leave out a condition that is certain to hold.

// under gives the filters that are known to hold for rows that hang by a foreign key on rows for which known hold: what holds
// above, said from below.
func under(col *column, known []syntax.Expr) []syntax.Expr {
	if col.base == nil {
		return nil
	}
	var out []syntax.Expr
	for _, e := range known {
		if above := normal(e, "", nil); above != nil {
			out = append(out, fromBelow{col: col.base, above: above})
		}
	}
	return out
}

// fromBelow is the filter `link/any(x: above)` of a foreign key, under whichever of its names.
type fromBelow struct {
	col   *column
	above syntax.Expr
}

// beyond gives the filters that are known to hold for the row that a foreign key leads to, from those of the row that has it:
// every `link/any(x: …)` among them, if it speaks of x alone.
func beyond(col *column, known []syntax.Expr) []syntax.Expr {
	var out []syntax.Expr
	for _, e := range known {
		terms := []syntax.Expr{e}
		if l, ok := e.(syntax.Logical); ok && l.Op == "and" {
			terms = l.Terms
		}
		for _, t := range terms {
			if b, ok := t.(fromBelow); ok && b.col == col.base {
				out = append(out, b.above)
			}
			if l, ok := t.(syntax.Lambda); ok && l.Body != nil && !l.All && col.base.named(l.Nav) {
				if body := normal(l.Body, l.Name, nil); body != nil {
					out = append(out, body)
				}
			}
		}
	}
	return out
}

// named reports whether a navigation is this foreign key and nothing more.
func (c *column) named(nav []string) bool {
	return c != nil && len(nav) == 1 && (nav[0] == c.Name || slices.Contains(c.Synonyms, nav[0]))
}

// implies reports whether a filter that holds makes another one hold. False means: not seen at once.
func implies(known, rule syntax.Expr) bool {
	if rule == nil || known == nil {
		return false
	}
	if k, ok := known.(fromBelow); ok {
		return k.implies(rule)
	}
	return follows(normal(known, "", nil), normal(rule, "", nil))
}

func (k fromBelow) implies(rule syntax.Expr) bool {
	switch r := rule.(type) {
	case syntax.Lambda:
		return !r.All && r.Body != nil && k.col.named(r.Nav) && follows(k.above, normal(r.Body, r.Name, nil))
	case syntax.Logical:
		if r.Op == "or" {
			return slices.ContainsFunc(r.Terms, k.implies)
		}
		return !slices.ContainsFunc(r.Terms, func(t syntax.Expr) bool { return !k.implies(t) })
	}
	return false
}

// follows reports whether b follows from a, both in their normal form.
func follows(a, b syntax.Expr) bool {
	if a == nil || b == nil {
		return false
	}
	if l, ok := a.(syntax.Logical); ok && l.Op == "or" { // each case must do
		return !slices.ContainsFunc(l.Terms, func(t syntax.Expr) bool { return !follows(t, b) })
	}
	if reflect.DeepEqual(a, b) || reflect.DeepEqual(b, syntax.Literal{Value: true}) {
		return true
	}
	if l, ok := b.(syntax.Logical); ok {
		if l.Op == "or" {
			return slices.ContainsFunc(l.Terms, func(t syntax.Expr) bool { return follows(a, t) })
		}
		return !slices.ContainsFunc(l.Terms, func(t syntax.Expr) bool { return !follows(a, t) })
	}
	if l, ok := a.(syntax.Logical); ok { // and: one of them is enough
		return slices.ContainsFunc(l.Terms, func(t syntax.Expr) bool { return follows(t, b) })
	}
	return false
}

// normal writes a filter so that equal ones look equal: lambda variables are numbered, and the row variable is left out, as if
// the filter were said of the row itself. Nil when it speaks of anything else than that row, or is of a kind that rules do not
// hold.
func normal(e syntax.Expr, row string, vars []string) syntax.Expr {
	names := func(path []string) []string {
		for i := len(vars) - 1; i >= 0; i-- {
			if vars[i] == path[0] {
				return append([]string{"#" + strconv.Itoa(i)}, path[1:]...)
			}
		}
		switch {
		case row == "":
			return path
		case path[0] == row && len(path) > 1:
			return path[1:]
		}
		return nil
	}
	switch e := e.(type) {
	case syntax.Literal, syntax.Param:
		return e
	case syntax.Path:
		if p := names(e.Names); p != nil {
			return syntax.Path{Names: p}
		}
	case syntax.Lambda:
		nav := names(e.Nav)
		if nav == nil {
			return nil
		}
		out := syntax.Lambda{Nav: nav, All: e.All, Name: "#" + strconv.Itoa(len(vars))}
		if e.Body == nil {
			return out
		}
		if out.Body = normal(e.Body, row, append(slices.Clip(vars), e.Name)); out.Body != nil {
			return out
		}
	case syntax.Compare:
		l, r := normal(e.Left, row, vars), normal(e.Right, row, vars)
		if l != nil && r != nil {
			return syntax.Compare{Op: e.Op, Left: l, Right: r}
		}
	case syntax.Not:
		if of := normal(e.Of, row, vars); of != nil {
			return syntax.Not{Of: of}
		}
	case syntax.Logical:
		if terms, ok := normalAll(e.Terms, row, vars); ok {
			return syntax.Logical{Op: e.Op, Terms: terms}
		}
	case syntax.InList:
		item := normal(e.Item, row, vars)
		if item != nil {
			return syntax.InList{Item: item, List: e.List}
		}
	case syntax.Call:
		if args, ok := normalAll(e.Args, row, vars); ok {
			return syntax.Call{Name: e.Name, Args: args}
		}
	}
	return nil
}

func normalAll(list []syntax.Expr, row string, vars []string) ([]syntax.Expr, bool) {
	out := make([]syntax.Expr, len(list))
	for i, e := range list {
		if out[i] = normal(e, row, vars); out[i] == nil {
			return nil, false
		}
	}
	return out, true
}
