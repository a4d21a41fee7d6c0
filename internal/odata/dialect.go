package odata

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/db"
)

// dialect is what differs between databases. The rest of the compiler writes SQL that all of them read: placeholders are ?1, ?2
// and so on, counted because binding order is not text order; truth values are TRUE and FALSE where they are conditions and 0
// or 1 where they are stored.
type dialect struct {
	// typed says of what type a placeholder is, where a database does not find out by itself.
	typed func(placeholder string, v any) string
	// same and differ compare where either side may be null. sameValue compares a column that may be null with a value that is
	// none, so that an index still helps.
	same, differ string
	sameValue    func(column, value string) string
	// idsIn says that a column is one of a bound list of ids, made by ids. each opens such a list as a table whose column
	// "value" holds them.
	idsIn func(column, placeholder string) string
	ids   func(ids []int64) string
	each  func(placeholder, alias string) string
	// first keeps those rows of a table whose ids a query gives that is asked for every row of another table, see compiler.pages.
	first func(outer, ids, table, alias string) string
	// opaque keeps the planner from taking a condition apart in search of an index; apart keeps it from making a join of an
	// EXISTS. Both are for conditions of which there are too many to weigh.
	opaque, apart func(sql string) string
	// bytewise compares and changes texts byte by byte, whatever language the database was made for.
	bytewise func(sql string) string
	// position is where b starts in a, from 1; 0: nowhere. part is n characters of a text from the place start, counted from 0;
	// end is the last of them, as many as another text has.
	position func(a, b string) string
	part     func(text, start, n string) string
	end      func(text, like string) string
	// round is to the nearest whole number, halves away from zero; modulo is the rest of a whole division.
	round  func(sql string) string
	modulo func(a, b string) string
	// shift moves a stored date by bound seconds, in the form that seconds gives.
	shift   func(date, placeholder string) string
	seconds func(s float64) any
	// packs says that the database is quicker at writing the object of a row itself than at giving its columns one by one: see
	// pack.go, which writes it for SQLite.
	packs bool
	// blocks counts the references of a bound table's bound column that keep the rows they point to from being deleted; empty: the
	// database's error tells.
	blocks string
}

func dialectOf(d *db.DB) *dialect {
	if d != nil && d.Dialect() == db.Postgres {
		return &postgres
	}
	return &sqlite
}

func call(name string, args ...string) string { return name + "(" + strings.Join(args, ",") + ")" }

func unchanged(sql string) string { return sql }

var sqlite = dialect{
	typed: func(ph string, _ any) string { return ph },
	same:  " IS ", differ: " IS NOT ",
	sameValue: func(column, value string) string { return "(" + column + " IS " + value + ")" },
	idsIn:     func(column, ph string) string { return column + " IN (SELECT value FROM json_each(" + ph + "))" },
	ids: func(ids []int64) string {
		data, _ := json.Marshal(ids) // a list of numbers always encodes
		return string(data)
	},
	each: func(ph, alias string) string { return "json_each(" + ph + ") " + alias },
	first: func(outer, ids, table, alias string) string {
		return outer + " CROSS JOIN " + table + " " + alias + " ON " + alias + ".id IN (" + ids + ")"
	},
	opaque:   func(sql string) string { return "+" + sql },
	apart:    unchanged,
	bytewise: unchanged,
	position: func(a, b string) string { return call("instr", a, b) },
	part: func(text, start, n string) string {
		if n == "" {
			return "substr(" + text + ",max(" + start + ",0) + 1)"
		}
		return "substr(" + text + ",max(" + start + ",0) + 1,max(" + n + ",0))"
	},
	end: func(text, like string) string {
		return "CASE length(" + like + ") WHEN 0 THEN '' ELSE substr(" + text + ",-length(" + like + ")) END"
	},
	round:  func(sql string) string { return call("round", sql) },
	modulo: func(a, b string) string { return "(" + a + " % " + b + ")" },
	shift: func(date, ph string) string {
		return "strftime('%Y-%m-%dT%H:%M:%fZ'," + date + "," + ph + ")"
	},
	seconds: func(s float64) any { return strconv.FormatFloat(s, 'f', 3, 64) + " seconds" },
	packs:   true,
	blocks:  `SELECT count(*) FROM pragma_foreign_key_list(?1) WHERE "from" = ?2 AND on_delete IN ('NO ACTION', 'RESTRICT')`,
}

// postgres does not find out by itself of what type a value is that stands for itself alone, so each says it.
var postgres = dialect{
	typed: func(ph string, v any) string {
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
	same: " IS NOT DISTINCT FROM ", differ: " IS DISTINCT FROM ",
	sameValue: func(column, value string) string {
		return "(" + column + " = " + value + " AND " + column + " IS NOT NULL)"
	},
	idsIn: func(column, ph string) string { return column + " = ANY(CAST(" + ph + " AS BIGINT[]))" },
	ids: func(ids []int64) string {
		b := []byte{'{'}
		for i, id := range ids {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, id, 10)
		}
		return string(append(b, '}'))
	},
	each: func(ph, alias string) string { return "unnest(CAST(" + ph + " AS BIGINT[])) " + alias + "(value)" },
	first: func(outer, ids, table, alias string) string {
		return outer + " CROSS JOIN LATERAL (" + ids + ") _l JOIN " + table + " " + alias + " ON " + alias + ".id = _l.id"
	},
	opaque:   unchanged,
	apart:    func(exists string) string { return "(SELECT " + exists + ")" },
	bytewise: func(sql string) string { return "(" + sql + ` COLLATE "C")` },
	position: func(a, b string) string { return call("strpos", a, b) },
	part: func(text, start, n string) string {
		whole := func(n string) string {
			return "CAST(LEAST(GREATEST(trunc(CAST(" + n + " AS NUMERIC)),0),1000000000) AS INTEGER)"
		}
		if n == "" {
			return "substr(" + text + "," + whole(start) + " + 1)"
		}
		return "substr(" + text + "," + whole(start) + " + 1," + whole(n) + ")"
	},
	end:   func(text, like string) string { return "right(" + text + ",length(" + like + "))" },
	round: func(sql string) string { return "round(CAST(" + sql + " AS NUMERIC))" },
	modulo: func(a, b string) string {
		return "(CAST(trunc(CAST(" + a + " AS NUMERIC)) AS BIGINT) % CAST(trunc(CAST(" + b + " AS NUMERIC)) AS BIGINT))"
	},
	shift: func(date, ph string) string {
		return `to_char((CAST(` + date + ` AS TIMESTAMPTZ) AT TIME ZONE 'UTC') + make_interval(secs => ` + ph + `),` +
			` 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
	},
	seconds: func(s float64) any { return s },
}

// The order of nulls is that of the reference server's database: last when ascending.
const ascending, descending = " ASC NULLS LAST", " DESC NULLS FIRST"

// quoteName quotes an identifier; names are checked to hold nothing but letters, digits and underscores.
func quoteName(name string) string { return `"` + name + `"` }
