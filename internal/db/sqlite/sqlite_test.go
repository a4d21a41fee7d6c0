package sqlite_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

type connector struct{ *sqlite.Source }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) { return c.Source.Connect(ctx) }

// open makes a database with two tables.
func open(t *testing.T, pragmas ...string) *sql.DB {
	t.Helper()
	source, err := sqlite.Open(sqlite.Config{Path: filepath.Join(t.TempDir(), "a % and a ?.db"), Pragmas: pragmas, MaxValue: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	d := sql.OpenDB(connector{source})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, text := range []string{
		`CREATE TABLE fleet (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size REAL CHECK (size >= 0))`,
		`CREATE TABLE device (id INTEGER PRIMARY KEY, fleet INTEGER REFERENCES fleet (id), kind TEXT)`,
		`INSERT INTO fleet VALUES (1, 'one', 2.5)`,
	} {
		if _, err := d.Exec(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return d
}

// Both libraries give the same codes for the same faults.
func TestCodes(t *testing.T) {
	d := open(t, "foreign_keys(1)")
	for text, want := range map[string]int{
		`INSERT INTO fleet VALUES (2, 'one', 1)`:             sqlite.ViolatedUnique,
		`INSERT INTO fleet VALUES (1, 'two', 1)`:             sqlite.ViolatedPrimary,
		`INSERT INTO fleet VALUES (2, NULL, 1)`:              sqlite.ViolatedNotNull,
		`INSERT INTO fleet VALUES (2, 'two', -1)`:            sqlite.ViolatedCheck,
		`INSERT INTO device (fleet) VALUES (7)`:              sqlite.ViolatedKey,
		`UPDATE fleet SET name = zeroblob(2000000)`:          sqlite.TooBig,
		`SELECT nothing FROM fleet`:                          sqlite.Mistake,
		`SELECT "nothing" FROM fleet`:                        sqlite.Mistake, // no text
		`CREATE INDEX odd ON device (kind) WHERE kind = "x"`: sqlite.Mistake,
	} {
		_, err := d.Exec(text)
		if code, said, ok := sqlite.Code(err); !ok || code != want || said == "" {
			t.Errorf("%s: %v (%d), want %d", text, err, code, want)
		}
	}
	if _, _, ok := sqlite.Code(context.Canceled); ok {
		t.Error("another error has a code")
	}
}

// Values come as they went in, and functions are there that requests are compiled to.
func TestValues(t *testing.T) {
	d := open(t)
	if _, err := d.Exec(`CREATE TABLE odd (at TEXT, yes INTEGER, size REAL, raw)`); err != nil {
		t.Fatal(err)
	}
	const at = "2026-11-29T20:00:00.000Z"
	if _, err := d.Exec(`INSERT INTO odd VALUES (?, ?, ?, ?)`, at, 1, 0.25, []byte{0, 1}); err != nil {
		t.Fatal(err)
	}
	var text, yes, size, raw any
	if err := d.QueryRow(`SELECT at, yes, size, raw FROM odd`).Scan(&text, &yes, &size, &raw); err != nil {
		t.Fatal(err)
	}
	if got, _ := raw.([]byte); text != at || yes != int64(1) || size != 0.25 || string(got) != "\x00\x01" {
		t.Errorf("got %v %v %v %v", text, yes, size, raw)
	}
	for text, want := range map[string]any{
		"floor(2.5)": 2.0, "ceil(2.5)": 3.0, "floor(-2.5)": -3.0, "ceil(-2.5)": -2.0, "floor(7)": int64(7), "ceil(7)": int64(7),
		"floor(NULL)": nil, "ceil(NULL)": nil, "floor(1e300)": 1e300, "round(2.5)": 3.0,
	} {
		var got any
		if err := d.QueryRow(`SELECT ` + text).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, err, want)
		}
	}
}

// The pragmas hold on every connection, not on the first one alone.
func TestPragmas(t *testing.T) {
	d := open(t, "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)", "cache_size(-77)")
	for range 3 {
		c, err := d.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		for name, want := range map[string]int{"synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "cache_size": -77} {
			var got int
			if err := c.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %d %v, want %d", name, got, err, want)
			}
		}
	}
	source, err := sqlite.Open(sqlite.Config{Path: filepath.Join(t.TempDir(), "no", "such", "folder.db"), MaxValue: 1})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := source.Connect(t.Context()); err == nil {
		if err := c.Ping(t.Context()); err == nil {
			t.Error("there is a database in a folder that does not exist")
		}
		_ = c.Close()
	}
	_ = source.Close()
}
