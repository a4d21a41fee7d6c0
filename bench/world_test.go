package bench_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

const (
	worldFleets  = 20
	worldDevices = 1000
)

// world is a server with 1,000 devices in 20 fleets, each fleet with a release of two services. It is filled the way a server
// fills: by requests. How they reach the server is up to send.
type world struct {
	tb      testing.TB
	send    func(role string, r request) (answer, error) // as the named role; the edge stands for the public
	admin   api.Admin
	fleets  []int64
	uuids   []string // of the fleets
	devices []api.Registered
	keys    []string // for provisioning, of the fleets
	release []api.Build
	images  [][]api.BuildImage
	extra   atomic.Int64 // devices registered beyond the thousand
}

// request is one request as a client makes it.
type request struct {
	method, path string
	header       http.Header
	body         []byte
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) into(a answer, v any) {
	w.tb.Helper()
	w.must(json.Unmarshal(a.body, v))
}

// do sends one request as a role and expects a status. More headers are written "Name: value".
func (w *world) do(role, method, path, token string, body any, want int, headers ...string) answer {
	w.tb.Helper()
	r := request{method: method, path: path, header: http.Header{}}
	if body != nil {
		data, err := json.Marshal(body)
		w.must(err)
		r.body = data
		r.header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.header.Set(name, value)
	}
	a, err := w.send(role, r)
	w.must(err)
	if a.status != want {
		w.tb.Fatalf("%s %s: got %d %s, want %d", method, path, a.status, a.body, want)
	}
	return a
}

func (w *world) row(path string) map[string]any {
	w.tb.Helper()
	var list struct{ D []map[string]any }
	w.into(w.do(api.RoleEdge, "GET", path, w.admin.APIKey, nil, 200), &list)
	if len(list.D) == 0 {
		w.tb.Fatalf("GET %s: no row", path)
	}
	return list.D[0]
}

func (w *world) fill() {
	w.tb.Helper()
	key := w.admin.APIKey
	org := w.row("/v7/organization?$select=id,handle")
	typ := w.row("/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'")["id"]
	for n := range worldFleets {
		var fleet struct {
			ID   int64
			UUID string
		}
		w.into(w.do(api.RoleEdge, "POST", "/v7/application", key, map[string]any{"app_name": fmt.Sprintf("fleet-%d", n),
			"organization": org["id"], "is_for__device_type": typ}, 201), &fleet)
		w.fleets, w.uuids = append(w.fleets, fleet.ID), append(w.uuids, fleet.UUID)
		for v := range 5 {
			w.do(api.RoleEdge, "POST", "/v7/application_environment_variable", key, map[string]any{"application": fleet.ID,
				"name": fmt.Sprintf("V%d", v), "value": "x"}, 201)
		}
		w.push(fmt.Sprintf("%v/fleet-%d", org["handle"], n))
		var k string
		w.into(w.do(api.RoleEdge, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet.ID), key, api.NewKey{}, 200), &k)
		w.keys = append(w.keys, k)
	}
	for n := range worldDevices {
		w.devices = append(w.devices, w.register(n))
	}
	for n := 0; n < worldDevices; n += worldFleets { // those of the first fleet
		w.do(api.RoleEdge, "POST", "/v7/device_tag", key, map[string]any{"device": w.devices[n].ID, "tag_key": "site", "value": "x"}, 201)
	}
}

// register makes device n, in fleet n modulo their number.
func (w *world) register(n int) (made api.Registered) {
	w.tb.Helper()
	w.into(w.do(api.RoleEdge, "POST", "/device/register", w.keys[n%worldFleets], api.Register{Application: w.fleets[n%worldFleets],
		UUID: api.DeviceUUID(fmt.Sprintf("%032x", n)), DeviceType: "generic-amd64", OSVersion: "Debian 12"}, 201), &made)
	return made
}

// push makes a release as the builder does, without building anything.
func (w *world) push(slug string) {
	w.tb.Helper()
	var b api.Build
	w.into(w.do(api.RoleBuilder, "POST", "/internal/v1/builds", w.admin.APIKey, api.BuildRequest{Slug: slug}, 201), &b)
	var images []api.BuildImage
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	w.into(w.do(api.RoleBuilder, "POST", path+"/images", "", api.BuildImagesRequest{Services: []string{"web", "writer"},
		Composition: json.RawMessage(`{"services":{"web":{"ports":["80:80"],"volumes":["data:/data"]},"writer":{"volumes":["data:/data"]}},"volumes":{"data":{}}}`),
	}, 200), &images)
	result := api.BuildResult{Status: api.StatusSuccess}
	for _, i := range images {
		result.Images = append(result.Images, api.BuildImageResult{ID: i.ID, Status: api.StatusSuccess, Digest: fmt.Sprintf("sha256:%064x", i.ID),
			Labels: map[string]string{"a": "b", "c": "d"}})
	}
	w.do(api.RoleBuilder, "POST", path+"/finish", "", result, 200)
	w.release, w.images = append(w.release, b), append(w.images, images)
}

// hot is one of the requests that a server answers all day. Run makes the n-th of them; it may be called from many goroutines.
type hot struct {
	name string
	run  func(n int)
}

// hotPaths is every request that has a budget, and some beside them.
func (w *world) hotPaths() []hot {
	get := func(path string) func(int) {
		return func(int) { w.do(api.RoleEdge, "GET", path, w.admin.APIKey, nil, 200) }
	}
	state := func(n int) (path, key string) {
		d := w.devices[n%worldDevices]
		return "/device/v3/" + string(d.UUID) + "/state", d.APIKey
	}
	tags := make([]string, worldDevices)
	for n := range tags {
		path, key := state(n)
		tags[n] = w.do(api.RoleEdge, "GET", path, key, nil, 200).header.Get("ETag")
	}
	return []hot{
		{"list50x8", get("/v7/device?$select=id,uuid,device_name,status,is_online,os_version,memory_usage,created_at&$top=50&$orderby=id%20asc")},
		{"pointRead", get("/v7/device(uuid='" + string(w.devices[500].UUID) + "')?$select=id,uuid,device_name,status")},
		{"nestedExpand50", get(fmt.Sprintf("/v7/application(%d)?$select=slug&$expand=owns__device($select=uuid,is_online;"+
			"$expand=is_of__device_type($select=slug),device_tag($select=tag_key,value))", w.fleets[0]))},
		{"state304", func(n int) {
			path, key := state(n)
			w.do(api.RoleEdge, "GET", path, key, nil, 304, "If-None-Match: "+tags[n%worldDevices])
		}},
		{"state200", func(n int) {
			path, key := state(n)
			w.do(api.RoleEdge, "GET", path, key, nil, 200, "If-None-Match: none")
		}},
		{"report", func(n int) { w.report(n, fmt.Sprint("at ", n)) }},
		{"reportNothingNew", func(n int) { w.report(n%10, "Idle") }},
		{"logLine", func(n int) {
			d := w.devices[n%worldDevices]
			w.do(api.RoleEdge, "POST", "/device/v2/"+string(d.UUID)+"/logs", d.APIKey,
				[]api.LogLine{{Message: "a line of some length, as programs write", Timestamp: 1}}, 201)
		}},
		{"registryToken", func(n int) {
			image := w.images[n%worldDevices%worldFleets][0]
			_, repository, _ := strings.Cut(image.Location, "/")
			w.do(api.RoleEdge, "GET", "/auth/v1/token?service=registry2.bench.roadstead.test&scope=repository:"+repository+":pull",
				w.devices[n%worldDevices].APIKey, nil, 200)
		}},
		{"register", func(int) { w.register(worldDevices + int(w.extra.Add(1))) }},
	}
}

// report is a device's report: of metrics and of what it runs.
func (w *world) report(n int, status string) {
	w.tb.Helper()
	d, f := w.devices[n%worldDevices], n%worldDevices%worldFleets
	services := map[string]any{}
	for _, i := range w.images[f] {
		services[i.Service] = map[string]any{"image": fmt.Sprintf("%s@sha256:%064x", i.Location, i.ID), "status": "Running", "download_progress": nil}
	}
	commit := w.release[f].Commit
	w.do(api.RoleEdge, "PATCH", "/device/v3/state", d.APIKey, map[string]any{string(d.UUID): map[string]any{
		"status": status, "ip_address": "192.0.2.1", "memory_usage": n % 1000, "cpu_usage": n % 100,
		"apps": map[string]any{w.uuids[f]: map[string]any{"release_uuid": commit,
			"releases": map[string]any{commit: map[string]any{"update_status": "done", "services": services}}}},
	}}, 200)
}
