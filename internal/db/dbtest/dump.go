package dbtest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db"
)

// Dump gives everything that a database keeps, to search it for what it must not: SQLite's files as they are, with what was
// deleted but not overwritten; of PostgreSQL every row of every table.
func Dump(t testing.TB, d *db.DB) string {
	t.Helper()
	var all strings.Builder
	err := d.Read(t.Context(), func(tx *db.Tx) error {
		if tx.Dialect() == db.SQLite {
			var file string
			if err := tx.QueryRowContext(t.Context(), `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&file); err != nil {
				return err
			}
			for _, name := range []string{file, file + "-wal"} {
				data, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				all.Write(data)
			}
			return nil
		}
		tables, err := column(t, tx, `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`)
		if err != nil {
			return err
		}
		for _, table := range tables {
			rows, err := column(t, tx, fmt.Sprintf(`SELECT CAST(t AS TEXT) FROM "%s" t`, table))
			if err != nil {
				return err
			}
			all.WriteString(strings.Join(rows, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func column(t testing.TB, tx *db.Tx, query string) (all []string, err error) {
	rows, err := tx.QueryContext(t.Context(), query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
