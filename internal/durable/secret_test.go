package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// open is what a reader of the disk's blocks sees of a file that was replaced.
func open(t *testing.T, path string) (read func() []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return func() []byte {
		b := make([]byte, 4096)
		n, _ := f.ReadAt(b, 0) // the end of the file is no failure
		return b[:n]
	}
}

func alone(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("the file holds %q, %v; want %q", got, err, want)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("the directory holds %v, want the file alone", names)
	}
}

func TestWriteSecretOverwritesWhatWasBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, content := range []string{"the first secret", "second", "the third"} {
		var old func() []byte
		if content != "the first secret" {
			old = open(t, path)
		}
		if err := durable.WriteSecret(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		alone(t, path, content)
		if old != nil && bytes.Trim(old(), "\x00") != nil && len(bytes.Trim(old(), "\x00")) > 0 {
			t.Errorf("the blocks of the old file hold %q", old())
		}
	}
}

// A loss of power leaves a second name of the old file, before or after the new one took its place.
func TestSweepSecretFinishesWhatWasCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "secret")
	if err := os.Link(path, path+".before"); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(filepath.Dir(path), ".key.123.tmp"), "half of a secr")
	litter := open(t, filepath.Join(filepath.Dir(path), ".key.123.tmp"))
	if err := durable.SweepSecret(path); err != nil {
		t.Fatal(err)
	}
	alone(t, path, "secret")
	if got := bytes.Trim(litter(), "\x00"); len(got) > 0 {
		t.Errorf("the blocks of what was being written hold %q", got)
	}

	write(path+".before", "secret of before")
	old := open(t, path+".before")
	if err := durable.SweepSecret(path); err != nil {
		t.Fatal(err)
	}
	alone(t, path, "secret")
	if got := bytes.Trim(old(), "\x00"); len(got) > 0 {
		t.Errorf("the blocks of the old file hold %q", got)
	}
	if err := durable.SweepSecret(path); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}

func TestWriteSecretThatFailsKeepsTheOldContent(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteSecret(filepath.Join(dir, "missing", "f"), nil, 0o600); err == nil {
		t.Error("WriteSecret into a missing directory: no error")
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteSecret(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("WriteSecret over a directory: no error")
	}
}
