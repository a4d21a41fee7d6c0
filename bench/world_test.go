package bench_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// A world has as many fleets as its devices need, so that a fleet has the same size in every world.
const (
	fleetDevices = 50
	fleetVars    = 10
	fillers      = 8 // devices registered at once while a world is made
)

// services of every release.
var services = []string{"web", "writer", "worker"}

// world is a server with devices in fleets of fifty, each fleet with ten variables and a release of three services. It is
// filled the way a server fills: by requests. How they reach the server is up to send.
type world struct {
	tb      testing.TB
	size    int                                          // devices
	dir     string                                       // of the whole server; "": its roles run alone
	send    func(role string, r request) (answer, error) // as the named role; the edge stands for the public
	admin   api.Admin
	fleets  []int64
	uuids   []string // of the fleets
	devices []api.Registered
	keys    []string // for provisioning, of the fleets
	release []api.Build
	images  [][]api.BuildImage
	extra   atomic.Int64 // devices registered beyond those
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

// ask makes a request. More headers are written "Name: value".
func ask(method, path, token string, body any, headers ...string) request {
	r := request{method: method, path: path, header: http.Header{}}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			panic(err) // the benchmark's own values
		}
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
	return r
}

// try sends one request as a role and says what is wrong with the answer.
func (w *world) try(role string, r request, want int) (answer, error) {
	a, err := w.send(role, r)
	if err == nil && a.status != want {
		err = fmt.Errorf("%s %s: got %d %s, want %d", r.method, r.path, a.status, a.body, want)
	}
	return a, err
}

// do sends one request as a role and expects a status.
func (w *world) do(role, method, path, token string, body any, want int, headers ...string) answer {
	w.tb.Helper()
	a, err := w.try(role, ask(method, path, token, body, headers...), want)
	w.must(err)
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
	for n := range (w.size + fleetDevices - 1) / fleetDevices {
		var fleet struct {
			ID   int64
			UUID string
		}
		w.into(w.do(api.RoleEdge, "POST", "/v7/application", key, map[string]any{"app_name": fmt.Sprintf("fleet-%d", n),
			"organization": org["id"], "is_for__device_type": typ}, 201), &fleet)
		w.fleets, w.uuids = append(w.fleets, fleet.ID), append(w.uuids, fleet.UUID)
		for v := range fleetVars {
			w.do(api.RoleEdge, "POST", "/v7/application_environment_variable", key, map[string]any{"application": fleet.ID,
				"name": fmt.Sprintf("VARIABLE_%d", v), "value": "a value of some length"}, 201)
		}
		w.push(fmt.Sprintf("%v/fleet-%d", org["handle"], n))
		var k string
		w.into(w.do(api.RoleEdge, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet.ID), key, api.NewKey{}, 200), &k)
		w.keys = append(w.keys, k)
	}
	w.populate()
	for n := 0; n < w.size; n += len(w.fleets) { // those of the first fleet
		w.do(api.RoleEdge, "POST", "/v7/device_tag", key, map[string]any{"device": w.devices[n].ID, "tag_key": "site", "value": "x"}, 201)
	}
}

// populate registers the devices.
func (w *world) populate() {
	w.tb.Helper()
	w.devices = make([]api.Registered, w.size)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range fillers {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < w.size && failed.Load() == nil; n = int(next.Add(1)) - 1 {
				a, err := w.try(api.RoleEdge, w.register(n), 201)
				if err == nil {
					err = json.Unmarshal(a.body, &w.devices[n])
				}
				if err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		w.tb.Fatal(*err)
	}
}

// fleetOf is the fleet of device n.
func (w *world) fleetOf(n int) int { return n % len(w.fleets) }

// register makes device n.
func (w *world) register(n int) request {
	f := w.fleetOf(n)
	return ask("POST", "/device/register", w.keys[f], api.Register{Application: w.fleets[f],
		UUID: api.DeviceUUID(fmt.Sprintf("%032x", n)), DeviceType: "generic-amd64", OSVersion: "Debian 12"})
}

// push makes a release as the builder does, without building anything.
func (w *world) push(slug string) {
	w.tb.Helper()
	var b api.Build
	w.into(w.do(api.RoleBuilder, "POST", "/internal/v1/builds", w.admin.APIKey, api.BuildRequest{Slug: slug}, 201), &b)
	var images []api.BuildImage
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	w.into(w.do(api.RoleBuilder, "POST", path+"/images", "", api.BuildImagesRequest{Services: services,
		Composition: json.RawMessage(`{"services":{"web":{"ports":["80:80"],"volumes":["data:/data"]},` +
			`"writer":{"volumes":["data:/data"]},"worker":{"restart":"always","labels":{"io.example.role":"worker"}}},"volumes":{"data":{}}}`),
	}, 200), &images)
	result := api.BuildResult{Status: api.StatusSuccess}
	for _, i := range images {
		result.Images = append(result.Images, api.BuildImageResult{ID: i.ID, Status: api.StatusSuccess, Digest: fmt.Sprintf("sha256:%064x", i.ID),
			Labels: map[string]string{"a": "b", "c": "d"}})
	}
	if w.dir != "" { // a whole server takes no release that does not say where it comes from
		var err error
		result.Statement, err = fleettest.Statement(w.tb.Context(), w.dir, b.ID, images, result)
		w.must(err)
	}
	w.do(api.RoleBuilder, "POST", path+"/finish", "", result, 200)
	w.release, w.images = append(w.release, b), append(w.images, images)
}
