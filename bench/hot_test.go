package bench_test

import (
	"fmt"

	"github.com/roadstead-io/roadstead/api"
)

// hot is one of the requests that a server answers all day.
type hot struct {
	name   string
	what   string            // for people
	budget float64           // ms of CPU time a request, 0: none
	ask    func(int) request // the n-th of them; may be called from many goroutines
	want   int               // status of the answer
	each   bool              // the n-th request is of the n-th device: all of them, in turn
}

// hotPaths is every request that has a budget, and some beside them.
func (w *world) hotPaths() []hot {
	key := w.admin.APIKey
	get := func(path string) func(int) request {
		r := ask("GET", path, key, nil)
		return func(int) request { return r }
	}
	state := func(n int, known string) request {
		d := w.devices[n%w.size]
		return ask("GET", "/device/v3/"+string(d.UUID)+"/state", d.APIKey, nil, "If-None-Match: "+known)
	}
	tags := make([]string, w.size)
	for n := range tags {
		a, err := w.try(api.RoleEdge, state(n, "none"), 200)
		w.must(err)
		tags[n] = a.header.Get("ETag")
	}
	return []hot{
		{"state304", "state poll, 304", 0.08, func(n int) request { return state(n, tags[n%w.size]) }, 304, true},
		{"state200", "state poll, 200", 0.25, func(n int) request { return state(n, "none") }, 200, true},
		{"reportMetrics", "state report, metrics only", 0.16, w.reportMetrics, 200, true},
		{"reportChanged", "state report, changed", 0.29, w.reportChanged, 200, true},
		{"reportApps", "state report, with apps", 0.58, w.reportApps, 200, true},
		{"reportNothingNew", "state report, with apps, nothing new", 0, func(n int) request { return w.reportApps(n % 10) }, 200, false},
		{"list50x8", "OData list, 50 devices × 8 columns", 0.26, get("/v7/device?$select=id,uuid,device_name,status,is_online,os_version," +
			"memory_usage,created_at&$top=50&$orderby=id%20asc"), 200, false},
		{"nestedExpand50", "OData expand: fleet, 50 devices, type and tags of each", 0.5,
			get(fmt.Sprintf("/v7/application(%d)?$select=slug&$expand=owns__device($select=uuid,is_online;"+
				"$expand=is_of__device_type($select=slug),device_tag($select=tag_key,value))", w.fleets[0])), 200, false},
		{"pointRead", "OData point read", 0, get("/v7/device(uuid='" + string(w.devices[w.size/2].UUID) + "')?$select=id,uuid,device_name,status"), 200, false},
		{"registryToken", "registry token", 0.2, w.registryToken, 200, true},
		{"logLine", "one log line", 0, func(n int) request {
			d := w.devices[n%w.size]
			return ask("POST", "/device/v2/"+string(d.UUID)+"/logs", d.APIKey, []api.LogLine{{Message: "a line of some length, as programs write", Timestamp: 1}})
		}, 201, true},
		// The last, for it makes the fleets larger.
		{"register", "register", 0.95, func(int) request { return w.register(w.size + int(w.extra.Add(1))) }, 201, false},
	}
}

func (w *world) registryToken(n int) request {
	n %= w.size
	location := w.images[w.fleetOf(n)][0].Location
	repository := location[len("registry2.")+len(benchDomain):]
	for repository[0] != '/' { // a port
		repository = repository[1:]
	}
	return ask("GET", "/auth/v1/token?service=registry2."+benchDomain+"&scope=repository:"+repository[1:]+":pull", w.devices[n].APIKey, nil)
}

// round is how often the devices were all asked before the n-th request: it makes the values of a report new.
func (w *world) round(n int) int { return n / w.size }

// reportMetrics is what a device sends of its load while nothing else happens.
func (w *world) reportMetrics(n int) request {
	d, v := w.devices[n%w.size], n%w.size+w.round(n)
	return ask("PATCH", "/device/v3/state", d.APIKey, map[string]any{string(d.UUID): map[string]any{
		"memory_usage": 100 + v%1000, "memory_total": 3900, "storage_usage": v % 5000, "storage_total": 30000, "cpu_usage": v % 100, "cpu_temp": 40 + v%20,
	}})
}

// reportChanged is a report that always has something to write: how far an update's download is, and the metrics.
func (w *world) reportChanged(n int) request {
	d := w.devices[n%w.size]
	return ask("PATCH", "/device/v3/state", d.APIKey, map[string]any{string(d.UUID): map[string]any{
		"status": fmt.Sprint("Updating ", n), "ip_address": "192.0.2.1", "os_version": "Debian 12", "os_variant": "prod",
		"memory_usage": n % 1000, "cpu_usage": n % 100, "provisioning_state": fmt.Sprint("step ", n),
	}})
}

// reportApps says what a device runs; something in it is always new, and on the first round everything.
func (w *world) reportApps(n int) request {
	d, f := w.devices[n%w.size], w.fleetOf(n%w.size)
	running := map[string]any{}
	for k, i := range w.images[f] {
		said := map[string]any{"image": fmt.Sprintf("%s@sha256:%064x", i.Location, i.ID), "status": "Running"}
		if k == 0 {
			said["status"], said["download_progress"] = "Downloading", w.round(n)%100
		}
		running[i.Service] = said
	}
	commit := w.release[f].Commit
	return ask("PATCH", "/device/v3/state", d.APIKey, map[string]any{string(d.UUID): map[string]any{
		"status": fmt.Sprint("Idle ", w.round(n)), "ip_address": "192.0.2.1", "memory_usage": n % 1000, "cpu_usage": n % 100,
		"apps": map[string]any{w.uuids[f]: map[string]any{"release_uuid": commit,
			"releases": map[string]any{commit: map[string]any{"update_status": "done", "services": running}}}},
	}})
}
