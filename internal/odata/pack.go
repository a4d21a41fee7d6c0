package odata

// pack has SQLite write the objects of a statement's rows: the statement then gives one text instead of a column for each
// property, which costs this driver less than half. Rows whose lists hang on a row joined to them, and files, are left to the
// runner.
func (b *builder) pack() {
	l := b.level
	object, ok := b.object(l.row, true)
	if !ok {
		return
	}
	old := b.columns
	b.columns, b.index = nil, map[string]int{}
	l.packed = b.column(object)
	if l.parent >= 0 {
		l.parent, l.own = b.column(old[l.parent]), b.column(old[l.own])
	}
	row := &node{present: -1}
	for _, f := range l.row.fields {
		if f.list != nil {
			f.col = b.column(old[f.col])
			row.fields = append(row.fields, f)
		}
	}
	l.row = row
}

// object is the SQL of a row's object without the lists of the row itself.
func (b *builder) object(n *node, top bool) (string, bool) {
	pairs := make([]string, 0, 2*len(n.fields))
	for _, f := range n.fields {
		var sql string
		switch {
		case f.list != nil && top:
			continue
		case f.list != nil || f.kind == WebResource:
			return "", false
		case f.none:
			sql = "json('[]')"
		case f.one != nil:
			inner, ok := b.object(f.one, false)
			if !ok {
				return "", false
			}
			sql = "CASE WHEN " + b.columns[f.one.present] + " IS NULL THEN json('[]') ELSE json_array(" + inner + ") END"
		default:
			sql = packed(f.kind, b.columns[f.col])
		}
		pairs = append(pairs, "'"+f.key[1:len(f.key)-2]+"'", sql)
	}
	return call("json_object", pairs...), true
}

// packed is a column as json_object takes it.
func packed(t Type, sql string) string {
	switch t {
	case Boolean:
		return "CASE WHEN " + sql + " THEN json('true') WHEN NOT " + sql + " THEN json('false') END"
	case BigInteger:
		return "CAST(" + sql + " AS TEXT)"
	case ForeignKey:
		return "CASE WHEN " + sql + " IS NOT NULL THEN json_object('__id'," + sql + ") END"
	case JSON:
		return "json(" + sql + ")"
	case Real:
		return "CASE WHEN " + sql + " = CAST(" + sql + " AS INTEGER) THEN CAST(" + sql + " AS INTEGER) ELSE " + sql + " END"
	}
	return sql
}

// unpacked writes the object of a row that the database wrote but for its lists.
func (w *levelWriter) unpacked(cells []cell) {
	object := cells[w.l.packed].text
	if len(w.l.row.fields) == 0 {
		w.out = append(w.out, object...)
		return
	}
	w.out = append(w.out, object[:len(object)-1]...)
	for i, f := range w.l.row.fields {
		if i > 0 || len(object) > len("{}") {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, f.key...)
		w.list(f, cells)
	}
	w.out = append(w.out, '}')
}
