package db

import (
	"context"
	"fmt"
)

// Tables names the tables that there are, in the schema where ours would be made.
func (d *DB) Tables(ctx context.Context) (names []string, err error) {
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`
	if d.dialect == Postgres {
		query = `SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename`
	}
	err = d.Read(ctx, func(tx *Tx) error {
		rows, err := tx.QueryContext(ctx, query)
		if err != nil {
			return fmt.Errorf("db: tables: %w", err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return fmt.Errorf("db: tables: %w", err)
			}
			names = append(names, name)
		}
		return rows.Err()
	})
	return names, err
}

// Versions is the table in which the migrations that ran are written down.
const Versions = "goose_db_version"
