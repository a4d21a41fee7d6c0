package main_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/db"
)

// field finds "name: value" in a command's output.
func field(out, name string) string {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestUsersAndPasswords(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	out, text, code := run(t, nil, "admin", "user", "add", "grace@example.com", "--username", "grace", "--data", s.dir)
	password := field(out, "password")
	if code != 0 || field(out, "email") != "grace@example.com" || password == "" {
		t.Fatalf("user add: exit %d: %q %q", code, out, text)
	}
	if got := s.login("grace@example.com", password); got != 200 {
		t.Errorf("login with the invented password: %d", got)
	}
	if _, text, code := run(t, nil, "admin", "user", "add", "grace@example.com", "--data", s.dir); code != 1 || text == "" {
		t.Errorf("the same address again: exit %d: %q", code, text)
	}
	out, text, code = run(t, nil, "admin", "user", "password", "grace@example.com", "--data", s.dir)
	if code != 0 || field(out, "password") == password {
		t.Fatalf("user password: exit %d: %q %q", code, out, text)
	}
	if got := s.login("grace", password); got != 401 {
		t.Errorf("login with the old password: %d", got)
	}
	if got := s.login("grace", field(out, "password")); got != 200 {
		t.Errorf("login with the new password: %d", got)
	}
	if _, text, code := run(t, nil, "admin", "user", "password", "nobody@example.com", "--data", s.dir); code != 1 {
		t.Errorf("an unknown user: exit %d: %q", code, text)
	}
	s.stop()
	if _, text, code := run(t, nil, "admin", "user", "add", "x@example.com", "--data", s.dir); code != 1 ||
		!strings.Contains(text, "no server is running") {
		t.Errorf("without a server: exit %d: %q", code, text)
	}
}

func TestBackupRestoreVerify(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	a := s.admin()
	blob := filepath.Join(s.dir, "roles", "registry", "storage", "docker", "registry", "v2", "blobs", "sha256", "2c",
		"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "data")
	if err := os.MkdirAll(filepath.Dir(blob), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	online, offline := filepath.Join(t.TempDir(), "online.tar"), filepath.Join(t.TempDir(), "offline.tar")
	if out, text, code := run(t, nil, "admin", "backup", online, "--data", s.dir); code != 0 {
		t.Fatalf("backup of a running server: exit %d: %s %s", code, out, text)
	}
	for _, inside := range []string{"backup.tar", "roles/api/backup.tar"} {
		if _, text, code := run(t, nil, "admin", "backup", filepath.Join(s.dir, inside), "--data", s.dir); code != 2 || !strings.Contains(text, "somewhere else") {
			t.Errorf("backup to %s in the data directory: exit %d: %s", inside, code, text)
		}
	}
	if out, text, code := run(t, nil, "admin", "verify", "--data", s.dir); code != 0 || !strings.Contains(out, "1 blobs") {
		t.Errorf("verify of a running server: exit %d: %s %s", code, out, text)
	}
	s.stop()
	if _, text, code := run(t, nil, "admin", "backup", offline, "--data", s.dir); code != 0 {
		t.Fatalf("backup of a stopped server: exit %d: %s", code, text)
	}
	if info, err := os.Stat(online); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode: %v, %v; want 0600", info, err)
	}
	if _, text, code := run(t, nil, "admin", "restore", online, "--data", s.dir); code != 1 || !strings.Contains(text, "not empty") {
		t.Errorf("restore over a data directory: exit %d: %s", code, text)
	}

	for name, file := range map[string]string{"online": online, "offline": offline} {
		dir := openDir(t)
		if _, text, code := run(t, nil, "admin", "restore", file, "--data", dir); code != 0 {
			t.Fatalf("%s: restore: exit %d: %s", name, code, text)
		}
		if out, text, code := run(t, nil, "admin", "verify", "--data", dir); code != 0 {
			t.Errorf("%s: verify: exit %d: %s %s", name, code, out, text)
		}
		again := up(t, dir, s.addr)
		if got := again.whoami(a.APIKey); got != 200 {
			t.Errorf("%s: the old key at the restored server: %d", name, got)
		}
		if got := again.login(a.Email, a.Password); got != 200 {
			t.Errorf("%s: the old password at the restored server: %d", name, got)
		}
		again.stop() // it went on with the audit log, and its signer with signing it
		if out, text, code := run(t, nil, "admin", "verify", "--data", dir); code != 0 || !strings.Contains(out, "audit log: entries 1 to") {
			t.Errorf("%s: verify after a day's work: exit %d: %s %s", name, code, out, text)
		}
	}

	// The beginning of the log is moved, as retention does, but no entry says so.
	database := filepath.Join(s.dir, "roles", "api", "roadstead.db")
	rewriteAudit(t, database, `UPDATE audit_chain SET first_seq = 2, first_hash = (SELECT hash FROM audit_entry WHERE seq = 2)`)
	if _, text, code := run(t, nil, "admin", "verify", "--data", s.dir); code != 1 || !strings.Contains(text, "entries 1 to 2 are missing, and no entry says") {
		t.Errorf("verify of a log without its beginning: exit %d: %s", code, text)
	}
	rewriteAudit(t, database, `UPDATE audit_chain SET first_seq = 0, first_hash = '`+strings.Repeat("0", 64)+`'`)

	// Damage is found, and named.
	rewriteAudit(t, filepath.Join(s.dir, "roles", "api", "roadstead.db"), `UPDATE audit_entry SET by_name = 'nobody' WHERE seq = 2`)
	if err := os.WriteFile(blob, []byte("hullo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.dir, "roles", "api", "pepper"), 0o644); err != nil { //nolint:gosec // the fault to find
		t.Fatal(err)
	}
	_, text, code := run(t, nil, "admin", "verify", "--data", s.dir)
	if code != 1 || !strings.Contains(text, "2cf24dba") || !strings.Contains(text, "pepper") ||
		!strings.Contains(text, "audit log: entry 2: it is not what was sealed") {
		t.Errorf("verify after damage: exit %d: %s", code, text)
	}
	// The tail of the log is taken away with everything in the database that tells of it: the signer remembers.
	rewriteAudit(t, filepath.Join(s.dir, "roles", "api", "roadstead.db"), `DELETE FROM audit_checkpoint`, `DELETE FROM audit_entry WHERE seq > 1`,
		`UPDATE audit_chain SET seq = 1, hash = (SELECT hash FROM audit_entry WHERE seq = 1)`)
	_, text, code = run(t, nil, "admin", "verify", "--data", s.dir)
	if code != 1 || !strings.Contains(text, "audit log: entr") || !strings.Contains(text, "missing: a checkpoint of") {
		t.Errorf("verify of a log without its tail: exit %d: %s", code, text)
	}
}

// rewriteAudit changes the audit log as the owner of the database can: without the triggers that keep it.
func rewriteAudit(t *testing.T, file string, queries ...string) {
	t.Helper()
	d, err := db.Open(db.Config{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"audit_entry_update", "audit_entry_delete", "audit_entry_place", "audit_chain_update", "audit_checkpoint_delete"} {
		queries = append([]string{`DROP TRIGGER IF EXISTS ` + name}, queries...)
	}
	err = d.Write(t.Context(), func(tx *db.Tx) error {
		for _, query := range queries {
			if _, err := tx.ExecContext(t.Context(), query); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestRestoreRefusesWhatIsNoBackup(t *testing.T) {
	for name, write := range map[string]func(*tar.Writer) error{
		"an escape": func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: "../../escaped", Typeflag: tar.TypeReg, Mode: 0o600})
		},
		"a link": func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: "pki", Typeflag: tar.TypeSymlink, Linkname: "/etc"})
		},
		"no database": func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: "site.json", Typeflag: tar.TypeReg, Mode: 0o644})
		},
	} {
		dir := openDir(t)
		file := filepath.Join(t.TempDir(), "b.tar")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		if err := write(w); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		_ = f.Close()
		if _, text, code := run(t, nil, "admin", "restore", file, "--data", dir); code != 1 {
			t.Errorf("%s: exit %d: %s", name, code, text)
		}
		if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 0 {
			t.Errorf("%s: it left %v", name, left)
		}
	}
}

func TestBaseImages(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&tar.Header{Name: "bin/sh", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "hi"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_ = f.Close()
	if out, text, code := run(t, nil, "admin", "base", "import", "base/tiny", file, "--data", s.dir); code != 0 {
		t.Fatalf("base import: exit %d: %s %s", code, out, text)
	}
	if out, _, code := run(t, nil, "admin", "base", "list", "--data", s.dir); code != 0 || !strings.Contains(out, "base/tiny") {
		t.Errorf("base list: exit %d: %s", code, out)
	}
	if _, text, code := run(t, nil, "admin", "base", "import", "../x", file, "--data", s.dir); code != 1 || !strings.Contains(text, "../x") {
		t.Errorf("a bad name: exit %d: %s", code, text)
	}
}

func TestDeleteUser(t *testing.T) {
	s := up(t, openDir(t), "127.0.0.1:0")
	out, text, code := run(t, nil, "admin", "user", "add", "grace@example.com", "--username", "grace", "--data", s.dir)
	if code != 0 {
		t.Fatalf("user add: exit %d: %q %q", code, out, text)
	}
	password := field(out, "password")
	if got := s.login("grace", password); got != 200 {
		t.Errorf("login before: %d", got)
	}
	if out, text, code := run(t, nil, "admin", "user", "delete", "grace@example.com", "--data", s.dir); code != 0 || out != "grace is deleted\n" {
		t.Errorf("user delete: exit %d: %q %q", code, out, text)
	}
	if got := s.login("grace", password); got != 401 {
		t.Errorf("login after: %d", got)
	}
	if _, text, code := run(t, nil, "admin", "user", "delete", "grace", "--data", s.dir); code != 1 || !strings.Contains(text, `there is no user "grace"`) {
		t.Errorf("once more: exit %d: %q", code, text)
	}
}
