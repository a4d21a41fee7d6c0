package e2e_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The database is put back to what it was before a release that a device runs already: the device keeps running that, and says what it refuses.
// The way on is what the owner's machine still has, and a new signature.
func TestARestoredDatabase(t *testing.T) {
	if p.sqlFile != "" {
		t.Skip("this test puts back a file of SQLite's")
	}
	p.roadstead(t, "fleet", "create", "yesterday", "--type", "generic-amd64")
	first := pushed(t, "yesterday", "first")
	d := newDevice(t, "yesterday", "e2e-yesterday")
	d.registered(t)
	o := newOwner(t)
	o.run("", "trust", "init", "yesterday", "--approval", "builder+owner", "--yes")
	o.run("", "release", "sign", first, "--yes")
	d.says(t, "first")

	server := steal(t) // a copy of the server, for the others keep theirs
	var yesterday []byte
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	server.down(func(database string) {
		var err error
		if yesterday, err = os.ReadFile(database); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(database + "-wal"); !errors.Is(err, fs.ErrNotExist) && len(text) > 0 {
			t.Fatal("the server left something beside its database when it ended")
		}
		must(t, "cp", "-a", p.data, snapshot)
	})
	o.run("", "release", "sign", pushed(t, "yesterday", "second"), "--yes")
	d.says(t, "second")
	runs := d.containerIDs(t)

	at := len(d.log(t))
	server.down(func(database string) {
		for _, beside := range []string{"-wal", "-shm"} {
			if err := os.Remove(database + beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(database, yesterday, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	d.refused(t, at, "second", first)
	if now := d.containerIDs(t); now != runs {
		t.Errorf("the containers are %s, and were %s", now, runs)
	}

	o.run("", "trust", "restore", "yesterday")
	third := pushed(t, "yesterday", "third")
	o.run("", "release", "sign", third, "--yes")
	d.says(t, "third")

	// Then the whole directory is put back, with all that the signer remembers: its log lacks what the device has seen, and cannot go on from there.
	at = len(d.log(t))
	if out, errs, code := p.try(t, "roadsteadd", "admin", "log", "renew", "--data", p.data); code == 0 || !strings.Contains(errs, "stop the server first") {
		t.Errorf("the log of a running server: exit %d: %s%s", code, out, errs)
	}
	server.down(func(string) {
		must(t, "rm", "-rf", p.data)
		must(t, "cp", "-a", snapshot, p.data)
	})
	d.refused(t, at, "third", "rollback")
	o.run("", "trust", "restore", "yesterday")
	fourth := pushed(t, "yesterday", "fourth")
	o.run("", "release", "sign", fourth, "--yes")
	d.refused(t, at, "third", "reason=log")
	server.down(func(string) {
		if out, errs, code := p.try(t, "roadsteadd", "admin", "log", "renew", "--data", p.data); code != 0 || !strings.Contains(out, "is left behind") {
			t.Errorf("admin log renew: exit %d: %s%s", code, out, errs)
		}
	})
	o.run("", "trust", "renew", "yesterday", "--server-keys", "--yes")
	d.says(t, "fourth")
}

// containerIDs lists the running containers by what never names another one.
func (d *device) containerIDs(t *testing.T) string {
	t.Helper()
	out, err := d.exec(t, "docker", "ps", "-q", "--no-trunc")
	if err != nil {
		t.Fatalf("docker ps: %v %s", err, out)
	}
	return strings.Join(strings.Fields(out), " ")
}
