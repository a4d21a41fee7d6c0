package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// dumpFile is the copy of a PostgreSQL database in a backup, in pg_dump's custom format. It stands where databaseFile would.
const dumpFile = "roadstead.pgdump"

// databaseOf says which PostgreSQL database a data directory's server works on; empty: SQLite in the directory.
func databaseOf(l supervise.Layout) (address string, err error) {
	cfg, err := load[apiserver.Config](l.Role(api.RoleAPI))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return cfg.SQL, err
}

// program finds one of PostgreSQL's programs, the newest where there are several: an older pg_dump refuses a newer server.
func program(name string) (string, error) {
	if path := newest("/usr/lib/postgresql/*/bin/" + name); path != "" {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the database is on a PostgreSQL server, and %s is not on this machine: install PostgreSQL's client "+
			"programs (Debian: postgresql-client), of the server's version or newer", name)
	}
	return path, nil
}

// newest gives the file of a pattern with the highest version in its path.
func newest(pattern string) (best string) {
	found, _ := filepath.Glob(pattern) // the pattern is good
	highest := 0
	for _, path := range found {
		for part := range strings.SplitSeq(path, "/") {
			var n int
			if _, err := fmt.Sscanf(part, "%d", &n); err == nil && n > highest {
				highest, best = n, path
			}
		}
	}
	return best
}

// runProgram runs one of them on a database.
func runProgram(ctx context.Context, name, address string, args ...string) error {
	path, err := program(name)
	if err != nil {
		return err
	}
	uri, password, err := db.ForLibpq(address)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, append(args, "--no-password", "--dbname", uri)...)
	cmd.Env = os.Environ()
	if password != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+password)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}

// dump writes a consistent copy of a PostgreSQL database to a file. The server may be in use.
func dump(ctx context.Context, address, file string) error {
	if err := runProgram(ctx, "pg_dump", address, "--format=custom", "--no-owner", "--no-privileges", "--file", file); err != nil {
		return err
	}
	return os.Chmod(file, 0o600)
}

// restoreDump fills an empty PostgreSQL database from the dump in a directory that is being restored, and writes into the api
// role's configuration where it is now.
func restoreDump(ctx context.Context, l supervise.Layout, address string) error {
	if address == "" {
		return usageError{errors.New("this is the backup of a server on PostgreSQL: name an empty database for it with --sql or --sql-file")}
	}
	d, err := db.Open(db.Config{DSN: address})
	if err != nil {
		return err
	}
	tables, err := d.Tables(ctx)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	if len(tables) > 0 {
		return fmt.Errorf("%s is not empty: it holds the table %s; a backup is restored into a database of its own", d.Address(), tables[0])
	}
	role := l.Role(api.RoleAPI)
	file := filepath.Join(role, dumpFile)
	err = runProgram(ctx, "pg_restore", address, "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", file)
	if err != nil {
		return err
	}
	cfg, err := load[apiserver.Config](role)
	if err != nil {
		return err
	}
	cfg.SQL = address
	data, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(durable.WriteFile(filepath.Join(role, "role.json"), append(data, '\n'), 0o600), os.Remove(file))
}

// checkPostgres asks a PostgreSQL database how it is.
func checkPostgres(ctx context.Context, address string) error {
	d, err := db.Open(db.Config{DSN: address})
	if err != nil {
		return err
	}
	return errors.Join(d.Check(ctx), d.Close())
}
