package ownerkey_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/ownerkey"
)

const other = "a battery that staples"

// opens says by which of the passphrases a key opens.
func opens(t *testing.T, path string) (list []string) {
	t.Helper()
	f, err := ownerkey.Read(path)
	if err != nil {
		t.Fatalf("the key is lost: %v", err)
	}
	for _, p := range []string{passphrase, other} {
		if _, err := f.Open(t.Context(), with(p)); err == nil {
			list = append(list, p)
		} else if !errors.Is(err, ownerkey.ErrPassphrase) {
			t.Fatal(err)
		}
	}
	return list
}

func TestChangePassphrase(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "one.key"), filepath.Join(dir, "link")
	f, err := ownerkey.Create(path, []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct{ old, next, says string }{
		"the wrong old one": {"something else", other, "wrong passphrase"}, "too short": {passphrase, "short", "shorter than 10"}, "the same": {passphrase, passphrase, "is the old one"},
	} {
		if _, err := ownerkey.ChangePassphrase(t.Context(), path, []byte(tt.old), []byte(tt.next)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := opens(t, path); len(got) != 1 || got[0] != passphrase {
		t.Errorf("after refusals it opens by %q", got)
	}
	if err := os.WriteFile(path+".new", []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ownerkey.ChangePassphrase(t.Context(), path, []byte(passphrase), []byte(other)); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("beside a file that was left: %v", err)
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	changed, err := ownerkey.ChangePassphrase(t.Context(), link, []byte(passphrase), []byte(other))
	if err != nil {
		t.Fatal(err)
	}
	if got := opens(t, path); len(got) != 1 || got[0] != other || changed.ID != f.ID {
		t.Errorf("it opens by %q, and is the key %s, before %s", got, changed.ID, f.ID)
	}
	signs(t, path, with(other))
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v, %v", st, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("there are %v: %v", left, err)
	}
	public := filepath.Join(dir, "one.pub")
	if _, err := f.WritePublic(public); err != nil {
		t.Fatal(err)
	}
	if _, err := ownerkey.ChangePassphrase(t.Context(), public, nil, []byte(other)); !errors.Is(err, ownerkey.ErrNoPassphrase) {
		t.Errorf("a public half: %v", err)
	}
}

// Killed anywhere, the key opens by one of the two passphrases, and what is left beside it opens by the new one only.
func TestKilledWhileThePassphraseChanges(t *testing.T) {
	if path := os.Getenv("CHANGE_PASSPHRASE_OF"); path != "" { // the child
		if _, err := ownerkey.ChangePassphrase(t.Context(), path, []byte(passphrase), []byte(other)); err != nil {
			t.Fatal(err)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "one.key")
	if _, err := ownerkey.Create(path, []byte(passphrase)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	interrupted := 0
	for n := range 6 {
		if err := errors.Join(os.RemoveAll(path+".new"), os.WriteFile(path, before, 0o600)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestKilledWhileThePassphraseChanges$")
		cmd.Env = append(os.Environ(), "CHANGE_PASSPHRASE_OF="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for over := false; !over; { // until the new file is beside it, which is proved next, or until the end
			select {
			case <-ended:
				over = true
			default:
				if _, err := os.Stat(path + ".new"); err == nil && n%2 == 0 {
					_ = cmd.Process.Kill()
					<-ended
					over = true
				}
			}
		}
		got := opens(t, path)
		if len(got) != 1 {
			t.Fatalf("it opens by %q", got)
		}
		if _, err := os.Stat(path + ".new"); err == nil {
			interrupted++
			if f, err := ownerkey.Read(path + ".new"); err == nil { // whole, or not yet
				if _, err := f.Open(t.Context(), with(passphrase)); err == nil {
					t.Error("what is left opens by the old passphrase")
				}
			}
			if got[0] != passphrase {
				t.Error("interrupted, it opens by the new passphrase")
			}
		} else if n%2 == 1 && got[0] != other {
			t.Error("not interrupted, it opens by the old passphrase")
		}
	}
	if interrupted == 0 {
		t.Error("it was never interrupted")
	}
}
