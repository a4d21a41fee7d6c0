package target_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/target"
)

// Every target is as if the fleet were for it alone; the fleet's own comes first, and none is there twice.
func TestTargetsOfAFleet(t *testing.T) {
	list := target.Of(&api.BuildFleet{ID: 7, Slug: "acme/hello", Arch: "amd64", DeviceType: "intel-nuc", Also: []api.BuildArch{
		{Arch: "aarch64", DeviceType: "generic-aarch64"}, {Arch: "armv7hf", DeviceType: "generic-armv7ahf"}, {Arch: "amd64", DeviceType: "generic-amd64"}}})
	if got := strings.Join(target.Names(list), " "); got != "linux/amd64 linux/arm64 linux/arm/v7" {
		t.Errorf("targets: %s", got)
	}
	if f := list[0].Fleet; f.DeviceType != "intel-nuc" || f.ID != 7 {
		t.Errorf("the first: %+v", f)
	}
	if f := list[2].Fleet; f.DeviceType != "generic-armv7ahf" || f.Arch != "armv7hf" || f.Slug != "acme/hello" || f.Also != nil {
		t.Errorf("the third: %+v", f)
	}
}

func TestOnlyWhatEveryDeviceRuns(t *testing.T) {
	all := target.Of(&api.BuildFleet{Arch: "aarch64", Also: []api.BuildArch{{Arch: "armv7hf"}}})
	for names, want := range map[string]string{
		"":                          "linux/arm64 linux/arm/v7",
		"linux/arm/v7":              "linux/arm/v7",
		"linux/arm":                 "linux/arm/v7",
		"linux/arm64/v8 linux/arm":  "linux/arm64 linux/arm/v7",
		"linux/arm/v7 linux/arm/v7": "linux/arm/v7",
		"linux/arm64":               "error: do not run it",
		"linux/amd64":               "error: the fleet is built for linux/arm64, linux/arm/v7",
		"nonsense":                  "error: the fleet is built for",
	} {
		list, err := target.Only(all, strings.Fields(names))
		if says, wrong := strings.CutPrefix(want, "error: "); wrong {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("Only(%q): %v, want %q", names, err, says)
			}
		} else if got := strings.Join(target.Names(list), " "); err != nil || got != want {
			t.Errorf("Only(%q): %q %v, want %q", names, got, err, want)
		}
	}
	if !target.Same("linux/arm64/v8", v1.Platform{OS: "linux", Architecture: "arm64"}) || target.Same("windows/arm64", v1.Platform{OS: "linux", Architecture: "arm64"}) {
		t.Error("arm64 by another name")
	}
}

// What was pushed into one repository is pushed into another whole: nothing is asked to be mounted, which nobody allows.
func TestNothingIsMounted(t *testing.T) {
	var asked, uploads atomic.Int64
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("mount") && r.URL.Query().Has("from") {
			asked.Add(1)
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/second/blobs/uploads/") {
			uploads.Add(1)
		}
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/second/blobs/") { // this registry has one store for all
			w.WriteHeader(http.StatusNotFound)
			return
		}
		store.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	var parts []target.Part
	for _, to := range target.Of(&api.BuildFleet{Arch: "amd64", Also: []api.BuildArch{{Arch: "aarch64"}}}) {
		made, err := random.Image(1000, 5)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewTag(host + "/first:" + to.Platform.Architecture)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, made); err != nil {
			t.Fatal(err)
		}
		pushed, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, target.Part{Target: to, Image: pushed})
	}
	whole, err := target.Assemble(parts)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(host + "/second:whole")
	if err != nil {
		t.Fatal(err)
	}
	if err := whole.Write(ref); err != nil {
		t.Fatal(err)
	}
	if asked.Load() > 0 || uploads.Load() == 0 {
		t.Errorf("%d of %d uploads asked for a mount", asked.Load(), uploads.Load())
	}
	got, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := got.Digest(); err != nil || h.String() != whole.Descriptor.Digest.String() {
		t.Errorf("pushed %v (%v), meant %s", h, err, whole.Descriptor.Digest)
	}
}
