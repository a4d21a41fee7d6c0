// Package dialect says what differs between the databases that a request may be compiled for.
package dialect

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/db"
)

// Dialect is what differs between databases. The rest of the compiler writes SQL that all of them read: placeholders are ?1, ?2
// and so on, counted because binding order is not text order; truth values are TRUE and FALSE where they are conditions and 0
// or 1 where they are stored.
type Dialect struct {
	// Typed says of what type a placeholder is, where a database does not find out by itself.
	Typed func(placeholder string, v any) string
	// Same and differ compare where either side may be null. SameValue compares a column that may be null with a value that is
	// none, so that an index still helps.
	Same, Differ string
	SameValue    func(column, value string) string
	// IDsIn says that a column is one of a bound list of ids, made by IDs. Each opens such a list as a table whose column
	// "value" holds them.
	IDsIn func(column, placeholder string) string
	IDs   func(ids []int64) string
	Each  func(placeholder, alias string) string
	// First keeps those rows of a table whose ids a query gives that is asked for every row of another table.
	First func(outer, ids, table, alias string) string
	// InFew stands around a query that a column is one of, where the rows with such a value are few: an index is to find them.
	InFew [2]string
	// Found is a table's rows that meet a condition, found without a thought of the order that they are to be put in: else a planner
	// that takes them for many goes through the whole table in that order. Empty: no planner does.
	Found func(table, alias, where string) string
	// Opaque keeps the planner from taking a condition apart in search of an index; Apart keeps it from making a join of an
	// EXISTS. Both are for conditions of which there are too many to weigh.
	Opaque, Apart func(sql string) string
	// Bytewise compares and changes texts byte by byte, whatever language the database was made for.
	Bytewise func(sql string) string
	// Position is where b starts in a, from 1; 0: nowhere. Part is n characters of a text from the place start, counted from 0;
	// End is the last of them, as many as another text has.
	Position func(a, b string) string
	Part     func(text, start, n string) string
	End      func(text, like string) string
	// Round is to the nearest whole number, halves away from zero; Modulo is the rest of a whole division.
	Round  func(sql string) string
	Modulo func(a, b string) string
	// Shift moves a stored date by bound seconds, in the form that Seconds gives.
	Shift   func(date, placeholder string) string
	Seconds func(s float64) any
	// Packs says that the database is quicker at writing the object of a row itself than at giving its columns one by one.
	Packs bool
	// Blocks counts the references of a bound table's bound column that keep the rows they point to from being deleted; empty: the
	// database's error tells.
	Blocks string
}

// Of is the dialect of a database; without one that of SQLite.
func Of(d *db.DB) *Dialect {
	if d != nil && d.Dialect() == db.Postgres {
		return &postgres
	}
	return &sqlite
}

// Call writes a function call.
func Call(name string, args ...string) string { return name + "(" + strings.Join(args, ",") + ")" }

// first is a query for the keys of a table's first rows.
func first(table string, keys []string, desc bool, rows string) string {
	dir := ""
	if desc {
		dir = " DESC"
	}
	return "SELECT " + strings.Join(keys, ",") + " FROM " + table + " ORDER BY " + strings.Join(keys, dir+",") + dir + " LIMIT " + rows
}

// Window is the condition on a table's first rows, or last, in the order of columns that an index has, the id last. A subquery for
// the rows themselves would have PostgreSQL describe all columns of the table at each of its steps.
func Window(table, alias string, keys []string, desc bool, rows string) string {
	edge, sign := "max", " <= "
	if desc {
		edge, sign = "min", " >= "
	}
	if len(keys) == 1 {
		return alias + "." + keys[0] + sign + "(SELECT " + edge + "(" + keys[0] + ") FROM (" + first(table, keys, desc, rows) + ") _w)"
	}
	// Row values are compared where they stand, so the last row of the window is asked for itself.
	last := first(table, keys, desc, "1") + " OFFSET " + rows
	return "(" + alias + "." + strings.Join(keys, ","+alias+".") + ")" + sign + "(" + last + ")"
}

func unchanged(sql string) string { return sql }

var sqlite = Dialect{
	Typed: func(ph string, _ any) string { return ph },
	Same:  " IS ", Differ: " IS NOT ",
	SameValue: func(column, value string) string { return "(" + column + " IS " + value + ")" },
	IDsIn:     func(column, ph string) string { return column + " IN (SELECT value FROM json_each(" + ph + "))" },
	IDs: func(ids []int64) string {
		data, _ := json.Marshal(ids) // a list of numbers always encodes
		return string(data)
	},
	Each: func(ph, alias string) string { return "json_each(" + ph + ") " + alias },
	First: func(outer, ids, table, alias string) string {
		return outer + " CROSS JOIN " + table + " " + alias + " ON " + alias + ".id IN (" + ids + ")"
	},
	InFew:    [2]string{"IN (", ")"},
	Found:    func(_, _, _ string) string { return "" },
	Opaque:   func(sql string) string { return "+" + sql },
	Apart:    unchanged,
	Bytewise: unchanged,
	Position: func(a, b string) string { return Call("instr", a, b) },
	Part: func(text, start, n string) string {
		if n == "" {
			return "substr(" + text + ",max(" + start + ",0) + 1)"
		}
		return "substr(" + text + ",max(" + start + ",0) + 1,max(" + n + ",0))"
	},
	End: func(text, like string) string {
		return "CASE length(" + like + ") WHEN 0 THEN '' ELSE substr(" + text + ",-length(" + like + ")) END"
	},
	Round:  func(sql string) string { return Call("round", sql) },
	Modulo: func(a, b string) string { return "(" + a + " % " + b + ")" },
	Shift: func(date, ph string) string {
		return "strftime('%Y-%m-%dT%H:%M:%fZ'," + date + "," + ph + ")"
	},
	Seconds: func(s float64) any { return strconv.FormatFloat(s, 'f', 3, 64) + " seconds" },
	Packs:   true,
	Blocks:  `SELECT count(*) FROM pragma_foreign_key_list(?1) WHERE "from" = ?2 AND on_delete IN ('NO ACTION', 'RESTRICT')`,
}

// postgres does not find out by itself of what type a value is that stands for itself alone, so each says it.
var postgres = Dialect{
	Typed: func(ph string, v any) string {
		switch v.(type) {
		case int64:
			return "CAST(" + ph + " AS BIGINT)"
		case float64:
			return "CAST(" + ph + " AS DOUBLE PRECISION)"
		case string:
			return "CAST(" + ph + " AS TEXT)"
		}
		return ph
	},
	Same: " IS NOT DISTINCT FROM ", Differ: " IS DISTINCT FROM ",
	SameValue: func(column, value string) string {
		return "(" + column + " = " + value + " AND " + column + " IS NOT NULL)"
	},
	IDsIn: func(column, ph string) string { return column + " = ANY(CAST(" + ph + " AS BIGINT[]))" },
	IDs: func(ids []int64) string {
		b := []byte{'{'}
		for i, id := range ids {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, id, 10)
		}
		return string(append(b, '}'))
	},
	Each: func(ph, alias string) string { return "unnest(CAST(" + ph + " AS BIGINT[])) " + alias + "(value)" },
	First: func(outer, ids, table, alias string) string {
		return outer + " CROSS JOIN LATERAL (" + ids + ") _l JOIN " + table + " " + alias + " ON " + alias + ".id = _l.id"
	},
	InFew: [2]string{"= ANY(ARRAY(", "))"},
	Found: func(table, alias, where string) string {
		return "(SELECT " + alias + ".* FROM " + table + " " + alias + where + " OFFSET 0) " + alias
	},
	Opaque:   unchanged,
	Apart:    func(exists string) string { return "(SELECT " + exists + ")" },
	Bytewise: func(sql string) string { return "(" + sql + ` COLLATE "C")` },
	Position: func(a, b string) string { return Call("strpos", a, b) },
	Part: func(text, start, n string) string {
		whole := func(n string) string {
			return "CAST(LEAST(GREATEST(trunc(CAST(" + n + " AS NUMERIC)),0),1000000000) AS INTEGER)"
		}
		if n == "" {
			return "substr(" + text + "," + whole(start) + " + 1)"
		}
		return "substr(" + text + "," + whole(start) + " + 1," + whole(n) + ")"
	},
	End:   func(text, like string) string { return "right(" + text + ",length(" + like + "))" },
	Round: func(sql string) string { return "round(CAST(" + sql + " AS NUMERIC))" },
	Modulo: func(a, b string) string {
		return "(CAST(trunc(CAST(" + a + " AS NUMERIC)) AS BIGINT) % CAST(trunc(CAST(" + b + " AS NUMERIC)) AS BIGINT))"
	},
	Shift: func(date, ph string) string {
		return `to_char((CAST(` + date + ` AS TIMESTAMPTZ) AT TIME ZONE 'UTC') + make_interval(secs => ` + ph + `),` +
			` 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
	},
	Seconds: func(s float64) any { return s },
}

// Ascending and Descending order columns that may be null, as the reference server's database does: last when ascending.
const Ascending, Descending = " ASC NULLS LAST", " DESC NULLS FIRST"

// Quote quotes an identifier; names are checked to hold nothing but letters, digits and underscores.
func Quote(name string) string { return `"` + name + `"` }
