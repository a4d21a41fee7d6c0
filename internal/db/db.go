// Package db opens the database and runs transactions on it: SQLite in a file of its own, or a PostgreSQL server. It knows no
// table: packages that own tables hand in their migrations and write their own SQL, which both databases read.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

// TimeFormat is how times stand in the database: text that sorts in time order and goes over the wire as it is.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// FormatTime gives a time in the database's form.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeFormat) }

// ParseTime reads it back.
func ParseTime(s string) (time.Time, error) { return time.Parse(TimeFormat, s) }

// Dialect is which database it is; its text is the name of the folder that holds the migrations for it.
type Dialect string

// The databases.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// Config says which database to open: a file or a server.
type Config struct {
	Path string // file of the SQLite database
	// DSN is the address of a PostgreSQL database, postgres://user@host/name?…, with the parameters of libpq and pool_max_conns:
	// how many connections at most are opened to read, and as many again to write.
	DSN string
	Now func() time.Time // nil: the clock
}

// MaxValue bounds the size of one value, stored or computed: no expression may eat the process' memory. See [IsTooBig].
const MaxValue = 64 << 20

// DB is an open database. SQLite has one connection that writes and several that read, PostgreSQL several of both.
type DB struct {
	dialect Dialect
	file    sqlite.Config   // SQLite's
	path    string          // SQLite's
	server  *pgx.ConnConfig // PostgreSQL's
	writer  *pool
	reader  *pool
	writing *sql.TxOptions
	reading *sql.TxOptions
	now     func() time.Time
}

// Open opens the database; a SQLite file is made when there is none. Every write is on the disk before its transaction returns.
func Open(cfg Config) (*DB, error) {
	d := &DB{now: cfg.Now}
	if d.now == nil {
		d.now = time.Now
	}
	var err error
	switch {
	case cfg.Path != "" && cfg.DSN != "":
		err = errors.New("db: a path and a DSN")
	case cfg.DSN != "":
		err = d.openPostgres(cfg.DSN)
	case cfg.Path != "":
		err = d.openSQLite(cfg.Path)
	default:
		err = errors.New("db: no path")
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Dialect is which database it is.
func (d *DB) Dialect() Dialect { return d.dialect }

// Close closes every connection. SQLite's write-ahead log is folded in.
func (d *DB) Close() error { return errors.Join(d.reader.Close(), d.writer.Close()) }

// runner is what runs statements: a transaction, or a pool whose every statement stands alone.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// Tx is one transaction. Placeholders are ? or ?1, ?2 … on both databases. Now is the time of its start, the same for every
// row that it writes.
type Tx struct {
	runner
	Now      time.Time
	dialect  Dialect
	onCommit []func()
	direct   *direct // see ReadTexts
}

// Dialect is which database the transaction is on, for the few statements that cannot be said in one way.
func (tx *Tx) Dialect() Dialect { return tx.dialect }

// NowText is Now in the database's form.
func (tx *Tx) NowText() string { return FormatTime(tx.Now) }

// OnCommit registers what to do once the transaction is durable: tell others, drop a cache. It must not fail.
func (tx *Tx) OnCommit(f func()) { tx.onCommit = append(tx.onCommit, f) }

// Read runs f in a read-only transaction on a snapshot.
func (d *DB) Read(ctx context.Context, f func(tx *Tx) error) error {
	_, err := d.run(ctx, d.reader.DB, d.reading, f)
	return coded(err)
}

// ReadOne runs f, which runs a single statement and writes nothing, without a transaction around it: one exchange with the
// server instead of three. A second statement would see another state.
func (d *DB) ReadOne(ctx context.Context, f func(tx *Tx) error) error {
	return coded(f(&Tx{runner: d.reader.DB, Now: d.now().UTC(), dialect: d.dialect}))
}

// Brief is the context for a statement that finds a few rows by an index. SQLite answers sooner than it could be called off, and
// to watch for that costs more than the answer. A server may not answer at all, so there it is the context as it was.
func (d *DB) Brief(ctx context.Context) context.Context {
	if d.dialect == SQLite {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// Write runs f in a transaction of its own, which sees the database as if there were no other at the same time. It is committed
// when f returns nil and is then durable. SQLite runs one at a time; PostgreSQL runs several and calls one off that came into
// the way of another: f is then run again, from the start, so it must have no effect outside the transaction but through
// [Tx.OnCommit], and must set what it gathers in the caller's variables anew.
func (d *DB) Write(ctx context.Context, f func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		again, err := d.run(ctx, d.writer.DB, d.writing, f)
		if err == nil || !again || attempt == maxAttempts || !pause(ctx, attempt) {
			return coded(err)
		}
	}
}

// WriteOne is [DB.Write] for an f that runs a single statement. PostgreSQL makes a transaction of it by itself: one exchange with the
// server instead of three. Its rows must be read to their end, for only then it is known that they are durable.
func (d *DB) WriteOne(ctx context.Context, f func(tx *Tx) error) error {
	if d.dialect == SQLite {
		return d.Write(ctx, f)
	}
	for attempt := 1; ; attempt++ {
		tx := &Tx{runner: d.writer.DB, Now: d.now().UTC(), dialect: d.dialect}
		err := f(tx)
		if err == nil {
			for _, g := range tx.onCommit {
				g()
			}
			return nil
		}
		if !calledOff(err) || attempt == maxAttempts || !pause(ctx, attempt) {
			return coded(err)
		}
	}
}

// maxAttempts bounds how often a transaction is run that others call off; the pauses between them add up to some seconds.
const maxAttempts = 20

// pause waits before another attempt, the longer the more there were, never in step with others. False: the context ended.
func pause(ctx context.Context, attempt int) bool {
	longest := time.Millisecond << min(attempt, 8)
	timer := time.NewTimer(rand.N(longest) + time.Millisecond/2) //nolint:gosec // only spreads attempts
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// run runs f in a transaction. again says that the transaction was called off in favour of another, whatever f made of it.
func (d *DB) run(ctx context.Context, on *sql.DB, opts *sql.TxOptions, f func(tx *Tx) error) (again bool, err error) {
	raw, err := on.BeginTx(ctx, opts)
	if err != nil {
		return false, fmt.Errorf("db: begin: %w", err)
	}
	done := false
	defer func() {
		if !done { // f panicked
			_ = raw.Rollback()
		}
	}()
	tx := &Tx{runner: raw, Now: d.now().UTC(), dialect: d.dialect}
	err = f(tx)
	done = true
	if err != nil {
		gone := raw.Rollback()
		return calledOff(err) || calledOff(gone), err
	}
	if err := raw.Commit(); err != nil {
		return calledOff(err), fmt.Errorf("db: commit: %w", err)
	}
	for _, g := range tx.onCommit {
		g()
	}
	return false, nil
}
