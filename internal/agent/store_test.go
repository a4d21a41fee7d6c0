package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/agent"
)

// What could not be stored is stored when there is room again, and not taken for stored.
func TestRemembersAfterAFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	change := agent.Remember(dir) // as little as on a full disk can be written into a directory that is not there
	for range 2 {
		if change("one") == nil {
			t.Fatal("it says that it is stored")
		}
	}
	folder(t, dir)
	if err := change("one"); err != nil {
		t.Fatal(err)
	}
	if text := read(t, filepath.Join(dir, "state.json")); !strings.Contains(string(text), `"pulled":["one"]`) {
		t.Errorf("stored %s", text)
	}
	if err := os.Remove(filepath.Join(dir, "state.json")); err != nil {
		t.Fatal(err)
	}
	if err := change("one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err == nil {
		t.Error("what has not changed is written")
	}
}
