package fleettest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// several is a server with two api processes on one PostgreSQL, and ways to each of them.
type several struct {
	t      *testing.T
	srv    *fleettest.Server
	public *http.Client
	fleet  struct {
		ID   int64
		Slug string
	}
}

// processes of the api role, as the status names them.
var processes = []string{"api", "api-2"}

func newSeveral(t *testing.T) *several {
	t.Helper()
	sql := dbtest.NewPostgres(t)
	sql.Exec("postgres", `CREATE DATABASE fleets`)
	return waysTo(t, fleettest.NewServerWith(t, fleettest.Options{
		SQL: sql.DSN("fleets"), PollInterval: time.Second, Args: []string{"--api-processes", "2"},
	}))
}

// waysTo gives the same ways to another server, and makes a fleet there.
func waysTo(t *testing.T, srv *fleettest.Server) *several {
	t.Helper()
	s := &several{t: t, srv: srv}
	pem, err := os.ReadFile(s.srv.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		// By address: within five seconds of its last look this process would not look into /etc/hosts again, and the name is new.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.srv.Addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	s.public = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	org := s.rows("/v7/organization?$select=id")[0]["id"]
	kind := s.rows("/v7/device_type?$select=id&$filter=slug%20eq%20'generic-amd64'")[0]["id"]
	s.into(s.must(http.StatusCreated, s.ask("POST", "/v7/application", s.srv.Admin.APIKey,
		map[string]any{"app_name": "boats", "organization": org, "is_for__device_type": kind})), &s.fleet)
	return s
}

// answered is what came back.
type answered struct {
	status int
	body   []byte
	err    error
}

// ask makes a request as the public does.
func (s *several) ask(method, path, token string, body any) answered {
	return send(s.t.Context(), s.public, s.srv.URL, method, path, token, body)
}

// at makes a request at one process, in the edge's place.
func (s *several) at(process, method, path, token string, body any) answered {
	s.t.Helper()
	peer := s.peer(process, "edge")
	defer peer.HTTP.CloseIdleConnections()
	return send(s.t.Context(), peer.HTTP, peer.URL, method, path, token, body)
}

// peer is the way to one process, as another role has it.
func (s *several) peer(process, as string) *pki.Peer {
	s.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.srv.Dir, "roles", as))
	if err != nil {
		s.t.Fatal(err)
	}
	return id.Client("api", s.role(process).Address)
}

func send(ctx context.Context, c *http.Client, base, method, path, token string, body any) answered {
	var data io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return answered{err: err}
		}
		data = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, data)
	if err != nil {
		return answered{err: err}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return answered{err: err}
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, text, err}
}

func (s *several) must(want int, a answered) []byte {
	s.t.Helper()
	if a.err != nil || a.status != want {
		s.t.Fatalf("got %d %s %v, want %d", a.status, a.body, a.err, want)
	}
	return a.body
}

func (s *several) into(data []byte, v any) {
	s.t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		s.t.Fatalf("%s: %v", data, err)
	}
}

func (s *several) rows(path string) []map[string]any {
	s.t.Helper()
	var list struct{ D []map[string]any }
	s.into(s.must(http.StatusOK, s.ask("GET", path, s.srv.Admin.APIKey, nil)), &list)
	return list.D
}

func (s *several) role(name string) supervise.RoleStatus {
	s.t.Helper()
	status, err := supervise.Ask(context.Background(), supervise.Layout(s.srv.Dir))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range status.Roles {
		if r.Role == name {
			return r
		}
	}
	s.t.Fatalf("there is no role %s: %+v", name, status.Roles)
	return supervise.RoleStatus{}
}

// kill ends a process without a warning and waits until it is back.
func (s *several) kill(name string) {
	s.t.Helper()
	before := s.role(name)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	fleettest.Eventually(s.t, 30*time.Second, func() error {
		if r := s.role(name); r.PID == before.PID || r.State != supervise.Healthy {
			return fmt.Errorf("%s is %s %s", name, r.State, r.Why)
		}
		return nil
	})
}

// provisioningKey makes one.
func (s *several) provisioningKey() (key string) {
	s.t.Helper()
	s.into(s.must(http.StatusOK, s.ask("POST", fmt.Sprintf("/api-key/application/%d/provisioning", s.fleet.ID), s.srv.Admin.APIKey, api.NewKey{})), &key)
	return key
}

// register makes a device that the test plays itself.
func (s *several) register(uuid string) (made api.Registered) {
	s.t.Helper()
	s.into(s.must(http.StatusCreated, s.ask("POST", "/device/register", s.provisioningKey(), api.Register{
		Application: s.fleet.ID, UUID: api.DeviceUUID(uuid), DeviceType: "generic-amd64"})), &made)
	return made
}

// push makes a release as the builder does, without building anything, and gives the reference of its image.
func (s *several) push() (commit, image string) {
	s.t.Helper()
	return s.built(func(b api.Build, _ api.BuildImage) string { return fmt.Sprintf("sha256:%064x", b.ID) })
}

// built makes a release of an image that was built and stored.
func (s *several) built(stored func(api.Build, api.BuildImage) (digest string)) (commit, image string) {
	s.t.Helper()
	as := func(path string, body any, want int) []byte {
		peer := s.peer("api", "builder")
		defer peer.HTTP.CloseIdleConnections()
		return s.must(want, send(s.t.Context(), peer.HTTP, peer.URL, "POST", path, s.srv.Admin.APIKey, body))
	}
	var b api.Build
	s.into(as("/internal/v1/builds", api.BuildRequest{Slug: s.fleet.Slug}, http.StatusCreated), &b)
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	var images []api.BuildImage
	s.into(as(path+"/images", api.BuildImagesRequest{Services: []string{"web"}, Composition: json.RawMessage(`{"services":{"web":{}}}`)}, http.StatusOK), &images)
	digest := stored(b, images[0])
	result := api.BuildResult{Status: api.StatusSuccess, Images: []api.BuildImageResult{{ID: images[0].ID, Status: api.StatusSuccess, Digest: digest}}}
	as(path+"/finish", result, http.StatusBadRequest) // nobody can say where it comes from
	var err error
	if result.Statement, err = fleettest.Statement(s.t.Context(), s.srv.Dir, b.ID, images, result); err != nil {
		s.t.Fatal(err)
	}
	as(path+"/finish", result, http.StatusOK)
	return b.Commit, images[0].Location + "@" + digest
}

// boat is a real agent on an engine of the test's own.
type boat struct{ engine *enginetest.Engine }

// runs reports whether the newest image runs.
func (b *boat) runs(image string) error {
	var seen []string
	for _, box := range b.engine.Boxes() {
		if box.State == "running" && box.Image == image {
			return nil
		}
		seen = append(seen, box.Image+" "+box.State)
	}
	return fmt.Errorf("the device runs %v, not %s", seen, image)
}

func (s *several) launch() *boat {
	s.t.Helper()
	root, err := os.ReadFile(s.srv.CA)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.launchWith(map[string]any{
		"apiEndpoint": s.srv.URL, "apiKey": s.provisioningKey(), "applicationId": s.fleet.ID, "deviceType": "generic-amd64",
		"balenaRootCA": base64.StdEncoding.EncodeToString(root),
	})
}

// launchWith launches a device that is born with a config.json.
func (s *several) launchWith(born map[string]any) *boat {
	s.t.Helper()
	b, dir := &boat{engine: enginetest.New()}, s.t.TempDir()
	born["appUpdatePollInterval"] = 1000
	text, err := json.Marshal(born)
	if err != nil {
		s.t.Fatal(err)
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	ms := time.Millisecond
	a, err := agent.New(agent.Config{
		ConfigPath: config, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), CertsDir: filepath.Join(dir, "certs.d"),
		Engine: b.engine, Version: "v0.1.0-test", Log: slog.New(slog.DiscardHandler), Timing: agent.Timing{
			Register: remote.Backoff{Min: 100 * ms, Max: time.Second}, PollRetry: 100 * ms, ReportRetry: 100 * ms, ReportBusy: 100 * ms,
			ReportIdle: 500 * ms, Settle: 50 * ms, Steady: 200 * ms, ApplyRetry: 100 * ms, LogRetry: 100 * ms,
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Errorf("the agent: %v", err)
		}
	})
	return b
}

// TestTwoAPIProcesses has a device update while every process of the server that is not the edge is killed in turn. Somebody
// writes and somebody looks at pages all the time: nothing that was acknowledged is lost, and pages go on to be answered.
func TestTwoAPIProcesses(t *testing.T) {
	s := newSeveral(t)
	first, image := s.push()
	b := s.launch()
	b.engine.Publish(image)
	fleettest.Eventually(t, time.Minute, func() error { return b.runs(image) })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var busy sync.WaitGroup
	w, p := &writer{several: s}, &reader{several: s}
	busy.Go(func() { w.run(ctx) })
	busy.Go(func() { p.run(ctx) })
	s.kill("api")
	second, newer := s.push()
	b.engine.Publish(newer)
	s.kill("api-2")
	s.kill("bus")
	fleettest.Eventually(t, time.Minute, func() error { return b.runs(newer) })
	fleettest.Eventually(t, time.Minute, func() error {
		d := s.rows("/v7/device?$select=id,is_online&$expand=is_running__release($select=commit)&$orderby=id%20asc")[0]
		rel, _ := d["is_running__release"].([]any)
		if text := fmt.Sprint(rel); !strings.Contains(text, second) || d["is_online"] != true {
			return fmt.Errorf("the server says that the device runs %s (%s before, %s now), online %v", text, first, second, d["is_online"])
		}
		return nil
	})
	s.kill("api")
	s.kill("api-2")
	stop()
	busy.Wait()

	stored := map[string]bool{}
	for _, row := range s.rows(fmt.Sprintf("/v7/application_tag?$select=tag_key&$filter=application%%20eq%%20%d", s.fleet.ID)) {
		stored[fmt.Sprint(row["tag_key"])] = true
	}
	for _, key := range w.acknowledged {
		if !stored[key] {
			t.Errorf("the write %s was acknowledged and is lost", key)
		}
	}
	if len(w.acknowledged) < 50 || p.pages < 50 {
		t.Errorf("%d writes and %d pages: the test saw too little", len(w.acknowledged), p.pages)
	}
	for _, wrong := range append(w.wrong, p.wrong...) {
		t.Error(wrong)
	}
	if p.longest > 5*time.Second {
		t.Errorf("a page took %s", p.longest)
	}
	for _, name := range processes {
		if n := strings.Count(s.srv.Log(), "msg=request role="+name+" "); n < 20 {
			t.Errorf("the process %s took %d requests: the test saw too little", name, n)
		}
	}
	t.Logf("%d writes, %d of them on a second connection; %d pages, %d on a second connection, the slowest in %s",
		len(w.acknowledged), w.again, p.pages, p.again, p.longest.Round(time.Millisecond))
}

// writer writes rows, one after the other, and remembers which the server acknowledged.
type writer struct {
	*several
	acknowledged, wrong []string
	again               int
}

func (w *writer) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("w%d", n)
		for try := 0; ctx.Err() == nil; try++ {
			a := w.ask("POST", "/v7/application_tag", w.srv.Admin.APIKey, map[string]any{"application": w.fleet.ID, "tag_key": key, "value": "x"})
			if a.err != nil { // the process died with the connection
				w.again++
				continue
			}
			if a.status == http.StatusCreated || (try > 0 && a.status == http.StatusConflict) {
				w.acknowledged = append(w.acknowledged, key)
			} else {
				w.wrong = append(w.wrong, fmt.Sprintf("write %s: %d %s", key, a.status, a.body))
			}
			break
		}
	}
}

// reader looks at a page again and again.
type reader struct {
	*several
	pages, again int
	longest      time.Duration
	wrong        []string
}

func (r *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		a := r.ask("GET", "/v7/application?$select=app_name&$expand=owns__device($select=uuid,is_online)", r.srv.Admin.APIKey, nil)
		for a.err != nil && ctx.Err() == nil {
			r.again++
			a = r.ask("GET", "/v7/application?$select=app_name", r.srv.Admin.APIKey, nil)
		}
		if a.err == nil && a.status != http.StatusOK {
			r.wrong = append(r.wrong, fmt.Sprintf("page: %d %s", a.status, a.body))
		}
		r.pages++
		r.longest = max(r.longest, time.Since(began))
	}
}

// What happens at one process counts at the other: logs, revocations, failed logins, heartbeats.
func TestProcessesKnowOfEachOther(t *testing.T) {
	s := newSeveral(t)
	t.Run("logs", s.logsCross)
	t.Run("revocation", s.revocationCrosses)
	t.Run("heartbeat", s.heartbeatCrosses)
	t.Run("logins", s.loginsCross)
}

// follow opens a device's log at one process; lines come until the stream ends.
func (s *several) follow(t *testing.T, process, uuid string) (lines chan string) {
	t.Helper()
	peer := s.peer(process, "edge")
	req, err := http.NewRequestWithContext(t.Context(), "GET", peer.URL+"/device/v2/"+uuid+"/logs?stream=1&count=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.srv.Admin.APIKey)
	res, err := peer.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("follow: %s", res.Status)
	}
	lines = make(chan string, 1000)
	go func() {
		defer close(lines)
		defer func() { _ = res.Body.Close() }()
		for sc := bufio.NewScanner(res.Body); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	return lines
}

// logsCross has lines written at one process while the other's follower and the bus' process are there, and not there.
func (s *several) logsCross(t *testing.T) {
	uuid := strings.Repeat("1", 32)
	dev := s.register(uuid)
	lines := s.follow(t, "api-2", uuid)
	post := func(text string) {
		a := s.at("api", "POST", "/device/v2/"+uuid+"/logs", dev.APIKey, []api.LogLine{{Message: text, Timestamp: time.Now().UnixMilli()}})
		if a.err != nil || a.status != http.StatusCreated {
			t.Fatalf("log line: %d %s %v", a.status, a.body, a.err)
		}
	}
	heard := func(text string) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for {
			select {
			case line, open := <-lines:
				if !open {
					t.Fatalf("the stream ended before %q", text)
				}
				if strings.Contains(line, text) {
					return
				}
			case <-limit:
				t.Fatalf("%q never came to the other process", text)
			}
		}
	}
	post("ahoy")
	heard("ahoy")
	if err := syscall.Kill(s.role("bus").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		post(fmt.Sprintf("line %d.", n)) // acknowledged, while the bus comes back
	}
	for n := range 20 {
		heard(fmt.Sprintf("line %d.", n))
	}
	var kept []api.LogLine
	s.into(s.must(http.StatusOK, s.at("api-2", "GET", "/device/v2/"+uuid+"/logs", s.srv.Admin.APIKey, nil)), &kept)
	if len(kept) != 21 {
		t.Errorf("%d lines are kept, want 21", len(kept))
	}
}

func (s *several) revocationCrosses(t *testing.T) {
	uuid := strings.Repeat("2", 32)
	dev := s.register(uuid)
	state := "/device/v3/" + uuid + "/state"
	for _, process := range processes { // both know the key, in whatever caches they have
		s.must(http.StatusOK, s.at(process, "GET", state, dev.APIKey, nil))
	}
	lines := s.follow(t, "api-2", uuid)
	s.must(http.StatusOK, s.at("api", "DELETE", fmt.Sprintf("/v7/device(%d)", dev.ID), s.srv.Admin.APIKey, nil))
	gone := time.Now()
	for open := true; open; {
		select {
		case _, open = <-lines:
		case <-time.After(10 * time.Second):
			t.Fatal("the other process goes on to send the log of a deleted device")
		}
	}
	if d := time.Since(gone); d > 2*time.Second {
		t.Errorf("the stream at the other process ended after %s", d)
	}
	for _, process := range processes {
		fleettest.Eventually(t, 2*time.Second-time.Since(gone), func() error {
			if a := s.at(process, "GET", state, dev.APIKey, nil); a.status != http.StatusUnauthorized {
				return fmt.Errorf("%s answers a deleted device %d", process, a.status)
			}
			return nil
		})
	}
}

func (s *several) heartbeatCrosses(t *testing.T) {
	uuid := strings.Repeat("3", 32)
	dev := s.register(uuid)
	s.must(http.StatusOK, s.at("api-2", "GET", "/device/v3/"+uuid+"/state", dev.APIKey, nil))
	var list struct{ D []map[string]any }
	s.into(s.must(http.StatusOK, s.at("api", "GET", fmt.Sprintf("/v7/device(%d)?$select=is_online", dev.ID), s.srv.Admin.APIKey, nil)), &list)
	if len(list.D) != 1 || list.D[0]["is_online"] != true {
		t.Errorf("a device that has just polled at the other process is %v", list.D)
	}
}

func (s *several) loginsCross(t *testing.T) {
	login := func(process string) int {
		return s.at(process, "POST", "/login_", "", api.Login{Username: "mallory", Password: "guess"}).status
	}
	refused := 0
	for n := range 14 {
		if status := login(processes[n%2]); status == http.StatusTooManyRequests {
			refused++
		} else if status != http.StatusUnauthorized {
			t.Fatalf("login: %d", status)
		}
	}
	if refused != 4 { // ten may fail from one address, wherever they are counted
		t.Errorf("%d of 14 guesses were refused, want 4", refused)
	}
}
