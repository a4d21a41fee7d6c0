package source_test

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
)

const someSum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// place adds entries and lays them out; files get their path as content.
func place(t *testing.T, lim source.Limits, entries ...api.SourceEntry) (string, error) {
	t.Helper()
	m := source.NewManifest(lim)
	for _, e := range entries {
		if err := m.Add(e); err != nil {
			return "", err
		}
	}
	dir := t.TempDir()
	return dir, m.Place(dir, func(root *os.Root, e api.SourceEntry) error {
		f, err := root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, source.Mode(e))
		if err != nil {
			return err
		}
		_, err = f.WriteString(e.Path)
		return err
	})
}

func TestAManifestIsLaidOut(t *testing.T) {
	dir, err := place(t, source.Limits{Bytes: 100, Entries: 10},
		api.SourceEntry{Path: "a/link", Type: "link", Link: "../b/x"},
		api.SourceEntry{Path: "b/x", Mode: 0o4755, Size: 3, SHA256: someSum},
		api.SourceEntry{Path: "b/", Type: "dir", Mode: 0o050},
		api.SourceEntry{Path: "empty", Type: "dir"},
		api.SourceEntry{Path: ".balena/secrets/x", Data: []byte("s")})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "a/link"))
	if err != nil || string(text) != "b/x" {
		t.Errorf("through the link: got %q, %v", text, err)
	}
	for name, want := range map[string]fs.FileMode{"b/x": 0o755, "b": fs.ModeDir | 0o750, "empty": fs.ModeDir | 0o700} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
}

// The attacks: a manifest that leads outside, holds a name twice, writes through a link, or is larger than may be.
func TestHostileManifestsAreRefused(t *testing.T) {
	file := func(path string, size int64) api.SourceEntry {
		return api.SourceEntry{Path: path, Size: size, SHA256: someSum}
	}
	link := func(path, to string) api.SourceEntry { return api.SourceEntry{Path: path, Type: "link", Link: to} }
	for title, tt := range map[string]struct {
		entries []api.SourceEntry
		want    string
	}{
		"traversal":         {[]api.SourceEntry{file("../x", 1)}, `".." are refused`},
		"inner traversal":   {[]api.SourceEntry{file("a/../../x", 1)}, `".." are refused`},
		"absolute":          {[]api.SourceEntry{file("/etc/passwd", 1)}, "absolute paths"},
		"no name":           {[]api.SourceEntry{file("", 1)}, "needs a name"},
		"zero byte":         {[]api.SourceEntry{file("a\x00b", 1)}, "NUL"},
		"deep":              {[]api.SourceEntry{file(strings.Repeat("a/", 70)+"x", 1)}, "nested deeper"},
		"twice":             {[]api.SourceEntry{file("a", 1), file("./a", 1)}, "twice"},
		"file then dir":     {[]api.SourceEntry{file("a", 1), {Path: "a", Type: "dir"}}, "twice"},
		"dir then file":     {[]api.SourceEntry{{Path: "a", Type: "dir"}, file("a", 1)}, "twice"},
		"dir twice":         {[]api.SourceEntry{{Path: "a", Type: "dir"}, {Path: "a/", Type: "dir"}}, "twice"},
		"implied then file": {[]api.SourceEntry{file("a/b", 1), file("a", 1)}, "twice"},
		"below a file":      {[]api.SourceEntry{file("a", 1), file("a/b", 1)}, "not a directory"},
		"below a link":      {[]api.SourceEntry{link("a", "b"), file("a/b", 1)}, "not a directory"},
		"link outside":      {[]api.SourceEntry{link("a", "../x")}, "lead outside"},
		"absolute link":     {[]api.SourceEntry{link("a", "/etc")}, "lead outside"},
		"link to nothing":   {[]api.SourceEntry{link("a", "")}, "lead outside"},
		"links together":    {[]api.SourceEntry{{Path: "d/e", Type: "dir"}, link("up", "d/e"), link("out", "up/../../..")}, "lead outside"},
		"device":            {[]api.SourceEntry{{Path: "a", Type: "char"}}, "only files"},
		"two kinds":         {[]api.SourceEntry{{Path: "a", Type: "dir", Size: 3}}, "two kinds"},
		"file with link":    {[]api.SourceEntry{{Path: "a", Link: "b"}}, "two kinds"},
		"short hash":        {[]api.SourceEntry{{Path: "a", Size: 1, SHA256: "abcd"}}, "neither a SHA-256"},
		"path as hash":      {[]api.SourceEntry{{Path: "a", Size: 1, SHA256: "../../../../../../../../etc/passwd" + strings.Repeat("0", 30)}}, "neither a SHA-256"},
		"upper case":        {[]api.SourceEntry{{Path: "a", Size: 1, SHA256: strings.ToUpper(someSum)}}, "neither a SHA-256"},
		"no content":        {[]api.SourceEntry{{Path: "a", Size: 1}}, "neither a SHA-256"},
		"two contents":      {[]api.SourceEntry{{Path: "a", Size: 1, SHA256: someSum, Data: []byte("x")}}, "neither a SHA-256"},
		"kept secret":       {[]api.SourceEntry{file(".balena/registry-secrets.json", 1)}, "may hold secrets"},
		"kept build secret": {[]api.SourceEntry{file("./.roadstead//build.json", 1)}, "may hold secrets"},
		"negative":          {[]api.SourceEntry{file("a", -1)}, "larger than"},
		"too large":         {[]api.SourceEntry{file("a", 60), file("b", 60)}, "larger than"},
		"overflow":          {[]api.SourceEntry{file("a", 60), file("b", math.MaxInt64)}, "larger than"},
		"too much data":     {[]api.SourceEntry{{Path: "a", Data: make([]byte, 101)}}, "larger than"},
		"implied too many":  {[]api.SourceEntry{file("1/2/3/4/5/6/7/8/9/10/11/12", 1)}, "more than 10 entries"},
	} {
		t.Run(title, func(t *testing.T) {
			if _, err := place(t, source.Limits{Bytes: 100, Entries: 10}, tt.entries...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestAManifestOfTenMillionEntriesEndsAtTheLimit(t *testing.T) {
	m := source.NewManifest(source.Limits{Bytes: 100, Entries: 1000})
	for i := range 10_000_000 {
		if err := m.Add(api.SourceEntry{Path: fmt.Sprint(i)}); err != nil {
			if i != 1000 || !strings.Contains(err.Error(), "source_entries") {
				t.Errorf("entry %d: %v", i, err)
			}
			return
		}
	}
	t.Error("they are all accepted")
}
