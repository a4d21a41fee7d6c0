package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// ReadTexts is [DB.Read] for an f that asks for nothing but [Tx.Texts]. To PostgreSQL the statements then go without database/sql and
// without BEGIN and COMMIT: what comes before the server is told to synchronize is one transaction, so a request of one statement is one
// exchange, and values need not become Go's and texts again. f may be run again when its connection turns out to be broken. alone
// says that there is one statement, or that the next one may see another state, as with [DB.ReadOne].
func (d *DB) ReadTexts(ctx context.Context, alone bool, f func(tx *Tx) error) error {
	switch {
	case d.dialect == SQLite && alone:
		return d.ReadOne(ctx, f)
	case d.dialect == SQLite:
		return d.Read(ctx, f)
	}
	for attempt := 1; ; attempt++ {
		err := d.readTexts(ctx, f)
		if again := errors.Is(err, driver.ErrBadConn) || calledOff(err); !again || attempt == maxBroken {
			return coded(err)
		}
	}
}

// maxBroken bounds how many connections one after the other are found to be broken, or to know a statement for tables that have changed.
const maxBroken = 4

func (d *DB) readTexts(ctx context.Context, f func(tx *Tx) error) error {
	held, err := d.reader.Conn(ctx)
	if err != nil {
		return err
	}
	err = held.Raw(func(raw any) error {
		c, ok := raw.(*serverConn)
		if !ok {
			return fmt.Errorf("db: the driver's connection is a %T", raw)
		}
		return c.directly(ctx, d, f)
	})
	return errors.Join(err, held.Close())
}

// directly runs f on a connection that nobody else uses meanwhile.
func (c *serverConn) directly(ctx context.Context, d *DB, f func(tx *Tx) error) (err error) {
	if err := c.free(); err != nil {
		return err
	}
	p := &direct{conn: c, ctx: ctx, pipe: c.Conn.Conn().PgConn().StartPipeline(ctx)}
	done := false
	defer func() {
		if !done { // f panicked
			_ = p.end()
		}
	}()
	err = f(&Tx{runner: noRunner{}, direct: p, Now: d.now().UTC(), dialect: d.dialect})
	done = true
	ended := p.end()
	if err == nil {
		err = c.failed(ctx, ended)
	}
	if err != nil && !p.heard && ctx.Err() == nil && c.Conn.Conn().IsClosed() {
		return driver.ErrBadConn // it was broken before
	}
	return err
}

// prepared is a statement that a connection knows under a name.
type prepared struct {
	name    string
	columns []pgconn.FieldDescription
}

// direct is a transaction in which statements follow one another without the server being told where it begins.
type direct struct {
	conn   *serverConn
	ctx    context.Context //nolint:containedctx // the transaction's own, which its statements end with
	pipe   *pgconn.Pipeline
	synced bool
	heard  bool  // the server answered
	broken error // of a statement: the server reads no other until the transaction has ended
}

// end has the server end the transaction.
func (p *direct) end() error {
	if !p.synced {
		p.synced = true
		if err := p.pipe.Sync(); err != nil {
			return errors.Join(err, p.pipe.Close())
		}
	}
	return p.pipe.Close()
}

// query runs a statement. Its rows are read to their end, or closed, before the next one.
func (p *direct) query(last bool, query string, args []any) (*sentRows, error) {
	if p.broken != nil {
		return nil, p.broken
	}
	if len(args) > maxValues {
		return nil, errTooMany
	}
	values, err := texts(args)
	if err != nil {
		return nil, err
	}
	s := p.conn.named[query]
	if s == nil {
		if s, err = p.prepare(query); err != nil {
			return nil, p.failed(query, err)
		}
	}
	p.pipe.SendQueryPrepared(s.name, values, nil, nil)
	if p.synced = last; last {
		p.pipe.SendPipelineSync()
	} else {
		p.pipe.SendFlushRequest()
	}
	got, err := p.result()
	if err != nil {
		return nil, p.failed(query, err)
	}
	reader, ok := got.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("db: the server answered a query with a %T", got)
	}
	return &sentRows{p: p, query: query, reader: reader, kinds: s.columns}, nil
}

// result is the next answer of the server.
func (p *direct) result() (any, error) {
	if err := p.pipe.Flush(); err != nil {
		return nil, err
	}
	for {
		got, err := p.pipe.GetResults()
		if _, sync := got.(*pgconn.PipelineSync); err != nil || !sync {
			p.heard = p.heard || err == nil
			return got, err
		}
	}
}

// keepNamed is how many statements a connection keeps for this.
const keepNamed = 256

func (p *direct) prepare(query string) (*prepared, error) {
	c := p.conn
	if c.named == nil {
		c.named = map[string]*prepared{}
	}
	for text := range c.named {
		if len(c.named) < keepNamed {
			break
		}
		c.forget(text)
	}
	for ; len(c.forgotten) > 0; c.forgotten = c.forgotten[1:] {
		p.pipe.SendDeallocate(c.forgotten[0])
		p.pipe.SendFlushRequest()
		if _, err := p.result(); err != nil {
			return nil, err
		}
	}
	c.count++
	name := "direct_" + strconv.Itoa(c.count)
	p.pipe.SendPrepare(name, c.text(query), nil)
	p.pipe.SendFlushRequest()
	got, err := p.result()
	if err != nil {
		return nil, err
	}
	said, ok := got.(*pgconn.StatementDescription)
	if !ok {
		return nil, fmt.Errorf("db: the server answered a statement with a %T", got)
	}
	s := &prepared{name: name, columns: said.Fields}
	c.named[query] = s
	return s, nil
}

// forget has the server forget a statement before it is told another one.
func (c *serverConn) forget(query string) {
	if s := c.named[query]; s != nil {
		delete(c.named, query)
		c.forgotten = append(c.forgotten, s.name)
	}
}

// failed says what an error was. A statement that no longer fits the tables is prepared anew the next time.
func (p *direct) failed(query string, err error) error {
	if isPostgres(err, "0A000", "26000") {
		p.conn.forget(query)
	}
	p.broken = p.conn.failed(p.ctx, err)
	return p.broken
}

// sentRows are rows as the server writes them.
type sentRows struct {
	p      *direct
	query  string
	reader *pgconn.ResultReader
	kinds  []pgconn.FieldDescription
	err    error
}

func (r *sentRows) next(row []Text) bool {
	if r.err != nil || !r.reader.NextRow() {
		return false
	}
	for i, v := range r.reader.Values() {
		if row[i].Null = v == nil; row[i].Null {
			continue
		}
		if row[i].Bytes, r.err = appendSent(row[i].Bytes[:0], r.kinds[i].DataTypeOID, v); r.err != nil {
			return false
		}
	}
	return true
}

// appendSent adds a value as the server writes it.
func appendSent(out []byte, kind uint32, v []byte) ([]byte, error) {
	switch kind {
	case pgtype.BoolOID:
		return strconv.AppendBool(out, string(v) == "t"), nil
	case pgtype.Float8OID, pgtype.Float4OID:
		f, err := strconv.ParseFloat(string(v), 64)
		return appendFloat(out, f), err
	case pgtype.ByteaOID:
		return hex.AppendDecode(out, v[min(2, len(v)):])
	}
	return append(out, v...), nil
}

func (r *sentRows) close() error {
	_, err := r.reader.Close()
	if err == nil {
		err = r.err
	}
	if err != nil {
		return r.p.failed(r.query, err)
	}
	return nil
}

// texts gives the values of a statement as the server reads them.
func texts(args []any) ([][]byte, error) {
	out := make([][]byte, len(args))
	for i, v := range args {
		named := driver.NamedValue{Ordinal: i + 1, Value: v}
		if err := bind(&named); err != nil {
			return nil, err
		}
		switch v := named.Value.(type) {
		case nil:
		case int64:
			out[i] = strconv.AppendInt(nil, v, 10)
		case float64:
			out[i] = strconv.AppendFloat(nil, v, 'g', -1, 64)
		case string:
			out[i] = append([]byte{}, v...)
		case []byte:
			out[i] = v
		default:
			return nil, fmt.Errorf("db: a value is a %T", v)
		}
	}
	return out, nil
}

// noRunner is what a transaction has that was promised to ask for texts alone.
type noRunner struct{}

var errTexts = errors.New("db: this transaction is for Texts alone")

// ExecContext refuses.
func (noRunner) ExecContext(context.Context, string, ...any) (sql.Result, error) {
	return nil, errTexts
}

// QueryContext refuses.
func (noRunner) QueryContext(context.Context, string, ...any) (*sql.Rows, error) {
	return nil, errTexts
}

// QueryRowContext has no way to refuse, so nobody may come here.
func (noRunner) QueryRowContext(context.Context, string, ...any) *sql.Row { panic(errTexts) }

// PrepareContext refuses.
func (noRunner) PrepareContext(context.Context, string) (*sql.Stmt, error) { return nil, errTexts }
