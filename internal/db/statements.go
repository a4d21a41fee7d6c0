package db

import (
	"container/list"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// keepStatements is how many prepared statements each connection keeps. Preparing one costs several times what running it on
// a row or two does, and the server says the same few things over and over.
const keepStatements = 128

// longestKept bounds the text of a kept statement.
const longestKept = 32 << 10

// pool is a pool of connections that keep their prepared statements. With SQLite each of them holds one connection of base, which
// keeps none by itself.
type pool struct {
	*sql.DB
	base *sql.DB // SQLite's
}

// open makes a pool of SQLite connections; it connects to nothing yet. begin is the statement that begins its transactions.
func open(dsn, begin string) (*pool, error) {
	base, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	base.SetMaxIdleConns(-1) // given back is closed
	return &pool{DB: sql.OpenDB(connector{base: base, begin: begin}), base: base}, nil
}

// Close closes every connection.
func (p *pool) Close() error {
	err := p.DB.Close()
	if p.base != nil {
		err = errors.Join(err, p.base.Close())
	}
	return err
}

type connector struct {
	base  *sql.DB
	begin string
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return c.base.Driver() }

// Connect implements driver.Connector. Every connection bounds the size of a value.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	held, err := c.base.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := sqlite.Limit(held, sqlite3.SQLITE_LIMIT_LENGTH, MaxValue); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	made := &conn{held: held, begin: c.begin, kept: map[string]*list.Element{}}
	err = held.Raw(func(raw any) error { // used beyond this call, but by nobody else: the connection stays held
		var ok bool
		if made.rawConn, ok = raw.(rawConn); !ok {
			return fmt.Errorf("the driver's connection (%T) lacks a method", raw)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return made, nil
}

// rawConn is what the driver's connection can do; database/sql looks for each of these.
type rawConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// stmt is what the driver's statement can do.
type stmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// conn is a connection that keeps its prepared statements, the least recently used go first. A statement in use is not in the
// store: a second query of the same text meanwhile gets one of its own. database/sql lets one goroutine at a time in here.
type conn struct {
	rawConn
	held  *sql.Conn
	begin string
	kept  map[string]*list.Element
	order list.List // of entry, the last used in front
}

type entry struct {
	text string
	stmt stmt
}

// keeps says which statements are worth keeping: single ones that read or write rows.
func keeps(text string) bool {
	if len(text) > longestKept {
		return false
	}
	word := strings.TrimLeft(text, " \t\n")
	if end := strings.IndexAny(word, " \t\n"); end >= 0 { // a statement may begin its second line right after its first word
		word = word[:end]
	}
	switch strings.ToUpper(word) {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK":
		return true
	}
	return false
}

// take gives a statement out of the store, or a new one.
func (c *conn) take(ctx context.Context, text string) (stmt, error) {
	if e, ok := c.kept[text]; ok {
		delete(c.kept, text)
		c.order.Remove(e)
		return e.Value.(entry).stmt, nil //nolint:forcetypeassert // the list holds nothing else
	}
	s, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	full, ok := s.(stmt)
	if !ok {
		return nil, fmt.Errorf("db: the driver's statement (%T) lacks a method", s)
	}
	return full, nil
}

// give puts a statement back, unless its place is taken.
func (c *conn) give(text string, s stmt) error {
	if _, taken := c.kept[text]; taken {
		return s.Close()
	}
	c.kept[text] = c.order.PushFront(entry{text, s})
	if c.order.Len() <= keepStatements {
		return nil
	}
	oldest := c.order.Remove(c.order.Back()).(entry) //nolint:forcetypeassert // the list holds nothing else
	delete(c.kept, oldest.text)
	return oldest.stmt.Close()
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	if !keeps(text) {
		return c.rawConn.ExecContext(ctx, text, args)
	}
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	res, err := s.ExecContext(ctx, args)
	if gerr := c.give(text, s); err == nil {
		err = gerr
	}
	return res, err
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	if !keeps(text) {
		return c.rawConn.QueryContext(ctx, text, args)
	}
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	rs, err := s.QueryContext(ctx, args)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return &rows{Rows: rs, conn: c, text: text, stmt: s}, nil
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error { return bind(v) }

// BeginTx implements driver.ConnBeginTx. The two ends of a transaction are kept statements too.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if opts.Isolation != 0 || opts.ReadOnly {
		return nil, errors.New("db: a transaction has no options")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Not cut short by the context either: a transaction that began must be known to database/sql, which ends it when the
	// context is done. It waits for another process at most (busy_timeout); this one has a single connection that writes.
	if _, err := c.ExecContext(context.Background(), c.begin, nil); err != nil {
		return nil, err
	}
	return transaction{c}, nil
}

type transaction struct{ conn *conn }

// Commit implements driver.Tx. It is not cut short: what was written is committed or not, and the caller hears which.
func (t transaction) Commit() error {
	_, err := t.conn.ExecContext(context.Background(), "COMMIT", nil)
	if err != nil { // a transaction that cannot end this way must not stay open on the connection
		_ = t.Rollback()
	}
	return err
}

// Rollback implements driver.Tx. An error that ended the transaction by itself (a full disk) makes this one fail, harmlessly.
func (t transaction) Rollback() error {
	_, err := t.conn.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// Close implements driver.Conn.
func (c *conn) Close() error {
	for e := c.order.Front(); e != nil; e = e.Next() {
		_ = e.Value.(entry).stmt.Close() //nolint:forcetypeassert // the connection goes with them
	}
	clear(c.kept)
	c.order.Init()
	return c.held.Close()
}

// rows gives its statement back when it is closed.
type rows struct {
	driver.Rows
	conn *conn
	text string
	stmt stmt // nil once given back
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	err := r.Rows.Close()
	if r.stmt == nil {
		return err
	}
	s := r.stmt
	r.stmt = nil
	if err != nil { // the statement may not have been reset
		_ = s.Close()
		return err
	}
	return r.conn.give(r.text, s)
}
