package db

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
)

// openSQLite opens (or makes) a database in a file.
func (d *DB) openSQLite(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("db: %w", err)
	}
	pragmas := "_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)&_pragma=cache_size(-8192)" +
		"&_pragma=secure_delete(1)&_pragma=temp_store(MEMORY)&_dqs=0" // an unknown "name" is an error, not a text
	dsn := "file:" + (&url.URL{Path: abs}).EscapedPath() + "?" + pragmas
	writer, err := open(dsn+"&_pragma=journal_mode(WAL)", "BEGIN IMMEDIATE")
	if err != nil {
		return fmt.Errorf("db: open %s: %w", abs, err)
	}
	writer.SetMaxOpenConns(1)
	if err := writer.PingContext(context.Background()); err != nil {
		return errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	reader, err := open(dsn+"&_pragma=query_only(1)", "BEGIN")
	if err != nil {
		return errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	n := max(4, runtime.NumCPU())
	reader.SetMaxOpenConns(n)
	reader.SetMaxIdleConns(n)
	d.dialect, d.path, d.dsn, d.writer, d.reader = SQLite, abs, dsn, writer, reader
	return nil
}

// Snapshot writes a consistent copy of a whole SQLite database to a new file, while it is in use: it reads, and holds up no
// writer.
func (d *DB) Snapshot(ctx context.Context, path string) error {
	if d.dialect != SQLite {
		return fmt.Errorf("db: snapshot: a %s database is no file", d.dialect)
	}
	own, err := open(d.dsn, "BEGIN") // the readers may write no file at all
	if err != nil {
		return fmt.Errorf("db: snapshot: %w", err)
	}
	_, err = own.ExecContext(ctx, `VACUUM INTO ?`, path)
	if err := errors.Join(err, own.Close()); err != nil {
		return fmt.Errorf("db: snapshot: %w", err)
	}
	return nil
}

// Check asks the database whether its file is whole; of a server, whether it answers and has met no damaged page.
func (d *DB) Check(ctx context.Context) error {
	if d.dialect == Postgres {
		return d.checkPostgres(ctx)
	}
	var word string
	if err := d.reader.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&word); err != nil {
		return fmt.Errorf("db: check: %w", err)
	}
	if word != "ok" {
		return fmt.Errorf("db: check: %s", word)
	}
	return nil
}
