package odata

import (
	"slices"

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
		if above := syntax.Normal(e, ""); above != nil {
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
				if body := syntax.Normal(l.Body, l.Name); body != nil {
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
	return syntax.Follows(syntax.Normal(known, ""), syntax.Normal(rule, ""))
}

func (k fromBelow) implies(rule syntax.Expr) bool {
	switch r := rule.(type) {
	case syntax.Lambda:
		return !r.All && r.Body != nil && k.col.named(r.Nav) && syntax.Follows(k.above, syntax.Normal(r.Body, r.Name))
	case syntax.Logical:
		if r.Op == "or" {
			return slices.ContainsFunc(r.Terms, k.implies)
		}
		return !slices.ContainsFunc(r.Terms, func(t syntax.Expr) bool { return !k.implies(t) })
	}
	return false
}
