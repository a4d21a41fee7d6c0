package db_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

func open(t testing.TB) *db.DB {
	t.Helper()
	return dbtest.Open(t, nil, dbtest.Schema("0001_t.sql", "-- +goose Up\nCREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE);\n"))
}

func count(t testing.TB, d *db.DB) (n int) {
	t.Helper()
	err := d.Read(t.Context(), func(tx *db.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAFailedTransactionLeavesNothing(t *testing.T) {
	d, ctx, boom := open(t), t.Context(), errors.New("boom")
	told := false
	err := d.Write(ctx, func(tx *db.Tx) error {
		tx.OnCommit(func() { told = true })
		if _, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, "a"); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) || told || count(t, d) != 0 {
		t.Errorf("got %v, told %v, %d rows", err, told, count(t, d))
	}
	func() {
		defer func() { _ = recover() }()
		_ = d.Write(ctx, func(tx *db.Tx) error { panic("boom") })
	}()
	if err := d.Write(ctx, func(tx *db.Tx) error { return nil }); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if err := d.Read(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES ('a')`)
		return err
	}); err == nil {
		t.Error("a reading transaction wrote")
	}
}

// OnCommit runs when the connection is free again: it may write.
func TestOnCommitMayUseTheDatabase(t *testing.T) {
	d, ctx := open(t), t.Context()
	err := d.Write(ctx, func(tx *db.Tx) error {
		tx.OnCommit(func() {
			if err := d.Write(ctx, func(tx *db.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES ('second')`)
				return err
			}); err != nil {
				t.Error(err)
			}
		})
		_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES ('first')`)
		return err
	})
	if err != nil || count(t, d) != 2 {
		t.Errorf("got %v, %d rows", err, count(t, d))
	}
}

// The same text inside itself: each of the two queries has a statement of its own.
func TestAQueryInsideTheSameQuery(t *testing.T) {
	d, ctx := open(t), t.Context()
	const query = `SELECT v FROM t WHERE id >= ? ORDER BY id`
	err := d.Write(ctx, func(tx *db.Tx) error {
		for i := range 5 {
			if _, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the second time with kept statements
		var got []string
		err := d.Read(ctx, func(tx *db.Tx) error {
			outer, err := tx.QueryContext(ctx, query, 1)
			if err != nil {
				return err
			}
			defer func() { _ = outer.Close() }()
			for outer.Next() {
				var a, b string
				if err := outer.Scan(&a); err != nil {
					return err
				}
				if err := tx.QueryRowContext(ctx, query, 4).Scan(&b); err != nil {
					return err
				}
				got = append(got, a+b)
			}
			return outer.Err()
		})
		if err != nil || strings.Join(got, " ") != "03 13 23 33 43" {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

// More texts than are kept, from several goroutines, with failing and cancelled ones among them.
func TestManyStatements(t *testing.T) {
	d, ctx := open(t), t.Context()
	var all sync.WaitGroup
	for g := range 6 {
		all.Go(func() {
			for i := range 300 {
				var n int
				err := d.Read(ctx, func(tx *db.Tx) error {
					return tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT %d + ?`, i), g).Scan(&n)
				})
				if err != nil || n != i+g {
					t.Errorf("got %d, %v", n, err)
				}
				if i%10 == 0 {
					gone, cancel := context.WithCancel(ctx)
					cancel()
					_ = d.Read(gone, func(tx *db.Tx) error { return tx.QueryRowContext(gone, `SELECT 1`).Scan(&n) })
					_ = d.Read(ctx, func(tx *db.Tx) error { return tx.QueryRowContext(ctx, `SELECT nothing`).Scan(&n) })
				}
			}
		})
	}
	all.Wait()
}

// A statement that ran into a constraint works again, and so does one whose table changed shape.
func TestAKeptStatementRecovers(t *testing.T) {
	d, ctx := open(t), t.Context()
	insert := func(v string) error {
		return d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES (?)`, v)
			return err
		})
	}
	if err := insert("a"); err != nil {
		t.Fatal(err)
	}
	if err := insert("a"); !db.IsUnique(err) || len(db.Violated(err)) != 1 || db.Violated(err)[0] != "v" {
		t.Errorf("second: got %v", err)
	}
	if err := d.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `ALTER TABLE t ADD COLUMN w TEXT`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := insert("b"); err != nil {
		t.Error(err)
	}
	if n := count(t, d); n != 2 {
		t.Errorf("got %d rows", n)
	}
}

func TestAValueIsBounded(t *testing.T) {
	d, ctx := open(t), t.Context()
	var n int
	err := d.Read(ctx, func(tx *db.Tx) error {
		if tx.Dialect() == db.Postgres { // what it computes stays there; what it sends is bounded
			var s string
			return tx.QueryRowContext(ctx, `SELECT repeat('x', CAST(? AS INTEGER))`, db.MaxValue).Scan(&s)
		}
		return tx.QueryRowContext(ctx, `SELECT length(hex(zeroblob(?)))`, db.MaxValue).Scan(&n)
	})
	if !db.IsTooBig(err) {
		t.Errorf("got %v", err)
	}
}

func TestASnapshotIsWhole(t *testing.T) {
	d, ctx := open(t), t.Context()
	if err := d.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES ('kept')`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.Check(ctx); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "copy.db")
	if d.Dialect() == db.Postgres {
		if err := d.Snapshot(ctx, file); err == nil {
			t.Error("a server's database was written to a file")
		}
		return
	}
	err := d.Write(ctx, func(tx *db.Tx) error { // the copy waits for no writer, and no writer for the copy
		if _, err := tx.ExecContext(ctx, `INSERT INTO t (v) VALUES ('too late')`); err != nil {
			return err
		}
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return d.Snapshot(soon, file)
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := db.Open(db.Config{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if n := count(t, again); n != 1 {
		t.Errorf("copy: got %d rows", n)
	}
}

// A context that ends at any moment leaves no connection inside a transaction: the next one begins as always.
func TestContextsThatEndAnywhere(t *testing.T) {
	d := open(t)
	for i := range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Microsecond)
		use := d.Read
		if i%2 == 0 {
			use = d.Write
		}
		_ = use(ctx, func(tx *db.Tx) error {
			_, err := tx.QueryContext(ctx, `SELECT id FROM t`) // left open: the end of the transaction closes it
			return err
		})
		cancel()
	}
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO t (v) VALUES ('last')`)
		return err
	}); err != nil {
		t.Error(err)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("got %d rows", n)
	}
}

// What is acknowledged is on the disk, what is deleted is overwritten, and those who read cannot write, on every connection.
func TestHowConnectionsAreSet(t *testing.T) {
	d := open(t)
	say, writing, reading := "PRAGMA ", map[string]string{
		"synchronous": "2", "foreign_keys": "1", "secure_delete": "1", "journal_mode": "wal", "temp_store": "2", "busy_timeout": "10000",
		"query_only": "0",
	}, map[string]string{"query_only": "1", "foreign_keys": "1", "temp_store": "2"}
	if d.Dialect() == db.Postgres {
		say = "SHOW "
		writing = map[string]string{"default_transaction_isolation": "serializable", "default_transaction_read_only": "off"}
		reading = map[string]string{"default_transaction_isolation": "repeatable read", "default_transaction_read_only": "on"}
	}
	check := func(want map[string]string) func(tx *db.Tx) error {
		return func(tx *db.Tx) error {
			for name, want := range want {
				var got string
				if err := tx.QueryRowContext(t.Context(), say+name).Scan(&got); err != nil {
					return err
				}
				if got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			return nil
		}
	}
	if err := d.Write(t.Context(), check(writing)); err != nil {
		t.Fatal(err)
	}
	if err := d.Read(t.Context(), check(reading)); err != nil {
		t.Fatal(err)
	}
}
