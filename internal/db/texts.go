package db

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strconv"
)

// Text is a value as text, its memory used again row by row: numbers as JSON writes them, truth values as words.
type Text struct {
	Bytes []byte
	Null  bool
}

// Scan implements sql.Scanner.
func (c *Text) Scan(v any) error {
	c.Bytes, c.Null = c.Bytes[:0], false
	switch v := v.(type) {
	case nil:
		c.Null = true
	case int64:
		c.Bytes = strconv.AppendInt(c.Bytes, v, 10)
	case string:
		c.Bytes = append(c.Bytes, v...)
	case []byte:
		c.Bytes = append(c.Bytes, v...)
	case float64:
		c.Bytes = appendFloat(c.Bytes, v)
	case bool:
		c.Bytes = strconv.AppendBool(c.Bytes, v)
	default:
		return fmt.Errorf("db: the database gave a %T", v)
	}
	return nil
}

// appendFloat writes a number as JSON does: without an exponent where that is short.
func appendFloat(out []byte, f float64) []byte {
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(out, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(out, f, 'f', -1, 64)
}

// Texts are rows of which every value is wanted as text. They must be closed before the next statement.
type Texts struct {
	Row []Text // the row at hand, until the next one

	rows *sql.Rows
	into []any
	sent *sentRows // instead of rows
	err  error
}

// Texts runs a query for such rows. last says that no other statement follows in this transaction, as far as is known.
func (tx *Tx) Texts(ctx context.Context, last bool, query string, args ...any) (*Texts, error) {
	if tx.direct != nil {
		sent, err := tx.direct.query(last, query, args)
		if err != nil {
			return nil, err
		}
		return &Texts{sent: sent, Row: make([]Text, len(sent.kinds))}, nil
	}
	rows, err := tx.QueryContext(ctx, query, args...) //nolint:rowserrcheck // Close asks for it
	if err != nil {
		return nil, err
	}
	names, err := rows.Columns()
	if err != nil {
		_ = rows.Close()
		return nil, err
	}
	t := &Texts{rows: rows, Row: make([]Text, len(names)), into: make([]any, len(names))}
	for i := range t.Row {
		t.into[i] = &t.Row[i]
	}
	return t, nil
}

// Next reads a row.
func (t *Texts) Next() bool {
	if t.sent != nil {
		return t.sent.next(t.Row)
	}
	if t.err != nil || !t.rows.Next() {
		return false
	}
	t.err = t.rows.Scan(t.into...)
	return t.err == nil
}

// Close ends the rows and says what went wrong with them.
func (t *Texts) Close() error {
	if t.sent != nil {
		return t.sent.close()
	}
	err := t.err
	if rerr := t.rows.Err(); err == nil {
		err = rerr
	}
	if cerr := t.rows.Close(); err == nil {
		err = cerr
	}
	return err
}
