package release_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

func contains(s, sub string) bool { return strings.Contains(s, sub) }

func TestBuild(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "Harbour", "raspberrypi4-64")
	b, images := w.Open(w.Alice, "harbour", false, "web", "db") // the bare name will do
	if b.Status != api.StatusRunning || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(b.Commit) {
		t.Errorf("build %+v", b)
	}
	if b.Fleet == nil || b.Fleet.ID != fleetID || b.Fleet.Slug != "alice/harbour" || b.Fleet.DeviceType != "raspberrypi4-64" || b.Fleet.Arch != "aarch64" {
		t.Errorf("fleet %+v", b.Fleet)
	}
	if len(images) != 2 || images[0].Service != "web" || images[1].Service != "db" || images[0].Repository == images[1].Repository {
		t.Fatalf("images %+v", images)
	}
	for _, image := range images {
		if !regexp.MustCompile(`^v2/[0-9a-f]{32}$`).MatchString(image.Repository) || image.Location != "registry2.roadstead.test/"+image.Repository {
			t.Errorf("image %+v", image)
		}
	}
	w.Read(func(tx *db.Tx) error {
		running, err := w.Releases.Get(t.Context(), tx, b.ID)
		if d := cmp.Diff([]string{images[0].Repository, images[1].Repository}, running.Repositories); d != "" {
			t.Error(d)
		}
		return err
	})

	// The builder did not hear the answer and asks again: the same images.
	w.Write(func(tx *db.Tx) error {
		again, err := w.Releases.AddImages(t.Context(), tx, b.ID, api.BuildImagesRequest{
			Composition: json.RawMessage(`{"services":{"db":{},"web":{}}}`), Services: []string{"db", "web"},
		})
		if d := cmp.Diff(images, again); d != "" {
			t.Error(d)
		}
		return err
	})
	w.Want(w.Alice, "GET", fmt.Sprintf("release(%d)?$select=composition,status,source", b.ID), nil, 200,
		`"composition":{"services":{"db":{},"web":{}}},"status":"running","source":"cloud"`)

	result := releasetest.Result(images)
	for _, bad := range []func(r *api.BuildResult){
		func(r *api.BuildResult) { r.Images = r.Images[:1] },
		func(r *api.BuildResult) { r.Images[1].Digest = "" },
		func(r *api.BuildResult) { r.Images[1].Digest = "sha256:ABC" },
		func(r *api.BuildResult) { r.Images[1].Status = api.StatusFailed },
		func(r *api.BuildResult) { r.Images[1].ID = 9999 },
		func(r *api.BuildResult) { r.Status = "interrupted" },
	} {
		broken := result
		broken.Images = append([]api.BuildImageResult(nil), result.Images...)
		bad(&broken)
		if _, err := w.Finish(b.ID, broken); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("finish with %+v: %v", broken, err)
		}
	}
	if w.Target(fleetID) != 0 {
		t.Error("a refused result moved the fleet")
	}
	for range 3 { // and again
		w.Pass(time.Second)
		done, err := w.Finish(b.ID, result)
		if err != nil || done.Status != api.StatusSuccess || done.Repositories != nil {
			t.Errorf("finish: %+v %v", done, err)
		}
	}
	if got := w.Changed(); len(got) != 1 || w.Target(fleetID) != b.ID {
		t.Errorf("target %d, devices told %v", w.Target(fleetID), got)
	}
	w.Want(w.Alice, "GET", fmt.Sprintf("release(%d)?$select=end_timestamp", b.ID), nil, 200, "2026-11-21T12:00:01.000Z")
	w.Want(w.Alice, "GET", fmt.Sprintf("image(%d)?$select=status,push_timestamp,content_hash,dockerfile", images[0].ID), nil,
		200,
		fmt.Sprintf(`"status":"success","push_timestamp":"2026-11-21T12:00:01.000Z","content_hash":"sha256:%064x","dockerfile":"FROM base/busybox\n"`, images[0].ID))

	// What has ended takes no more images.
	err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
		_, err := w.Releases.AddImages(t.Context(), tx, b.ID, api.BuildImagesRequest{Composition: json.RawMessage(`{}`),
			Services: []string{"web"}})
		return err
	})
	if !errors.Is(err, api.ErrConflict) {
		t.Errorf("images for an ended build: %v", err)
	}
}

func TestImageLabels(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	b, images := w.Open(w.Alice, "alice/harbour", false, "web", "db")
	w.Write(func(tx *db.Tx) error {
		_, err := w.Releases.AddImages(t.Context(), tx, b.ID, api.BuildImagesRequest{Services: []string{"web", "db"},
			Composition: json.RawMessage(
				`{"services":{"web":{"labels":{"io.example.both":"composed"}},"db":{"labels":["io.example.both=composed"]}}}`)})
		return err
	})
	result := releasetest.Result(images)
	for i := range result.Images {
		result.Images[i].Labels = map[string]string{"io.example.both": "image", "io.example.image": "image", "no label": "x"}
	}
	if _, err := w.Finish(b.ID, result); err != nil {
		t.Fatal(err)
	}
	w.Want(w.Alice, "GET", "image_label?$select=label_name,value", nil, 200,
		`{"d":[{"label_name":"io.example.image","value":"image"},{"label_name":"io.example.image","value":"image"}]}`)
}

func TestOpenRefusals(t *testing.T) {
	w := releasetest.New(t)
	mine := w.Fleet(w.Alice, "harbour", "intel-nuc")
	w.Fleet(w.Bob, "depot", "intel-nuc")
	for _, tc := range []struct {
		by   access.Caller
		slug string
		code api.Code
	}{
		{w.Alice, "alice/nothing", api.NotFound}, {w.Alice, "nothing", api.NotFound}, {w.Alice, "bob/depot", api.NotFound},
		{w.Alice, "depot", api.NotFound}, {w.Alice, "", api.NotFound}, {w.Alice, "a/b/c", api.NotFound},
		{w.Device(mine), "alice/harbour", api.Forbidden}, {access.Nobody(), "alice/harbour", api.Forbidden},
		{access.Caller{Kind: access.Provisioning, Fleet: mine}, "alice/harbour", api.Forbidden},
	} {
		err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
			_, err := w.Releases.Open(t.Context(), tx, tc.by, api.BuildRequest{Slug: tc.slug})
			return err
		})
		if !errors.Is(err, &api.Error{Code: tc.code}) || tc.code == api.NotFound && !contains(err.Error(), `"`+tc.slug+`"`) {
			t.Errorf("%s opens %q: %v", tc.by.Name, tc.slug, err)
		}
	}

	// A name that two organizations use is not unambiguous for somebody who is in both.
	org := w.Create(w.Alice, "organization", map[string]any{"name": "second"})
	w.Create(w.Alice, "application", map[string]any{"app_name": "harbour", "organization": org,
		"is_for__device_type": w.ID(w.Alice, "device_type(slug='intel-nuc')")})
	err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
		_, err := w.Releases.Open(t.Context(), tx, w.Alice, api.BuildRequest{Slug: "harbour"})
		return err
	})
	if !errors.Is(err, api.ErrInvalid) || !contains(err.Error(), "alice/harbour, second/harbour") {
		t.Errorf("ambiguous: %v", err)
	}
}

func TestImagesRefusals(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	b, _ := w.Open(w.Alice, "alice/harbour", false, "web")
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf("s%d", i)
	}
	for _, tc := range []struct {
		composition string
		services    []string
		code        api.Code
	}{
		{`[]`, []string{"web"}, api.Invalid}, {`null`, []string{"web"}, api.Invalid}, {`{`, []string{"web"}, api.Invalid},
		{``, []string{"web"}, api.Invalid},
		{`{}`, nil, api.Invalid}, {`{}`, []string{"web", "web"}, api.Invalid}, {`{}`, []string{"we b"}, api.Invalid}, {`{}`,
			[]string{"../x"}, api.Invalid},
		{`{}`, many, api.TooLarge}, {`{}`, []string{"db"}, api.Conflict},
	} {
		err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
			_, err := w.Releases.AddImages(t.Context(), tx, b.ID,
				api.BuildImagesRequest{Composition: json.RawMessage(tc.composition), Services: tc.services})
			return err
		})
		if !errors.Is(err, &api.Error{Code: tc.code}) {
			t.Errorf("%s %v: %v, want %s", tc.composition, tc.services, err, tc.code)
		}
	}
	err := w.DB.Write(t.Context(), func(tx *db.Tx) error {
		_, err := w.Releases.AddImages(t.Context(), tx, 999, api.BuildImagesRequest{})
		return err
	})
	if !errors.Is(err, api.ErrNotFound) {
		t.Errorf("unknown build: %v", err)
	}
}

func TestFailedBuild(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	b, images := w.Open(w.Alice, "alice/harbour", false, "web", "db")
	done, err := w.Finish(b.ID, api.BuildResult{
		Status: api.StatusFailed, Log: strings.Repeat("x", 2<<20), Error: "no such file",
		Images: []api.BuildImageResult{{ID: images[0].ID, Status: api.StatusFailed}},
	})
	if err != nil || done.Status != api.StatusFailed || w.Target(fleetID) != 0 {
		t.Errorf("%+v %v", done, err)
	}
	row := w.Rows(w.Alice, fmt.Sprintf("release(%d)?$select=build_log,status", b.ID))[0]
	log := row["build_log"].(string)
	if !strings.HasSuffix(log, "x\nno such file\n") || !strings.HasPrefix(log, "[the beginning") || len(log) > 1<<20 {
		t.Errorf("log of %d bytes: %.40s", len(log), log)
	}
	w.Want(w.Alice, "GET", "image?$select=status,error_message&$orderby=id asc", nil, 200,
		`[{"status":"failed","error_message":"no such file"},{"status":"failed","error_message":null}]`)
	// A success that comes later changes nothing.
	if done, err = w.Finish(b.ID,
		releasetest.Result(images)); err != nil || done.Status != api.StatusFailed || w.Target(fleetID) != 0 {
		t.Errorf("%+v %v", done, err)
	}
}

func TestCancelledBuild(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	b, images := w.Open(w.Alice, "alice/harbour", false, "web")
	// What the CLI sends on Ctrl-C.
	w.Want(w.Alice, "PATCH", fmt.Sprintf("release(%d)?$filter=status ne 'success'", b.ID),
		map[string]any{"status": "cancelled", "end_timestamp": 1700000000000}, 200, "")
	w.Write(func(tx *db.Tx) error {
		now, err := w.Releases.Heartbeat(t.Context(), tx, b.ID)
		if now.Status != api.StatusCancelled || now.Repositories != nil {
			t.Errorf("the builder is told %+v", now)
		}
		return err
	})
	done, err := w.Finish(b.ID, releasetest.Result(images))
	if err != nil || done.Status != api.StatusCancelled || w.Target(fleetID) != 0 {
		t.Errorf("a success after the cancellation: %+v %v", done, err)
	}
	w.Want(w.Alice, "GET",
		fmt.Sprintf("release(%d)?$select=status,end_timestamp,build_log&$expand=release_image($expand=image($select=status))", b.ID), nil, 200,
		`"status":"cancelled","end_timestamp":"2026-11-21T12:00:00.000Z","build_log":"built\n"`)
	w.Want(w.Alice, "GET", "image?$select=status,content_hash", nil, 200, `{"status":"cancelled","content_hash":null}`)

	// The other way round: the filter keeps a success.
	id := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("release(%d)?$filter=status ne 'success'", id),
		map[string]any{"status": "cancelled", "end_timestamp": 1}, 200, "")
	if w.Target(fleetID) != id {
		t.Error("the success is gone")
	}
}

func TestSilentBuilderIsInterrupted(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	silent, images := w.Open(w.Alice, "alice/harbour", false, "web")
	alive, aliveImages := w.Open(w.Alice, "alice/harbour", false, "web")
	status := func(id int64) (s string) {
		w.Read(func(tx *db.Tx) error {
			b, err := w.Releases.Get(t.Context(), tx, id)
			s = b.Status
			return err
		})
		return s
	}
	sweep := func() {
		t.Helper()
		if err := w.Releases.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.Pass(release.Silence - time.Second)
	sweep()
	if status(silent.ID) != api.StatusRunning {
		t.Error("interrupted too early")
	}
	w.Write(func(tx *db.Tx) error {
		_, err := w.Releases.Heartbeat(t.Context(), tx, alive.ID)
		return err
	})
	w.Pass(2 * time.Second)
	sweep()
	if status(silent.ID) != api.StatusInterrupted || status(alive.ID) != api.StatusRunning {
		t.Errorf("silent %s, alive %s", status(silent.ID), status(alive.ID))
	}
	if done, err := w.Finish(silent.ID, releasetest.Result(images)); err != nil || done.Status != api.StatusInterrupted {
		t.Errorf("the silent one comes back: %+v %v", done, err)
	}
	if _, err := w.Finish(alive.ID, releasetest.Result(aliveImages)); err != nil || w.Target(fleetID) != alive.ID {
		t.Errorf("the one that lived: %v", err)
	}

	// A process that has just started waits before it judges: nobody could report to the one before it.
	orphan, _ := w.Open(w.Alice, "alice/harbour", false, "web")
	w.Pass(10 * release.Silence)
	fresh, err := release.New(release.Config{DB: w.DB, Accounts: w.Accounts, Fleets: w.Fleets, Site: releasetest.Site, Now: w.Now,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.RunOnce(t.Context()); err != nil || status(orphan.ID) != api.StatusRunning {
		t.Errorf("a fresh start interrupted at once: %v", err)
	}
	w.Pass(release.Silence)
	if err := fresh.RunOnce(t.Context()); err != nil || status(orphan.ID) != api.StatusInterrupted {
		t.Errorf("a silent build lives on: %s %v", status(orphan.ID), err)
	}
}

// Whatever the order of a cancellation and a success, both sides agree in the end on one of them, and the fleet's target with it.
func TestCancelRacesSuccess(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	for range 20 {
		before := w.Target(fleetID)
		b, images := w.Open(w.Alice, "alice/harbour", false, "web")
		w.Pass(time.Second)
		cancelled := make(chan int)
		go func() {
			status, _ := w.Do(w.Alice, "PATCH", fmt.Sprintf("release(%d)?$filter=status ne 'success'", b.ID),
				map[string]any{"status": "cancelled", "end_timestamp": 1})
			cancelled <- status
		}()
		done, err := w.Finish(b.ID, releasetest.Result(images))
		if status := <-cancelled; status != 200 || err != nil {
			t.Fatalf("cancel %d, finish %v", status, err)
		}
		want := before
		if done.Status == api.StatusSuccess {
			want = b.ID
		}
		var now string
		w.Read(func(tx *db.Tx) error {
			return tx.QueryRowContext(t.Context(), `SELECT status FROM "release" WHERE id = $1`, b.ID).Scan(&now)
		})
		if now != done.Status || w.Target(fleetID) != want {
			t.Fatalf("the builder heard %s, the row says %s, the target is %d (was %d)", done.Status, now, w.Target(fleetID),
				before)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := releasetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Releases.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
