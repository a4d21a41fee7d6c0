package durable_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/internal/durable"
)

func TestWriteFileReplacesWholeAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, content := range []string{"first and longer", "second"} {
		if err := durable.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("ReadFile = %q, %v; want %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v; want 0640", info.Mode(), err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the directory holds %v, want the file alone", names)
	}
}

func TestWriteFileThatFailsKeepsTheOldContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken") // a directory: the rename must fail
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Fatal("WriteFile over a directory: no error")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the directory holds %v, want no temporary file", names)
	}
	if err := durable.WriteFile(filepath.Join(dir, "missing", "f"), nil, 0o600); err == nil {
		t.Error("WriteFile into a missing directory: no error")
	}
}

func TestShredOverwritesTheSameInode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	secret := bytes.Repeat([]byte("rsp_secret"), 20_000) // more than one block
	if err := os.WriteFile(path, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path) // what a forensic reader of the old inode would see
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := durable.Shred(path); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(secret)+1)
	n, _ := held.ReadAt(got, 0)
	if n != len(secret) || !bytes.Equal(got[:n], make([]byte, n)) {
		t.Errorf("after Shred the inode holds %d bytes, all zero: %v; want %d zeros", n, bytes.Equal(got[:n], make([]byte, n)), len(secret))
	}
}

func TestShredRefusesLinksAndAcceptsAbsence(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	if err := durable.Shred(link); err == nil {
		t.Error("Shred of a link: no error")
	}
	if got, _ := os.ReadFile(other); string(got) != "keep" {
		t.Errorf("the target holds %q", got)
	}
	if err := durable.Shred(filepath.Join(dir, "none")); err != nil {
		t.Errorf("Shred of nothing: %v", err)
	}
	if err := durable.Remove(filepath.Join(dir, "none")); err != nil {
		t.Errorf("Remove of nothing: %v", err)
	}
	if err := durable.Remove(link); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Errorf("the link is still there: %v, %v", err, fs.ErrNotExist)
	}
}
