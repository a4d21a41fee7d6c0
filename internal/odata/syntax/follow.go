package syntax

import (
	"reflect"
	"slices"
	"strconv"
)

// Follows reports whether b follows from a, both in their normal form.
func Follows(a, b Expr) bool {
	if a == nil || b == nil {
		return false
	}
	if l, ok := a.(Logical); ok && l.Op == "or" { // each case must do
		return !slices.ContainsFunc(l.Terms, func(t Expr) bool { return !Follows(t, b) })
	}
	if reflect.DeepEqual(a, b) || reflect.DeepEqual(b, Literal{Value: true}) {
		return true
	}
	if l, ok := b.(Logical); ok {
		if l.Op == "or" {
			return slices.ContainsFunc(l.Terms, func(t Expr) bool { return Follows(a, t) })
		}
		return !slices.ContainsFunc(l.Terms, func(t Expr) bool { return !Follows(a, t) })
	}
	if l, ok := a.(Logical); ok { // and: one of them is enough
		return slices.ContainsFunc(l.Terms, func(t Expr) bool { return Follows(t, b) })
	}
	return false
}

// Normal writes a filter so that equal ones look equal: lambda variables are numbered, and the row variable is left out, as if
// the filter were said of the row itself. Nil when it speaks of anything else than that row, or is of a kind that rules do not
// hold.
func Normal(e Expr, row string) Expr { return normal(e, row, nil) }

func normal(e Expr, row string, vars []string) Expr {
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
	case Literal, Param:
		return e
	case Path:
		if p := names(e.Names); p != nil {
			return Path{Names: p}
		}
	case Lambda:
		nav := names(e.Nav)
		if nav == nil {
			return nil
		}
		out := Lambda{Nav: nav, All: e.All, Name: "#" + strconv.Itoa(len(vars))}
		if e.Body == nil {
			return out
		}
		if out.Body = normal(e.Body, row, append(slices.Clip(vars), e.Name)); out.Body != nil {
			return out
		}
	case Compare:
		l, r := normal(e.Left, row, vars), normal(e.Right, row, vars)
		if l != nil && r != nil {
			return Compare{Op: e.Op, Left: l, Right: r}
		}
	case Not:
		if of := normal(e.Of, row, vars); of != nil {
			return Not{Of: of}
		}
	case Logical:
		if terms, ok := normalAll(e.Terms, row, vars); ok {
			return Logical{Op: e.Op, Terms: terms}
		}
	case InList:
		item := normal(e.Item, row, vars)
		if item != nil {
			return InList{Item: item, List: e.List}
		}
	case Call:
		if args, ok := normalAll(e.Args, row, vars); ok {
			return Call{Name: e.Name, Args: args}
		}
	}
	return nil
}

func normalAll(list []Expr, row string, vars []string) ([]Expr, bool) {
	out := make([]Expr, len(list))
	for i, e := range list {
		if out[i] = normal(e, row, vars); out[i] == nil {
			return nil, false
		}
	}
	return out, true
}
