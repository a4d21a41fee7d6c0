package release_test

import (
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// What old builds left goes: their logs, and the images of those that made no release. What runs, what is young and what is a release stays.
func TestOldBuildsAreLetGoOf(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	finish := func(status string) int64 {
		t.Helper()
		b, images := w.Open(w.Alice, "alice/harbour", false, "web")
		result := releasetest.Result(images)
		result.Log = "what it said"
		if result.Status = status; status != api.StatusSuccess {
			result.Images = nil
		}
		if _, err := w.Finish(b.ID, result); err != nil {
			t.Fatal(err)
		}
		return b.ID
	}
	left := func(id int64) (logs, images int) {
		t.Helper()
		w.Read(func(tx *db.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM "release" WHERE id = $1 AND build_log IS NOT NULL),
				(SELECT count(*) FROM release_image WHERE is_part_of__release = $1)`, id).Scan(&logs, &images)
		})
		return logs, images
	}
	retain := func() {
		t.Helper()
		if err := w.Releases.Retain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	good, failed, cancelled := finish(api.StatusSuccess), finish(api.StatusFailed), finish(api.StatusCancelled)
	running, _ := w.Open(w.Alice, "alice/harbour", false, "web")
	w.Pass(29 * 24 * time.Hour)
	young := finish(api.StatusFailed)
	retain()
	for _, id := range []int64{good, failed, cancelled, young} {
		if logs, images := left(id); logs != 1 || images != 1 {
			t.Errorf("before its time build %d has %d logs and %d images", id, logs, images)
		}
	}
	w.Pass(2 * 24 * time.Hour)
	retain()
	for what, tt := range map[string]struct {
		id           int64
		logs, images int
	}{
		"a release": {good, 0, 1}, "a failed one": {failed, 0, 0}, "a cancelled one": {cancelled, 0, 0}, "a young one": {young, 1, 1},
		"one that runs": {running.ID, 0, 1},
	} {
		if logs, images := left(tt.id); logs != tt.logs || images != tt.images {
			t.Errorf("%s: %d logs and %d images, want %d and %d", what, logs, images, tt.logs, tt.images)
		}
		w.Read(func(tx *db.Tx) error {
			_, err := w.Releases.Get(t.Context(), tx, tt.id)
			return err
		})
	}
	if got := w.Target(fleetID); got != good {
		t.Errorf("the fleet runs %d, want %d", got, good)
	}
}
