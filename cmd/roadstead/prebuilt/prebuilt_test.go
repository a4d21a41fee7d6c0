package prebuilt_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/prebuilt"
)

// An image with a digest is the builder's to pull, inside its walls; one of a registry that only this machine reaches is not.
func TestImagesThatAreLeftToTheBuilder(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no Docker
	digest := "@sha256:" + strings.Repeat("a", 64)
	for ref, left := range map[string]bool{
		"registry.example.com/web" + digest: true, "web" + digest: true, "127.0.0.1:1/web" + digest: false, "127.0.0.1:1/web:latest": false,
	} {
		p, err := source.Scan(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		g := &prebuilt.Getter{Given: map[string]prebuilt.Given{"web": {Image: ref}}, Output: io.Discard,
			Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
		done, err := g.AddTo(t.Context(), p, "amd64")
		done()
		if (err == nil) != left || left != strings.Contains(said.String(), "The builder pulls "+ref) {
			t.Errorf("%s: %v, said %q", ref, err, said.String())
		}
		if !left {
			continue
		}
		var packed bytes.Buffer
		if err := p.WriteTo(&packed, nil); err != nil {
			t.Fatal(err)
		}
		var files []string
		plain, err := gzip.NewReader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(plain)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(r)
			files = append(files, h.Name+" "+string(text))
		}
		if all := strings.Join(files, "\n"); !strings.Contains(all, ref) || strings.Contains(all, ".roadstead/images") {
			t.Errorf("%s: what is sent is %s", ref, all)
		}
	}
}

func TestAnArchiveGivenAsAnImage(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no Docker
	file := filepath.Join(t.TempDir(), "web.tar")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := source.Scan(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	g := &prebuilt.Getter{Given: map[string]prebuilt.Given{"web": {Image: file}}, Output: io.Discard, Say: func(string, ...any) {}}
	done, err := g.AddTo(t.Context(), p, "amd64")
	done()
	if err == nil || !strings.Contains(err.Error(), "--archive web="+file) {
		t.Errorf("what it says is %v", err)
	}
}
