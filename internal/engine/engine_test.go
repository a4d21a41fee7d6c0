package engine_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
)

func TestFakeConforms(t *testing.T) {
	image := "r.test/v2/x@sha256:" + strings.Repeat("1", 64)
	e := enginetest.New(image)
	enginetest.Conform(t, e, image, "r.test/v2/y@sha256:"+strings.Repeat("2", 64), engine.Auth{}, []string{"sleep", "1000"})
}

func TestMeter(t *testing.T) {
	var m engine.Meter
	var got []int
	for _, msg := range []jsonstream.Message{
		{Status: "Pulling from v2/x", ID: "sha256:1"},
		{Status: "Pulling fs layer", ID: "a"}, {Status: "Already exists", ID: "b"}, {Status: "Pulling fs layer", ID: "c"},
		{Status: "Downloading", ID: "a", Progress: &jsonstream.Progress{Current: 50, Total: 100}},
		{Status: "Downloading", ID: "a", Progress: &jsonstream.Progress{Current: 50, Total: 0}},
		{Status: "Download complete", ID: "a"}, {Status: "Download complete", ID: "c"},
		{Status: "Downloading", ID: "a", Progress: &jsonstream.Progress{Current: 10, Total: 100}},
		{Status: "Extracting", ID: "a", Progress: &jsonstream.Progress{Current: 1, Total: 2}},
		{Status: "Pull complete", ID: "a"}, {Status: "Pull complete", ID: "c"}, {Status: "Digest: sha256:1"},
	} {
		if percent, grew := m.Add(msg); grew {
			got = append(got, percent)
		}
	}
	if diff := cmp.Diff([]int{50, 66, 75, 83, 100}, got); diff != "" {
		t.Errorf("per cent (-want +got):\n%s", diff)
	}
}

func frame(kind byte, text string) []byte {
	head := make([]byte, 8)
	head[0] = kind
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	return append(head, text...)
}

func TestReadLines(t *testing.T) {
	stamp := "2026-01-02T03:04:05.000000006Z"
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, tt := range []struct {
		name string
		in   []byte
		tty  bool
		want []engine.Line
	}{
		{"terminal", []byte(stamp + " hello\r\n" + stamp + " \r\n" + stamp + " world"), true, []engine.Line{{Text: "hello", Time: at}, {Text: "world", Time: at}}},
		{"frames", append(frame(1, stamp+" out\n"), frame(2, stamp+" err\n")...), false, []engine.Line{{Text: "out", Time: at}, {Text: "err", Time: at, Stderr: true}}},
		{"cut in the middle", append(frame(1, stamp+" out\n"), frame(1, stamp+" lost\n")[:12]...), false, []engine.Line{{Text: "out", Time: at}}},
		{"no time", []byte("hello world\n"), true, []engine.Line{{Text: "hello world"}}},
		{"nothing", nil, false, nil},
	} {
		var got []engine.Line
		if err := engine.ReadLines(bytes.NewReader(tt.in), tt.tty, func(l engine.Line) { got = append(got, l) }); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if err := engine.ReadLines(strings.NewReader("this is no frame at all"), false, func(engine.Line) {}); err == nil {
		t.Error("no error for what is not a log stream")
	}
	long := stamp + " " + strings.Repeat("x", 100<<10) + "\n"
	var total, count int
	err := engine.ReadLines(strings.NewReader(long), true, func(l engine.Line) { total += len(l.Text); count++ })
	if err != nil || total != 100<<10 || count < 2 {
		t.Errorf("a long line: %d bytes in %d pieces, %v", total, count, err)
	}
}

func FuzzReadLines(f *testing.F) {
	f.Add(append(frame(1, "2026-01-02T03:04:05Z out\n"), frame(2, "x")...), false)
	f.Add([]byte("a\nb\r\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, tty bool) {
		_ = engine.ReadLines(bytes.NewReader(in), tty, func(l engine.Line) {
			if strings.Contains(l.Text, "\n") {
				t.Errorf("a line of two: %q", l.Text)
			}
		})
	})
}

func TestTrust(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs.d")
	path := filepath.Join(dir, "registry2.example.com:8443", "ca.crt")
	for _, root := range []string{"one", "one", "two"} {
		if err := engine.Trust(dir, "registry2.example.com:8443", []byte(root)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != root {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, host := range []string{"", "../x", "a/b", "..", "."} {
		if err := engine.Trust(dir, host, []byte("x")); err == nil {
			t.Errorf("%q is taken for a registry", host)
		}
	}
}
