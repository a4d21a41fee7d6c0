// Package db opens the database and runs transactions on it. It knows no table: packages that own tables hand in their
// migrations and write their own SQL.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// TimeFormat is how times stand in the database: text that sorts in time order and goes over the wire as it is.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// FormatTime gives a time in the database's form.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeFormat) }

// ParseTime reads it back.
func ParseTime(s string) (time.Time, error) { return time.Parse(TimeFormat, s) }

// Config says which database to open.
type Config struct {
	Path string           // file of the SQLite database
	Now  func() time.Time // nil: the clock
}

// MaxValue bounds the size of one value, stored or computed: no expression may eat the process' memory. See [IsTooBig].
const MaxValue = 64 << 20

// DB is an open database: one connection that writes, several that read.
type DB struct {
	dsn    string
	writer *pool
	reader *pool
	now    func() time.Time
}

// Open opens (or makes) the database. Every write is on the disk before its transaction returns.
func Open(cfg Config) (*DB, error) {
	if cfg.Path == "" {
		return nil, errors.New("db: no path")
	}
	abs, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	pragmas := "_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)&_pragma=cache_size(-8192)" +
		"&_pragma=secure_delete(1)&_pragma=temp_store(MEMORY)"
	dsn := "file:" + (&url.URL{Path: abs}).EscapedPath() + "?" + pragmas
	writer, err := open(dsn+"&_pragma=journal_mode(WAL)", "BEGIN IMMEDIATE")
	if err != nil {
		return nil, fmt.Errorf("db: open %s: %w", abs, err)
	}
	writer.SetMaxOpenConns(1)
	if err := writer.PingContext(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	reader, err := open(dsn+"&_pragma=query_only(1)", "BEGIN")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	n := max(4, runtime.NumCPU())
	reader.SetMaxOpenConns(n)
	reader.SetMaxIdleConns(n)
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	return &DB{dsn: dsn, writer: writer, reader: reader, now: now}, nil
}

// Close closes every connection. The write-ahead log is folded in.
func (d *DB) Close() error { return errors.Join(d.reader.Close(), d.writer.Close()) }

// Migrate brings the schema to the newest version. Files are named NNNN_what.sql in goose's format, forward only.
func (d *DB) Migrate(ctx context.Context, migrations fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, d.writer.DB, migrations)
	if err != nil {
		return fmt.Errorf("db: migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("db: migrate: %w", err)
	}
	return nil
}

// Tx is one transaction. Now is the time of its start, the same for every row that it writes.
type Tx struct {
	*sql.Tx
	Now      time.Time
	onCommit []func()
}

// NowText is Now in the database's form.
func (tx *Tx) NowText() string { return FormatTime(tx.Now) }

// OnCommit registers what to do once the transaction is durable: tell others, drop a cache. It must not fail.
func (tx *Tx) OnCommit(f func()) { tx.onCommit = append(tx.onCommit, f) }

// Read runs f in a read-only transaction on a snapshot.
func (d *DB) Read(ctx context.Context, f func(tx *Tx) error) error { return d.run(ctx, d.reader.DB, f) }

// Write runs f in a transaction of its own; there is one at a time. It is committed when f returns nil and is then durable.
func (d *DB) Write(ctx context.Context, f func(tx *Tx) error) error {
	return d.run(ctx, d.writer.DB, f)
}

func (d *DB) run(ctx context.Context, on *sql.DB, f func(tx *Tx) error) (err error) {
	raw, err := on.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("db: begin: %w", err)
	}
	done := false
	defer func() {
		if !done { // f failed or panicked
			_ = raw.Rollback()
		}
	}()
	tx := &Tx{Tx: raw, Now: d.now().UTC()}
	if err := f(tx); err != nil {
		return err
	}
	done = true
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("db: commit: %w", err)
	}
	for _, g := range tx.onCommit {
		g()
	}
	return nil
}

// Snapshot writes a consistent copy of the whole database to a new file, while it is in use: it reads, and holds up no writer.
func (d *DB) Snapshot(ctx context.Context, path string) error {
	own, err := open(d.dsn, "BEGIN") // the readers may write no file at all
	if err != nil {
		return fmt.Errorf("db: snapshot: %w", err)
	}
	_, err = own.ExecContext(ctx, `VACUUM INTO ?`, path)
	if err := errors.Join(err, own.Close()); err != nil {
		return fmt.Errorf("db: snapshot: %w", err)
	}
	return nil
}

// Check asks the database whether its file is whole.
func (d *DB) Check(ctx context.Context) error {
	var word string
	if err := d.reader.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&word); err != nil {
		return fmt.Errorf("db: check: %w", err)
	}
	if word != "ok" {
		return fmt.Errorf("db: check: %s", word)
	}
	return nil
}

// IsUnique reports whether an error is a violated unique constraint.
func IsUnique(err error) bool {
	return isConstraint(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// IsForeignKey reports whether an error is a violated reference.
func IsForeignKey(err error) bool { return isConstraint(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) }

// IsFull reports whether the disk has no room left.
func IsFull(err error) bool { return isConstraint(err, sqlite3.SQLITE_FULL) }

func isConstraint(err error, codes ...int) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code() == c {
			return true
		}
	}
	return false
}

// IsTooBig reports whether a statement or its answer is beyond what the database handles.
func IsTooBig(err error) bool {
	if isConstraint(err, sqlite3.SQLITE_TOOBIG) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) || e.Code() != sqlite3.SQLITE_ERROR {
		return false
	}
	// The bounds that SQLite reports as an ordinary mistake, told apart by its words alone.
	for _, words := range []string{"Expression tree is too large", "parser stack overflow", "tables in a join", "too many "} {
		if strings.Contains(e.Error(), words) {
			return true
		}
	}
	return false
}

// IsNotNull reports whether an error is a null where none may be.
func IsNotNull(err error) bool { return isConstraint(err, sqlite3.SQLITE_CONSTRAINT_NOTNULL) }

// IsCheck reports whether an error is a violated CHECK constraint.
func IsCheck(err error) bool { return isConstraint(err, sqlite3.SQLITE_CONSTRAINT_CHECK) }

// Violated names the columns ("name", without their table) that a violated unique or not-null constraint is about; nil when
// the error does not tell.
func Violated(err error) []string {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return nil
	}
	_, list, ok := strings.Cut(e.Error(), "constraint failed: ")
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
