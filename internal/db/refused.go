package db

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Referencing names the table whose rows kept others from being deleted, where an error of PostgreSQL tells; SQLite's does not.
func Referencing(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) && IsForeignKey(err) {
		return e.TableName
	}
	return ""
}

// IsOutOfRange reports whether a statement computed a value that its type cannot hold. SQLite has other types instead.
func IsOutOfRange(err error) bool { return isPostgres(err, "22003", "22008", "22011", "22015") }
