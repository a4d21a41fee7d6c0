package source_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/client/source"
)

// sums gives the SHA-256 of a project's files, and how many bytes were read for it.
func sums(t *testing.T, cache, dir string) map[string]string {
	t.Helper()
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	h := source.LoadHashes(cache, dir)
	c, err := p.Contents(context.Background(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Save(); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range c.Entries {
		out[e.Path] = e.SHA256
	}
	return out
}

// An edit that keeps the size and puts the time of the last change back is seen all the same.
func TestAnEditWithTheSameTimeIsSeen(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "Dockerfile")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		old := time.Unix(1_500_000_000, 0)
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	first := sums(t, cache, dir)
	write("two")
	if second := sums(t, cache, dir); second["Dockerfile"] == first["Dockerfile"] || first["Dockerfile"] == "" {
		t.Errorf("before %s, after %s", first["Dockerfile"], second["Dockerfile"])
	}
}

// What was changed moments ago is not remembered; what is settled is, and is not read again.
func TestSettledFilesAreRemembered(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	sums(t, cache, dir)
	remembered := func() string {
		files, _ := filepath.Glob(filepath.Join(cache, "hashes", "*"))
		if len(files) == 0 {
			return ""
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := remembered(); strings.Contains(text, "Dockerfile") {
		t.Errorf("a file that was written this moment is remembered:\n%s", text)
	}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(remembered(), "Dockerfile") {
		if time.Now().After(deadline) {
			t.Fatal("a file that nobody touches is never remembered")
		}
		<-time.After(100 * time.Millisecond)
		sums(t, cache, dir)
	}
	// A false memory shows that it is used: the file is not read.
	files, _ := filepath.Glob(filepath.Join(cache, "hashes", "*"))
	first := sums(t, cache, dir)["Dockerfile"]
	fake := strings.Repeat("0", 64)
	if err := os.WriteFile(files[0], []byte(strings.ReplaceAll(remembered(), first, fake)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sums(t, cache, dir)["Dockerfile"]; got != fake {
		t.Errorf("got %s: the file was read again", got)
	}
	for _, damage := range []string{"", "nonsense", "roadstead hashes 1\nx y z\n"} {
		if err := os.WriteFile(files[0], []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sums(t, cache, dir)["Dockerfile"]; got != first {
			t.Errorf("with a damaged memory %q: got %s, want %s", damage, got, first)
		}
	}
}

// Secrets go out with each push and are named by no hash that could be kept.
func TestSecretsAreSentAlong(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM x", ".balena/secrets/key": "s3cret", "plain": "x"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := source.Scan(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	p.AddFile(".roadstead/build.json", []byte("{}"))
	c, err := p.Contents(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Entries {
		secret := strings.HasPrefix(e.Path, ".balena/") || e.Path == ".roadstead/build.json"
		if e.Type == "" && (e.SHA256 == "") != secret {
			t.Errorf("%s: named %q, sent along %q", e.Path, e.SHA256, e.Data)
		}
		if e.SHA256 == "" {
			continue
		}
		f, _, err := c.Open(e.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(f)
		_ = f.Close()
		if int64(len(text)) != e.Size {
			t.Errorf("%s: %d bytes, want %d", e.Path, len(text), e.Size)
		}
	}
}
