// Package fleets is the dashboard's pages about fleets: which there are, whose word their devices take, and who has signed their releases. What it
// shows comes of documented calls to the API, as the person who visits.
package fleets

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Pages are the templates of this package.
//
//go:embed pages/*.html
var Pages embed.FS

// Routes lists the pages. None changes anything: what is signed is signed where the keys are.
func Routes() map[string]devices.Handler {
	return map[string]devices.Handler{
		"GET /{$}":                             list,
		"GET /fleets/{uuid}":                   show,
		"GET /fleets/{uuid}/releases/{commit}": release,
	}
}

// Funcs are what the templates use besides those of the frame and of the pages about devices.
func Funcs() template.FuncMap {
	return template.FuncMap{"heldby": heldBy, "states": states}
}

// heldBy says who holds a root, so that the weaker state is seen.
func heldBy(who string) string {
	switch who {
	case api.HeldByServer:
		return "held by the server (weaker)"
	case api.HeldByOwner:
		return "held by the owner"
	}
	return "nothing signed yet"
}

// count is how many devices are in a state.
type count struct {
	State string
	N     int64
}

// states are the devices by state; what matters most comes first.
func states(devices map[string]int64) (out []count) {
	for _, state := range []string{api.TrustRejected, api.TrustWaiting, api.TrustUnverified, api.TrustVerified} {
		if n := devices[state]; n > 0 {
			out = append(out, count{state, n})
		}
	}
	return out
}

// maxFleets is how many the first page shows.
const maxFleets = 200

// row is a fleet of the list.
type row struct {
	client.Fleet
	Online, Total int
	Trust         *api.TrustFleet // nil: it is not said
}

type counted struct {
	client.Fleet
	Count json.RawMessage `json:"owns__device"`
}

func list(v *devices.Visit) error {
	counts := func(filter string) ([]counted, error) {
		return devices.Rows[counted](v, "application", client.Query{Select: "id,uuid,app_name,slug", Filter: "is_of__class eq 'fleet'", OrderBy: "slug asc", Top: maxFleets,
			Expand: "owns__device/$count" + filter})
	}
	all, err := counts("")
	if err != nil {
		return err
	}
	online, err := counts("($filter=is_online eq true)")
	if err != nil {
		return err
	}
	var known []api.TrustFleet
	if err := v.Call(http.MethodGet, "/trust/v1/fleets", nil, &known); err != nil && !errors.Is(err, api.ErrForbidden) {
		return err
	}
	number := func(raw json.RawMessage) (n int) {
		_ = json.Unmarshal(raw, &n) // the api role's own number
		return n
	}
	on := map[int64]int{}
	for _, r := range online {
		on[r.ID] = number(r.Count)
	}
	var out []row
	for _, r := range all {
		f := row{Fleet: r.Fleet, Online: on[r.ID], Total: number(r.Count)}
		if i := slices.IndexFunc(known, func(k api.TrustFleet) bool { return k.Fleet == r.UUID }); i >= 0 {
			f.Trust = &known[i]
		}
		out = append(out, f)
	}
	return v.Show(http.StatusOK, "home", devices.Page{Title: "Fleets", Data: out})
}

var (
	uuidForm   = pattern.New(`^[0-9a-f]{32}$`)
	commitForm = pattern.New(`^[0-9a-f]{32}([0-9a-f]{8})?$`)
)

// fleetData is what the page of a fleet is made from.
type fleetData struct {
	Fleet    client.Fleet
	Online   int
	Trust    *api.TrustStatus // nil: it is not known, and Unknown says why
	Unknown  string
	Releases []releaseRow
}

// Last is what was refused last.
func (d fleetData) Last() *api.TrustDevice {
	if d.Trust == nil || len(d.Trust.Rejecting) == 0 {
		return nil
	}
	return &d.Trust.Rejecting[0]
}

// releaseRow is a release and who has signed it.
type releaseRow struct {
	client.Release
	Signed string // in words
	Waits  bool   // for the owner
}

const releaseFields = "id,commit,status,raw_version,is_final,source,created_at,end_timestamp,note"

// read reads the fleet that a page is about.
func read(v *devices.Visit) (d fleetData, err error) {
	uuid := v.R.PathValue("uuid")
	if !uuidForm.MatchString(uuid) {
		return d, api.Errorf(api.NotFound, "There is no such fleet.")
	}
	found, err := devices.Rows[client.Fleet](v, "application", client.Query{
		Select: "id,uuid,slug,app_name,created_at,should_track_latest_release",
		Expand: "is_for__device_type($select=id,slug,name),owns__device($select=id,is_online),should_be_running__release($select=id,commit,raw_version)",
		Filter: client.Where("uuid eq ? and is_of__class eq 'fleet'", uuid),
	})
	if err != nil {
		return d, err
	}
	if len(found) != 1 {
		return d, api.Errorf(api.NotFound, "There is no such fleet.")
	}
	d.Fleet = found[0]
	for _, dev := range d.Fleet.Devices {
		if dev.IsOnline {
			d.Online++
		}
	}
	var status api.TrustStatus
	if err := v.Call(http.MethodGet, "/trust/v1/fleets/"+uuid, nil, &status); err != nil {
		if d.Unknown = api.AsError(err).Text; d.Unknown == "" {
			return d, err
		}
		return d, nil
	}
	d.Trust = &status
	return d, nil
}

func show(v *devices.Visit) error {
	d, err := read(v)
	if err != nil {
		return err
	}
	list, err := devices.Rows[client.Release](v, "release", client.Query{
		Select: releaseFields, Filter: client.Where("belongs_to__application eq ?", d.Fleet.ID), OrderBy: "created_at desc", Top: 50,
	})
	if err != nil {
		return err
	}
	for _, r := range list {
		d.Releases = append(d.Releases, d.row(r))
	}
	return v.Show(http.StatusOK, "fleet", devices.Page{Title: d.Fleet.Slug, Data: d})
}

// row says who has signed a release. Of one that is not among the newest it is not known here.
func (d fleetData) row(r client.Release) releaseRow {
	out := releaseRow{Release: r}
	if d.Trust == nil || r.Status != api.StatusSuccess {
		return out
	}
	i := slices.IndexFunc(d.Trust.Releases, func(l api.TrustListing) bool { return l.Commit == r.Commit })
	if i < 0 {
		out.Signed = "not looked at: it is an old one"
		return out
	}
	out.Signed, out.Waits = d.Trust.Releases[i].Says(d.Trust.Approval)
	return out
}

// releaseData is what the page of a release is made from.
type releaseData struct {
	fleetData
	Release releaseRow
	Images  []image
}

type image struct {
	Service, Digest, Status string
}

func release(v *devices.Visit) error {
	d, err := read(v)
	if err != nil {
		return err
	}
	commit := v.R.PathValue("commit")
	if !commitForm.MatchString(commit) {
		return api.Errorf(api.NotFound, "There is no such release.")
	}
	found, err := devices.Rows[client.Release](v, "release", client.Query{
		Select: releaseFields, Expand: "release_image($select=id;$expand=image($select=id,status,content_hash;$expand=is_a_build_of__service($select=id,service_name)))",
		Filter: client.Where("belongs_to__application eq ? and commit eq ?", d.Fleet.ID, commit), OrderBy: "id desc", Top: 1,
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return api.Errorf(api.NotFound, "There is no such release.")
	}
	out := releaseData{fleetData: d, Release: d.row(found[0])}
	for _, ri := range found[0].Images {
		i := ri.Image.Get()
		out.Images = append(out.Images, image{i.Service.Get().Name, i.ContentHash, i.Status})
	}
	slices.SortFunc(out.Images, func(a, b image) int { return strings.Compare(a.Service, b.Service) })
	return v.Show(http.StatusOK, "release", devices.Page{Title: fmt.Sprintf("Release %.7s of %s", commit, d.Fleet.Slug), Data: out})
}
