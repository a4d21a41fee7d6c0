package debian_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/builder/debian"
)

func TestTheMirrorIsAptsOwn(t *testing.T) {
	for name, tt := range map[string]struct{ file, text, want string }{
		"deb822":          {"sources.list.d/debian.sources", "Types: deb\n# http://old.example.com/debian\nURIs: http://deb.example.com/debian\nSuites: trixie\n", "https://deb.example.com"},
		"one line":        {"sources.list", "deb [signed-by=/k] https://mirror.example.com/debian/ trixie main\n", "https://mirror.example.com"},
		"somebody else's": {"sources.list.d/other.list", "deb https://download.example.com/linux/debian trixie stable\n", ""},
		"nothing":         {"sources.list", "", ""},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := debian.LocalMirror(dir)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !strings.HasPrefix(err.Error(), "mirror: ") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

func TestASuiteAtAMirror(t *testing.T) {
	s := debian.Suite{Archive: "debian-security"}
	if got := s.At("https://deb.example.com/"); got.Mirror != "https://deb.example.com/debian-security" ||
		got.Fallback != "https://snapshot.example.com/archive/debian-security/{time}" {
		t.Errorf("%+v", got)
	}
	if got := s.At("https://mirror.example.com"); got.Mirror != "https://mirror.example.com/debian-security" || got.Fallback != "" {
		t.Errorf("%+v", got)
	}
	s.Mirror = "https://own.example.com"
	if got := s.At("https://deb.example.com"); got.Mirror != s.Mirror || got.Fallback != "" {
		t.Errorf("%+v", got)
	}
}
