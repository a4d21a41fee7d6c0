// Package sqlite is the SQLite that this program has inside: the C library where the program was built with cgo, and the same library
// translated to Go where it was not. Both are of the same version and do the same; the first needs about half of the time. Nothing else
// knows which of them it is.
package sqlite

import (
	"context"
	"database/sql/driver"
	"net/url"
	"path/filepath"
)

// The codes of errors that callers tell apart.
const (
	Mistake         = 1 // a statement that is wrong
	Full            = 13
	TooBig          = 18
	ViolatedCheck   = 275
	ViolatedKey     = 787 // a reference
	ViolatedNotNull = 1299
	ViolatedPrimary = 1555
	ViolatedUnique  = 2067
	limitLength     = 0 // SQLITE_LIMIT_LENGTH
)

// Config says how connections to a database are made.
type Config struct {
	Path     string   // absolute
	Pragmas  []string // run on each connection, for instance "foreign_keys(1)"
	MaxValue int      // bytes of one value, stored or computed
}

// Conn is a connection. A statement that it prepares is a [Stmt].
type Conn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
}

// Stmt is a prepared statement.
type Stmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func uri(path string) string { return "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() }

// run runs a connection's pragmas.
func run(ctx context.Context, c driver.ExecerContext, pragmas []string) error {
	for _, p := range pragmas {
		if _, err := c.ExecContext(ctx, "PRAGMA "+p, nil); err != nil {
			return err
		}
	}
	return nil
}
