package db

import (
	"container/list"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

// keepStatements is how many prepared statements each connection keeps. Preparing one costs several times what running it on
// a row or two does, and the server says the same few things over and over.
const keepStatements = 128

// longestKept bounds the text of a kept statement.
const longestKept = 32 << 10

// pool is a pool of connections that keep their prepared statements.
type pool struct {
	*sql.DB
	source *sqlite.Source // SQLite's
}

// open makes a pool of SQLite connections; it connects to nothing yet. begin is the statement that begins its transactions.
func open(cfg sqlite.Config, begin string) (*pool, error) {
	source, err := sqlite.Open(cfg)
	if err != nil {
		return nil, err
	}
	return &pool{DB: sql.OpenDB(connector{source: source, begin: begin}), source: source}, nil
}

// Close closes every connection.
func (p *pool) Close() error {
	err := p.DB.Close()
	if p.source != nil {
		err = errors.Join(err, p.source.Close())
	}
	return err
}

type connector struct {
	source *sqlite.Source
	begin  string
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return c.source.Driver() }

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	raw, err := c.source.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: raw, begin: c.begin, kept: map[string]*list.Element{}}, nil
}

// conn is a connection that keeps its prepared statements, the least recently used go first. A statement in use is not in the
// store: a second query of the same text meanwhile gets one of its own. database/sql lets one goroutine at a time in here.
type conn struct {
	sqlite.Conn
	begin string
	kept  map[string]*list.Element
	order list.List // of entry, the last used in front
}

type entry struct {
	text string
	stmt sqlite.Stmt
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
func (c *conn) take(ctx context.Context, text string) (sqlite.Stmt, error) {
	if e, ok := c.kept[text]; ok {
		delete(c.kept, text)
		c.order.Remove(e)
		return e.Value.(entry).stmt, nil //nolint:forcetypeassert // the list holds nothing else
	}
	s, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	full, ok := s.(sqlite.Stmt)
	if !ok {
		return nil, fmt.Errorf("db: the driver's statement (%T) lacks a method", s)
	}
	return full, nil
}

// give puts a statement back, unless its place is taken.
func (c *conn) give(text string, s sqlite.Stmt) error {
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
		return c.Conn.ExecContext(ctx, text, args)
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
		return c.Conn.QueryContext(ctx, text, args)
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
	return c.Conn.Close()
}

// rows gives its statement back when it is closed.
type rows struct {
	driver.Rows
	conn *conn
	text string
	stmt sqlite.Stmt // nil once given back
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
