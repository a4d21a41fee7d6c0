package db

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

// isSQLite reports whether an error is one of SQLite's with one of these codes.
func isSQLite(err error, codes ...int) bool {
	code, _, ok := sqlite.Code(err)
	return ok && slices.Contains(codes, code)
}

// isPostgres reports whether an error is one of PostgreSQL's with one of these codes (SQLSTATE).
func isPostgres(err error, codes ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

// IsUnique reports whether an error is a violated unique constraint.
func IsUnique(err error) bool {
	return isSQLite(err, sqlite.ViolatedUnique, sqlite.ViolatedPrimary) || isPostgres(err, "23505")
}

// IsForeignKey reports whether an error is a violated reference.
func IsForeignKey(err error) bool {
	return isSQLite(err, sqlite.ViolatedKey) || isPostgres(err, "23503", "23001")
}

// IsNotNull reports whether an error is a null where none may be.
func IsNotNull(err error) bool {
	return isSQLite(err, sqlite.ViolatedNotNull) || isPostgres(err, "23502")
}

// IsCheck reports whether an error is a violated CHECK constraint.
func IsCheck(err error) bool {
	return isSQLite(err, sqlite.ViolatedCheck) || isPostgres(err, "23514")
}

// IsFull reports whether the disk has no room left.
func IsFull(err error) bool { return isSQLite(err, sqlite.Full) || isPostgres(err, "53100") }

// IsTooBig reports whether a statement or its answer is beyond what the database handles.
func IsTooBig(err error) bool {
	var body *pgproto3.ExceededMaxBodyLenErr
	if isSQLite(err, sqlite.TooBig) || errors.As(err, &body) || errors.Is(err, errTooMany) {
		return true
	}
	// Program limits: too complex a statement (its stack is full, or no memory is left for it), too many columns or arguments.
	if isPostgres(err, "54000", "54001", "54011", "54023", "53200") {
		return true
	}
	code, text, ok := sqlite.Code(err)
	if !ok || code != sqlite.Mistake {
		return false
	}
	// The bounds that SQLite reports as an ordinary mistake, told apart by its words alone.
	for _, words := range []string{"Expression tree is too large", "parser stack overflow", "tables in a join", "too many "} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// errTooMany is a statement with more values than one may have.
var errTooMany = errors.New("db: too many values in one statement")

// ErrUnsuitable says that a database answers and is not one to use: asking again does not help, a person must.
var ErrUnsuitable = errors.New("this database cannot be used")

// coded gives an error that is no fault of ours its code: one that will pass, so that whoever asked is told to try again, and a text
// that PostgreSQL cannot hold, a zero or what is no UTF-8. SQLite looks for such texts and finds nothing.
func coded(err error) error {
	if isPostgres(err, "22021", "22P05") && !errors.Is(err, api.ErrInvalid) {
		return fmt.Errorf("%w: %w", api.Errorf(api.Invalid, "The request holds a character that no text can hold."), err)
	}
	if !IsUnavailable(err) || errors.Is(err, api.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", api.Errorf(api.Unavailable, "The database does not answer for now, try again soon."), err)
}

// IsUnavailable reports whether the database server cannot be asked for now: it does not answer, is starting or stopping, has
// no connection left, or others kept a transaction from its turn. Whether a transaction whose commit ended in this error was
// done is not known.
func IsUnavailable(err error) bool {
	if errors.Is(err, errCalledOff) || errors.Is(err, driver.ErrBadConn) {
		return true
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return calledOff(err) || strings.HasPrefix(server.Code, "08") || // the connection broke
			slices.Contains([]string{"57P01", "57P02", "57P03", "57P05", "53300", "55P03", "25P03", "25P04"}, server.Code)
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.Is(err, errLost)
}

// errLost marks an error that broke the connection to the server.
var errLost = errors.New("the connection to the database is lost")

// errCalledOff marks a transaction that another one came into the way of.
var errCalledOff = errors.New("the transaction was called off in favour of another")

// calledOff reports whether a transaction failed only because of others at the same time, or because the schema changed under a
// prepared statement: the same transaction may succeed when it is run again.
func calledOff(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, errCalledOff) || isPostgres(err, "40001", "40P01") {
		return true
	}
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "0A000" && e.Routine == "RevalidateCachedQuery"
}

// Violated names the columns ("name", without their table) that a violated unique or not-null constraint is about; nil when
// the error does not tell.
func Violated(err error) []string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return violatedPostgres(server)
	}
	_, text, ok := sqlite.Code(err)
	if !ok {
		return nil
	}
	_, list, ok := strings.Cut(text, "constraint failed: ")
	if _, inner, again := strings.Cut(list, "constraint failed: "); again {
		list = inner
	}
	if !ok || strings.HasPrefix(list, "index ") {
		return nil
	}
	list, _, _ = strings.Cut(list, " (")
	var names []string
	for c := range strings.SplitSeq(list, ", ") {
		if _, name, ok := strings.Cut(c, "."); ok {
			names = append(names, name)
		}
	}
	return names
}

// violatedPostgres reads the columns out of the error's detail, Key (a, b)=(1, 2) …, in whatever language it is.
func violatedPostgres(e *pgconn.PgError) []string {
	switch e.Code {
	case "23502":
		return []string{e.ColumnName}
	case "23505":
	default:
		return nil
	}
	_, list, ok := strings.Cut(e.Detail, "(")
	list, _, closed := strings.Cut(list, ")=(")
	if !ok || !closed || strings.Contains(list, "(") { // an index on an expression names no column
		return nil
	}
	var names []string
	for c := range strings.SplitSeq(list, ", ") {
		names = append(names, strings.Trim(c, `"`))
	}
	return names
}
