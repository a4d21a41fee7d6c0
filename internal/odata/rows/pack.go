package rows

import "github.com/roadstead-io/roadstead/internal/odata/dialect"

// Object is the SQL of a row's object, made of that of its columns; top leaves out the lists of the row itself. False: SQL cannot
// write it.
func Object(n *Node, columns []string, top bool) (string, bool) {
	pairs := make([]string, 0, 2*len(n.Fields))
	for _, f := range n.Fields {
		var sql string
		switch {
		case f.List != nil && top:
			continue
		case f.List != nil || f.Kind == File:
			return "", false
		case f.None:
			sql = "json('[]')"
		case f.One != nil:
			inner, ok := Object(f.One, columns, false)
			if !ok {
				return "", false
			}
			sql = "CASE WHEN " + columns[f.One.Present] + " IS NULL THEN json('[]') ELSE json_array(" + inner + ") END"
		default:
			sql = packed(f.Kind, columns[f.Col])
		}
		pairs = append(pairs, "'"+f.Key[1:len(f.Key)-2]+"'", sql)
	}
	return dialect.Call("json_object", pairs...), true
}

// packed is a column as json_object takes it.
func packed(k Kind, sql string) string {
	switch k {
	case Truth:
		return "CASE " + sql + " WHEN 1 THEN json('true') WHEN 0 THEN json('false') END"
	case Sure: // a condition that jumps, not a value that is compared: a third of the steps
		return "CASE WHEN " + sql + " THEN json('true') ELSE json('false') END"
	case Digits:
		return "CAST(" + sql + " AS TEXT)"
	case Link:
		return "CASE WHEN " + sql + " IS NOT NULL THEN json_object('__id'," + sql + ") END"
	case JSON:
		return "json(" + sql + ")"
	case Fraction:
		return "CASE WHEN " + sql + " = CAST(" + sql + " AS INTEGER) THEN CAST(" + sql + " AS INTEGER) ELSE " + sql + " END"
	}
	return sql
}
