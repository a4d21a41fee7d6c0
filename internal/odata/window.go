package odata

import (
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// The first rows of a table can be found in two ways: in the order that is asked for, asking the rule of each until there are enough;
// or by first finding all that the rule allows, and sorting them. The first way costs somebody who sees few rows the whole table,
// the second one somebody who sees many all of theirs, and no planner knows who asks. So the first way is tried on a bounded number
// of rows, and the second one follows if they were too few: neither costs more the more rows others have.

// span is a bounded number of rows at one end of a table.
type span struct {
	keys    []string // stored columns that an index orders the table by, the id last
	desc    bool
	rows    int64
	narrows bool // set when a statement was narrowed to it
}

// maxPage is how many rows are worth finding in this way: a tenant whose rows come later pays for the attempt.
const maxPage = 500

// window gives the rows to look at first; nil is all.
func window(r *resource, req *syntax.Request) *span {
	q := &req.Query
	if r.base.View || req.Key != nil || req.Action != "" || q.Filter != nil || q.Top < 1 || q.Top+q.Skip > maxPage {
		return nil
	}
	w := &span{keys: []string{"id"}, rows: int64(q.Top+q.Skip) + 32}
	if len(q.OrderBy) == 0 {
		return w
	}
	first := q.OrderBy[0]
	p, ok := first.By.(syntax.Path)
	if !ok || len(p.Names) != 1 {
		return nil
	}
	col := r.columns[p.Names[0]]
	switch {
	case p.Names[0] == "id":
		w.desc = !first.Asc
	case col != nil && col.sql == nil && col.base != nil && col.base.Ordered && len(q.OrderBy) == 1 && first.Asc:
		w.keys = []string{col.base.Name, "id"}
	default:
		return nil
	}
	return w
}

// within narrows a statement to a window. Its conditions are asked row by row.
func (c *compiler) within(w *span, s scope, where []string) (asked []string) {
	w.narrows = true
	for _, cond := range where {
		asked = append(asked, c.d.Opaque(cond))
	}
	return append(asked, dialect.Window(s.res.table, s.alias, w.keys, w.desc, c.bind(w.rows)))
}

// byIDs reports whether rows are asked for in the order of their ids.
func byIDs(q *syntax.Query) bool {
	if len(q.OrderBy) == 0 {
		return true
	}
	p, ok := q.OrderBy[0].By.(syntax.Path)
	return ok && len(p.Names) == 1 && p.Names[0] == "id"
}

// longPrefix is how many characters of a key find next to nothing: short uuids, as people type them, have seven.
const longPrefix = 6

// pinned reports whether a filter gives the start of a key. The rows are then few, whoever asks, and the key's index finds them; that
// of the rule's would find all that the caller may see.
func (r *resource) pinned(filter syntax.Expr) bool {
	terms := []syntax.Expr{filter}
	if l, ok := filter.(syntax.Logical); ok && l.Op == "and" {
		terms = l.Terms
	}
	for _, t := range terms {
		f, ok := t.(syntax.Call)
		if !ok || f.Name != "startswith" {
			continue
		}
		p, _ := f.Args[0].(syntax.Path)
		l, _ := f.Args[1].(syntax.Literal)
		if text, _ := l.Value.(string); len(text) >= longPrefix && len(p.Names) == 1 && r.isKey(p.Names[:1:1]) {
			return true
		}
	}
	return false
}
