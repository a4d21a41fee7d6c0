package recipe_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	recipes "github.com/roadstead-io/roadstead/base"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/debian/debtest"
	"github.com/roadstead-io/roadstead/internal/builder/recipe"
)

// world is a mirror and a directory of recipes that use it.
type world struct {
	*debtest.Archive
	files fstest.MapFS
}

func newWorld(t *testing.T, recipeText string, debs ...debtest.Deb) *world {
	t.Helper()
	a := debtest.New(t)
	a.Packages["amd64"] = debs
	a.Publish(t)
	suites, err := json.Marshal([]debian.Suite{a.Suite()})
	if err != nil {
		t.Fatal(err)
	}
	return &world{a, fstest.MapFS{
		"suites.json": {Data: suites}, "keys/archive.asc": {Data: debtest.Armour(t, a.Key)}, "image/recipe.json": {Data: []byte(recipeText)},
	}}
}

func (w *world) open(t *testing.T) (*recipe.Book, *recipe.Recipe) {
	t.Helper()
	book, err := recipe.Open(w.files, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := book.Recipe("base/image")
	if err != nil {
		t.Fatal(err)
	}
	return book, r
}

// lock updates the lock file.
func (w *world) lock(t *testing.T) *recipe.Lock {
	t.Helper()
	book, r := w.open(t)
	l, err := book.Update(t.Context(), w.Fetcher(t), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.Text()
	if err != nil {
		t.Fatal(err)
	}
	read, err := recipe.ParseLock(text)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if diff := cmp.Diff(l, read, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("written and read again: %s", diff)
	}
	w.files["image/lock.json"] = &fstest.MapFile{Data: text}
	return l
}

// make makes the image with an empty cache.
func (w *world) make(t *testing.T) ([]byte, error) {
	t.Helper()
	book, r := w.open(t)
	l, err := book.Lock(r)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	tmp := t.TempDir()
	err = book.Make(t.Context(), w.Fetcher(t), r, l, "amd64", tmp, &out)
	if rest, _ := os.ReadDir(tmp); len(rest) != 0 {
		t.Errorf("%d files stay behind", len(rest))
	}
	return out.Bytes(), err
}

func list(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	m := map[string]string{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(tr)
		m[h.Name] = fmt.Sprintf("%c%o %s%s", h.Typeflag, h.Mode, text, h.Linkname)
	}
}

const plainRecipe = `{"about": "a test", "platforms": ["amd64"], "packages": ["app"]}`

func plain() debtest.Deb {
	return debtest.Deb{Name: "app", Version: "1", Arch: "amd64", Content: map[string]string{"usr/bin/app": "program"}}
}

func TestTheSameLockMakesTheSameImage(t *testing.T) {
	w := newWorld(t, plainRecipe, plain())
	w.lock(t)
	first, err := w.make(t)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.make(t)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("another image: %v", err)
	}
	if got := list(t, first)["usr/bin/app"]; got != "0644 program" {
		t.Errorf("got %q of %v", got, list(t, first))
	}
}

func TestARecipeDoesWhatScriptsWouldHaveDone(t *testing.T) {
	const text = `{"about": "a test", "platforms": ["amd64"], "packages": ["app"], "slim": true, "dpkg": true, "applets": "usr/bin/many",
		"directories": {"tmp": "1777"}, "copies": {"etc/passwd": "usr/share/master"}, "appended": {"etc/passwd": "x:1\n"},
		"joined": {"etc/all": "usr/share/certs"}, "files": {"etc/hosts": "h"}, "links": {"usr/bin/awk": "mawk"}}`
	w := newWorld(t, text, debtest.Deb{Name: "app", Version: "1", Arch: "amd64", Depends: "base-files", Content: map[string]string{
		"usr/share/master": "root:0\n", "usr/share/certs/b.crt": "B", "usr/share/certs/a.crt": "A\n", "usr/share/man/man1/app.1": "manual",
		"usr/share/doc/app/copyright": "free", "usr/share/doc/app/changelog": "long", "lib/x": "of lib", "usr/bin/many": "\x00sh\x00ls\x00"},
	}, debtest.Deb{Name: "base-files", Version: "1", Arch: "amd64", Files: []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./usr/lib", Mode: 0o755}, {Typeflag: tar.TypeSymlink, Name: "./lib", Linkname: "usr/lib", Mode: 0o777}}})
	w.files["image/applets"] = &fstest.MapFile{Data: []byte("bin/sh\nbin/ls\n")}
	w.lock(t)
	archive, err := w.make(t)
	if err != nil {
		t.Fatal(err)
	}
	got := list(t, archive)
	for p, want := range map[string]string{
		"tmp/": "51777 ", "etc/passwd": "0644 root:0\nx:1\n", "etc/all": "0644 A\nB\n", "etc/hosts": "0644 h", "usr/bin/awk": "2777 mawk",
		"usr/share/doc/app/copyright": "0644 free", "lib": "2777 usr/lib", "usr/lib/x": "0644 of lib", "bin/sh": "2777 /usr/bin/many",
		"bin/ls": "2777 /usr/bin/many", "var/lib/dpkg/info/app.list": "",
	} {
		if _, ok := got[p]; !ok || want != "" && got[p] != want {
			t.Errorf("%s is %q, want %q", p, got[p], want)
		}
	}
	for _, p := range []string{"usr/share/man/man1/app.1", "usr/share/doc/app/changelog"} {
		if _, ok := got[p]; ok {
			t.Errorf("%s is in it", p)
		}
	}
	if !strings.Contains(got["var/lib/dpkg/status"], "Package: app\nStatus: install ok installed\n") {
		t.Errorf("dpkg's list says %q", got["var/lib/dpkg/status"])
	}
}

// The acceptance of the whole: one flipped byte, and there is no image.
func TestOneFlippedByteStopsTheImage(t *testing.T) {
	w := newWorld(t, plainRecipe, plain())
	l := w.lock(t)
	at := l.Images["amd64"][0].Path
	deb := w.Get(at)
	deb[len(deb)/2] ^= 1
	w.Set(at, deb)
	archive, err := w.make(t)
	if err == nil || !strings.Contains(err.Error(), "app_1_amd64.deb has SHA-256") {
		t.Errorf("got %v", err)
	}
	if len(archive) != 0 {
		t.Errorf("%d bytes of an image were written", len(archive))
	}
}

func TestAPackageThatIsAnotherOneIsRefused(t *testing.T) {
	w := newWorld(t, plainRecipe, plain())
	l := w.lock(t)
	other := plain()
	other.Version = "0"
	deb := other.Bytes(t)
	w.Set(l.Images["amd64"][0].Path, deb)
	text, _ := l.Text()
	text = bytes.ReplaceAll(text, []byte(l.Images["amd64"][0].SHA256), []byte(debtest.Sum(deb)))
	text = bytes.Replace(text, fmt.Appendf(nil, `"size":%d`, l.Images["amd64"][0].Size), fmt.Appendf(nil, `"size":%d`, len(deb)), 1)
	w.files["image/lock.json"].Data = text
	if _, err := w.make(t); err == nil || !strings.Contains(err.Error(), `does not say "Version: 1"`) {
		t.Errorf("got %v", err)
	}
}

func TestPackagesThatMayNotBeInOneImage(t *testing.T) {
	hard := tar.Header{Typeflag: tar.TypeLink, Name: "./usr/y", Linkname: "./usr/bin/app"}
	for want, second := range map[string]debtest.Deb{
		"usr/bin/app is in app and in two":               {Content: map[string]string{"usr/bin/app": "mine"}},
		"which is no directory":                          {Content: map[string]string{"usr/bin/app/below": "x"}},
		"is no file of the package before it":            {Files: []tar.Header{hard}},
		"is behind too many links":                       {Files: []tar.Header{{Typeflag: tar.TypeSymlink, Name: "./a", Linkname: "a"}, {Typeflag: tar.TypeReg, Name: "./a/b"}}},
		"leads outside the package":                      {Files: []tar.Header{{Typeflag: tar.TypeReg, Name: "./../x"}}},
		"neither file, directory nor link (type '\\x04'": {},
	} {
		second.Name, second.Version, second.Arch = "two", "1", "all"
		if strings.HasPrefix(want, "neither") {
			want = "neither file, directory nor link"
			second.Files = []tar.Header{{Typeflag: tar.TypeChar, Name: "./dev/mem", Devmajor: 1, Devminor: 1}}
		}
		first := plain()
		first.Depends = "two"
		w := newWorld(t, plainRecipe, first, second)
		w.lock(t)
		if _, err := w.make(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A link of a package to anywhere stays inside: what another one puts behind it lands below the root.
func TestLinksDoNotLeadOut(t *testing.T) {
	first := plain()
	first.Depends = "zzz"
	first.Files = []tar.Header{{Typeflag: tar.TypeSymlink, Name: "./out", Linkname: "../../../../etc"}}
	w := newWorld(t, plainRecipe, first, debtest.Deb{Name: "zzz", Version: "1", Arch: "all", Content: map[string]string{"out/shadow": "x"}})
	w.lock(t)
	archive, err := w.make(t)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, archive)["etc/shadow"]; got != "0644 x" {
		t.Errorf("it went to %v", slices.Sorted(maps.Keys(list(t, archive))))
	}
}

func TestLockFilesThatAreRefused(t *testing.T) {
	w := newWorld(t, plainRecipe, plain())
	l := w.lock(t)
	text, _ := l.Text()
	p := l.Images["amd64"][0]
	row, _ := json.Marshal(p)
	suite, _ := json.Marshal(l.Suites[0])
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field":           {`"made"`, `"note": "x", "made"`, "unknown field"},
		"unknown field of a row":  {`"version"`, `"verify": false, "version"`, "unknown field"},
		"a field twice":           {`"sha256":"` + p.SHA256, `"sha256":"` + strings.Repeat("0", 64) + `","SHA256":"` + p.SHA256, "is there twice"},
		"a package twice":         {string(row), string(row) + "," + string(row), "app is there twice"},
		"a suite twice":           {string(suite), string(suite) + "," + string(suite), "test is there twice"},
		"a name that is a path":   {`"name":"app"`, `"name":"../app"`, "is no package's name"},
		"a path up":               {p.Path, "pool/../../x.deb", "is not below pool/"},
		"a path elsewhere":        {p.Path, "/etc/x.deb", "is not below pool/"},
		"a host":                  {p.Path, "//evil.example.com/x.deb", "is not below pool/"},
		"a query":                 {p.Path, "pool/x?y=.deb", "is not below pool/"},
		"no digest":               {p.SHA256, "", "SHA-256 is missing"},
		"MD5":                     {p.SHA256, strings.Repeat("0", 32), "MD5"},
		"SHA-1":                   {p.SHA256, strings.Repeat("0", 40), "SHA-1"},
		"no size":                 {fmt.Sprintf(`"size":%d`, p.Size), `"size":0`, "size"},
		"a huge size":             {fmt.Sprintf(`"size":%d`, p.Size), `"size":9000000000`, "size"},
		"an unknown suite":        {`"suite":"test","path"`, `"suite":"other","path"`, "is none of the lock file's"},
		"another architecture":    {`"arch":"amd64"`, `"arch":"s390x"`, "arch"},
		"an unknown platform":     {`"amd64": [`, `"vax": [`, "platform is unknown"},
		"a short id":              {`"signed_by":"` + l.Suites[0].SignedBy, `"signed_by":"` + l.Suites[0].SignedBy[24:], "short ids"},
		"something after its end": {"  }\n}\n", "  }\n}\n{}", "more after its end"},
		"no text":                 {string(text), "", "EOF"},
	} {
		changed := strings.Replace(string(text), c.old, c.new, 1)
		if changed == string(text) {
			t.Errorf("%s: nothing was changed", name)
			continue
		}
		if _, err := recipe.ParseLock([]byte(changed)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestALockFileOfAnotherRecipe(t *testing.T) {
	w := newWorld(t, plainRecipe, plain(), debtest.Deb{Name: "more", Version: "1", Arch: "all"})
	w.lock(t)
	w.files["image/recipe.json"].Data = []byte(strings.Replace(plainRecipe, `"app"`, `"app", "more"`, 1))
	if _, err := w.make(t); err == nil || !strings.Contains(err.Error(), "the lock file has no more for amd64") {
		t.Errorf("got %v", err)
	}
}

func TestRecipesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown field": {`{"about": "x", "platforms": ["amd64"], "run": "curl | sh"}`, "unknown field"},
		"path":          {`{"about": "x", "platforms": ["amd64"], "files": {"../etc/passwd": ""}}`, "is no path below the root"},
		"absolute":      {`{"about": "x", "platforms": ["amd64"], "links": {"/etc/passwd": ""}}`, "is no path below the root"},
		"platform":      {`{"about": "x", "platforms": ["vax"]}`, "platforms"},
		"plain http":    {`{"about": "x", "platforms": ["amd64"], "resources": [{"name": "a", "path": "a", "url": "http://example.com/a"}]}`, "only https"},
		"short id": {`{"about": "x", "platforms": ["amd64"], "resources": [{"name": "a", "path": "a", "url": "https://example.com/a",
			"signature": "https://example.com/a.asc", "signed_by": ["DEADBEEF"]}]}`, "short ids"},
		"a signature by nobody": {`{"about": "x", "platforms": ["amd64"], "resources": [{"name": "a", "path": "a", "url": "https://example.com/a",
			"signature": "https://example.com/a.asc"}]}`, "go together"},
		"a resource twice": {`{"about": "x", "platforms": ["amd64"], "resources": [{"name": "a", "path": "a", "url": "https://example.com/a"},
			{"name": "a", "path": "b", "url": "https://example.com/b"}]}`, "is there twice"},
	} {
		w := newWorld(t, c.text)
		book, err := recipe.Open(w.files, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := book.Recipe("image"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	w := newWorld(t, plainRecipe)
	book, _ := recipe.Open(w.files, "")
	for _, name := range []string{"", "../image", "base/../image", "Image", "none"} {
		if _, err := book.Recipe(name); err == nil {
			t.Errorf("%q: it was found", name)
		}
	}
}

// A file that nobody signs is known by the digest that a person wrote down; an update does not follow it.
func TestAFileThatNobodySigns(t *testing.T) {
	w := newWorld(t, "")
	w.Set("tool", []byte("tool 1"))
	w.files["image/recipe.json"].Data = fmt.Appendf(nil,
		`{"about": "x", "platforms": ["amd64"], "resources": [{"name": "tool", "path": "usr/bin/tool", "mode": "0755", "url": "%s/tool"}]}`, w.URL)
	book, r := w.open(t)
	if _, err := book.Update(t.Context(), w.Fetcher(t), r, nil); err == nil || !strings.Contains(err.Error(), "tool has no signature") {
		t.Errorf("update: got %v", err)
	}
	old := &recipe.Lock{Made: time.Now().UTC(), Images: map[string][]recipe.LockedPackage{"amd64": {}},
		Resources: []recipe.LockedFile{{Name: "tool", URL: w.URL + "/tool", SHA256: debtest.Sum([]byte("tool 1")), Size: 6}}}
	l, err := book.Update(t.Context(), w.Fetcher(t), r, old)
	if err != nil || l.Resources[0] != old.Resources[0] {
		t.Fatalf("got %+v, %v", l, err)
	}
	text, _ := l.Text()
	w.files["image/lock.json"] = &fstest.MapFile{Data: text}
	archive, err := w.make(t)
	if err != nil || list(t, archive)["usr/bin/tool"] != "0755 tool 1" {
		t.Errorf("got %v, %v", list(t, archive), err)
	}
	w.Set("tool", []byte("tool 2"))
	if _, err := w.make(t); err == nil || !strings.Contains(err.Error(), "tool has SHA-256") {
		t.Errorf("got %v", err)
	}
}

// The recipes that we ship are whole, and each has a lock file that fits it.
func TestOurRecipes(t *testing.T) {
	book, err := recipe.Open(recipes.Recipes, "https://deb.example.com")
	if err != nil {
		t.Fatal(err)
	}
	names, err := book.Names()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busybox", "debian", "go", "minimal", "node", "python"}, names); diff != "" {
		t.Error(diff)
	}
	for _, name := range names {
		r, err := book.Recipe(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l, err := book.Lock(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if sources := r.Files["etc/apt/sources.list.d/debian.sources"]; sources != "" && !strings.Contains(sources, "URIs: http://deb.example.com/debian\n") {
			t.Errorf("%s: apt in the image would ask %s", name, sources)
		}
		for _, p := range r.Platforms {
			if len(l.Images[p]) == 0 {
				t.Errorf("%s: the lock file has nothing for %s", name, p)
			}
		}
	}
}
