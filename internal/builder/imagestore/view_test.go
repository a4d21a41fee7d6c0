package imagestore_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
)

// A hostile build service asks for, lists, claims and deletes what another organization's builds put into the store.
func TestOneOrganizationSeesNothingOfAnothers(t *testing.T) {
	ctx := t.Context()
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ann, bob := imagestore.NewView(store, "org-1"), imagestore.NewView(store, "org-2")
	secret := []byte("a layer of ann's")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(secret), Size: int64(len(secret))}
	put := func(v *imagestore.View, data []byte) error {
		return content.WriteBlob(ctx, v, "layer", bytes.NewReader(data), desc)
	}
	if err := put(ann, secret); err != nil {
		t.Fatal(err)
	}
	read := func(v *imagestore.View) string {
		data, err := content.ReadBlob(ctx, v, desc)
		if err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		return string(data)
	}
	if got := read(ann); got != string(secret) {
		t.Errorf("ann reads %q", got)
	}
	if got := read(bob); got != "" {
		t.Errorf("bob reads %q", got)
	}
	if _, err := bob.Info(ctx, desc.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("bob asks: %v", err)
	}
	for name, v := range map[string]*imagestore.View{"ann": ann, "bob": bob} {
		if err := v.Walk(ctx, func(i content.Info) error { t.Errorf("%s lists %s", name, i.Digest); return nil }); err != nil {
			t.Error(err)
		}
		if err := v.Delete(ctx, desc.Digest); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s deletes: %v", name, err)
		}
		if _, err := v.Update(ctx, content.Info{Digest: desc.Digest}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s changes: %v", name, err)
		}
	}

	// That it is there already is told to ann alone.
	if _, err := ann.Writer(ctx, content.WithRef("again"), content.WithDescriptor(desc)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("ann once more: %v", err)
	}
	w, err := bob.Writer(ctx, content.WithRef("claim"), content.WithDescriptor(desc))
	if err != nil {
		t.Fatalf("bob claims it: %v", err)
	}
	if list, err := ann.ListStatuses(ctx); err != nil || len(list) != 0 {
		t.Errorf("ann sees bob's write: %v %v", list, err)
	}
	_ = ann.Abort(ctx, "claim") // that of her own, which there is not
	if list, err := bob.ListStatuses(ctx); err != nil || len(list) != 1 || list[0].Ref != "claim" {
		t.Errorf("bob's own: %v %v", list, err)
	}
	if _, err := w.Write([]byte("something else..")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(context.WithoutCancel(ctx), desc.Size, desc.Digest); err == nil || errdefs.IsAlreadyExists(err) {
		t.Errorf("other bytes under its digest: %v", err)
	}
	if got := read(bob); got != "" {
		t.Errorf("after the claim bob reads %q", got)
	}

	// Whoever has the bytes may have them.
	if err := put(bob, secret); err != nil && !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if got := read(bob); got != string(secret) {
		t.Errorf("bob's own layer is %q", got)
	}
}
