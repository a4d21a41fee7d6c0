package registry_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

// withLayer makes an image of one given layer and one of its own.
func withLayer(t *testing.T, shared v1.Layer) v1.Image {
	t.Helper()
	own, err := random.Layer(4<<10, "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, shared, own)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layer(t *testing.T, size int64) v1.Layer {
	t.Helper()
	l, err := random.Layer(size, "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func hash(t *testing.T, x interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// stored blobs on the disk of a registry.
func (s *store) blobs() (list []string) {
	for _, f := range files(s.t, filepath.Join(s.dir, "registry", registry.StorageDir)) {
		if dir, file := filepath.Split(f); file == "data" && strings.Contains(dir, "/blobs/sha256/") {
			list = append(list, "sha256:"+filepath.Base(dir))
		}
	}
	return list
}

func has(list []string, h v1.Hash) bool {
	for _, s := range list {
		if s == h.String() {
			return true
		}
	}
	return false
}

// What a deleted release alone had goes after the grace; what another one shares stays, and nothing goes early.
func TestDeletedReleasesAreCollected(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	w.rows.Fleet(w.rows.Bob, "pier", "intel-nuc")
	shared := layer(t, 32<<10)
	first, second, bobs := withLayer(t, shared), withLayer(t, shared), withLayer(t, shared)
	old, oldRepo := w.release(w.rows.Alice, "alice/harbour", first)
	_, newRepo := w.release(w.rows.Alice, "alice/harbour", second)
	_, bobRepo := w.release(w.rows.Bob, "bob/pier", bobs)
	if done := w.collect(0, false); done != (api.RegistryCollected{Scanned: true}) { // for the first time
		t.Errorf("collected %+v of what is all needed", done)
	}
	w.remove(w.rows.Alice, old)
	if done := w.collect(3600, false); done != (api.RegistryCollected{}) {
		t.Errorf("collected %+v within the grace", done)
	}
	if err := w.pull(oldRepo, hash(t, first)); err != nil {
		t.Errorf("a device that is in the middle of a pull: %v", err)
	}
	w.rows.Pass(time.Hour + time.Second)
	done := w.collect(3600, false)
	if done.Repositories != 1 || done.Blobs != 3 { // its own layer, configuration and manifest
		t.Errorf("collected %+v, want one repository and three blobs", done)
	}
	if err := w.pull(oldRepo, hash(t, first)); err == nil {
		t.Error("a collected image can be pulled")
	}
	for repo, img := range map[string]v1.Image{newRepo: second, bobRepo: bobs} {
		if err := w.pull(repo, hash(t, img)); err != nil {
			t.Errorf("what is needed: %v", err)
		}
	}
	// The last two go with their fleets.
	w.rows.Want(w.rows.Alice, "DELETE", "application(slug='alice/harbour')", nil, 200, "")
	w.rows.Want(w.rows.Bob, "DELETE", "application(slug='bob/pier')", nil, 200, "")
	w.collect(0, false)
	if left := w.blobs(); len(left) != 0 {
		t.Errorf("left after all fleets are gone: %v", left)
	}
}

// A build that came to nothing leaves nothing; nor does one that never ended.
func TestWhatFailedBuildsPushedIsCollected(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	img := image(t)
	w.push(repo, img)
	res, _ := w.do("builder", w.token(grant(repo, "pull", "push"), nil), "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusAccepted {
		t.Fatal(res.Status)
	}
	if done := w.collect(0, false); done.Repositories != 0 {
		t.Errorf("collected %+v of a build that runs", done)
	}
	w.finish(b, api.StatusFailed)
	w.collect(0, false)
	if left := files(t, filepath.Join(w.dir, "registry", registry.StorageDir)); len(left) != 1 {
		t.Errorf("left: %v, want the mark alone", left)
	}
	// Its token may live on for minutes; nobody pushes with it.
	res, body := w.do("builder", w.token(grant(repo, "pull", "push"), nil), "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusNotFound || !strings.Contains(body, "no build that runs") {
		t.Errorf("a push after the end of its build: %d %s", res.StatusCode, body)
	}
}

// Collections run all the time while releases that share a layer come and go: whatever is a release can be pulled, always.
func TestCollectionBesidePushesAndPulls(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	shared := layer(t, 64<<10)
	stop, collected := make(chan struct{}), make(chan error, 1)
	go func() {
		for rounds := 0; ; rounds++ {
			select {
			case <-stop:
				if rounds < 5 {
					collected <- fmt.Errorf("only %d collections", rounds)
				}
				close(collected)
				return
			default:
			}
			grace := int64(0)
			if status, text := w.ask("/internal/v1/collect", api.RegistryAsk{Grace: &grace, Scan: rounds%3 == 0}, nil); status != http.StatusOK {
				collected <- fmt.Errorf("collect: %d %s", status, text)
				return
			}
		}
	}()
	var before api.Build
	var running sync.WaitGroup
	problems := make(chan error, 100)
	for round := range 12 {
		// The shared layer is often the last release's alone when that is deleted, and pushed again at the same moment.
		img := withLayer(t, shared)
		b, repo := w.build(w.rows.Alice, "alice/harbour")
		if before.ID != 0 && round%2 == 0 {
			w.rows.Want(w.rows.Alice, "PATCH", "application(slug='alice/harbour')", map[string]any{"should_track_latest_release": false,
				"should_be_running__release": nil}, 200, "")
			w.remove(w.rows.Alice, before)
			before = api.Build{}
		}
		w.push(repo, img)
		w.finish(b, api.StatusSuccess)
		if before.ID == 0 {
			before = b
		}
		digest := hash(t, img)
		running.Go(func() {
			if err := w.pull(repo, digest); err != nil {
				problems <- fmt.Errorf("round %d: %w", round, err)
			}
		})
		running.Wait()
	}
	close(stop)
	if err := <-collected; err != nil {
		t.Error(err)
	}
	close(problems)
	for err := range problems {
		t.Error(err)
	}
	if n, err := registry.VerifyBlobs(t.Context(), w.cfg); err != nil || n == 0 {
		t.Errorf("afterwards: %d blobs, %v", n, err)
	}
}

// Killed anywhere, the next collection goes on; until then nobody gets what is half deleted for whole.
func TestACollectionThatWasKilledGoesOn(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	shared := layer(t, 32<<10)
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	w.push(repo, withLayer(t, shared))
	w.finish(b, api.StatusFailed)

	// The registry asked what to delete and died: first before it deleted the repository, then before it said so, then again with blobs.
	rows := w.asRegistry()
	var garbage api.RegistryGarbage
	rows(api.RegistryCollect{Limit: 10}, &garbage)
	if len(garbage.Repositories) != 1 || len(garbage.Blobs) != 0 {
		t.Fatalf("garbage %+v", garbage)
	}
	rows(api.RegistryCollect{Limit: 10, Repositories: garbage.Repositories}, &garbage)
	if len(garbage.Repositories) != 0 || len(garbage.Blobs) != 4 {
		t.Fatalf("garbage %+v, want the blobs", garbage)
	}
	// Now the layer is about to be deleted. A push of it waits until it is.
	b, repo = w.build(w.rows.Alice, "alice/harbour")
	img := withLayer(t, shared)
	pushed := make(chan error, 1)
	go func() {
		ref, err := name.NewDigest(w.addr + "/" + repo + "@" + hash(t, img).String())
		if err == nil {
			err = remote.Write(ref, img, remote.WithTransport(w.transport("builder", w.token(grant(repo, "pull", "push"), nil))), remote.WithAuth(authn.Anonymous))
		}
		pushed <- err
	}()
	w.collect(0, false)
	if err := <-pushed; err != nil {
		t.Fatalf("push of a layer that was being deleted: %v", err)
	}
	w.finish(b, api.StatusSuccess)
	w.collect(0, false)
	if err := w.pull(repo, hash(t, img)); err != nil {
		t.Error(err)
	}
	if blobs := w.blobs(); len(blobs) != 4 || !has(blobs, hash(t, shared)) {
		t.Errorf("stored: %v", blobs)
	}
}

// asRegistry asks the rows in the registry's place.
func (w *world) asRegistry() func(ask api.RegistryCollect, out *api.RegistryGarbage) {
	return func(ask api.RegistryCollect, out *api.RegistryGarbage) {
		w.t.Helper()
		if err := w.call(api.RoleRegistry, "collect", ask, out); err != nil {
			w.t.Fatal(err)
		}
	}
}

// What was stored before there were rows gets them; what belongs to no image is kept for a week; a blob of no repository goes.
func TestAStorageFromBeforeIsTakenOver(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	w.finish(b, api.StatusSuccess)
	known, unknown := image(t), image(t)
	old := *w.store // a registry without rows on the same storage: as it was
	old.run(registry.Config{})
	old.push(repo, known)
	old.push(other, unknown)
	stray := layer(t, 1000)
	old.stray(stray)

	if done := w.collect(0, false); !done.Scanned || done.Blobs != 1 || done.Repositories != 0 {
		t.Errorf("first collection: %+v, want a scan and the stray blob gone", done)
	}
	for r, img := range map[string]v1.Image{repo: known, other: unknown} {
		if err := w.pull(r, hash(t, img)); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	var use api.RegistryUsage
	if err := w.call("admin", "usage", struct{}{}, &use); err != nil || len(use.Organizations) != 1 || use.Organizations[0].Bytes == 0 || use.ScannedAt == "" {
		t.Errorf("usage %+v %v, want alice's", use, err)
	}
	w.rows.Pass(8 * 24 * time.Hour)
	w.collect(0, false)
	if err := w.pull(repo, hash(t, known)); err != nil {
		t.Error(err)
	}
	if err := w.pull(other, hash(t, unknown)); err == nil {
		t.Error("what belonged to nobody is still there after a week")
	}
}
