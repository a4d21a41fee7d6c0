package registry_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

// indexOf makes an index of images for several machines.
func indexOf(images ...v1.Image) v1.ImageIndex {
	var adds []mutate.IndexAddendum
	for i, img := range images {
		platform := v1.Platform{OS: "linux", Architecture: []string{"amd64", "arm64", "arm"}[i]}
		adds = append(adds, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return mutate.IndexMediaType(mutate.AppendManifests(empty.Index, adds...), types.OCIImageIndex)
}

func (s *store) pushIndex(repo string, idx v1.ImageIndex) error {
	s.t.Helper()
	ref := must(name.NewDigest(s.addr + "/" + repo + "@" + hash(s.t, idx).String()))(s.t)
	return remote.WriteIndex(ref, idx, remote.WithTransport(s.transport("builder", s.token(grant(repo, "pull", "push"), nil))), remote.WithAuth(authn.Anonymous))
}

// The images of an index live and go with it: the quota counts what they share once, a collection leaves them alone while the release is
// there, and takes all of them afterwards.
func TestTheImagesOfAnIndexGoWithIt(t *testing.T) {
	w := newWorld(t, stored.Config{Quota: 100_000})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	shared := layer(t, 60_000)
	one, two := withLayer(t, shared), withLayer(t, shared)
	idx := indexOf(one, two)
	b, repo := w.build(w.rows.Alice, "alice/harbour")
	if err := w.pushIndex(repo, idx); err != nil {
		t.Fatal(err)
	}
	w.finish(b, api.StatusSuccess)
	w.release(w.rows.Alice, "alice/harbour", withLayer(t, shared)) // the target, so that the first can be removed
	var usage api.RegistryUsage
	if err := w.call(api.RoleAdmin, "usage", struct{}{}, &usage); err != nil || len(usage.Organizations) != 1 {
		t.Fatalf("usage: %+v %v", usage, err)
	}
	if a := usage.Organizations[0]; a.Bytes < 70_000 || a.Bytes > 85_000 {
		t.Errorf("what the images share is counted more than once: %+v", a)
	}
	if done := w.collect(0, true); done.Blobs != 0 || done.Repositories != 0 {
		t.Errorf("collected %+v of an index that is needed", done)
	}
	for _, img := range []v1.Image{one, two} { // as a device does: by the index, then by the digest in it
		if err := w.pull(repo, hash(t, img)); err != nil {
			t.Errorf("an image of the index: %v", err)
		}
	}
	res, text := w.do("edge", w.token(grant(repo, "pull"), nil), "GET", "/v2/"+repo+"/manifests/"+hash(t, idx).String(), nil, "Accept", string(types.OCIImageIndex))
	if res.StatusCode != http.StatusOK || !strings.Contains(text, hash(t, two).String()) {
		t.Errorf("the index: %d %s", res.StatusCode, text)
	}
	w.remove(w.rows.Alice, b)
	if done := w.collect(3600, false); done.Blobs != 0 {
		t.Errorf("collected %+v within the grace", done)
	}
	w.rows.Pass(time.Hour + time.Second)
	w.collect(3600, false)
	left := w.blobs()
	for what, h := range map[string]v1.Hash{"the index": hash(t, idx), "its first image": hash(t, one), "its second image": hash(t, two)} {
		if has(left, h) {
			t.Errorf("%s is left after its release is gone", what)
		}
	}
	if !has(left, hash(t, shared)) {
		t.Error("the layer that another release has is gone")
	}
}

// An index names only what is in its own repository, so that it is whole, and nobody learns by it what others have.
func TestAnIndexNamesNothingOfOthers(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	w.rows.Fleet(w.rows.Bob, "pier", "intel-nuc")
	bobs := withLayer(t, layer(t, 1000))
	_, bobRepo := w.release(w.rows.Bob, "bob/pier", bobs)
	_, repo := w.build(w.rows.Alice, "alice/harbour")
	own := withLayer(t, layer(t, 1000))
	w.push(repo, own)
	token := w.token(grant(repo, "pull", "push"), nil)
	never := withLayer(t, layer(t, 1000))
	for what, img := range map[string]v1.Image{"another's image": bobs, "an image that is nowhere": never} {
		text := must(indexOf(own, img).RawManifest())(t)
		h := hash(t, indexOf(own, img))
		res, body := w.do("builder", token, "PUT", "/v2/"+repo+"/manifests/"+h.String(), strings.NewReader(string(text)), "Content-Type", string(types.OCIImageIndex))
		if res.StatusCode < 400 {
			t.Errorf("an index of %s was taken: %d %s", what, res.StatusCode, body)
		}
		if err := w.pull(repo, hash(t, img)); err == nil {
			t.Errorf("%s can be pulled from %s", what, repo)
		}
	}
	if err := w.pull(bobRepo, hash(t, bobs)); err != nil {
		t.Error(err)
	}
}

// Damage in an image of an index is found, and not served.
func TestDamageInAnIndexIsFound(t *testing.T) {
	w := newWorld(t, stored.Config{})
	w.rows.Fleet(w.rows.Alice, "harbour", "intel-nuc")
	one, two := withLayer(t, layer(t, 1000)), withLayer(t, layer(t, 1000))
	_, repo := w.build(w.rows.Alice, "alice/harbour")
	if err := w.pushIndex(repo, indexOf(one, two)); err != nil {
		t.Fatal(err)
	}
	if n, err := registry.VerifyBlobs(t.Context(), w.cfg); err != nil || n != 9 {
		t.Errorf("VerifyBlobs: %d %v, want 9 sound ones: an index, two manifests, two configurations, four layers", n, err)
	}
	w.corrupt(hash(t, two))
	if err := w.pull(repo, hash(t, two)); err == nil {
		t.Error("a damaged image of an index was served")
	}
	if err := w.pull(repo, hash(t, one)); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if _, err := registry.VerifyBlobs(t.Context(), w.cfg); err == nil || !strings.Contains(err.Error(), filepath.Base(hash(t, two).Hex)) {
		t.Errorf("VerifyBlobs: %v, want the damaged manifest named", err)
	}
}
