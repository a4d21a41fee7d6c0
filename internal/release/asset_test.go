package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// Whole uploads are tested through the api role; here are the rules about the rows.
func TestAssetsOfAnOrganizationAreBounded(t *testing.T) {
	w := releasetest.New(t) // which allows 1 MiB
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	w.Fleet(w.Alice, "depot", "intel-nuc")
	w.Fleet(w.Bob, "quay", "intel-nuc")
	first, second := w.Release(w.Alice, "alice/harbour", false, "web"), w.Release(w.Alice, "alice/depot", false, "web")
	others := w.Release(w.Bob, "bob/quay", false, "web")
	file := func(size int64) odata.File {
		info, err := w.Blobs.Put(t.Context(), strings.NewReader(fmt.Sprint(size)), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return odata.File{Ref: info.ID, Filename: "f", ContentType: "text/plain", Size: size}
	}
	add := func(release int64, key string, size int64) (id int64, err error) {
		f := file(size)
		err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
			id, err = w.Engine.Insert(t.Context(), tx, access.Itself(), "release_asset",
				map[string]any{"release": release, "asset_key": key, "asset": f})
			return err
		})
		return id, err
	}
	replace := func(id, size int64) error {
		f := file(size)
		return w.DB.Write(t.Context(), func(tx *db.Tx) error {
			return w.Engine.Update(t.Context(), tx, access.Itself(), "release_asset", id, map[string]any{"asset": f})
		})
	}
	half, err := add(first, "a", 1<<19)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := add(second, "b", 1<<19); err != nil {
		t.Errorf("two halves: %v", err)
	}
	if _, err := add(second, "c", 1); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := add(others, "a", 1<<20); err != nil {
		t.Errorf("another organization: %v", err)
	}
	if err := replace(half, 1<<19+1); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("a larger file in place of one: %v", err)
	}
	if err := replace(half, 1<<10); err != nil {
		t.Errorf("a smaller file in place of one: %v", err)
	}
	if _, err := add(second, "c", 1); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
