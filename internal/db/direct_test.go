package db_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// lines runs a query for texts and gives its rows, each in one line.
func lines(ctx context.Context, tx *db.Tx, last bool, query string, args ...any) ([]string, error) {
	rows, err := tx.Texts(ctx, last, query, args...)
	if err != nil {
		return nil, err
	}
	var out []string
	for rows.Next() {
		var line []string
		for _, v := range rows.Row {
			if v.Null {
				line = append(line, "null")
			} else {
				line = append(line, string(v.Bytes))
			}
		}
		out = append(out, strings.Join(line, " "))
	}
	return out, rows.Close()
}

// texts runs one query by itself.
func texts(t *testing.T, d *db.DB, query string, args ...any) []string {
	t.Helper()
	var out []string
	err := d.ReadTexts(t.Context(), true, func(tx *db.Tx) (err error) {
		out, err = lines(t.Context(), tx, true, query, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// Values are texts as JSON has them, alike on both databases, and what is asked with comes back as it was.
func TestTexts(t *testing.T) {
	d := open(t)
	for i, want := range []struct {
		query string
		args  []any
		row   string
	}{
		{`SELECT 1, 'two', NULL, 2.5e0`, nil, "1 two null 2.5"},
		{`SELECT CAST(?1 AS BIGINT), CAST(?2 AS TEXT), CAST(?1 AS BIGINT)`, []any{int64(-7), `a "b" c\'é`}, `-7 a "b" c\'é -7`},
		{`SELECT CAST(? AS DOUBLE PRECISION), CAST(? AS DOUBLE PRECISION), CAST(? AS TEXT)`, []any{1e20, 1e-7, nil}, "100000000000000000000 1e-07 null"},
		{`SELECT CAST(? AS TEXT), CAST(? AS BIGINT)`, []any{"", true}, " 1"},
	} {
		for range 2 { // the second time it is prepared
			if got := texts(t, d, want.query, want.args...); !slices.Equal(got, []string{want.row}) {
				t.Errorf("%d: got %q, want %q", i, got, want.row)
			}
		}
	}
	if d.Dialect() == db.Postgres {
		if got := texts(t, d, `SELECT TRUE, FALSE, '\x6162'::bytea, 1e300::float8, 12.50::numeric`); got[0] != "true false ab 1e+300 12.50" {
			t.Errorf("got %q", got)
		}
	}
}

// All statements of one reading see the same state, whoever writes between them; also when one was wrongly thought to be the last, the
// next one is answered.
func TestTextsSeeOneState(t *testing.T) {
	d, ctx := open(t), t.Context()
	add := func(v string) error {
		return d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, v)
			return err
		})
	}
	err := d.ReadTexts(ctx, false, func(tx *db.Tx) error {
		for i := range 4 {
			got, err := lines(ctx, tx, i == 3, `SELECT count(*) FROM t`)
			if err != nil || got[0] != "0" {
				return fmt.Errorf("statement %d: %v %w", i, got, err)
			}
			if err := add(fmt.Sprint("v", i)); err != nil {
				return err
			}
		}
		_, err := lines(ctx, tx, true, `SELECT 1`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(t, d, `SELECT v FROM t ORDER BY v`); !slices.Equal(got, []string{"v0", "v1", "v2", "v3"}) {
		t.Errorf("got %v", got)
	}
}

// What goes wrong in a reading goes wrong for its caller alone: the connection serves the next one.
func TestTextsThatFail(t *testing.T) {
	d, ctx := open(t), t.Context()
	reading := func(ctx context.Context, f func(tx *db.Tx) error) error { return d.ReadTexts(ctx, false, f) }
	bad := map[string]func(ctx context.Context, tx *db.Tx) error{
		"a mistake": func(ctx context.Context, tx *db.Tx) error {
			_, err := lines(ctx, tx, false, `SELECT nothing FROM t`)
			return err
		},
		"a mistake that the caller overlooks": func(ctx context.Context, tx *db.Tx) error {
			_, _ = lines(ctx, tx, false, `SELECT v FROM nowhere`)
			_, err := lines(ctx, tx, true, `SELECT nothing FROM t`)
			return err
		},
		"a write": func(ctx context.Context, tx *db.Tx) error {
			_, err := lines(ctx, tx, true, `INSERT INTO t (v) VALUES ('x') RETURNING id`)
			return err
		},
		"no text": func(ctx context.Context, tx *db.Tx) error {
			_, err := lines(ctx, tx, true, `SELECT ?`, "a\x00b")
			return err
		},
		"too many values": func(ctx context.Context, tx *db.Tx) error {
			_, err := lines(ctx, tx, true, `SELECT ?40000`, make([]any, 40000)...)
			return err
		},
		"its own error": func(context.Context, *db.Tx) error { return errors.New("boom") },
		"its own error after a statement": func(ctx context.Context, tx *db.Tx) error {
			_, err := lines(ctx, tx, false, `SELECT 1`)
			return errors.Join(err, errors.New("boom"))
		},
		"a context that has ended": func(ctx context.Context, tx *db.Tx) error {
			return ctx.Err()
		},
	}
	for name, f := range bad {
		for range 3 {
			ctx, cancel := context.WithCancel(ctx)
			if name == "a context that has ended" {
				cancel()
			}
			if err := reading(ctx, func(tx *db.Tx) error { return f(ctx, tx) }); err == nil {
				t.Errorf("%s: no error", name)
			}
			cancel()
		}
		if got := texts(t, d, `SELECT count(*) FROM t`); got[0] != "0" {
			t.Errorf("after %s: %v", name, got)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_ = reading(ctx, func(tx *db.Tx) error { panic("boom") })
	}()
	if got := texts(t, d, `SELECT count(*) FROM t`); got[0] != "0" {
		t.Errorf("after a panic: %v", got)
	}
}

// A context that ends calls a statement off while it runs, and rows that nobody reads to their end are in nobody's way.
func TestTextsThatAreCalledOff(t *testing.T) {
	d := open(t)
	const long = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n`
	var all sync.WaitGroup
	for range 3 * 8 { // more than there are connections
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := d.ReadTexts(ctx, false, func(tx *db.Tx) error {
				if _, err := lines(ctx, tx, false, `SELECT 1`); err != nil {
					return err
				}
				go cancel()
				_, err := lines(ctx, tx, true, long)
				return err
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	err := d.ReadTexts(t.Context(), false, func(tx *db.Tx) error {
		rows, err := tx.Texts(t.Context(), false, `SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3`)
		if err != nil {
			return err
		}
		if !rows.Next() {
			t.Error("no row")
		}
		if err := rows.Close(); err != nil {
			return err
		}
		got, err := lines(t.Context(), tx, true, `SELECT 4`)
		if !slices.Equal(got, []string{"4"}) {
			t.Errorf("got %v", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// More statements than a connection keeps, tables that change under those it keeps, and connections that a server has cut.
func TestTextsOfAllKinds(t *testing.T) {
	d, ctx := open(t), t.Context()
	for i := range 600 {
		if got := texts(t, d, fmt.Sprint("SELECT ", i, " + 1")); got[0] != fmt.Sprint(i+1) {
			t.Fatalf("%d: got %v", i, got)
		}
	}
	for range 4 {
		if got := texts(t, d, `SELECT * FROM t`); len(got) != 0 {
			t.Errorf("got %v", got)
		}
	}
	exec := func(text string) {
		if err := d.Write(ctx, func(tx *db.Tx) error { _, err := tx.ExecContext(ctx, text); return err }); err != nil {
			t.Fatal(err)
		}
	}
	exec(`ALTER TABLE t ADD COLUMN w TEXT`)
	exec(`INSERT INTO t (v, w) VALUES ('a', 'b')`)
	for range 4 {
		if got := texts(t, d, `SELECT * FROM t`); !slices.Equal(got, []string{"1 a b"}) {
			t.Errorf("got %v", got)
		}
	}
	if dbtest.Server() == "" {
		return
	}
	for range 50 { // what fails for its values is not prepared anew each time, what is too much is forgotten by the server, too
		err := d.ReadTexts(ctx, true, func(tx *db.Tx) error { _, err := lines(ctx, tx, true, `SELECT 1 / CAST(? AS BIGINT)`, 0); return err })
		if err == nil {
			t.Fatal("a division by nothing")
		}
		kept, err := strconv.Atoi(texts(t, d, `SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'direct%'`)[0])
		if err != nil || kept > 256 {
			t.Fatalf("the server keeps %d statements of a connection: %v", kept, err)
		}
	}
	exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	if got := texts(t, d, `SELECT v FROM t`); !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %v", got)
	}
}
