//go:build !cgo

package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/sqlite"
)

// Library says which one this program has.
const Library = "Go"

// Source makes connections.
type Source struct {
	cfg  Config
	base *sql.DB
}

// Open makes a source; it connects to nothing yet.
func Open(cfg Config) (*Source, error) {
	base, err := sql.Open("sqlite", uri(cfg.Path)+"?_dqs=0") // an unknown "name" is an error, not a text
	if err != nil {
		return nil, err
	}
	base.SetMaxIdleConns(-1) // given back is closed
	return &Source{cfg, base}, nil
}

// Close ends the source; its connections are closed by whoever has them.
func (s *Source) Close() error { return s.base.Close() }

// Driver is the driver of its connections.
func (s *Source) Driver() driver.Driver { return s.base.Driver() }

// Connect makes a connection. One goroutine at a time uses it.
func (s *Source) Connect(ctx context.Context) (Conn, error) {
	conn, err := s.base.Conn(ctx)
	if err != nil {
		return nil, err
	}
	made := held{conn: conn}
	if _, err := sqlite.Limit(conn, limitLength, s.cfg.MaxValue); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	err = conn.Raw(func(raw any) error { // used beyond this call, but by nobody else: the connection stays held
		var ok bool
		if made.Conn, ok = raw.(Conn); !ok {
			return fmt.Errorf("sqlite: the driver's connection (%T) lacks a method", raw)
		}
		return run(ctx, made.Conn, s.cfg.Pragmas)
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return made, nil
}

// held is a connection of the driver that its pool has given out for good.
type held struct {
	Conn
	conn *sql.Conn
}

// Close implements driver.Conn.
func (h held) Close() error { return h.conn.Close() }

// Code is the code of an error of SQLite's, the extended one where there is one.
func Code(err error) (code int, text string, ok bool) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0, "", false
	}
	return e.Code(), e.Error(), true
}
