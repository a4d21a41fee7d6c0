package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

const (
	fleetUUID = "11111111111111111111111111111111"
	commitA   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB   = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func ref(n int) string {
	return fmt.Sprintf("registry2.device.test/v2/%032x@sha256:%064x", n, n)
}

// release makes a target of one fleet with one release, whose services run the given images.
func release(commit string, services map[string]string, compositions map[string]string) api.DeviceTarget {
	rel := &api.ReleaseTarget{ID: int64(commit[0]), Services: map[string]*api.ServiceTarget{}, Volumes: map[string]json.RawMessage{"data": nil}}
	id := int64(1)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		image := services[name]
		rel.Services[name] = &api.ServiceTarget{ID: id, ImageID: id * 10, Image: image, Environment: map[string]string{"A": "b"}, Labels: map[string]string{}}
		if c := compositions[name]; c != "" {
			rel.Services[name].Composition = json.RawMessage(c)
		}
		id++
	}
	return api.DeviceTarget{Name: "a-name", Config: map[string]string{"RESIN_SUPERVISOR_POLL_INTERVAL": "1000"}, Apps: map[string]*api.AppTarget{
		fleetUUID: {ID: 7, Name: "fleet", Class: "fleet", Releases: map[string]*api.ReleaseTarget{commit: rel}},
	}}
}

// quick are waits for tests.
func quick() agent.Timing {
	ms := time.Millisecond
	return agent.Timing{
		Register: remote.Backoff{Min: 5 * ms, Max: 20 * ms}, PollRetry: 20 * ms, ReportRetry: 20 * ms, ReportBusy: 10 * ms, ReportIdle: 30 * ms,
		Settle: 10 * ms, Steady: 300 * ms, ApplyRetry: 10 * ms, LogRetry: 20 * ms, LogFlush: 10 * ms, UnmanagedFloor: 50 * ms,
	}
}

type device struct {
	dir    string
	config string
	key    string
	engine *enginetest.Engine
}

func newDevice(t *testing.T, w *world) *device {
	t.Helper()
	d := &device{dir: t.TempDir(), engine: enginetest.New()}
	d.config, d.key = w.config(d.dir, w.URL, nil)
	return d
}

func (d *device) settings() agent.Config {
	return agent.Config{
		ConfigPath: d.config, StateDir: filepath.Join(d.dir, "state"), RunDir: filepath.Join(d.dir, "run"), Engine: d.engine,
		CertsDir: filepath.Join(d.dir, "certs.d"), Version: "v0.1.0-test", Log: slog.New(slog.DiscardHandler), Timing: quick(),
	}
}

// run starts the agent; the function that it answers stops it and waits.
func (d *device) run(t *testing.T) (stop func()) {
	t.Helper()
	a, err := agent.New(d.settings())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (d *device) running() []string {
	var out []string
	for _, b := range d.engine.Boxes() {
		if b.State == "running" {
			service, _, _ := strings.Cut(b.Name, "_")
			out = append(out, service+" "+b.Name[strings.LastIndexByte(b.Name, '_')+1:][:1])
		}
	}
	slices.Sort(out)
	return out
}

func registered(w *world) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.devices) == 1
	}
}

func TestFirstBootUpdateAndOffline(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	stop := d.run(t)
	roletest.Eventually(t, "registered", registered(w))

	for n := range 4 {
		d.engine.Publish(ref(n))
	}
	w.setTarget(release(commitA, map[string]string{"web": ref(1), "writer": ref(2)}, map[string]string{
		"web": `{"depends_on":["writer"],"ports":["80:80"],"volumes":["data:/data:ro"]}`, "writer": `{"volumes":["data:/data","/etc:/etc"]}`,
	}))
	roletest.Eventually(t, "both run", func() bool { return slices.Equal(d.running(), []string{"web a", "writer a"}) })
	calls := d.engine.Calls()
	if slices.Index(calls, "start writer_20_97_"+commitA) > slices.Index(calls, "start web_10_97_"+commitA) {
		t.Errorf("web started before the writer it depends on: %v", calls)
	}
	roletest.Eventually(t, "reported", func() bool {
		r := w.reported()
		app := r.Apps[fleetUUID]
		return app != nil && app.ReleaseUUID == commitA && app.Releases[commitA].UpdateStatus == "done" &&
			w.serviceStatus(fleetUUID, commitA, "web") == "Running" && slices.Equal(r.UnsupportedFeatures, []string{"writer.volumes[1]"})
	})
	roletest.Eventually(t, "the refused mount is in the log", func() bool { return w.logged(`writer.volumes[1]: the bind mount of "/etc" is refused`) })
	if ca, err := os.ReadFile(filepath.Join(d.dir, "certs.d", "registry2.device.test", "ca.crt")); err != nil || string(ca) != string(w.Root) {
		t.Errorf("the engine was not told whom to trust: %v", err)
	}
	web := ""
	for name := range d.engine.Boxes() {
		if strings.HasPrefix(name, "web_") {
			web = name
		}
	}
	d.engine.Say(web, engine.Line{Text: "hello from web", Time: time.Now()})
	roletest.Eventually(t, "the container's line arrives", func() bool { return w.logged("hello from web") })

	t.Log("an update whose image cannot be pulled leaves the old release running")
	w.setTarget(release(commitB, map[string]string{"web": ref(9), "writer": ref(2)}, nil))
	roletest.Eventually(t, "downloading", func() bool {
		return w.serviceStatus(fleetUUID, commitB, "web") == "Downloading" && w.serviceStatus(fleetUUID, commitA, "web") == "Running"
	})
	if got := d.running(); !slices.Equal(got, []string{"web a", "writer a"}) {
		t.Errorf("running %v while the image is missing", got)
	}
	d.engine.Publish(ref(9))
	roletest.Eventually(t, "the new release", func() bool { return slices.Equal(d.running(), []string{"web b", "writer b"}) })
	roletest.Eventually(t, "the old image is gone", func() bool {
		images, _ := d.engine.Images(t.Context())
		return !slices.Contains(images, ref(1)) && slices.Contains(images, ref(2))
	})

	t.Log("without a server it starts what it knows")
	stop()
	w.setAnswer(func(*http.Request) int { return http.StatusServiceUnavailable })
	d.engine = enginetest.New(ref(9), ref(2)) // as after the engine's data was lost
	d.run(t)
	roletest.Eventually(t, "running without a server", func() bool { return slices.Equal(d.running(), []string{"web b", "writer b"}) })
}

func TestSecondAgentIsRefused(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	for name, change := range map[string]func(*agent.Config){
		"same files":  func(*agent.Config) {},
		"same config": func(c *agent.Config) { c.StateDir = t.TempDir() },
	} {
		c := d.settings()
		change(&c)
		second, err := agent.New(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Run(t.Context()); !errors.Is(err, agent.ErrRunning) {
			t.Errorf("%s: got %v, want ErrRunning", name, err)
		}
	}
	if w.count() != 1 {
		t.Errorf("%d devices", w.count())
	}
}

func TestDeletedDeviceKeepsRunning(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return len(d.running()) == 1 })
	w.mu.Lock()
	clear(w.devices)
	before := w.states
	w.mu.Unlock()
	refused := make(chan struct{}, 100)
	w.setAnswer(func(r *http.Request) int {
		if r.Method == http.MethodGet {
			refused <- struct{}{}
		}
		return http.StatusUnauthorized
	})
	<-refused
	<-refused
	if len(d.running()) != 1 || before == 0 {
		t.Error("it stopped what ran")
	}
}

func TestWrongRootIsNotTrusted(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	d := &device{dir: t.TempDir(), engine: enginetest.New()}
	w.Root = other.Root
	d.config, d.key = w.config(d.dir, w.URL, nil)
	var heard atomic.Bool
	w.setAnswer(func(*http.Request) int { heard.Store(true); return 500 })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	a, err := agent.New(d.settings())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx); err == nil {
		t.Error("no error")
	}
	if heard.Load() {
		t.Error("it talked with a server that it must not trust")
	}
}

func TestContainerThatEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return w.serviceStatus(fleetUUID, commitA, "web") == "Running" })
	d.engine.End("web_10_97_" + commitA)
	roletest.Eventually(t, "it was said to have exited", func() bool { return w.saidOnce(`"exited"`) }) // for a moment only
	roletest.Eventually(t, "running again, when it has run for a while", func() bool {
		return w.serviceStatus(fleetUUID, commitA, "web") == "Running"
	})
}

func TestStoppedByHandIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return len(d.running()) == 1 })
	if err := d.engine.Stop(t.Context(), "web_10_97_"+commitA); err != nil {
		t.Fatal(err)
	}
	roletest.Eventually(t, "running again", func() bool { return len(d.running()) == 1 })
}

func TestNewContainerThatDoesNotStartGivesWayToTheOld(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	d.engine.Publish(ref(2))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return len(d.running()) == 1 })
	d.engine.Refuse("start web_10_98_"+commitB, errors.New("port is taken"))
	w.setTarget(release(commitB, map[string]string{"web": ref(2)}, nil))
	roletest.Eventually(t, "tried", func() bool { return w.logged("port is taken") })
	roletest.Eventually(t, "the old one runs", func() bool { return slices.Equal(d.running(), []string{"web a"}) })
	d.engine.Refuse("start web_10_98_"+commitB, nil)
	roletest.Eventually(t, "the new one", func() bool { return slices.Equal(d.running(), []string{"web b"}) })
}

func TestBadTargetIsRejectedAndNothingChanges(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return len(d.running()) == 1 })
	w.setTarget(release(commitB, map[string]string{"web": ref(1)}, map[string]string{"web": `{"ports":["a:b"]}`}))
	roletest.Eventually(t, "rejected", func() bool {
		app := w.reported().Apps[fleetUUID]
		return app != nil && app.Releases[commitB] != nil && app.Releases[commitB].UpdateStatus == "rejected" && app.ReleaseUUID == commitA
	})
	roletest.Eventually(t, "said why", func() bool { return w.logged(`services.web.ports: [0]: "b" is not a port`) })
	if got := d.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("running %v", got)
	}
}

func TestReportsOnlyWhatChanged(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	w.setTarget(release(commitA, map[string]string{"web": ref(1)}, nil))
	roletest.Eventually(t, "running", func() bool { return w.serviceStatus(fleetUUID, commitA, "web") == "Running" })
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.devices {
		for i, body := range k.raw {
			if i > 0 && strings.Contains(body, "os_version") {
				t.Errorf("report %d repeats what did not change: %s", i, body)
			}
		}
	}
}

func TestPollIsANotModified(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "three polls", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.states >= 3
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full != 1 {
		t.Errorf("%d of %d polls were answered in full", w.full, w.states)
	}
}

func apiEmpty() api.DeviceTarget {
	return api.DeviceTarget{Name: "a-name", Config: map[string]string{"RESIN_SUPERVISOR_POLL_INTERVAL": "1000"}, Apps: map[string]*api.AppTarget{}}
}

// TestSystemsAreNotRun: what a target says of the operating system and of balena's supervisor is for others on the device.
func TestSystemsAreNotRun(t *testing.T) {
	w := newWorld(t)
	d := newDevice(t, w)
	d.run(t)
	roletest.Eventually(t, "registered", registered(w))
	d.engine.Publish(ref(1))
	d.engine.Publish(ref(2))
	target := release(commitA, map[string]string{"web": ref(1)}, nil)
	for uuid, system := range map[string]*api.AppTarget{
		strings.Repeat("d", 32): {ID: 8, Name: "amd64-supervisor", Class: "app"}, strings.Repeat("e", 32): {ID: 9, Name: "generic-amd64", Class: "app", IsHost: true},
	} {
		system.Releases = release(commitB, map[string]string{"main": ref(2)}, nil).Apps[fleetUUID].Releases
		target.Apps[uuid] = system
	}
	w.setTarget(target)
	roletest.Eventually(t, "the fleet's own runs", func() bool { return w.serviceStatus(fleetUUID, commitA, "web") == "Running" })
	if got := d.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("running %v, want only what is the fleet's", got)
	}
}
