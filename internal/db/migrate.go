package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Folder gives the migrations that a package embeds, which are in its folder "migrations".
func Folder(embedded embed.FS) fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the embedded folder is there or the program does not build
	}
	return sub
}

// migrating is the key of the advisory lock that one process at a time migrates under.
const migrating = 0x726f616473746561 // "roadstea"

// Migrate brings the schema to the newest version. Each part holds a folder for each [Dialect] with files named NNNN_what.sql in
// goose's format, forward only; their numbers are one sequence over all parts and the same in both folders. Two processes may
// do it at once: one waits for the other.
func (d *DB) Migrate(ctx context.Context, parts ...fs.FS) error {
	var files merged
	for _, part := range parts {
		sub, err := fs.Sub(part, string(d.dialect))
		if err != nil {
			return fmt.Errorf("db: migrations: %w", err)
		}
		files = append(files, sub)
	}
	if d.dialect == SQLite {
		return up(ctx, goose.DialectSQLite3, d.writer.DB, files)
	}
	// A pool of its own: the files are not to be read for placeholders, and one statement may take longer than a request may.
	cfg := d.server.Copy()
	cfg.RuntimeParams["statement_timeout"] = "0"
	cfg.RuntimeParams["lock_timeout"] = "0"
	cfg.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	own := stdlib.OpenDB(*cfg)
	lock, err := own.Conn(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("db: migrate: %w", err), own.Close())
	}
	if _, err = lock.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(migrating)); err == nil {
		err = up(ctx, goose.DialectPostgres, own, files)
	}
	return errors.Join(err, lock.Close(), own.Close()) // the lock ends with its connection
}

func up(ctx context.Context, dialect goose.Dialect, on *sql.DB, files fs.FS) error {
	p, err := goose.NewProvider(dialect, on, files)
	if err != nil {
		return fmt.Errorf("db: migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("db: migrate: %w", err)
	}
	return nil
}

// merged shows several folders as one.
type merged []fs.FS

// Open finds a file in whichever folder has it.
func (m merged) Open(name string) (fs.File, error) {
	for _, part := range m {
		f, err := part.Open(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir lists the files of all.
func (m merged) ReadDir(name string) ([]fs.DirEntry, error) {
	var all []fs.DirEntry
	for _, part := range m {
		entries, err := fs.ReadDir(part, name)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}
