package stored_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
	"github.com/roadstead-io/roadstead/internal/release/stored"
)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// What an organization keeps is for its people, blob by blob once; fleets that share one have it each. Strangers learn nothing.
func TestWhatPeopleSee(t *testing.T) {
	w := releasetest.New(t)
	rows := stored.New(stored.Config{Site: releasetest.Site, Quota: 1000})
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	w.Fleet(w.Alice, "quay", "intel-nuc")
	link := func(slug string, blobs ...api.RegistryBlob) {
		t.Helper()
		_, images := w.Open(w.Alice, slug, false, "main")
		for _, b := range blobs {
			w.Write(func(tx *db.Tx) error {
				return rows.Link(t.Context(), tx, api.RegistryPush{Repository: images[0].Repository, Digest: b.Digest, Size: b.Size})
			})
		}
	}
	link("alice/harbour", api.RegistryBlob{Digest: digest(1), Size: 100}, api.RegistryBlob{Digest: digest(2), Size: 10})
	link("alice/harbour", api.RegistryBlob{Digest: digest(1), Size: 100})
	link("alice/quay", api.RegistryBlob{Digest: digest(1), Size: 100}, api.RegistryBlob{Digest: digest(3), Size: 1})
	w.Read(func(tx *db.Tx) error {
		use, err := rows.UseOfMember(t.Context(), tx, w.Alice, "alice")
		want := []api.FleetUse{{Fleet: "alice/harbour", Bytes: 110, Alone: 10}, {Fleet: "alice/quay", Bytes: 101, Alone: 1}}
		if err != nil || use.Bytes != 111 || use.Quota == nil || *use.Quota != 1000 || fmt.Sprint(use.Fleets) != fmt.Sprint(want) {
			t.Errorf("alice's: %+v %v", use, err)
		}
		for _, handle := range []string{"alice", "nobody"} {
			if _, err := rows.UseOfMember(t.Context(), tx, w.Bob, handle); !errors.Is(err, api.ErrNotFound) {
				t.Errorf("bob asks for %s: %v, want nothing found", handle, err)
			}
		}
		return nil
	})
}

// What is no name of ours, or of no running build, gets no row; a fleet beyond its quota gets no build.
func TestWhatIsRefused(t *testing.T) {
	w := releasetest.New(t)
	rows := stored.New(stored.Config{Site: releasetest.Site, Quota: 1000})
	fleet := w.Fleet(w.Alice, "harbour", "intel-nuc")
	_, images := w.Open(w.Alice, "alice/harbour", false, "main")
	repo := images[0].Repository
	for what, push := range map[string]api.RegistryPush{
		"no name":           {Repository: "library/x", Digest: digest(1)},
		"a path":            {Repository: repo + "/../x", Digest: digest(1)},
		"no digest":         {Repository: repo, Digest: "sha256:x"},
		"a negative size":   {Repository: repo, Digest: digest(1), Size: -1},
		"an unknown image":  {Repository: "v2/" + strings.Repeat("0", 32), Digest: digest(1)},
		"more than a quota": {Repository: repo, Digest: digest(1), Size: 1001},
	} {
		if err := w.DB.Write(t.Context(), func(tx *db.Tx) error { return rows.Link(t.Context(), tx, push) }); err == nil || api.AsError(err).Code == api.Internal {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	w.Read(func(tx *db.Tx) error { return rows.MayBuild(t.Context(), tx, fleet) })
	w.Write(func(tx *db.Tx) error {
		return rows.Link(t.Context(), tx, api.RegistryPush{Repository: repo + "-1", Digest: digest(1), Size: 1000}) // a part of the image
	})
	err := w.DB.Read(t.Context(), func(tx *db.Tx) error { return rows.MayBuild(t.Context(), tx, fleet) })
	if !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), "alice") {
		t.Errorf("a build at the quota: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "12": 12, "1.5GB": 1.5e9, "20 GiB": 20 << 30, "3 kB": 3000, "7B": 7, "2TB": 2e12} {
		if got, err := api.ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q): %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "lots", "-1GB", "NaN", "1e30TB", "Inf", "1 XB"} {
		if n, err := api.ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q): %d, want an error", text, n)
		}
	}
}
