package apiserver_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// Each migration has a file for each database, and no number is taken twice.
func TestMigrationsComeInPairs(t *testing.T) {
	taken := map[string]string{}
	for i, part := range apiserver.Migrations() {
		names := map[db.Dialect][]string{}
		for _, dialect := range []db.Dialect{db.SQLite, db.Postgres} {
			files, err := fs.Glob(part, string(dialect)+"/*.sql")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				names[dialect] = append(names[dialect], strings.TrimPrefix(f, string(dialect)+"/"))
			}
		}
		if !slices.Equal(names[db.SQLite], names[db.Postgres]) || len(names[db.SQLite]) == 0 {
			t.Errorf("SQLite has the migrations %v, PostgreSQL %v", names[db.SQLite], names[db.Postgres])
		}
		for _, name := range names[db.SQLite] {
			number, _, _ := strings.Cut(name, "_")
			if other := taken[number]; other != "" {
				t.Errorf("%s and %s of part %d have the same number", other, name, i)
			}
			taken[number] = name
		}
	}
}

// The migrations make the same tables on both databases: columns with their types, nulls and defaults, keys, references with
// what a deletion does, unique constraints, checks, indexes, triggers, views. A run on PostgreSQL compares the two. Only there triggers
// named notice_… tell other processes of changes, and …_truncate refuse what SQLite has not; there are none of them there.
func TestBothDatabasesHaveTheSameSchema(t *testing.T) {
	own := dbtest.Open(t, nil, apiserver.Migrations()...)
	if own.Dialect() == db.SQLite {
		if got := sqliteSchema(t, own); len(got) < 500 {
			t.Errorf("SQLite's schema has %d lines, want all of it", len(got))
		}
		return
	}
	file, err := db.Open(db.Config{Path: t.TempDir() + "/roadstead.db"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := file.Migrate(t.Context(), apiserver.Migrations()...); err != nil {
		t.Fatal(err)
	}
	onFile, onServer := sqliteSchema(t, file), postgresSchema(t, own)
	if len(onFile) < 500 {
		t.Errorf("SQLite's schema has %d lines, want all of it", len(onFile))
	}
	for _, line := range slices.Sorted(maps.Keys(onFile)) {
		if !onServer[line] {
			t.Errorf("only on SQLite: %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(onServer)) {
		if !onFile[line] {
			t.Errorf("only on PostgreSQL: %s", line)
		}
	}
}

type schemaLines map[string]bool

func (s schemaLines) add(format string, args ...any) { s[fmt.Sprintf(format, args...)] = true }

// ask gives the rows of a query as text.
func ask(t *testing.T, d *db.DB, query string, args ...any) (all [][]string) {
	t.Helper()
	err := d.Read(t.Context(), func(tx *db.Tx) error {
		rows, err := tx.QueryContext(context.Background(), query, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		for rows.Next() {
			row, into := make([]*string, len(columns)), make([]any, len(columns))
			for i := range row {
				into[i] = &row[i]
			}
			if err := rows.Scan(into...); err != nil {
				return err
			}
			text := make([]string, len(columns))
			for i, v := range row {
				text[i] = "NULL"
				if v != nil {
					text[i] = *v
				}
			}
			all = append(all, text)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return all
}

func sqliteSchema(t *testing.T, d *db.DB) schemaLines {
	s := schemaLines{}
	for _, table := range ask(t, d, `SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'goose%'`) {
		name, text := table[0], comments.ReplaceAllString(table[1], "")
		s.add("table %s", name)
		var columns []string
		for _, c := range ask(t, d, `SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)`, name) {
			columns = append(columns, c[0])
			number := ""
			if c[4] == "1" && strings.Contains(text, "AUTOINCREMENT") {
				number = ", numbered"
			}
			s.add("%s.%s: %s, null %v, default %s%s", name, c[0], map[string]string{"INTEGER": "number", "TEXT": "text"}[c[1]],
				c[2] == "0" && c[4] == "0", value(c[3]), number)
		}
		var key []string
		for _, c := range ask(t, d, `SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk`, name) {
			key = append(key, c[0])
		}
		s.add("%s: key %v", name, key)
		for _, r := range ask(t, d, `SELECT "from", "table", coalesce("to", 'id'), on_update, on_delete FROM pragma_foreign_key_list(?)`, name) {
			deferred := regexp.MustCompile(`(?i)"?\b` + r[0] + `\b"?[^,]*DEFERRABLE INITIALLY DEFERRED`).MatchString(text)
			s.add("%s.%s -> %s.%s, update %s, delete %s, deferred %v", name, r[0], r[1], r[2], r[3], r[4], deferred)
		}
		var order []string // in which uniques are checked: an error names the first that is violated
		for _, index := range ask(t, d, `SELECT l.name, l."unique", l.origin, m.sql FROM pragma_index_list(?) l
			LEFT JOIN sqlite_master m ON m.name = l.name AND m.type = 'index'`, name) {
			var on []string
			for _, c := range ask(t, d, `SELECT name FROM pragma_index_info(?) ORDER BY seqno`, index[0]) {
				on = append(on, c[0])
			}
			if index[1] == "1" && index[2] != "pk" {
				order = append(order, fmt.Sprint(on))
			}
			_, where, _ := strings.Cut(index[3], " WHERE ")
			switch index[2] {
			case "u":
				s.add("%s: unique %v", name, on)
			case "c":
				s.add("%s: index %s on %v, unique %v, where %v", name, index[0], on, index[1] == "1", words(where, columns))
			}
		}
		s.add("%s: uniques in the order %v", name, order)
		for _, check := range checks(text) {
			s.add("%s: check of %v", name, words(check, columns))
		}
	}
	for _, trigger := range ask(t, d, `SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'`) {
		m := regexp.MustCompile(`(?s)\b(BEFORE|AFTER) (INSERT|UPDATE|DELETE)(?: OF ([\w,\s"]+?))? ON "?\w+"?\s*(WHEN .*?)?BEGIN`).FindStringSubmatch(trigger[2])
		if m == nil {
			t.Fatalf("trigger %s: %s", trigger[0], trigger[2])
		}
		s.add("%s: trigger %s %s %s of %v, conditional %v", trigger[1], trigger[0], m[1], m[2], list(m[3]), m[4] != "")
	}
	for _, view := range ask(t, d, `SELECT name FROM sqlite_master WHERE type = 'view'`) {
		for _, c := range ask(t, d, `SELECT name FROM pragma_table_info(?)`, view[0]) {
			s.add("view %s.%s", view[0], c[0])
		}
	}
	return s
}

func postgresSchema(t *testing.T, d *db.DB) schemaLines {
	s := schemaLines{}
	action := map[string]string{"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
	for _, table := range ask(t, d, `SELECT relname, CAST(c.oid AS TEXT) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
		AND relname NOT LIKE 'goose%'`) {
		name, oid := table[0], table[1]
		s.add("table %s", name)
		var columns []string
		for _, c := range ask(t, d, `SELECT a.attname, CAST(format_type(a.atttypid, a.atttypmod) AS TEXT), a.attnotnull, pg_get_expr(f.adbin, f.adrelid),
				CAST(a.attidentity AS TEXT), coalesce(l.collname, '')
			FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
			LEFT JOIN pg_collation l ON l.oid = a.attcollation WHERE a.attrelid = CAST(? AS BIGINT) AND a.attnum > 0 AND NOT a.attisdropped
			ORDER BY a.attnum`, oid) {
			columns = append(columns, c[0])
			number := ""
			if c[4] == "d" {
				number = ", numbered"
			}
			s.add("%s.%s: %s, null %v, default %s%s", name, c[0], map[string]string{"bigint": "number", "textC": "text"}[c[1]+c[5]],
				c[2] == "false", value(c[3]), number)
		}
		var key []string
		for _, c := range ask(t, d, `SELECT a.attname FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY AS u (number, place)
			JOIN pg_attribute a ON a.attnum = u.number WHERE k.contype = 'p' AND k.conrelid = a.attrelid AND k.conrelid = CAST(? AS BIGINT)
			ORDER BY u.place`, oid) {
			key = append(key, c[0])
		}
		s.add("%s: key %v", name, key)
		for _, r := range ask(t, d, `SELECT (SELECT attname FROM pg_attribute WHERE attrelid = k.conrelid AND attnum = k.conkey[1]), f.relname,
				(SELECT attname FROM pg_attribute WHERE attrelid = k.confrelid AND attnum = k.confkey[1]), CAST(k.confupdtype AS TEXT), CAST(k.confdeltype AS TEXT),
				k.condeferred, cardinality(k.conkey)
			FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid WHERE k.contype = 'f' AND k.conrelid = CAST(? AS BIGINT)`, oid) {
			if r[6] != "1" {
				t.Errorf("%s: a reference with %s columns", name, r[6])
			}
			s.add("%s.%s -> %s.%s, update %s, delete %s, deferred %s", name, r[0], r[1], r[2], action[r[3]], action[r[4]], r[5])
		}
		var order []string
		for _, index := range ask(t, d, `SELECT c.relname, i.indisunique, coalesce(CAST(k.contype AS TEXT), ''),
				coalesce(pg_get_expr(i.indpred, i.indrelid), ''), CAST(i.indexrelid AS TEXT)
			FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
			WHERE i.indrelid = CAST(? AS BIGINT) ORDER BY i.indexrelid`, oid) {
			var on []string
			for _, c := range ask(t, d, `SELECT attname FROM pg_attribute WHERE attrelid = CAST(? AS BIGINT) ORDER BY attnum`, index[4]) {
				on = append(on, c[0])
			}
			if index[1] == "true" && index[2] != "p" {
				order = append(order, fmt.Sprint(on))
			}
			switch index[2] {
			case "u":
				s.add("%s: unique %v", name, on)
			case "":
				s.add("%s: index %s on %v, unique %s, where %v", name, index[0], on, index[1], words(index[3], columns))
			}
		}
		s.add("%s: uniques in the order %v", name, order)
		for _, check := range ask(t, d, `SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid = CAST(? AS BIGINT)`, oid) {
			s.add("%s: check of %v", name, words(check[0], columns))
		}
	}
	for _, trigger := range ask(t, d, `SELECT c.relname, g.tgname, g.tgtype & 2, g.tgtype & 4, g.tgtype & 8, g.tgtype & 16, g.tgqual IS NOT NULL,
			(SELECT coalesce(string_agg(a.attname, ',' ORDER BY a.attname), '') FROM pg_attribute a
				WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr))
		FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal AND g.tgname NOT LIKE 'notice%' AND g.tgname NOT LIKE '%truncate'`) {
		when, event := "AFTER", ""
		if trigger[2] != "0" {
			when = "BEFORE"
		}
		for i, e := range []string{"INSERT", "DELETE", "UPDATE"} {
			if trigger[3+i] != "0" {
				event += e
			}
		}
		s.add("%s: trigger %s %s %s of %v, conditional %s", trigger[0], trigger[1], when, event, list(trigger[7]), trigger[6])
	}
	for _, c := range ask(t, d, `SELECT table_name, column_name FROM information_schema.columns
		WHERE table_name IN (SELECT table_name FROM information_schema.views WHERE table_schema = 'public')`) {
		s.add("view %s.%s", c[0], c[1])
	}
	return s
}

var (
	comments = regexp.MustCompile(`--[^\n]*`)
	wordForm = regexp.MustCompile(`'[^']*'|\w+`)
)

// value gives a default in one form: a literal, or what it computes.
func value(text string) string {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "::text"), "::bigint")
	switch {
	case strings.Contains(text, "strftime("), strings.Contains(text, "to_char("):
		return "the time"
	case strings.Contains(text, "randomblob("), strings.Contains(text, "new_version("):
		return "a new version"
	}
	return strings.Trim(text, "'()")
}

// words gives the columns, literals and comparisons of a condition: the two databases write the rest of it differently.
func words(condition string, columns []string) []string {
	var found []string
	for _, w := range wordForm.FindAllString(condition, -1) {
		if strings.HasPrefix(w, "'") || slices.Contains(columns, w) || w[0] >= '0' && w[0] <= '9' {
			found = append(found, w)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// checks finds the conditions of a table's CHECK constraints.
func checks(table string) (all []string) {
	for {
		_, rest, ok := strings.Cut(table, "CHECK (")
		if !ok {
			return all
		}
		depth, end := 1, 0
		for ; depth > 0 && end < len(rest); end++ {
			switch rest[end] {
			case '(':
				depth++
			case ')':
				depth--
			}
		}
		all = append(all, rest[:end-1])
		table = rest[end:]
	}
}

// list sorts a list of columns.
func list(columns string) []string {
	names := strings.FieldsFunc(columns, func(r rune) bool { return r == ',' || r == '"' || unicode.IsSpace(r) })
	slices.Sort(names)
	return names
}
