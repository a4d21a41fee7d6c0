package release_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

func path(id int64) string { return fmt.Sprintf("release(%d)", id) }

func TestReleaseAsTheCLIReadsIt(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	id := w.Release(w.Alice, "alice/harbour", false, "web", "db")
	w.Want(w.Alice, "GET", fmt.Sprintf("release?$filter=belongs_to__application eq %d&$orderby=created_at desc"+
		"&$select=id,commit,created_at,status,raw_version,is_final", fleetID), nil, 200,
		`"raw_version":"0.0.0","is_final":true`)
	w.Want(w.Alice, "GET", path(id)+"?$select=id,build_log&$expand=release_tag($select=tag_key,value)", nil, 200,
		`"build_log":"built\n"`)
	w.Want(w.Alice, "GET", path(id)+"?$select=version", nil, 200, `"raw":"0.0.0"`)
	w.Want(w.Alice, "GET", fmt.Sprintf("release?$select=id&$filter=belongs_to__application eq %d and status eq 'success'"+
		"&$expand=release_image($select=id;$expand=image($select=is_stored_at__image_location,image_size))&$orderby=id desc&$top=1", fleetID),
		nil, 200, `"image_size":"8589934592"`)
	w.Want(w.Alice, "GET",
		path(id)+"?$expand=contains__image($expand=image($select=content_hash;$expand=is_a_build_of__service($select=service_name)))",
		nil, 200, `"service_name":"web"`)
	w.Want(w.Alice, "GET", "image_label?$select=label_name,value", nil, 200,
		`[{"label_name":"io.example.x","value":"1"},{"label_name":"io.example.x"`)
	w.Want(w.Alice, "GET",
		"application?$select=id&$expand=should_be_running__release($select=commit),owns__release($select=id;$top=1;"+
			"$filter=is_final eq true and is_passing_tests eq true and is_invalidated eq false and status eq 'success';$orderby=created_at desc)",
		nil, 200, fmt.Sprintf(`"owns__release":[{"id":%d}]`, id))
	if row := w.Rows(w.Alice, path(id))[0]; row["build_log"] != nil || row["heartbeat_at"] != nil {
		t.Errorf("a plain read gives %v", row)
	}
	w.Want(w.Alice, "GET", path(id)+"?$select=heartbeat_at", nil, 400, "heartbeat_at")
}

func TestNobodyFakesARelease(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	id := w.Release(w.Alice, "alice/harbour", false, "web")
	dev := w.Device(fleetID)
	body := map[string]any{"belongs_to__application": fleetID, "commit": "a", "status": "success"}
	w.Want(w.Alice, "POST", "release", body, 400, "a release begins as")
	w.Want(w.Alice, "POST", "image", map[string]any{"is_a_build_of__service": 1, "status": "success"}, 400, "was pushed")
	w.Want(w.Alice, "PATCH", "image(1)", map[string]any{"content_hash": "sha256:0"}, 403, "")
	w.Want(w.Bob, "POST", "release", body, 401, "")
	w.Want(w.Bob, "POST", "image", map[string]any{"is_a_build_of__service": 1}, 401, "")
	w.Want(w.Bob, "POST", "image__is_part_of__release", map[string]any{"image": 1, "is_part_of__release": id}, 401, "")
	w.Want(dev, "POST", "release", body, 403, "made by builds: push the source")
	w.Want(dev, "POST", "image", map[string]any{"is_a_build_of__service": 1, "status": "success"}, 403, "made by builds: push the source")
	for _, c := range []access.Caller{w.Alice, dev} {
		w.Want(c, "POST", "image__is_part_of__release", map[string]any{"image": 1, "is_part_of__release": id}, 403, "")
	}
	w.Want(dev, "PATCH", "image(1)", map[string]any{"content_hash": "sha256:0"}, 403, "")
	for column, value := range map[string]any{
		"commit": "1", "composition": map[string]any{}, "revision": 1, "raw_version": "1", "belongs_to__application": fleetID, "source": "1",
	} {
		w.Want(w.Alice, "PATCH", path(id), map[string]any{column: value}, 403, column)
	}
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"status": "success"}, 400, "can only be changed to cancelled")
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"status": "cancelled"}, 400, "A successful release cannot be cancelled.")
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"end_timestamp": 1700000000000}, 400, "end_timestamp")
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"phase": "young"}, 400, "next, current, sunset or end-of-life")
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"phase": "current", "release_version": "one"}, 200, "")
	second := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"release_version": "one"}, 409, "nique")
	for _, column := range []string{"is_final", "is_invalidated", "status", "is_passing_tests"} {
		w.Want(w.Alice, "PATCH", path(id), map[string]any{column: nil}, 400, "")
		w.Want(w.Alice, "PATCH", path(id), map[string]any{column: map[string]any{}}, 400, "")
	}
	w.Want(w.Alice, "PATCH", path(id), map[string]any{"note": "hello", "known_issue_list": "none"}, 200, "")
	w.Want(w.Alice, "GET", path(id)+"?$select=note", nil, 200, "hello")
	w.Want(dev, "PATCH", path(id), map[string]any{"note": "x"}, 403, "")
}

func TestTenants(t *testing.T) {
	w := releasetest.New(t)
	mine, other := w.Fleet(w.Alice, "harbour", "intel-nuc"), w.Fleet(w.Alice, "depot", "intel-nuc")
	id := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Release(w.Alice, "alice/depot", false, "web")
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO image_environment_variable (created_at, release_image, name, value)
			SELECT created_at, id, 'A', '1' FROM release_image`)
		return err
	})
	for _, r := range []int64{1, 2} {
		w.Create(w.Alice, "release_tag", map[string]any{"release": r, "tag_key": "k", "value": "v"})
	}
	dev := w.Device(mine)
	for _, resource := range []string{"release", "image", "release_image", "image_label", "image_environment_variable",
		"release_tag"} {
		for _, tc := range []struct {
			by   access.Caller
			want int
		}{{w.Alice, 2}, {w.Bob, 0}, {dev, 1}, {w.Device(other), 1}} {
			if n := len(w.Rows(tc.by, resource)); n != tc.want {
				t.Errorf("%s sees %d rows of %s, want %d", tc.by.Name, n, resource, tc.want)
			}
		}
		if resource == "image_label" || resource == "image_environment_variable" {
			w.Want(access.Nobody(), "GET", resource, nil, 401, "")
		} else { // those of public fleets may be read by anybody, and these are not
			w.Want(access.Nobody(), "GET", resource, nil, 200, `{"d":[]}`)
		}
		w.Want(access.Caller{Kind: access.Provisioning, Fleet: mine}, "GET", resource, nil, 401, "")
	}
	w.Want(dev, "GET", path(id)+"?$select=build_log", nil, 200, `{"d":[{"build_log":"built\n"}]}`)
	w.Want(dev, "GET", "release/$count?$filter=startswith(build_log,'b')", nil, 200, `{"d":1}`)
	w.Want(dev, "GET", "image?$select=dockerfile", nil, 400, "dockerfile")
	w.Want(w.Bob, "PATCH", path(id), map[string]any{"is_invalidated": true}, 200, "")
	w.Want(w.Bob, "DELETE", path(id), nil, 200, "")
	w.Want(w.Bob, "POST", "release_tag", map[string]any{"release": id, "tag_key": "x", "value": ""}, 401, "")
	w.Want(w.Bob, "PATCH", fmt.Sprintf("application(%d)", mine), map[string]any{"should_track_latest_release": false}, 200, "")
	w.Want(w.Alice, "GET", path(id)+"?$select=is_invalidated", nil, 200, "false")
	bobs := w.Fleet(w.Bob, "depot", "intel-nuc")
	w.Want(w.Bob, "PATCH", fmt.Sprintf("application(%d)", bobs), map[string]any{"should_be_running__release": id}, 401, "")
}

func TestTrackingFollowsTheNewestGoodRelease(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	target := func(what string, want int64) {
		t.Helper()
		if got := w.Target(fleetID); got != want {
			t.Errorf("%s: the target is %d, want %d", what, got, want)
		}
	}
	first := w.Release(w.Alice, "alice/harbour", false, "web")
	target("first", first)
	if n := len(w.Changed()); n != 1 {
		t.Errorf("devices were told %d times", n)
	}
	draft := w.Release(w.Alice, "alice/harbour", true, "web")
	target("draft", first)
	second := w.Release(w.Alice, "alice/harbour", false, "web")
	target("second", second)
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"is_invalidated": true, "invalidation_reason": "burns"}, 200, "")
	target("invalidated", first)
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"is_invalidated": false}, 200, "")
	target("valid again", second)
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"is_passing_tests": false}, 200, "")
	target("failing", first)
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"is_passing_tests": true}, 200, "")
	w.Changed()
	w.Want(w.Alice, "PATCH", path(second), map[string]any{"note": "n"}, 200, "")
	if n := len(w.Changed()); n != 0 {
		t.Errorf("a note told the devices %d times", n)
	}

	// Two builds at once: the one that began last wins, whichever ends first.
	old, oldImages := w.Open(w.Alice, "alice/harbour", false, "web")
	w.Pass(time.Second)
	young, youngImages := w.Open(w.Alice, "alice/harbour", false, "web")
	if _, err := w.Finish(young.ID, releasetest.Result(youngImages)); err != nil {
		t.Fatal(err)
	}
	target("young", young.ID)
	if _, err := w.Finish(old.ID, releasetest.Result(oldImages)); err != nil {
		t.Fatal(err)
	}
	target("old ended last", young.ID)

	// A fleet that does not track stays.
	app := fmt.Sprintf("application(%d)", fleetID)
	w.Want(w.Alice, "PATCH", app, map[string]any{"should_be_running__release": first, "should_track_latest_release": false},
		200, "")
	target("pinned", first)
	w.Release(w.Alice, "alice/harbour", false, "web")
	target("pinned, a release later", first)
	failed, _ := w.Open(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "PATCH", app, map[string]any{"should_be_running__release": failed.ID}, 400, "has a status that is equal to")
	w.Want(w.Alice, "PATCH", app, map[string]any{"should_be_running__release": draft}, 200, "")
	target("pinned to a draft", draft)
	w.Want(w.Alice, "PATCH", app, map[string]any{"should_track_latest_release": true}, 200, "")
	if got := w.Target(fleetID); got <= young.ID || got == failed.ID {
		t.Errorf("tracking again: the target is %d", got)
	}
}

func TestDraftsAndRevisions(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	raw := func(id int64, want string) {
		t.Helper()
		w.Want(w.Alice, "GET", path(id)+"?$select=raw_version", nil, 200, `"raw_version":"`+want+`"`)
	}
	at := w.Now()
	draft := w.Release(w.Alice, "alice/harbour", true, "web")
	raw(draft, fmt.Sprintf("0.0.0-%d", at.UnixMilli()))
	raw(w.Release(w.Alice, "alice/harbour", false, "web"), "0.0.0")
	raw(w.Release(w.Alice, "alice/harbour", false, "web"), "0.0.0+rev1")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"is_final": true}, 200, "")
	raw(draft, "0.0.0+rev2")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"is_final": true}, 200, "")
	raw(draft, "0.0.0+rev2")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"is_final": false}, 400,
		"Finalized releases cannot be converted to draft.")
	w.Want(w.Alice, "GET", path(draft)+"?$select=revision,is_final,semver", nil, 200,
		`"revision":2,"is_final":true,"semver":"0.0.0"`)

	// What the api role inserts itself is split and counted the same way.
	insert := func(values map[string]any) (id int64, err error) {
		values["belongs_to__application"] = fleetID
		err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
			id, err = w.Engine.Insert(t.Context(), tx, access.Itself(), "release", values)
			return err
		})
		return id, err
	}
	for _, tc := range []struct {
		values map[string]any
		want   string // raw version, or the error
	}{
		{map[string]any{"semver": "1.2.3-alpha.1+build.7"}, "1.2.3-alpha.1+build.7"},
		{map[string]any{"semver": "1.2.3-alpha.1"}, "1.2.3-alpha.1+rev1"},
		{map[string]any{"semver": "2.29.0", "variant": "prod"}, "2.29.0+prod"},
		{map[string]any{"semver": "2.29.0+rev1", "variant": "prod"}, "2.29.0+rev1.prod"},
		{map[string]any{"semver": "2.29.0", "variant": "dev"}, "2.29.0+dev"},
		{map[string]any{"semver": "2.29.0+rev7"}, "the next revision of 2.29.0 is 0"},
		{map[string]any{"semver": "1.2"}, "Invalid semver format"},
		{map[string]any{"semver": "01.2.3"}, "Invalid semver format"},
		{map[string]any{"semver": "1.2.3", "is_final": false}, fmt.Sprintf("1.2.3-%d", w.Now().UnixMilli())},
	} {
		id, err := insert(tc.values)
		if err != nil {
			if got := err.Error(); !contains(got, tc.want) {
				t.Errorf("%v: %v, want %s", tc.values, err, tc.want)
			}
			continue
		}
		raw(id, tc.want)
	}
	if _, err := insert(map[string]any{"commit": "abc", "status": "success"}); err != nil {
		t.Error(err)
	}
	if _, err := insert(map[string]any{"commit": "abc", "status": "success"}); err == nil || !contains(err.Error(), "nique") {
		t.Errorf("a second success of a commit: %v", err)
	}
	if _, err := insert(map[string]any{"commit": "abc", "status": "failed"}); err != nil {
		t.Errorf("a failure of the same commit: %v", err)
	}
}

func TestVersionOfADraft(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	at := w.Now()
	draft := w.Release(w.Alice, "alice/harbour", true, "web")
	other := w.Release(w.Alice, "alice/harbour", true, "web")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver": "1.2.3-rc.1"}, 200, "")
	w.Want(w.Alice, "GET", path(draft)+"?$select=semver,semver_major,semver_minor,semver_patch,semver_prerelease,raw_version", nil, 200,
		fmt.Sprintf(`"semver":"1.2.3-rc.1","semver_major":1,"semver_minor":2,"semver_patch":3,"semver_prerelease":"rc.1",`+
			`"raw_version":"1.2.3-rc.1.%d"`, at.UnixMilli()))
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver": "one"}, 400, "Invalid semver format")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver_major": 7, "semver_build": "x"}, 200, "")
	w.Want(w.Alice, "GET", path(draft)+"?$select=semver,semver_major", nil, 200, `"semver":"1.2.3-rc.1","semver_major":1`)
	both := fmt.Sprintf("release?$filter=belongs_to__application eq %d", fleetID)
	w.Want(w.Alice, "PATCH", both, map[string]any{"semver": "3.0.0"}, 400, "Only one release at a time")
	w.Want(w.Alice, "PATCH", both, map[string]any{"is_final": true}, 400, "Only one release at a time")
	w.Want(w.Alice, "PATCH", both, map[string]any{"is_final": false}, 200, "")
	w.Want(w.Alice, "GET", path(other)+"?$select=semver", nil, 200, `"semver":"0.0.0"`)
	w.Want(w.Bob, "PATCH", path(draft), map[string]any{"semver": "9.9.9"}, 200, "") // he sees no such row

	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver": "2.0.0", "is_final": true}, 200, "")
	w.Want(w.Alice, "GET", path(draft)+"?$select=raw_version,revision", nil, 200, `"raw_version":"2.0.0","revision":0`)
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver": "2.0.1"}, 400, "The version of a finalized release cannot be changed.")
	w.Want(w.Alice, "PATCH", path(draft), map[string]any{"semver": "2.0.0", "note": "kept"}, 200, "")
}

func TestDeleteRefusals(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	old := w.Release(w.Alice, "alice/harbour", false, "web")
	pinned := w.Release(w.Alice, "alice/harbour", false, "web")
	target := w.Release(w.Alice, "alice/harbour", false, "web")
	dev := w.Device(fleetID)
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE device SET is_pinned_on__release = $1 WHERE id = $2`, pinned, dev.Device)
		return err
	})
	w.Want(w.Alice, "DELETE", path(target), nil, 400,
		"Unable to delete release 0.0.0+rev2 because it is the fleet's target release.")
	w.Want(w.Alice, "DELETE", path(pinned), nil, 400, "Unable to delete a release because device(s) are pinned to it.")
	w.Want(w.Alice, "DELETE", fmt.Sprintf("release?$filter=belongs_to__application eq %d", fleetID), nil,
		http.StatusBadRequest, "Unable to delete")
	w.Want(w.Alice, "DELETE", path(old), nil, 200, "")
	w.Want(w.Alice, "GET", "release/$count", nil, 200, `{"d":2}`)
	w.Want(w.Alice, "GET", "image/$count", nil, 200, `{"d":2}`)
}

func TestReleaseTags(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	id := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Create(w.Alice, "release_tag", map[string]any{"release": id, "tag_key": "k", "value": "v"})
	w.Want(w.Alice, "POST", "release_tag", map[string]any{"release": id, "tag_key": "k", "value": "v"}, 409, "nique")
	w.Want(w.Alice, "POST", "release_tag", map[string]any{"release": id, "tag_key": "io.balena.k", "value": "v"}, 400,
		"reserved")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("release_tag?$filter=release eq %d and tag_key eq 'k'", id),
		map[string]any{"value": "w"}, 200, "")
	w.Want(w.Alice, "GET", path(id)+"?$select=id&$expand=release_tag($orderby=tag_key asc;$select=tag_key,value)", nil, 200,
		`[{"tag_key":"k","value":"w"}]`)
	w.Want(w.Alice, "DELETE", fmt.Sprintf("release_tag?$filter=release eq %d and tag_key eq 'k'", id), nil, 200, "")
	w.Want(w.Alice, "GET", "release_tag/$count", nil, 200, `{"d":0}`)
}

// The attack: what a build said, secrets perhaps, is read by anybody who has an account, because the fleet is public.
func TestTheWordsOfABuildAreNotPublic(t *testing.T) {
	w := releasetest.New(t)
	fleetID := w.Fleet(w.Alice, "harbour", "intel-nuc")
	id := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("application(%d)", fleetID), map[string]any{"is_public": true}, 200, "")
	image := "image?$select=dockerfile,error_message,build_log"
	w.Want(w.Alice, "GET", path(id)+"?$select=build_log", nil, 200, `{"d":[{"build_log":"built\n"}]}`)
	w.Want(w.Alice, "GET", image, nil, 200, `"dockerfile":"FROM base/busybox\n"`)
	w.Want(w.Bob, "GET", path(id)+"?$select=build_log", nil, 200, `{"d":[{"build_log":null}]}`)
	w.Want(w.Bob, "GET", image, nil, 200, `{"d":[{"dockerfile":null,"error_message":null,"build_log":null}]}`)
	w.Want(w.Bob, "GET", "release/$count?$filter=contains(build_log,'built')", nil, 200, `{"d":0}`)
	stranger := access.Caller{Kind: access.Device, Device: 999, Fleet: 999}
	w.Want(stranger, "GET", path(id)+"?$select=build_log", nil, 200, `{"d":[{"build_log":null}]}`)
	w.Want(stranger, "GET", "release/$count?$filter=contains(build_log,'built')", nil, 200, `{"d":0}`)
	w.Want(w.Bob, "GET", "release?$select=id&$filter=release_image/any(i:i/image/any(m:startswith(m/dockerfile,'FROM')))", nil, 200, `{"d":[]}`)
	w.Want(w.Alice, "GET", "release/$count?$filter=contains(build_log,'built')", nil, 200, `{"d":1}`)
	for _, query := range []string{path(id) + "?$select=build_log", image, "release?$orderby=build_log asc"} {
		w.Want(access.Nobody(), "GET", query, nil, 400, "")
	}
}
