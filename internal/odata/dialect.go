package odata

import (
	"strconv"
	"strings"
)

// dialect is what differs between databases. The rest of the compiler writes SQL that all of them read.
type dialect struct {
	yes, no string
	// placeholder is the n-th bound value, counted from 1; numbers, because binding order is not text order.
	placeholder func(n int) string
	// object makes a JSON object of 'key', value, 'key', value …; array collects JSON values.
	object func(pairs []string) string
	array  func(column string) string
	// nested marks text that already is JSON, so that it is not quoted again.
	nested func(sql string) string
	// jsonBool shows a stored truth value, jsonText shows a number as text, deferred shows {"__id":n}.
	jsonBool, jsonText, deferred func(sql string) string
	// same and differ compare where either side may be null.
	same, differ string
	// idsIn is the rows of a bound JSON list of ids.
	idsIn func(placeholder string) string
	// opaque keeps the planner from taking a condition apart in search of an index.
	opaque func(sql string) string
	// truth is a truth value as it is bound.
	truth func(v bool) any
	// position is where b starts in a, from 1; 0: nowhere.
	position func(a, b string) string
	// datePart takes a part (year, month …) out of a stored date.
	datePart func(part, date string) string
	// blocks counts the references of a bound table's bound column that keep the rows they point to from being deleted.
	blocks string
	// ascending and descending order nulls last when ascending, as the reference server's database does.
	ascending, descending string
}

// sqlite is the dialect of the embedded database. A nested list is wrapped in json(), because SQLite forgets across a
// subquery that a text is JSON.
var sqlite = dialect{
	yes: "1", no: "0",
	placeholder: func(n int) string { return "?" + strconv.Itoa(n) },
	object:      func(pairs []string) string { return "json_object(" + strings.Join(pairs, ",") + ")" },
	array:       func(column string) string { return "json_group_array(" + column + ")" },
	nested:      func(sql string) string { return "json(" + sql + ")" },
	jsonBool:    func(sql string) string { return "json(CASE " + sql + " WHEN 0 THEN 'false' WHEN 1 THEN 'true' END)" },
	jsonText:    func(sql string) string { return "CAST(" + sql + " AS TEXT)" },
	deferred:    func(sql string) string { return `json('{"__id":'||` + sql + `||'}')` },
	same:        " IS ", differ: " IS NOT ",
	idsIn:  func(ph string) string { return "(SELECT value FROM json_each(" + ph + "))" },
	opaque: func(sql string) string { return "+" + sql },
	truth: func(v bool) any {
		if v {
			return int64(1)
		}
		return int64(0)
	},
	position: func(a, b string) string { return "instr(" + a + "," + b + ")" },
	datePart: func(part, date string) string {
		format := map[string]string{"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}[part]
		return "CAST(strftime('" + format + "'," + date + ") AS INTEGER)"
	},
	blocks:    `SELECT count(*) FROM pragma_foreign_key_list(?1) WHERE "from" = ?2 AND on_delete IN ('NO ACTION', 'RESTRICT')`,
	ascending: " ASC NULLS LAST", descending: " DESC NULLS FIRST",
}

// quoteName quotes an identifier; names are checked to hold nothing but letters, digits and underscores.
func quoteName(name string) string { return `"` + name + `"` }
