package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// On a full disk, what is small is written all the same, again and again, and larger things are not.
func TestReserve(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := durable.NewReserve(filepath.Join(dir, "reserve"), 256<<10)
	r.Keep()
	path := filepath.Join(dir, "state.json")
	if err := r.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	fill := func() {
		f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for chunk := bytes.Repeat([]byte("x"), 64<<10); len(chunk) > 0; {
			if _, err := f.Write(chunk); err != nil {
				chunk = chunk[:len(chunk)/2]
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if err := durable.WriteFile(path, bytes.Repeat([]byte("y"), 100<<10), 0o600); err == nil {
		t.Fatal("there is room")
	}
	for n := range 3 {
		want := bytes.Repeat([]byte(strconv.Itoa(n)), 100<<10)
		if err := r.WriteFile(path, want, 0o600); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("write %d: %d bytes, %v", n, len(got), err)
		}
	}
	if err := r.WriteFile(path, bytes.Repeat([]byte("z"), 2<<20), 0o600); err == nil {
		t.Error("more than the disk has is written")
	}
	if got, err := os.ReadFile(path); err != nil || len(got) != 100<<10 {
		t.Errorf("what was there has %d bytes, %v", len(got), err)
	}
	fill() // somebody else takes the room
	_ = r.WriteFile(path, bytes.Repeat([]byte("w"), 90<<10), 0o600)
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteFile(path, []byte("after"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || info.Size() != 256<<10 {
		t.Errorf("the reserve was not taken back: %v, %v", info, err)
	}
}
