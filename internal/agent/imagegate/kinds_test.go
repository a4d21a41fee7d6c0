package imagegate_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/api/types/container"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// An image for several architectures: the index and the manifest of the engine's own pass when the release names both, and no other.
func TestIndexThroughTheGate(t *testing.T) {
	w := newWorld(t)
	e := w.dockerd()
	g := w.newGate()
	repo := "v2/" + strings.Repeat("7", 32)
	amd, arm := w.push(repo, 20, 5000), w.push(repo, 21, 5000)
	image := func(p pushed) v1.Image {
		ref, err := name.NewDigest(p.ref)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref, w.options()...)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, "application/vnd.docker.distribution.manifest.list.v2+json"),
		mutate.IndexAddendum{Add: image(amd), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: image(arm), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := index.Size()
	if err != nil {
		t.Fatal(err)
	}
	all := pushed{ref: w.host + "/" + repo + "@" + digest.String(), images: []api.ReleaseImage{{Digest: digest.String(), Size: size}}}
	ref, err := name.NewDigest(all.ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref.Context().Tag("all"), index, w.options()...); err != nil {
		t.Fatal(err)
	}
	w.lies(blobLie(digest.String(), func(rw http.ResponseWriter, body []byte) {
		_, _ = rw.Write(bytes.Replace(body, []byte(amd.images[0].Digest), []byte(arm.images[0].Digest), 1))
	}))
	err = g.Pull(t.Context(), e, want(all), nil)
	if r, ok := tuf.Rejection(err); !ok || r.Reason != tuf.ReasonDigest || r.What != "manifest "+digest.String()+" of service web" {
		t.Errorf("Pull of an index that leads elsewhere: %v", err)
	}
	w.lies(nil)
	err = g.Pull(t.Context(), e, want(all), nil)
	if r, ok := tuf.Rejection(err); !ok || r.What != "manifest "+amd.images[0].Digest+" of service web" {
		t.Errorf("Pull of an index alone: %v, want a refusal of what it leads to", err)
	}
	all.images = append(all.images, amd.images[0])
	w.pullAtLast(g, e, all, nil)
	if !w.has(e, all) {
		t.Error("the engine does not have the image")
	}
}

// An image from before there was a gate keeps its name, is used as it is, and goes with the one of the same digest that came through the gate.
func TestImagesFromBefore(t *testing.T) {
	w := newWorld(t)
	e := w.dockerd()
	p := w.push("v2/"+strings.Repeat("8", 32), 30, 5000)
	if err := e.Pull(t.Context(), p.ref, engine.Auth{Username: "d_x", Password: deviceKey}, nil); err != nil {
		t.Fatal(err)
	}
	if !w.has(e, p) {
		t.Fatal("the engine does not have the image")
	}
	uses := func(name string) {
		t.Helper()
		id, err := e.Create(t.Context(), engine.Spec{Name: name, Config: container.Config{Image: p.ref, Labels: map[string]string{engine.LabelSupervised: "true"}}})
		if err != nil {
			t.Fatal(err)
		}
		if list, err := e.Containers(t.Context()); err != nil || len(list) != 1 || list[0].Image != p.ref {
			t.Errorf("Containers: %+v %v, want one of %s", list, err, p.ref)
		}
		if err := e.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	uses("before")
	w.pullAtLast(w.newGate(), e, p, nil)
	uses("after")
	if err := e.RemoveImage(t.Context(), p.ref); err != nil || w.has(e, p) {
		t.Errorf("RemoveImage: %v, there still: %v", err, w.has(e, p))
	}
}
