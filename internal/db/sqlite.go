package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/roadstead-io/roadstead/internal/db/sqlite"
)

// openSQLite opens (or makes) a database in a file.
func (d *DB) openSQLite(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("db: %w", err)
	}
	cfg := sqlite.Config{Path: abs, MaxValue: MaxValue, Pragmas: []string{
		"busy_timeout(10000)", "foreign_keys(1)", "synchronous(FULL)", "cache_size(-8192)", "secure_delete(1)", "temp_store(MEMORY)",
	}}
	writing, reading := cfg, cfg
	writing.Pragmas = append(slices.Clone(cfg.Pragmas), "journal_mode(WAL)")
	reading.Pragmas = append(slices.Clone(cfg.Pragmas), "query_only(1)")
	writer, err := open(writing, "BEGIN IMMEDIATE")
	if err != nil {
		return fmt.Errorf("db: open %s: %w", abs, err)
	}
	writer.SetMaxOpenConns(1)
	if err := writer.PingContext(context.Background()); err != nil {
		return errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	reader, err := open(reading, "BEGIN")
	if err != nil {
		return errors.Join(fmt.Errorf("db: open %s: %w", abs, err), writer.Close())
	}
	n := max(4, runtime.NumCPU())
	reader.SetMaxOpenConns(n)
	reader.SetMaxIdleConns(n)
	d.dialect, d.path, d.file, d.writer, d.reader = SQLite, abs, cfg, writer, reader
	return nil
}

// Snapshot writes a consistent copy of a whole SQLite database to a new file, while it is in use: it reads, and holds up no
// writer.
func (d *DB) Snapshot(ctx context.Context, path string) error {
	if d.dialect != SQLite {
		return fmt.Errorf("db: snapshot: a %s database is no file", d.dialect)
	}
	own, err := open(d.file, "BEGIN") // the readers may write no file at all
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
