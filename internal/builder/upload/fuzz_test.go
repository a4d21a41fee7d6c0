package upload_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/upload"
)

func zipped(text []byte) *bytes.Buffer {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	_, _ = zw.Write(text)
	_ = zw.Close() // into memory
	return &buf
}

// Whatever a manifest says, it is refused or laid out inside its directory.
func FuzzManifest(f *testing.F) {
	for _, text := range []string{
		`{"path":"a/b","size":0,"mode":420}`, `{"path":"../a"}`, `{"path":"a","type":"link","link":"../../etc"}`, "{}\n{}", `{"path":"a","data":"eA=="}`,
		"{\"path\":\"a\",\"type\":\"link\",\"link\":\"b\"}\n{\"path\":\"b\",\"type\":\"link\",\"link\":\"a\"}", "\x00", `{"path":"a/","type":"dir","mode":4294967295}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := upload.ReadManifest(zipped(text), source.Limits{Bytes: 1 << 20, Entries: 50})
		if err != nil {
			return
		}
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = m.Place(dir, func(root *os.Root, e api.SourceEntry) error { return root.WriteFile(e.Path, e.Data, source.Mode(e)) })
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the directory there are %v, %v", entries, err)
		}
	})
}

// Whatever is sent for contents, only what has the SHA-256 that was asked for is kept.
func FuzzContents(f *testing.F) {
	frame := func(text string, size uint64) []byte {
		raw, _ := hex.DecodeString(sum("good"))
		return append(binary.BigEndian.AppendUint64(raw, size), text...)
	}
	for _, b := range [][]byte{frame("good", 4), frame("evil", 4), frame("good", 1<<63), frame("go", 4), nil, append(frame("good", 4), frame("good", 4)...)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := open(t, t.TempDir(), wide).Shelf(1, 1)
		i := h.Expect(manifest(t, entry("a", "good", 0o644, 1)), time.Hour, func() {})
		defer i.Release()
		err := i.Take(zipped(b))
		kept := len(i.Lacks()) == 0
		if kept && !strings.Contains(string(b), "good") {
			t.Errorf("something else is kept, %v", err)
		}
		if string(b) == string(frame("good", 4)) && (err != nil || !kept) {
			t.Errorf("the true content is refused: %v", err)
		}
	})
}
