package db_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// Transactions that read, think and write at the same time come out as if they had run one after the other.
func TestCountersUnderARace(t *testing.T) {
	d, ctx := open(t), t.Context()
	write := func(f func(tx *db.Tx) error) {
		if err := d.Write(ctx, f); err != nil {
			t.Error(err)
		}
	}
	write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO t (id, v) VALUES (1, '0')`)
		return err
	})
	var all sync.WaitGroup
	var mu sync.Mutex
	committed := 0
	for range 8 {
		all.Go(func() {
			for range 10 {
				write(func(tx *db.Tx) error {
					tx.OnCommit(func() { mu.Lock(); committed++; mu.Unlock() })
					var n int
					if err := tx.QueryRowContext(ctx, `SELECT v FROM t WHERE id = 1`).Scan(&n); err != nil {
						return err
					}
					_, err := tx.ExecContext(ctx, `UPDATE t SET v = ? WHERE id = 1`, fmt.Sprint(n+1))
					return err
				})
			}
		})
	}
	all.Wait()
	var n int
	if err := d.ReadOne(ctx, func(tx *db.Tx) error { return tx.QueryRowContext(ctx, `SELECT v FROM t WHERE id = 1`).Scan(&n) }); err != nil || n != 80 || committed != 80 {
		t.Errorf("got %d, %d times told, %v; want 80", n, committed, err)
	}
}

// Statements that stand alone come out so too, and are durable or an error once their rows have been read.
func TestStatementsAloneUnderARace(t *testing.T) {
	d, ctx := open(t), t.Context()
	var committed atomic.Int64
	alone := func(query string) error {
		return d.WriteOne(ctx, func(tx *db.Tx) error {
			tx.OnCommit(func() { committed.Add(1) })
			rows, err := tx.QueryContext(ctx, query)
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var id int
				if err := rows.Scan(&id); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	}
	if err := alone(`INSERT INTO t (id, v) VALUES (1, '0') RETURNING id`); err != nil {
		t.Fatal(err)
	}
	if err := alone(`INSERT INTO t (id, v) VALUES (1, '0') RETURNING id`); !db.IsUnique(err) {
		t.Errorf("the same row again: %v", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				if err := alone(`UPDATE t SET v = CAST(CAST(v AS INTEGER) + 1 AS TEXT) WHERE id = 1 RETURNING id`); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	var n int
	if err := d.ReadOne(ctx, func(tx *db.Tx) error { return tx.QueryRowContext(ctx, `SELECT v FROM t WHERE id = 1`).Scan(&n) }); err != nil || n != 80 || committed.Load() != 81 {
		t.Errorf("got %d, %d times told, %v; want 80 and 81", n, committed.Load(), err)
	}
}

// Whoever hides that a transaction was called off still gets it run again.
func TestAHiddenConflictIsRunAgain(t *testing.T) {
	d, ctx := open(t), t.Context()
	add := func(tx *db.Tx, v string) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM t`).Scan(&n); err != nil {
			return errors.New("hidden")
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, fmt.Sprint(v, n)); err != nil {
			return errors.New("hidden")
		}
		return nil
	}
	var all sync.WaitGroup
	for g := range 6 {
		all.Go(func() {
			for range 5 {
				if err := d.Write(ctx, func(tx *db.Tx) error { return add(tx, fmt.Sprint(g, "-")) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if n := count(t, d); n != 30 {
		t.Errorf("got %d rows, want 30", n)
	}
}

// Both databases say alike which rule a row broke.
func TestBrokenRules(t *testing.T) {
	ctx := t.Context()
	d := dbtest.Open(t, nil, dbtest.Schema("0001_t.sql", `-- +goose Up
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (id INTEGER PRIMARY KEY, "user" INTEGER NOT NULL, name TEXT, note TEXT, parent INTEGER REFERENCES parent (id),
	size INTEGER CHECK (size > 0), UNIQUE ("user", name));
CREATE UNIQUE INDEX child_name ON child (lower(note));
`))
	type rule struct{ unique, reference, null, check bool }
	try := func(query string, args ...any) (rule, []string) {
		t.Helper()
		err := d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, query, args...)
			return err
		})
		return rule{db.IsUnique(err), db.IsForeignKey(err), db.IsNotNull(err), db.IsCheck(err)}, db.Violated(err)
	}
	const insert = `INSERT INTO child ("user", name, note, parent, size) VALUES (?, ?, ?, ?, ?)`
	if broken, _ := try(insert, 1, "a", "n", nil, 1); broken != (rule{}) {
		t.Errorf("good row: %v", broken)
	}
	for name, test := range map[string]struct {
		args    []any
		broken  rule
		columns []string
	}{
		"unique":     {[]any{1, "a", nil, nil, nil}, rule{unique: true}, []string{"user", "name"}},
		"expression": {[]any{2, "a", "N", nil, nil}, rule{unique: true}, nil},
		"reference":  {[]any{1, "b", nil, 7, nil}, rule{reference: true}, nil},
		"null":       {[]any{nil, "b", nil, nil, nil}, rule{null: true}, []string{"user"}},
		"check":      {[]any{1, "b", nil, nil, -1}, rule{check: true}, nil},
	} {
		broken, columns := try(insert, test.args...)
		if broken != test.broken || !slices.Equal(columns, test.columns) {
			t.Errorf("%s: got %+v %v, want %+v %v", name, broken, columns, test.broken, test.columns)
		}
	}
}

// Placeholders, truth values and quotes mean the same on both.
func TestValues(t *testing.T) {
	d, ctx := open(t), t.Context()
	var got []any
	row := func(query string, n int, args ...any) string {
		t.Helper()
		got = make([]any, n)
		into := make([]any, n)
		for i := range got {
			into[i] = &got[i]
		}
		if err := d.ReadOne(ctx, func(tx *db.Tx) error { return tx.QueryRowContext(ctx, query, args...).Scan(into...) }); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		return strings.TrimSpace(fmt.Sprintln(got...))
	}
	for query, want := range map[string]string{
		`SELECT '?', CAST(?2 AS TEXT), CAST(?1 AS TEXT) -- a ? in a comment`:                   "? b a",
		`SELECT 'it''s ?', "v", CAST(? AS TEXT) || CAST(? AS TEXT) FROM (SELECT '?' AS "v") x`: "it's ? ? ab",
		`/* ? */ SELECT '"?', CAST(?1 AS TEXT), CAST(? AS TEXT)`:                               `"? a b`,
	} {
		if got := row(query, 3, "a", "b"); strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if got := row(`SELECT CAST(? AS BIGINT) + CAST(? AS BIGINT)`, 1, true, false); got != "1" {
		t.Errorf("truth values: got %s", got)
	}
	list, args := db.In([]int64{4, 5, 6})
	if got := row(`SELECT count(*) FROM (SELECT 5 AS n UNION SELECT 7) x WHERE n IN `+list, 1, args...); got != "1" || list != "(?,?,?,?)" {
		t.Errorf("In: got %s for %s", got, list)
	}
	list, args = db.In([]int64(nil))
	if got := row(`SELECT count(*) FROM (SELECT 5 AS n) x WHERE n IN `+list, 1, args...); got != "0" {
		t.Errorf("In nothing: got %s", got)
	}
}

// SQLite would take a column that does not exist for a text, so that a misspelt condition held for every row, or none.
func TestAnUnknownColumnIsAnError(t *testing.T) {
	d, ctx := open(t), t.Context()
	err := d.Read(ctx, func(tx *db.Tx) error {
		var n int
		return tx.QueryRowContext(ctx, `SELECT count(*) FROM t WHERE "w" = 'w'`).Scan(&n)
	})
	if err == nil {
		t.Error("a column that does not exist was read")
	}
}

// What is no text is refused before it reaches either database.
func TestValuesThatAreNoText(t *testing.T) {
	d, ctx := open(t), t.Context()
	for _, bad := range []any{"a\x00b", "\xff", "\xed\xa0\x80", []byte("a\x00"), []byte{0xff}} {
		err := d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, bad)
			return err
		})
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if n := count(t, d); n != 0 {
		t.Errorf("got %d rows", n)
	}
}

func TestPlaceholdersBecomeNumbers(t *testing.T) {
	for in, want := range map[string]string{
		`a`: `a`, `? ?`: `$1 $2`, `?2 ? ?1`: `$2 $3 $1`, `'?' ?`: `'?' $1`, `"?""?" ?`: `"?""?" $1`, `'a''?' ?`: `'a''?' $1`,
		"-- ?\n?": "-- ?\n$1", `/* ? */ ?`: `/* ? */ $1`, `'? open`: `'? open`, `--?`: `--?`, `/*?`: `/*?`, `a?10`: `a$10`,
	} {
		if got := db.Numbered(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestTooManyValues(t *testing.T) {
	d, ctx := open(t), t.Context()
	args := make([]any, 40_000)
	for i := range args {
		args[i] = i
	}
	err := d.Read(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `SELECT id FROM t WHERE id IN (?`+strings.Repeat(",?", len(args)-1)+`)`, args...)
		return err
	})
	if !db.IsTooBig(err) {
		t.Errorf("got %v", err)
	}
}

// A context that ends in the middle of a statement shows as what it is, and soon.
func TestAStatementEndsWithItsContext(t *testing.T) {
	d := open(t)
	slow := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT count(*) FROM n`
	for name, use := range map[string]func(context.Context, func(*db.Tx) error) error{"Read": d.Read, "ReadOne": d.ReadOne, "Write": d.Write} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		var n int
		err := use(ctx, func(tx *db.Tx) error { return tx.QueryRowContext(ctx, slow).Scan(&n) })
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) && d.Dialect() == db.Postgres || time.Since(began) > 5*time.Second {
			t.Errorf("%s: got %v after %s", name, err, time.Since(began))
		}
		if db.IsUnavailable(err) || errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%s: the caller's own end shows as the database's: %v", name, err)
		}
	}
	if n := count(t, d); n != 0 {
		t.Errorf("got %d rows", n)
	}
}

// Two processes that start at once bring the schema up together.
func TestMigrateAtOnce(t *testing.T) {
	cfg := dbtest.Config(t)
	schema := dbtest.Schema("0001_t.sql", "-- +goose Up\nCREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE);\nINSERT INTO t (id) VALUES (1);\n")
	var all sync.WaitGroup
	processes := 4
	if cfg.DSN == "" {
		processes = 1 // a file has one process
	}
	for range processes {
		all.Go(func() {
			d, err := db.Open(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = d.Close() }()
			for range 2 {
				if err := d.Migrate(t.Context(), schema); err != nil {
					t.Error(err)
				}
			}
			if n := count(t, d); n != 1 {
				t.Errorf("got %d rows", n)
			}
			tables, err := d.Tables(t.Context())
			if err != nil || !slices.Equal(tables, []string{db.Versions, "t"}) {
				t.Errorf("tables: got %v, %v", tables, err)
			}
		})
	}
	all.Wait()
}
