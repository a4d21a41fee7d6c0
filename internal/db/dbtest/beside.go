package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

// Beside opens the SQLite file of a server that is running, past everything that the server knows: for what only time or a thief would
// change. It is of the same library as the server that this test may have in its own process, for the locks of two would not meet.
func Beside(t testing.TB, path string) *sql.DB {
	t.Helper()
	source, err := sqlite.Open(sqlite.Config{Path: path, Pragmas: []string{"busy_timeout(20000)"}, MaxValue: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d := sql.OpenDB(another{source})
	t.Cleanup(func() {
		_ = d.Close()
		_ = source.Close()
	})
	return d
}

type another struct{ *sqlite.Source }

// Connect implements driver.Connector.
func (a another) Connect(ctx context.Context) (driver.Conn, error) { return a.Source.Connect(ctx) }
