package odata

import (
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
)

// pack has SQLite write the objects of a statement's rows: the statement then gives one text instead of a column for each
// property, which costs this driver less than half. Rows whose lists hang on a row joined to them, and files, are left to the
// runner.
func (b *builder) pack() {
	l := b.level
	object, ok := b.object(l.Row, true)
	if !ok {
		return
	}
	old := b.columns
	b.columns, b.index = nil, map[string]int{}
	if l.Parent >= 0 {
		l.Parent, l.Own = b.column(old[l.Parent]), b.column(old[l.Own])
	}
	row := &rows.Node{Present: -1}
	for _, f := range l.Row.Fields {
		if f.List != nil {
			f.Col = b.column(old[f.Col])
			row.Fields = append(row.Fields, f)
		}
	}
	l.Row, l.Packed = row, len(b.columns)
	b.columns = append(b.columns, object)
}

// batched is a statement that gives its rows in one, see [rows.Level].
func (b *builder) batched(tail string) string {
	return "SELECT count(*),group_concat(x,char(10)) FROM (SELECT " + dialect.Call("json_array", b.columns...) + " AS x" + tail + ")"
}

// object is the SQL of a row's object without the lists of the row itself.
func (b *builder) object(n *rows.Node, top bool) (string, bool) {
	pairs := make([]string, 0, 2*len(n.Fields))
	for _, f := range n.Fields {
		var sql string
		switch {
		case f.List != nil && top:
			continue
		case f.List != nil || f.Kind == rows.File:
			return "", false
		case f.None:
			sql = "json('[]')"
		case f.One != nil:
			inner, ok := b.object(f.One, false)
			if !ok {
				return "", false
			}
			sql = "CASE WHEN " + b.columns[f.One.Present] + " IS NULL THEN json('[]') ELSE json_array(" + inner + ") END"
		default:
			sql = packed(f.Kind, b.columns[f.Col])
		}
		pairs = append(pairs, "'"+f.Key[1:len(f.Key)-2]+"'", sql)
	}
	return dialect.Call("json_object", pairs...), true
}

// packed is a column as json_object takes it.
func packed(k rows.Kind, sql string) string {
	switch k {
	case rows.Truth:
		return "CASE " + sql + " WHEN 1 THEN json('true') WHEN 0 THEN json('false') END"
	case rows.Digits:
		return "CAST(" + sql + " AS TEXT)"
	case rows.Link:
		return "CASE WHEN " + sql + " IS NOT NULL THEN json_object('__id'," + sql + ") END"
	case rows.JSON:
		return "json(" + sql + ")"
	case rows.Fraction:
		return "CASE WHEN " + sql + " = CAST(" + sql + " AS INTEGER) THEN CAST(" + sql + " AS INTEGER) ELSE " + sql + " END"
	}
	return sql
}
