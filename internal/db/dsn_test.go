package db_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db"
)

func TestCompleteAddress(t *testing.T) {
	dir := t.TempDir()
	passwords := filepath.Join(dir, "pass word")
	if err := os.WriteFile(passwords, []byte("db.example.com:5432:fleet:rs:p@ss/word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGUSER", "")
	t.Setenv("PGPASSWORD", "")
	t.Setenv("HOME", dir)
	for name, test := range map[string]struct {
		in, want string
		reach    []string
	}{
		"all said":       {"postgres://rs:secret@db.example.com:5433/fleet", "postgres://rs:secret@db.example.com:5433/fleet", nil},
		"a passfile":     {"postgres://rs@db.example.com/fleet?passfile=" + strings.ReplaceAll(passwords, " ", "%20"), "postgres://rs:p%40ss%2Fword@db.example.com/fleet", nil},
		"a socket":       {"postgres://rs@/fleet?host=/run/postgresql", "postgres://rs@/fleet?host=%2Frun%2Fpostgresql&port=5432", []string{"/run/postgresql"}},
		"user in query":  {"postgresql://db.example.com/fleet?user=rs&password=x", "postgresql://rs:x@db.example.com/fleet", nil},
		"our own, kept":  {"postgres://rs:x@db.example.com/fleet?pool_max_conns=20&sslmode=verify-full", "postgres://rs:x@db.example.com/fleet?pool_max_conns=20&sslmode=verify-full", nil},
		"database named": {"postgres://rs:x@db.example.com/?dbname=fleet", "postgres://rs:x@db.example.com/fleet", nil},
	} {
		got, reach, err := db.Complete(test.in)
		if err != nil || got != test.want || !slices.Equal(reach, test.reach) {
			t.Errorf("%s: got %q, %v, %v; want %q, %v", name, got, reach, err, test.want, test.reach)
		}
	}
	for _, bad := range []string{
		"host=db user=rs password=hush", "mysql://rs:hush@db/x", "postgres://rs:hush@db:port/x", "postgres://rs:hush@db/x?pool_max_conns=many",
		"postgres://rs:hush@db/x?sslmode=hush2", "postgres://rs:hush@[::1/x", "postgres://rs:hu%sh@db/x",
	} {
		full, _, err := db.Complete(bad)
		if err == nil {
			t.Errorf("%s: got %q", bad, full)
		} else if strings.Contains(err.Error(), "hush@") || strings.Contains(err.Error(), ":hush") || strings.Contains(err.Error(), "hu%sh") {
			t.Errorf("%s: the error shows the password: %v", bad, err)
		}
	}
	uri, password, err := db.ForLibpq("postgres://rs:p%40ss@db.example.com/fleet?sslmode=require&pool_max_conns=4&jit=on&search_path=x")
	if err != nil || uri != "postgres://rs@db.example.com/fleet?sslmode=require" || password != "p@ss" {
		t.Errorf("for libpq: got %q, %q, %v", uri, password, err)
	}
	if !db.HasPassword("postgres://a:b@c/d") || !db.HasPassword("postgres://a@c/d?password=b") || db.HasPassword("postgres://a@c/d?passfile=/x") {
		t.Error("HasPassword is wrong")
	}
}
