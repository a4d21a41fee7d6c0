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
	object, ok := rows.Object(l.Row, b.columns, true)
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
