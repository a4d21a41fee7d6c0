package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	oldestPostgres = 14
	// maxValues bounds the values of one statement, on both databases alike.
	maxValues = 32766
	// poolSize is how many connections each of the two pools has at most, unless the address says otherwise.
	poolSize = 8
	// endTimeout bounds how long the end of a transaction may take before its connection is given up.
	endTimeout = 30 * time.Second
)

// sessions is how every connection works. A statement ends with the context of whoever asked; these are the second wall.
var sessions = map[string]string{
	"application_name":                    "roadstead",
	"statement_timeout":                   "60s",
	"lock_timeout":                        "10s",
	"idle_in_transaction_session_timeout": "60s",
	"client_connection_check_interval":    "5s",
	"standard_conforming_strings":         "on",
	"client_encoding":                     "UTF8",
	"jit":                                 "off", // costs more than it saves on statements of a millisecond
	// Our statements go through indexes whatever their values are. To plan one anew each time took several times its execution.
	"plan_cache_mode": "force_generic_plan",
}

// openPostgres connects to a server and checks that it will do.
func (d *DB) openPostgres(dsn string) error {
	cfg, size, err := parseDSN(dsn)
	if err != nil {
		return fmt.Errorf("db: address of the database: %w", err)
	}
	d.dialect, d.server = Postgres, cfg
	d.writing = &sql.TxOptions{Isolation: sql.LevelSerializable}
	d.reading = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	d.writer = servers(cfg, size, false)
	d.reader = servers(cfg, size, true)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := d.suits(ctx); err != nil {
		if isPostgres(err, "28000", "28P01", "3D000", "42501", "42704") { // who we are, which database, what we may and set
			err = fmt.Errorf("%w: %w", ErrUnsuitable, err)
		}
		return errors.Join(fmt.Errorf("db: open %s: %w", d.Address(), err), d.Close())
	}
	return nil
}

// Address says where the database is, without who uses it.
func (d *DB) Address() string {
	if d.dialect == SQLite {
		return d.path
	}
	return describe(d.server)
}

// Describe is the Address of a database that is not open.
func Describe(address string) string {
	cfg, _, err := parseDSN(address)
	if err != nil {
		return "an address that cannot be read"
	}
	return describe(cfg)
}

func describe(cfg *pgx.ConnConfig) string {
	host := cfg.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(cfg.Port)))
	}
	return fmt.Sprintf("database %q at %s", cfg.Database, host)
}

// parseDSN reads an address. Its errors do not show it, for it may hold a password.
func parseDSN(dsn string) (cfg *pgx.ConnConfig, size int, err error) {
	cfg, err = pgx.ParseConfig(dsn)
	if err != nil {
		return nil, 0, err // pgx leaves the password out
	}
	size = poolSize
	if text, ok := cfg.RuntimeParams["pool_max_conns"]; ok {
		delete(cfg.RuntimeParams, "pool_max_conns")
		if size, err = strconv.Atoi(text); err != nil || size < 1 || size > 1000 {
			return nil, 0, fmt.Errorf("pool_max_conns: want a number from 1 to 1000, got %q", text)
		}
	}
	for name, value := range sessions {
		if _, given := cfg.RuntimeParams[name]; !given {
			cfg.RuntimeParams[name] = value
		}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(MaxValue)
		return f
	}
	// A context that ends calls its statement off at the server; the connection stays.
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 2 * time.Second}
	}
	return cfg, size, nil
}

// suits checks a server's version and the database's encoding.
func (d *DB) suits(ctx context.Context) error {
	var version int
	var encoding string
	const ask = `SELECT current_setting('server_version_num')::int, pg_encoding_to_char(encoding) FROM pg_database
		WHERE datname = current_database()`
	if err := d.reader.QueryRowContext(ctx, ask).Scan(&version, &encoding); err != nil {
		return err
	}
	if version/10000 < oldestPostgres {
		return fmt.Errorf("%w: the server is PostgreSQL %d; %d or newer is needed", ErrUnsuitable, version/10000, oldestPostgres)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("%w: its encoding is %s; UTF8 is needed (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)",
			ErrUnsuitable, encoding)
	}
	return nil
}

// checkPostgres asks whether the server answers, and whether it has met a damaged page of this database.
func (d *DB) checkPostgres(ctx context.Context) error {
	var damaged int64
	err := d.reader.QueryRowContext(ctx, `SELECT coalesce(max(checksum_failures), 0) FROM pg_stat_database
		WHERE datname = current_database()`).Scan(&damaged)
	if err != nil {
		return fmt.Errorf("db: check: %w", err)
	}
	if damaged > 0 {
		return fmt.Errorf("db: check: the server counts %d damaged pages", damaged)
	}
	return nil
}

// servers makes a pool of connections to a server; it connects to none yet.
func servers(cfg *pgx.ConnConfig, size int, readOnly bool) *pool {
	own := cfg.Copy()
	if readOnly {
		own.RuntimeParams["default_transaction_read_only"] = "on"
		own.RuntimeParams["default_transaction_isolation"] = "repeatable read" // of statements without BEGIN, see ReadTexts
	} else {
		own.RuntimeParams["default_transaction_isolation"] = "serializable" // of a statement that stands alone
	}
	p := sql.OpenDB(serverConnector{Connector: stdlib.GetConnector(*own), readOnly: readOnly})
	p.SetMaxOpenConns(size)
	p.SetMaxIdleConns(size)
	p.SetConnMaxIdleTime(5 * time.Minute)
	return &pool{DB: p}
}

type serverConnector struct {
	driver.Connector
	readOnly bool
}

// Connect implements driver.Connector.
func (c serverConnector) Connect(ctx context.Context) (driver.Conn, error) {
	made, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	held, ok := made.(*stdlib.Conn)
	if !ok {
		return nil, fmt.Errorf("db: the driver's connection is a %T", made)
	}
	return &serverConn{Conn: held, readOnly: c.readOnly, texts: map[string]string{}}, nil
}

// serverConn is a connection to PostgreSQL that reads SQL as it is written for both databases.
type serverConn struct {
	*stdlib.Conn
	readOnly  bool
	calledOff bool              // the transaction lost against another one
	texts     map[string]string // statements with PostgreSQL's placeholders
	open      *serverRows       // rows that still come in: the server sends those of one statement at a time

	named     map[string]*prepared // see direct
	forgotten []string             // names of statements that the server still knows
	count     int                  // names given so far
}

// keepTexts bounds the statements that are remembered with their placeholders.
const keepTexts = 512

func (c *serverConn) text(query string) string {
	text, ok := c.texts[query]
	if ok {
		return text
	}
	text = numbered(query)
	if len(query) <= longestKept {
		if len(c.texts) >= keepTexts {
			clear(c.texts)
		}
		c.texts[query] = text
	}
	return text
}

// failed says what an error was: the end of the caller's context, a lost connection, a transaction called off.
func (c *serverConn) failed(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, driver.ErrBadConn) {
		return err
	}
	if calledOff(err) {
		c.calledOff = true
		return err
	}
	lost := c.Conn.Conn().IsClosed()
	if ended := ctx.Err(); ended != nil && (lost || isPostgres(err, "57014")) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	if lost {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// ExecContext implements driver.ExecerContext.
func (c *serverConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > maxValues {
		return nil, errTooMany
	}
	if err := c.free(); err != nil {
		return nil, err
	}
	res, err := c.Conn.ExecContext(ctx, c.text(query), args)
	return res, c.failed(ctx, err)
}

// QueryContext implements driver.QueryerContext. A read that stands alone is asked again on another connection when its own broke.
func (c *serverConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if len(args) > maxValues {
		return nil, errTooMany
	}
	if err := c.free(); err != nil {
		return nil, err
	}
	alone := c.readOnly && c.Conn.Conn().PgConn().TxStatus() == 'I'
	rs, err := c.Conn.QueryContext(ctx, c.text(query), args)
	if err != nil && alone && ctx.Err() == nil && c.Conn.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	return c.rows(ctx, rs, err)
}

func (c *serverConn) rows(ctx context.Context, rs driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	held, ok := rs.(*stdlib.Rows)
	if !ok {
		return nil, errors.Join(fmt.Errorf("db: the driver's rows are a %T", rs), rs.Close())
	}
	c.open = &serverRows{Rows: held, conn: c, ctx: ctx}
	return c.open, nil
}

// free takes in the rest of the rows that still come, so that another statement can run before they have been read, as it can
// on SQLite.
func (c *serverConn) free() error {
	rows := c.open
	if rows == nil {
		return nil
	}
	c.open = nil
	for {
		row := make([]driver.Value, len(rows.Columns()))
		if err := rows.Rows.Next(row); err != nil {
			rows.end = c.failed(rows.ctx, err)
			break
		}
		rows.kept = append(rows.kept, row)
	}
	return rows.Rows.Close()
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *serverConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.free(); err != nil {
		return nil, err
	}
	s, err := c.Conn.PrepareContext(ctx, c.text(query))
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	held, ok := s.(*stdlib.Stmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("db: the driver's statement is a %T", s), s.Close())
	}
	return &serverStmt{Stmt: held, conn: c}, nil
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *serverConn) CheckNamedValue(v *driver.NamedValue) error { return bind(v) }

// BeginTx implements driver.ConnBeginTx. A connection that broke meanwhile is replaced: nothing has happened yet.
func (c *serverConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	raw := c.Conn.Conn()
	if raw.IsClosed() {
		return nil, driver.ErrBadConn
	}
	c.calledOff, c.open = false, nil
	use := pgx.TxOptions{IsoLevel: pgx.Serializable}
	if opts.ReadOnly {
		use = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	tx, err := raw.BeginTx(ctx, use)
	if err != nil {
		if ctx.Err() == nil && raw.IsClosed() {
			return nil, driver.ErrBadConn
		}
		return nil, c.failed(ctx, err)
	}
	return serverTx{conn: c, tx: tx}, nil
}

type serverTx struct {
	conn *serverConn
	tx   pgx.Tx
}

// Commit implements driver.Tx. It is not cut short by the caller's context: what was written is committed or not, and the caller
// hears which, unless the connection breaks.
func (t serverTx) Commit() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	err := t.tx.Commit(ctx)
	if err != nil && t.conn.calledOff {
		return fmt.Errorf("%w: %w", errCalledOff, err)
	}
	return t.conn.failed(ctx, err)
}

// Rollback implements driver.Tx. It says whether the transaction had been called off, which whoever ran it may not have passed on.
func (t serverTx) Rollback() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	err := t.tx.Rollback(ctx)
	if t.conn.calledOff {
		return errors.Join(errCalledOff, err)
	}
	return t.conn.failed(ctx, err)
}

// serverStmt is a statement that its caller prepared, for a loop.
type serverStmt struct {
	*stdlib.Stmt
	conn *serverConn
}

// ExecContext implements driver.StmtExecContext.
func (s *serverStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.conn.free(); err != nil {
		return nil, err
	}
	res, err := s.Stmt.ExecContext(ctx, args)
	return res, s.conn.failed(ctx, err)
}

// QueryContext implements driver.StmtQueryContext.
func (s *serverStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.free(); err != nil {
		return nil, err
	}
	rs, err := s.Stmt.QueryContext(ctx, args)
	return s.conn.rows(ctx, rs, err)
}

// serverRows are rows as the server sends them, or kept once another statement ran meanwhile.
type serverRows struct {
	*stdlib.Rows
	conn *serverConn
	ctx  context.Context //nolint:containedctx // the query's own, which its rows end with
	kept [][]driver.Value
	end  error // what came after the kept rows; nil: nothing was kept
}

// Next implements driver.Rows.
func (r *serverRows) Next(dest []driver.Value) error {
	if len(r.kept) > 0 {
		copy(dest, r.kept[0])
		r.kept = r.kept[1:]
		return nil
	}
	if r.end != nil {
		return r.end
	}
	err := r.Rows.Next(dest)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return r.conn.failed(r.ctx, err)
}

// Close implements driver.Rows.
func (r *serverRows) Close() error {
	if r.conn.open == r {
		r.conn.open = nil
	}
	return r.Rows.Close()
}
