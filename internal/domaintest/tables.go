package domaintest

import (
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// Tables is a database of one test, with a clock that the test can put forward. What fails ends the test.
type Tables struct {
	testing.TB
	DB *db.DB

	mu  sync.Mutex // covers off
	off time.Duration
}

// Open opens a database with the given tables.
func Open(t testing.TB, migrations ...fs.FS) *Tables {
	t.Helper()
	w := &Tables{TB: t}
	w.DB = dbtest.Open(t, w.Now, migrations...)
	return w
}

// Must ends the test when there is an error.
func (w *Tables) Must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Now is what everything here takes for the time.
func (w *Tables) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.off)
}

// Pass lets time go by.
func (w *Tables) Pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += d
}

// Write runs a transaction that writes.
func (w *Tables) Write(f func(tx *db.Tx) error) { w.Helper(); w.Must(w.DB.Write(w.Context(), f)) }

// Read runs a transaction that reads.
func (w *Tables) Read(f func(tx *db.Tx) error) { w.Helper(); w.Must(w.DB.Read(w.Context(), f)) }

// Exec runs one statement.
func (w *Tables) Exec(query string, args ...any) {
	w.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(w.Context(), query, args...)
		return err
	})
}

// Scan reads the one row of a query.
func (w *Tables) Scan(query string, args []any, to ...any) {
	w.Helper()
	w.Read(func(tx *db.Tx) error { return tx.QueryRowContext(w.Context(), query, args...).Scan(to...) })
}

// Number reads one number.
func (w *Tables) Number(query string, args ...any) (n int64) {
	w.Helper()
	w.Scan(query, args, &n)
	return n
}

// Text reads one text.
func (w *Tables) Text(query string, args ...any) (s string) {
	w.Helper()
	w.Scan(query, args, &s)
	return s
}
