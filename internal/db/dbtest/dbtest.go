// Package dbtest gives tests a database of their own: a SQLite file, or, where ROADSTEAD_TEST_SQL names a PostgreSQL server
// (postgres://…), a database on it. The same tests run on both.
package dbtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/roadstead-io/roadstead/internal/db"
)

// Server is the address of the PostgreSQL server that tests are to use; empty: they use SQLite.
func Server() string { return os.Getenv("ROADSTEAD_TEST_SQL") }

// Open gives a database with these migrations on it, which goes with the test. A nil clock is the real one.
func Open(t testing.TB, now func() time.Time, parts ...fs.FS) *db.DB {
	t.Helper()
	cfg := Config(t, parts...)
	cfg.Now = now
	d, err := db.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Migrate(t.Context(), parts...); err != nil {
		t.Fatal(err)
	}
	return d
}

// Config says where a new database is that goes with the test. On PostgreSQL it is a copy of one that has the migrations
// already, so that a test need not wait for them; whoever opens it migrates all the same.
func Config(t testing.TB, parts ...fs.FS) db.Config {
	t.Helper()
	server := Server()
	if server == "" {
		path := filepath.Join(t.TempDir(), "a space and a ?.db")
		File(t, path, parts...)
		return db.Config{Path: path}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("ROADSTEAD_TEST_SQL: %v", err)
	}
	defer func() { _ = admin.Close(context.Background()) }()
	model, err := template(ctx, admin, server, parts)
	if err != nil {
		t.Fatalf("template database: %v", err)
	}
	name := newName()
	if err := create(ctx, admin, name, model); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(server, name); err != nil {
			t.Error(err)
		}
	})
	return db.Config{DSN: at(server, name)}
}

// files holds, for each set of migrations, the SQLite file that has them: tests copy it in place of waiting for them.
var files sync.Map // the sum of the migrations → func() ([]byte, error)

// File makes a SQLite database that has these migrations already.
func File(t testing.TB, path string, parts ...fs.FS) {
	t.Helper()
	if len(parts) == 0 {
		return
	}
	name, err := sum(db.SQLite, parts)
	if err != nil {
		t.Fatal(err)
	}
	made, _ := files.LoadOrStore(name, sync.OnceValues(func() ([]byte, error) { return migrated(parts) }))
	data, err := made.(func() ([]byte, error))()
	if err != nil {
		t.Fatalf("template database: %v", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func migrated(parts []fs.FS) ([]byte, error) {
	dir, err := os.MkdirTemp("", "rst")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "template.db")
	if err := migrate(context.Background(), db.Config{Path: path}, parts); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Create makes an empty database on a server, for who has no testing.TB; gone removes it.
func Create(server string) (dsn string, gone func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = admin.Close(ctx) }()
	name := newName()
	if err := create(ctx, admin, name, "template0"); err != nil {
		return "", nil, err
	}
	return at(server, name), func() error { return drop(server, name) }, nil
}

func newName() string { return fmt.Sprintf("rst_%d_%016x", os.Getpid(), rand.Uint64()) }

// at is the address of another database on the same server.
func at(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server // pgx says what is wrong with it
	}
	u.Path = "/" + name
	return u.String()
}

func create(ctx context.Context, admin *pgx.Conn, name, model string) error {
	_, err := admin.Exec(ctx, `CREATE DATABASE `+name+` ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE `+model)
	return err
}

func drop(server, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close(ctx) }()
	_, err = admin.Exec(ctx, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`)
	return err
}

// template finds or makes the database that has these migrations; tests of several processes share it.
func template(ctx context.Context, admin *pgx.Conn, server string, parts []fs.FS) (string, error) {
	if len(parts) == 0 {
		return "template0", nil
	}
	digest, err := sum(db.Postgres, parts)
	if err != nil {
		return "", err
	}
	name := "rst_template_" + digest
	const lock = 0x64627465 // "dbte"
	if _, err := admin.Exec(ctx, `SELECT pg_advisory_lock($1)`, lock); err != nil {
		return "", err
	}
	defer func() { _, _ = admin.Exec(context.Background(), `SELECT pg_advisory_unlock($1)`, lock) }()
	var found bool
	err = admin.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&found)
	if err != nil || found {
		return name, err
	}
	making := fmt.Sprintf("rst_making_%d_%016x", os.Getpid(), rand.Uint64())
	if err := create(ctx, admin, making, "template0"); err != nil {
		return "", err
	}
	if err := migrate(ctx, db.Config{DSN: at(server, making)}, parts); err != nil {
		return "", errors.Join(err, drop(server, making))
	}
	_, err = admin.Exec(ctx, `ALTER DATABASE `+making+` RENAME TO `+name)
	return name, err
}

// sum tells sets of migrations from each other.
func sum(dialect db.Dialect, parts []fs.FS) (string, error) {
	sum := sha256.New()
	for _, part := range parts {
		err := fs.WalkDir(part, string(dialect), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := fs.ReadFile(part, path)
			_, _ = fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:12]), nil
}

func migrate(ctx context.Context, cfg db.Config, parts []fs.FS) error {
	d, err := db.Open(cfg)
	if err != nil {
		return err
	}
	if err := d.Migrate(ctx, parts...); err != nil {
		_ = d.Close()
		return err
	}
	return d.Close()
}

// Schema makes migrations for both databases out of tables that a test writes for SQLite: name is a file's name. Words are
// translated, no more: INTEGER PRIMARY KEY, INTEGER and TEXT.
func Schema(name, sqlite string) fs.FS {
	postgres := strings.NewReplacer(
		"INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
		"INTEGER PRIMARY KEY", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
		"INTEGER", "BIGINT",
		"TEXT", `TEXT COLLATE "C"`,
	).Replace(sqlite)
	return fstest.MapFS{
		string(db.SQLite) + "/" + name:   {Data: []byte(sqlite)},
		string(db.Postgres) + "/" + name: {Data: []byte(postgres)},
	}
}
