package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func bringIn(t *testing.T, w *releasetest.World, list ...api.OSRelease) (results []api.OSReleaseResult, err error) {
	t.Helper()
	err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
		results, err = w.Releases.ImportOS(t.Context(), tx, list)
		return err
	})
	return results, err
}

var systems = []api.OSRelease{
	{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "5.3.27+rev1", Phase: "sunset"},
	{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "v6.0.24", Variant: "", KnownIssues: "none",
		Image: "registry.example.com/os/pi4" + digest, Size: 1 << 28, Tags: map[string]string{"meta-balena-base": "6.0.24"},
		Labels: map[string]string{"io.balena.private.hostapp.board-rev": "abc"}},
	{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "6.1.0", Draft: true},
	{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "6.0.20", Invalidated: true, InvalidationReason: "does not start"},
	{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "2024.7.0", Line: "esr", Phase: "current"},
	{Kind: api.KindOS, DeviceType: "nuc", Version: "2.29.0+rev1", Variant: "prod"},
	{Kind: api.KindSupervisor, Arch: "aarch64", Version: "17.0.1", Image: "registry.example.com/supervisor" + digest},
	{Kind: api.KindSupervisor, Arch: "aarch64", Version: "17.1.0", Image: "registry.example.com/supervisor" + digest},
	{Kind: api.KindSupervisor, Arch: "amd64", Version: "17.0.1"},
}

// hostReleases is what `balena os versions` asks, see also queries of the CLI in the api role's tests.
const hostReleases = "application?$select=is_for__device_type&$expand=application_tag($select=tag_key,value)," +
	"is_for__device_type($select=slug),owns__release($select=id,known_issue_list,raw_version,variant,phase;" +
	"$expand=release_tag($select=tag_key,value);$filter=is_final eq true and is_invalidated eq false and status eq 'success';$orderby=id asc)" +
	"&$filter=is_host eq true and is_for__device_type/any(dt:dt/slug in ('raspberrypi4-64'))&$orderby=slug asc"

const supervisors = "release?$select=raw_version&$filter=status eq 'success' and is_final eq true and is_invalidated eq false and semver_major gt 0 " +
	"and belongs_to__application/any(a:startswith(a/slug,'balena_os/') and endswith(a/slug,'-supervisor') and a/is_public eq true " +
	"and a/is_host eq false and a/is_for__device_type/any(dt:dt/is_of__cpu_architecture/any(c:c/slug eq 'aarch64')))" +
	"&$orderby=semver_major desc,semver_minor desc,semver_patch desc,revision desc"

const typesWithSystem = "device_type?$orderby=name asc&$select=slug,name&$filter=is_default_for__application/any(idfa:idfa/is_host eq true " +
	"and idfa/is_archived eq false and idfa/owns__release/any(r:r/status eq 'success' and r/is_final eq true and r/is_invalidated eq false))"

// Whoever asks, logged in or not, is given the operating systems that the operator brought in.
func TestOperatingSystemsAreReleasesOfPublicFleets(t *testing.T) {
	w := releasetest.New(t)
	results, err := bringIn(t, w, systems...)
	if err != nil {
		t.Fatal(err)
	}
	if got := results[0]; got.Fleet != "balena_os/raspberrypi4-64" || got.Version != "5.3.27+rev1" || !got.Created || got.ID == 0 {
		t.Errorf("the first: %+v", got)
	}
	if got := results[2].Version; !strings.HasPrefix(got, "6.1.0-") {
		t.Errorf("the draft is %s", got)
	}
	for _, by := range []access.Caller{access.Nobody(), w.Alice} {
		var lines []string
		for _, row := range w.Rows(by, hostReleases) {
			line := fmt.Sprint(row["application_tag"])
			for _, r := range row["owns__release"].([]any) {
				line += " " + r.(map[string]any)["raw_version"].(string)
			}
			lines = append(lines, line)
		}
		want := []string{"[] 5.3.27+rev1 6.0.24", "[map[tag_key:release-policy value:esr]] 2024.7.0"}
		if d := cmp.Diff(want, lines); d != "" {
			t.Errorf("%s: %s", by.Name, d)
		}
		w.Want(by, "GET", supervisors, nil, 200, `{"d":[{"raw_version":"17.1.0"},{"raw_version":"17.0.1"}]}`)
		w.Want(by, "GET", typesWithSystem, nil, 200,
			`[{"slug":"intel-nuc","name":"Intel NUC"},{"slug":"raspberrypi4-64","name":"Raspberry Pi 4 (using 64bit OS)"}]`)
		w.Want(by, "GET", "release?$select=raw_version,semver,variant,revision&$filter=semver_major eq 2", nil, 200,
			`[{"raw_version":"2.29.0+rev1.prod","semver":"2.29.0","variant":"prod","revision":1}]`)
		w.Want(by, "GET", "release?$select=id&$filter=semver_patch eq 24&$expand=release_tag($select=value),release_image($select=id;"+
			"$expand=image($select=is_stored_at__image_location,content_hash,image_size))", nil, 200,
			`"is_stored_at__image_location":"registry.example.com/os/pi4:6.0.24","content_hash":"`+digest[1:]+`","image_size":"268435456"`)
	}
	w.Want(w.Alice, "GET", "application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1)", nil, 200, `{"d":[]}`)
	w.Want(w.Alice, "PATCH", fmt.Sprintf("release(%d)", results[0].ID), map[string]any{"is_invalidated": true}, 403, "")
	w.Want(w.Alice, "DELETE", fmt.Sprintf("release(%d)", results[0].ID), nil, 403, "")
	w.Want(w.Alice, "PATCH", "application(slug='balena_os/raspberrypi4-64')", map[string]any{"app_name": "mine"}, 403, "")

	// Brought in again, nothing is there twice, and what is said about a release is new.
	again := []api.OSRelease{systems[0], systems[1]}
	again[0].Phase, again[0].Note = "end-of-life", "update soon"
	again[1].Tags = map[string]string{"other": "1"}
	same, err := bringIn(t, w, again...)
	if err != nil || same[0].ID != results[0].ID || same[0].Created || same[1].ID != results[1].ID {
		t.Errorf("again: %+v %v", same, err)
	}
	w.Want(w.Bob, "GET", fmt.Sprintf("release(%d)?$select=phase,note", results[0].ID), nil, 200, `"phase":"end-of-life","note":"update soon"`)
	w.Want(w.Bob, "GET", fmt.Sprintf("release_tag?$select=tag_key&$filter=release eq %d", results[1].ID), nil, 200, `{"d":[{"tag_key":"other"}]}`)
	w.Want(w.Bob, "GET", "release/$count", nil, 200, `{"d":9}`)
}

func TestOperatingSystemsThatAreRefused(t *testing.T) {
	w := releasetest.New(t)
	good := api.OSRelease{Kind: api.KindOS, DeviceType: "intel-nuc", Version: "6.0.0"}
	for _, tc := range []struct {
		name   string
		change func(*api.OSRelease)
		want   string
	}{
		{"kind", func(o *api.OSRelease) { o.Kind = "app" }, `kind: "app"`},
		{"no board", func(o *api.OSRelease) { o.DeviceType = "" }, "device_type: "},
		{"unknown board", func(o *api.OSRelease) { o.DeviceType = "toaster" }, `device_type: there is none called "toaster"`},
		{"board and architecture", func(o *api.OSRelease) { o.Arch = "amd64" }, "device_type: "},
		{"supervisor of a board", func(o *api.OSRelease) { o.Kind = api.KindSupervisor }, "arch: "},
		{"supervisor of nothing", func(o *api.OSRelease) { o.Kind, o.DeviceType = api.KindSupervisor, "" }, "arch: "},
		{"version", func(o *api.OSRelease) { o.Version = "latest" }, `version: "latest"`},
		{"variant", func(o *api.OSRelease) { o.Variant = "a b" }, `variant: "a b"`},
		{"line", func(o *api.OSRelease) { o.Line = "lts" }, `line: "lts"`},
		{"phase", func(o *api.OSRelease) { o.Phase = "old" }, `phase: "old"`},
		{"image without a digest", func(o *api.OSRelease) { o.Image = "registry.example.com/os:6" }, "image: "},
		{"image with an option", func(o *api.OSRelease) { o.Image = "--x/y" + digest }, "image: "},
		{"size", func(o *api.OSRelease) { o.Size = -1 }, "size: "},
		{"contract", func(o *api.OSRelease) { o.Contract = []byte(`[1]`) }, "contract: "},
		{"label", func(o *api.OSRelease) { o.Labels = map[string]string{"a b": ""} }, "labels: "},
		{"tag", func(o *api.OSRelease) { o.Tags = map[string]string{"a b": ""} }, "tags: "},
		{"long note", func(o *api.OSRelease) { o.Note = strings.Repeat("a", 1<<17) }, "note"},
	} {
		bad := good
		tc.change(&bad)
		_, err := bringIn(t, w, good, bad)
		if err == nil || !strings.Contains(err.Error(), "releases[1]: "+tc.want) && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
		if code := api.AsError(err).Code; code == api.Internal || !strings.HasPrefix(api.AsError(err).Text, "releases[1]: ") {
			t.Errorf("%s: the operator does not see it: %v", tc.name, api.AsError(err))
		}
	}
	w.Want(access.Nobody(), "GET", "release/$count", nil, 200, `{"d":0}`) // all or none
	for i, location := range []string{"a", "a"} {
		o := good
		o.Version, o.Image = "1.0.0", "registry.example.com/"+location+digest
		o.DeviceType = []string{"intel-nuc", "generic-amd64"}[i]
		if _, err := bringIn(t, w, o); i == 1 && !errors.Is(err, api.ErrConflict) || i == 0 && err != nil {
			t.Errorf("image %d of one location: %v", i, err)
		}
	}
}

// The attack: an organization takes the name under which clients look for supervisors.
func TestNobodyPassesForTheOperator(t *testing.T) {
	w := releasetest.New(t)
	for _, by := range []int{0, 1} { // before and after the operator brought something in
		w.Want(w.Alice, "POST", "organization", map[string]any{"name": "Mine", "handle": "balena_os"}, 409, "must be unique")
		w.Want(w.Alice, "POST", "organization", map[string]any{"name": "balena_os"}, 201, `"handle":"balena_os`+fmt.Sprint(2+by)+`"`)
		w.Want(w.Alice, "PATCH", "organization(handle='alice')", map[string]any{"handle": "balena_os"}, 409, "must be unique")
		if _, err := bringIn(t, w, systems[6]); err != nil {
			t.Fatal(err)
		}
	}
	w.Want(w.Alice, "GET", "organization?$filter=handle eq 'balena_os'", nil, 200, `{"d":[]}`)
	// It has no administrator, and that keeps nobody else from changing theirs.
	w.Want(w.Alice, "POST", "application", map[string]any{"app_name": "fake-supervisor", "is_public": true,
		"organization":        w.ID(w.Alice, "organization(handle='alice')?$select=id"),
		"is_for__device_type": w.ID(w.Alice, "device_type(slug='generic-aarch64')?$select=id")}, 201, "alice/fake-supervisor")
	w.Want(w.Alice, "GET", supervisors, nil, 200, `{"d":[{"raw_version":"17.0.1"}]}`)
}
