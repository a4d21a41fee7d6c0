package rebuild_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/debian/debtest"
	"github.com/roadstead-io/roadstead/internal/builder/rebuild"
	"github.com/roadstead-io/roadstead/internal/builder/recipe"
	"github.com/roadstead-io/roadstead/internal/shelf"
)

type world struct {
	*debtest.Archive
	r   *rebuild.Rebuilder
	now time.Time
	log bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Archive: debtest.New(t), now: debtest.Now}
	w.release(t, "1", "program 1")
	suites, err := json.Marshal([]debian.Suite{w.Suite()})
	if err != nil {
		t.Fatal(err)
	}
	book, err := recipe.Open(fstest.MapFS{"suites.json": {Data: suites}, "keys/a.asc": {Data: debtest.Armour(t, w.Key)}, "image/recipe.json": {
		Data: []byte(`{"about": "a test", "platforms": ["amd64", "arm64"], "packages": ["app"], "env": {"A": "b"}, "cmd": ["app"]}`)}}, "")
	if err != nil {
		t.Fatal(err)
	}
	w.r = &rebuild.Rebuilder{Dir: t.TempDir(), Book: book, Fetcher: w.Fetcher(t), Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Now: func() time.Time { return w.now }}
	return w
}

// release puts a version of the package into the archive.
func (w *world) release(t *testing.T, version, program string) {
	t.Helper()
	for _, arch := range []string{"amd64", "arm64"} {
		w.Packages[arch] = []debtest.Deb{{Name: "app", Version: version, Arch: arch, Content: map[string]string{"usr/bin/app": program}}}
	}
	w.Date = w.Date.Add(time.Minute)
	w.Publish(t)
}

func (w *world) shelf(t *testing.T) api.BaseImage {
	t.Helper()
	list, err := shelf.Read(w.r.Dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("the shelf has %+v, %v", list, err)
	}
	return list[0]
}

func (w *world) rebuild(t *testing.T) rebuild.Done {
	t.Helper()
	done, err := w.r.Rebuild(t.Context(), "base/image")
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestRebuild(t *testing.T) {
	w := newWorld(t)
	if done := w.rebuild(t); len(done.Changed) != 2 {
		t.Errorf("made %+v", done)
	}
	first := w.shelf(t).Images["linux/amd64"]
	if done := w.rebuild(t); len(done.Changed) != 0 {
		t.Errorf("nothing is new, and yet %+v", done)
	}
	w.release(t, "2", "program 2")
	if done := w.rebuild(t); len(done.Changed) != 2 {
		t.Errorf("made %+v", done)
	}
	b := w.shelf(t)
	second := b.Images["linux/amd64"]
	if second.Digest == first.Digest || len(second.Former) != 1 || second.Former[0].Digest != first.Digest || second.Packages != 1 ||
		b.Name != "base/image" || b.CheckedAt.IsZero() || len(b.Images) != 2 {
		t.Errorf("the shelf has %+v, and first there was %+v", b, first)
	}
	// The former image is there, whole, for whoever names it by digest.
	idx, err := layout.ImageIndexFromPath(filepath.Join(w.r.Dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	list, err := base.List(w.r.Dir)
	if err != nil || len(list) != 1 || list[0].Former["linux/amd64"][0].String() != first.Digest || list[0].Images["linux/amd64"].String() != second.Digest {
		t.Errorf("builds see %+v, %v", list, err)
	}
	img, err := idx.Image(list[0].Images["linux/amd64"])
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err := img.ConfigFile(); err != nil || cfg.Config.Env[1] != "A=b" || cfg.Config.Cmd[0] != "app" {
		t.Errorf("configured %+v, %v", cfg, err)
	}
	for what, want := range map[string]string{"spdx.json": "pkg:deb/debian/app@2?arch=amd64", "provenance.json": debtest.Sum(w.Get("dists/test/InRelease")),
		"lock.json": "app_2_amd64.deb"} {
		file := filepath.Join(w.r.Dir, "image", "records", strings.TrimPrefix(second.Digest, "sha256:")+"."+what)
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v: %s", what, err, text)
		}
	}
}

// Whatever is wrong with what it is made of: what was there stays, and the reason is told.
func TestARebuildThatFailsPublishesNothing(t *testing.T) {
	w := newWorld(t)
	old := w.Get("dists/test/InRelease")
	w.release(t, "1", "program 1")
	w.rebuild(t)
	before := w.shelf(t)
	for name, spoil := range map[string]func(){
		"pool/main/app_2_arm64.deb":  func() { w.Set("pool/main/app_2_arm64.deb", append(w.Get("pool/main/app_2_arm64.deb")[1:], 0)) },
		"older than what was accept": func() { w.Set("dists/test/InRelease", old) },
		"does not count": func() {
			w.Set("dists/test/InRelease", bytes.Replace(w.Get("dists/test/InRelease"), []byte("Origin: Test"), []byte("Origin: Tezt"), 1))
		},
	} {
		w.release(t, "2", "program 2")
		spoil()
		_, err := w.r.Rebuild(t.Context(), "image")
		if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(name, "pool/main/")) && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		after := w.shelf(t)
		if after.Error == "" || after.Images["linux/amd64"].Digest != before.Images["linux/amd64"].Digest || after.CheckedAt != before.CheckedAt {
			t.Errorf("%s: the shelf has %+v", name, after)
		}
	}
	w.release(t, "3", "program 3")
	w.rebuild(t)
	if after := w.shelf(t); after.Error != "" {
		t.Errorf("mended, and still %q", after.Error)
	}
	left, _ := filepath.Glob(filepath.Join(w.r.Dir, ".*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTheScheduleRebuildsWhatIsDue(t *testing.T) {
	w := newWorld(t)
	const week = 7 * 24 * time.Hour
	if err := w.r.Due(t.Context(), week); err != nil {
		t.Fatal(err)
	}
	if list, _ := shelf.Read(w.r.Dir); len(list) != 0 {
		t.Errorf("what nobody asked for was made: %+v", list)
	}
	w.rebuild(t)
	w.release(t, "2", "program 2")
	first := w.shelf(t).Images["linux/arm64"].Digest
	w.now = w.now.Add(week - time.Hour)
	if err := w.r.Due(t.Context(), week); err != nil || w.shelf(t).Images["linux/arm64"].Digest != first {
		t.Errorf("made anew before it was due: %v", err)
	}
	w.now = w.now.Add(2 * time.Hour)
	if err := w.r.Due(t.Context(), week); err != nil || w.shelf(t).Images["linux/arm64"].Digest == first {
		t.Errorf("not made anew when it was due: %v", err)
	}
	if !strings.Contains(w.log.String(), "a base image was made anew") {
		t.Errorf("nobody is told: %s", w.log.String())
	}
}

func TestOnlyEightFormerImagesAreKept(t *testing.T) {
	w := newWorld(t)
	for i := range 11 {
		w.release(t, string(rune('a'+i)), "program "+string(rune('a'+i)))
		w.rebuild(t)
	}
	b := w.shelf(t).Images["linux/amd64"]
	if len(b.Former) != 8 {
		t.Errorf("%d former images are on the shelf", len(b.Former))
	}
	records, _ := filepath.Glob(filepath.Join(w.r.Dir, "image", "records", "*.spdx.json"))
	if len(records) != 18 { // nine of each platform
		t.Errorf("%d records are kept", len(records))
	}
}
