package apiserver_test

import (
	_ "embed"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// The migrations of the last release, one file's name a line. With a release those that came since are added.
//
//go:embed testdata/released_migrations.txt
var releasedMigrations string

// released is a part of the migrations as the last release had it.
type released struct {
	fs.FS
	names map[string]bool
}

func (r released) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(r.FS, name)
	return slices.DeleteFunc(all, func(e fs.DirEntry) bool { return !e.IsDir() && !r.names[path.Base(e.Name())] }), err
}

func (r released) Open(name string) (fs.File, error) {
	if base := path.Base(name); strings.HasSuffix(base, ".sql") && !r.names[base] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return r.FS.Open(name)
}

func (r released) Sub(dir string) (fs.FS, error) {
	sub, err := fs.Sub(r.FS, dir)
	return released{sub, r.names}, err
}

// A server of the last release comes to the schema of a new one, which it does not where a migration has a number below those that it has run.
func TestAServerOfTheLastRelease(t *testing.T) {
	names := map[string]bool{}
	for _, name := range strings.Fields(releasedMigrations) {
		names[name] = true
	}
	var before []fs.FS
	found := map[string]bool{}
	for _, part := range apiserver.Migrations() {
		before = append(before, released{part, names})
		files, err := fs.Glob(part, string(db.SQLite)+"/*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			found[path.Base(f)] = true
		}
	}
	for name := range names {
		if !found[name] {
			t.Errorf("the migration %s was released, and is gone", name)
		}
	}
	old := dbtest.Open(t, nil, before...)
	if err := old.Migrate(t.Context(), apiserver.Migrations()...); err != nil {
		t.Fatal(err)
	}
	fresh := dbtest.Open(t, nil, apiserver.Migrations()...)
	schema := sqliteSchema
	if old.Dialect() == db.Postgres {
		schema = postgresSchema
	}
	if a, b := schema(t, old), schema(t, fresh); !maps.Equal(a, b) {
		t.Errorf("the schemas differ:\n%v\n%v", a, b)
	}
}
