package upload_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/upload"
)

func open(t *testing.T, dir string, lim upload.Limits) *upload.Store {
	t.Helper()
	s, err := upload.Open(dir, lim, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var wide = upload.Limits{Organization: 1 << 20, All: 1 << 20}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func entry(path, text string, mode uint32, at int64) api.SourceEntry {
	return api.SourceEntry{Path: path, Mode: mode, Time: at, Size: int64(len(text)), SHA256: sum(text)}
}

func manifest(t *testing.T, entries ...api.SourceEntry) *source.Manifest {
	t.Helper()
	m := source.NewManifest(source.Limits{Bytes: 1 << 20, Entries: 100})
	for _, e := range entries {
		if err := m.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// lay puts a project into a new directory.
func lay(t *testing.T, h *upload.Shelf, m *source.Manifest) string {
	t.Helper()
	dir := t.TempDir()
	if err := m.Place(dir, func(root *os.Root, e api.SourceEntry) error { return h.Lay(root, dir, e) }); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, h *upload.Shelf, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := h.Put(sum(text), int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// A source gets the modes and times that its manifest says, whatever the same content was kept with before.
func TestASourceIsAsItsManifestSays(t *testing.T) {
	h := open(t, t.TempDir(), wide).Shelf(1, 1)
	put(t, h, "run", "data")
	for _, tt := range []struct {
		mode uint32
		at   int64
		want fs.FileMode
	}{{0o755, 1000, 0o755}, {0o755, 1000, 0o755}, {0o644, 2000, 0o644}, {0o444, 1000, 0o644}, {0o6777, 1000, 0o777}} {
		m := manifest(t, entry("a/run", "run", tt.mode, tt.at), entry("b/again", "run", tt.mode, tt.at), entry("c", "data", 0o600, 5))
		if missing := h.Hold(m); len(missing) != 0 {
			t.Fatalf("missing: %v", missing)
		}
		dir := lay(t, h, m)
		for _, name := range []string{"a/run", "b/again"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			st, statErr := os.Stat(filepath.Join(dir, name))
			if err != nil || statErr != nil || string(text) != "run" || st.Mode() != tt.want || st.ModTime().Unix() != tt.at {
				t.Errorf("%s: %q %v %v, want mode %v and time %d", name, text, st.Mode(), st.ModTime(), tt.want, tt.at)
			}
		}
		h.Release(m)
		if err := os.RemoveAll(dir); err != nil { // what a build does with its source in the end
			t.Fatal(err)
		}
	}
}

func TestOnlyTrueContentsAreKept(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dir, wide).Shelf(1, 1)
	for title, err := range map[string]error{
		"another": h.Put(sum("good"), 4, strings.NewReader("evil")),
		"short":   h.Put(sum("good"), 4, strings.NewReader("go")),
	} {
		if err == nil {
			t.Errorf("%s content is taken", title)
		}
	}
	m := manifest(t, entry("a", "good", 0o644, 1))
	if missing := h.Hold(m); missing[sum("good")] != 4 {
		t.Errorf("missing: %v", missing)
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() && d.Name() != "clean" {
			t.Errorf("%s is left", p)
		}
		return nil
	})
}

// No fleet is told what another's shelf holds, in the same organization or not.
func TestShelvesAreApart(t *testing.T) {
	s := open(t, t.TempDir(), wide)
	put(t, s.Shelf(1, 1), "secret")
	m := manifest(t, entry("a", "secret", 0o644, 1))
	for _, other := range []*upload.Shelf{s.Shelf(1, 2), s.Shelf(2, 1), s.Shelf(11, 1)} {
		if missing := other.Hold(m); len(missing) != 1 {
			t.Errorf("another shelf gives away a content")
		}
	}
}

func TestWhatWasUsedLongestAgoGoesFirst(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, upload.Limits{Organization: 1000, All: 10_000})
	h := s.Shelf(1, 1)
	texts := make([]string, 9)
	for i := range texts {
		texts[i] = strings.Repeat(string(rune('a'+i)), 110)
		put(t, h, texts[i])
		used := time.Now().Add(time.Duration(i-100) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "1", "1", sum(texts[i])[:2], sum(texts[i])[2:]), used, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	running := manifest(t, entry("a", texts[0], 0o644, 1))
	h.Hold(running) // the oldest, which a build needs
	used := manifest(t, entry("a", texts[1], 0o644, 1))
	h.Hold(used)
	h.Release(used) // used this moment
	put(t, h, strings.Repeat("z", 110))
	for i, want := range []bool{true, true, false, false, true} { // down to nine tenths
		missing := h.Hold(manifest(t, entry("a", texts[i], 0o644, 1)))
		if (len(missing) == 0) != want {
			t.Errorf("content %d is kept: %v, want %v", i, len(missing) == 0, want)
		}
	}
}

func TestAllOrganizationsTogetherAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, upload.Limits{Organization: 1000, All: 1500})
	for org := range int64(5) {
		for i := range 9 {
			put(t, s.Shelf(org, 1), strings.Repeat(string(rune('a'+i)), 100))
		}
	}
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, _ error) error {
		if st, err := d.Info(); err == nil && !d.IsDir() {
			size += st.Size()
		}
		return nil
	})
	if size > 1600 || size < 500 {
		t.Errorf("%d bytes are kept, want 1500 at most", size)
	}
}

// After the process was killed all is still there; after the machine went down nothing is, for a name may have outlived its content.
func TestAfterAKillAndAfterAPowerCut(t *testing.T) {
	dir := t.TempDir()
	m := manifest(t, entry("a", "kept", 0o644, 1))
	put(t, open(t, dir, wide).Shelf(1, 1), "kept")
	if err := os.WriteFile(filepath.Join(dir, "1", "1", "tmp-half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, wide) // killed
	if missing := s.Shelf(1, 1).Hold(m); len(missing) != 0 {
		t.Error("after a kill the content is gone")
	}
	if _, err := os.Stat(filepath.Join(dir, "1", "1", "tmp-half")); err == nil {
		t.Error("half a content is left")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "clean")); err != nil || !bytes.Equal(text, []byte("closed")) {
		t.Errorf("closed: %q, %v", text, err)
	}
	s = open(t, dir, wide)
	if missing := s.Shelf(1, 1).Hold(m); len(missing) != 0 {
		t.Error("after it was closed the content is gone")
	}
	if err := os.WriteFile(filepath.Join(dir, "clean"), []byte("another run of the machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if missing := open(t, dir, wide).Shelf(1, 1).Hold(m); len(missing) != 1 {
		t.Error("after a power cut the content is trusted")
	}
}
