package trust_test

import (
	"os"
	"path/filepath"
	"testing"
)

// The passphrase of a key is changed where the key is, without a server; the key and all that it signed stay.
func TestChangePassphraseOfAFleetsKey(t *testing.T) {
	s, o := newSite(t), newOwner(t)
	o.does(s, "trust", "init", "hello", "--approval", "builder+owner")
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := os.WriteFile(fresh, []byte("a battery that staples\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("something else entirely\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run("trust", "change-passphrase", "hello", "--dir", o.dir, "--passphrase-file", wrong, "--new-passphrase-file", fresh); code != 1 {
		t.Errorf("with the wrong one: %d: %s", code, out)
	} else {
		has(t, out, "nothing is changed", "wrong passphrase")
	}
	out, code := run("trust", "change-passphrase", "hello", "--dir", o.dir, "--new-passphrase-file", fresh)
	if code != 0 {
		t.Fatal(out)
	}
	has(t, out, "has its new passphrase")
	s.build(commit(1), `{"image": "web"}`)
	o.refuses(s.bundle(), "wrong passphrase", "release", "sign", commit(1))
	t.Setenv("ROADSTEAD_TRUST_PASSPHRASE_FILE", fresh)
	o.does(s, "release", "sign", commit(1))
	d, err := s.device()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release(commit(1)); err != nil {
		t.Errorf("signed with the same key: %v", err)
	}
	if out, code := run("trust", "change-passphrase", "nobody", "--new-passphrase-file", fresh); code != 1 {
		t.Errorf("of no fleet: %d: %s", code, out)
	} else {
		has(t, out, "neither the file of a key nor a fleet")
	}
}
