package bench_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// apiRole is the api role in this process, with 1,000 devices in 20 fleets, each with a release of two services. Requests go to
// its handler as the edge sends them, authentication and transactions included, TLS and the network not.
type apiRole struct {
	tb      testing.TB
	handler http.Handler
	chain   map[string]*tls.ConnectionState
	admin   api.Admin
	fleets  []int64
	uuids   []string // of the fleets
	devices []api.Registered
	release map[int]api.Build
	images  map[int][]api.BuildImage
}

const (
	benchFleets  = 20
	benchDevices = 1000
)

func newAPIRole(tb testing.TB) *apiRole {
	tb.Helper()
	dir := tb.TempDir()
	r := &apiRole{tb: tb, chain: map[string]*tls.ConnectionState{}, release: map[int]api.Build{}, images: map[int][]api.BuildImage{}}
	roles := []string{api.RoleAPI, api.RoleEdge, api.RoleBuilder, api.RoleParent}
	r.must(pki.NewTestIdentities(dir, roles...))
	r.must(os.WriteFile(filepath.Join(dir, api.RoleAPI, "pepper"), bytes.Repeat([]byte("p"), 32), 0o600))
	for _, role := range roles {
		data, err := os.ReadFile(filepath.Join(dir, role, "cert.pem"))
		r.must(err)
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		r.must(err)
		r.chain[role] = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	}
	srv, err := apiserver.New(apiserver.Config{
		Dir: filepath.Join(dir, api.RoleAPI), Site: api.Site{Domain: "roadstead.test", Port: 443}, PollInterval: time.Minute,
	}, slog.New(slog.DiscardHandler))
	r.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, ln) }()
	tb.Cleanup(func() { cancel(); <-done })
	r.handler = srv.Handler()
	r.into(r.do(api.RoleParent, "POST", "/internal/v1/bootstrap", "", nil, 200), &r.admin)
	r.fill()
	return r
}

func (r *apiRole) must(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

func (r *apiRole) into(data []byte, v any) {
	r.tb.Helper()
	r.must(json.Unmarshal(data, v))
}

// do sends one request as a role; headers may hold an If-None-Match.
func (r *apiRole) do(role, method, path, token string, body any, want int, headers ...string) []byte {
	r.tb.Helper()
	var data []byte
	if body != nil {
		var err error
		data, err = json.Marshal(body)
		r.must(err)
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(data))
	req.TLS = r.chain[role]
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	if rec.Code != want {
		r.tb.Fatalf("%s %s: got %d %s, want %d", method, path, rec.Code, rec.Body, want)
	}
	if etag := rec.Header().Get("ETag"); etag != "" && len(headers) == 0 {
		return []byte(etag)
	}
	return rec.Body.Bytes()
}

func (r *apiRole) row(path string) map[string]any {
	r.tb.Helper()
	var list struct{ D []map[string]any }
	r.into(r.do(api.RoleEdge, "GET", path, r.admin.APIKey, nil, 200), &list)
	if len(list.D) == 0 {
		r.tb.Fatalf("GET %s: no row", path)
	}
	return list.D[0]
}

func (r *apiRole) fill() {
	r.tb.Helper()
	key := r.admin.APIKey
	org := r.row("/v7/organization?$select=id,handle")
	typ := r.row("/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'")["id"]
	var provisioning []string
	for n := range benchFleets {
		var fleet struct {
			ID   int64
			UUID string
		}
		r.into(r.do(api.RoleEdge, "POST", "/v7/application", key, map[string]any{"app_name": fmt.Sprintf("fleet-%d", n), "organization": org["id"],
			"is_for__device_type": typ}, 201), &fleet)
		r.fleets, r.uuids = append(r.fleets, fleet.ID), append(r.uuids, fleet.UUID)
		for v := range 5 {
			r.do(api.RoleEdge, "POST", "/v7/application_environment_variable", key, map[string]any{"application": fleet.ID,
				"name": fmt.Sprintf("V%d", v), "value": "x"}, 201)
		}
		r.push(n, fmt.Sprintf("%v/fleet-%d", org["handle"], n))
		var k string
		r.into(r.do(api.RoleEdge, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet.ID), key, api.NewKey{}, 200), &k)
		provisioning = append(provisioning, k)
	}
	for n := range benchDevices {
		r.devices = append(r.devices, r.register(provisioning[n%benchFleets], n))
	}
}

func (r *apiRole) register(key string, n int) (made api.Registered) {
	r.tb.Helper()
	r.into(r.do(api.RoleEdge, "POST", "/device/register", key, api.Register{Application: r.fleets[n%benchFleets],
		UUID: api.DeviceUUID(fmt.Sprintf("%032x", n)), DeviceType: "generic-amd64", OSVersion: "Debian 12"}, 201), &made)
	return made
}

func (r *apiRole) push(n int, slug string) {
	r.tb.Helper()
	var b api.Build
	r.into(r.do(api.RoleBuilder, "POST", "/internal/v1/builds", r.admin.APIKey, api.BuildRequest{Slug: slug}, 201), &b)
	var images []api.BuildImage
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	r.into(r.do(api.RoleBuilder, "POST", path+"/images", "", api.BuildImagesRequest{Services: []string{"web", "writer"},
		Composition: json.RawMessage(`{"services":{"web":{"ports":["80:80"],"volumes":["data:/data"]},"writer":{"volumes":["data:/data"]}},"volumes":{"data":{}}}`),
	}, 200), &images)
	result := api.BuildResult{Status: api.StatusSuccess}
	for _, i := range images {
		result.Images = append(result.Images, api.BuildImageResult{ID: i.ID, Status: api.StatusSuccess, Digest: fmt.Sprintf("sha256:%064x", i.ID),
			Labels: map[string]string{"a": "b", "c": "d"}})
	}
	r.do(api.RoleBuilder, "POST", path+"/finish", "", result, 200)
	r.release[n], r.images[n] = b, images
}

// cpu is what this process has used so far.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f and reports the CPU time that each run took, background work included.
func measure(b *testing.B, f func(n int)) {
	b.Helper()
	begin, n := cpu(b), 0
	for b.Loop() {
		f(n)
		n++
	}
	b.ReportMetric(float64((cpu(b)-begin).Microseconds())/float64(n), "cpu-µs/op")
}

// BenchmarkDevice: what devices ask all the time, with 1,000 of them.
func BenchmarkDevice(b *testing.B) {
	r := newAPIRole(b)
	state := func(d api.Registered) string { return "/device/v3/" + string(d.UUID) + "/state" }
	tags := make([]string, benchDevices)
	for n, d := range r.devices {
		tags[n] = string(r.do(api.RoleEdge, "GET", state(d), d.APIKey, nil, 200))
	}
	b.Run("state304", func(b *testing.B) {
		measure(b, func(n int) {
			d := r.devices[n%benchDevices]
			r.do(api.RoleEdge, "GET", state(d), d.APIKey, nil, 304, "If-None-Match: "+tags[n%benchDevices])
		})
	})
	b.Run("state200", func(b *testing.B) {
		measure(b, func(n int) {
			d := r.devices[n%benchDevices]
			r.do(api.RoleEdge, "GET", state(d), d.APIKey, nil, 200, "If-None-Match: none")
		})
	})
	report := func(n int, status string) map[string]any {
		f := n % benchDevices % benchFleets
		services := map[string]any{}
		for _, i := range r.images[f] {
			services[i.Service] = map[string]any{"image": fmt.Sprintf("%s@sha256:%064x", i.Location, i.ID), "status": "Running", "download_progress": nil}
		}
		commit := r.release[f].Commit
		return map[string]any{string(r.devices[n%benchDevices].UUID): map[string]any{"status": status, "ip_address": "192.0.2.1",
			"memory_usage": n % 1000, "cpu_usage": n % 100, "apps": map[string]any{r.uuids[f]: map[string]any{"release_uuid": commit,
				"releases": map[string]any{commit: map[string]any{"update_status": "done", "services": services}}}}}}
	}
	b.Run("report", func(b *testing.B) {
		measure(b, func(n int) {
			r.do(api.RoleEdge, "PATCH", "/device/v3/state", r.devices[n%benchDevices].APIKey, report(n, fmt.Sprint("at ", n)), 200)
		})
	})
	b.Run("reportNothingNew", func(b *testing.B) {
		measure(b, func(n int) {
			r.do(api.RoleEdge, "PATCH", "/device/v3/state", r.devices[n%10].APIKey, report(n%10, "Idle"), 200)
		})
	})
	b.Run("logLine", func(b *testing.B) {
		measure(b, func(n int) {
			d := r.devices[n%benchDevices]
			r.do(api.RoleEdge, "POST", "/device/v2/"+string(d.UUID)+"/logs", d.APIKey, []api.LogLine{{Message: "a line of some length, as programs write", Timestamp: 1}}, 201)
		})
	})
	var registered atomic.Int64
	var key string
	r.into(r.do(api.RoleEdge, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", r.fleets[0]), r.admin.APIKey, api.NewKey{}, 200), &key)
	b.Run("register", func(b *testing.B) {
		measure(b, func(int) { r.register(key, benchFleets*(1000+int(registered.Add(1)))) })
	})
}
