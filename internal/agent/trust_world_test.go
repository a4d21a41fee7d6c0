package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

const commitC = "cccccccccccccccccccccccccccccccc"

// bundle serves the metadata of a fleet to a device.
func (w *world) bundle(rw http.ResponseWriter, r *http.Request) {
	var have api.TrustHave
	if err := json.NewDecoder(r.Body).Decode(&have); err != nil {
		http.Error(rw, "bad question", http.StatusBadRequest)
		return
	}
	uuid := api.DeviceUUID(r.PathValue("uuid"))
	w.mu.Lock()
	ok := w.allowed(rw, r, uuid) != nil
	fleet, instead := w.fleets[have.Fleet], w.instead
	w.mu.Unlock()
	switch {
	case !ok:
	case instead != nil:
		instead(rw)
	case fleet == nil:
		http.Error(rw, "no such fleet", http.StatusNotFound)
	default:
		_ = json.NewEncoder(rw).Encode(fleet.Answer(uuid, have)) // the device may be gone
	}
}

func (w *world) trustReport(rw http.ResponseWriter, r *http.Request) {
	var report api.TrustReport
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
		http.Error(rw, "bad report", http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allowed(rw, r, api.DeviceUUID(r.PathValue("uuid"))) != nil {
		w.checked = append(w.checked, report)
	}
}

// exchange gives what waits, and hears results.
func (w *world) exchange(rw http.ResponseWriter, r *http.Request) {
	var said api.ActionExchange
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		http.Error(rw, "bad exchange", http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := api.ActionsWaiting{Actions: []api.QueuedAction{}}
	if w.results == nil {
		w.results = map[int64]api.ActionResult{}
	}
	for _, res := range said.Results {
		w.results[res.ID] = res
		out.Heard = append(out.Heard, res.ID)
	}
	for _, a := range w.queued {
		if _, over := w.results[a.ID]; !over {
			out.Actions = append(out.Actions, a)
		}
	}
	_ = json.NewEncoder(rw).Encode(out) // the device may be gone
}

func (w *world) queue(actions ...api.QueuedAction) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queued = append(w.queued, actions...)
}

// became is what the device said of an action; the state is empty until it did.
func (w *world) became(id int64) api.ActionResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.results[id]
}

// said is the newest report of the checks.
func (w *world) said() api.TrustReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.checked) == 0 {
		return api.TrustReport{}
	}
	return w.checked[len(w.checked)-1]
}

func (w *world) setInstead(f func(http.ResponseWriter)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instead = f
}

// text is what a logger wrote.
type text struct {
	mu sync.Mutex // covers what follows
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) has(part string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Contains(t.b.String(), part)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// clock is the wall clock of device and signers, which a test sets.
type clock struct {
	mu     sync.Mutex // covers what follows
	server time.Duration
	device time.Duration
}

func (c *clock) ofServer() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.server)
}

func (c *clock) ofDevice() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.device)
}

func (c *clock) set(server, device time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.device = server, device
}

// verifying is a device that verifies, with a server of metadata.
type verifying struct {
	*device
	t     *testing.T
	w     *world
	fleet *trusttest.Fleet
	log   *text
	clock *clock
	agent *agent.Agent
	names chan string // that the host was given
}

// newVerifying starts one that runs the release A.
func newVerifying(t *testing.T, change func(*trusttest.Fleet)) *verifying {
	t.Helper()
	v := prepared(t, change)
	v.start()
	v.release(commitA, 1)
	v.runs("a")
	roletest.Eventually(t, "it says that it verified", func() bool { return v.w.said().State == api.TrustVerified && v.w.said().Commit == commitA })
	return v
}

// prepared is one that was not started yet.
func prepared(t *testing.T, change func(*trusttest.Fleet)) *verifying {
	t.Helper()
	v := &verifying{t: t, w: newWorld(t), fleet: trusttest.New(fleetUUID), log: &text{}, clock: &clock{}, names: make(chan string, 10)}
	v.fleet.Now = v.clock.ofServer
	v.fleet.Change, v.fleet.Channel = nil, &api.TrustChannel{Wanted: true}
	if change != nil {
		change(v.fleet)
	}
	v.fleet.Rotate()
	v.w.fleets = map[string]*trusttest.Fleet{fleetUUID: v.fleet}
	v.device = newDevice(t, v.w)
	v.config, v.key = v.w.config(v.dir, v.w.URL, map[string]any{"roadsteadTrust": v.fleet.Given()})
	for n := range 9 {
		v.engine.Publish(ref(n))
	}
	return v
}

// start runs the agent; the function that it answers ends it.
func (v *verifying) start() (stop func()) {
	v.t.Helper()
	conf := v.settings()
	conf.Log, conf.Now = slog.New(slog.NewTextHandler(v.log, nil)), v.clock.ofDevice
	conf.Channel = &agent.Channel{Locked: true}
	conf.SetHostname = func(name string) error { v.names <- name; return nil }
	a, err := agent.New(conf)
	if err != nil {
		v.t.Fatal(err)
	}
	v.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			v.t.Errorf("Run: %v", err)
		}
	})
	v.t.Cleanup(stop)
	roletest.Eventually(v.t, "registered", registered(v.w))
	return stop
}

// target is a release whose only service runs the image of that number.
func target(commit string, image int) api.DeviceTarget {
	return release(commit, map[string]string{"web": ref(image)}, map[string]string{"web": `{"ports":["80:80"],"privileged":false}`})
}

func releaseOf(target api.DeviceTarget, commit string) *api.ReleaseTarget {
	return target.Apps[fleetUUID].Releases[commit]
}

// build lists a release as the builder does, and publishes it; the device is not told.
func (v *verifying) build(commit string, image int) int64 {
	v.t.Helper()
	counter := v.fleet.Build(commit, releaseOf(target(commit, image), commit))
	v.fleet.Publish()
	return counter
}

// release builds one and tells the device to run it.
func (v *verifying) release(commit string, image int) {
	v.t.Helper()
	v.build(commit, image)
	v.w.setTarget(target(commit, image))
}

// runs waits until the device runs a release, named by the first letter of its commit, and nothing else.
func (v *verifying) runs(letter string) {
	v.t.Helper()
	defer func() {
		if v.t.Failed() {
			v.t.Logf("runs %v; its log:\n%s", v.running(), v.log)
		}
	}()
	roletest.Eventually(v.t, "runs the release "+letter, func() bool { return slices.Equal(v.running(), []string{"web " + letter}) })
}

// refuses waits until the device says that it refuses something for that reason, and looks that it still runs what it ran.
func (v *verifying) refuses(still, reason string, words ...string) {
	v.t.Helper()
	defer func() {
		if v.t.Failed() {
			v.t.Logf("runs %v; said %+v; its log:\n%s", v.running(), v.w.said(), v.log)
		}
	}()
	roletest.Eventually(v.t, "a refusal for the reason "+reason, func() bool {
		r := v.w.said().Rejection
		return r != nil && r.Reason == reason
	})
	r := *v.w.said().Rejection
	all := strings.Join([]string{r.What, r.Key, r.Expected, r.Got}, " | ")
	for _, word := range words {
		if !strings.Contains(all, word) {
			v.t.Errorf("the refusal does not say %q: %+v", word, r)
		}
	}
	roletest.Eventually(v.t, "its log says so", func() bool { return v.log.has("reason="+reason) && v.w.logged("Could not move to new release") })
	if still != "" && !slices.Equal(v.running(), []string{"web " + still}) {
		v.t.Errorf("runs %v after a refusal, want the release %s still", v.running(), still)
	}
}

// asked waits until the device has asked for metadata n times more.
func (v *verifying) asked(n int) {
	v.t.Helper()
	before := len(v.fleet.Asked())
	roletest.Eventually(v.t, "it asks again", func() bool { return len(v.fleet.Asked()) >= before+n })
}

func (v *verifying) trustDir() string {
	return trust.Dir(filepath.Join(v.dir, "state"), fleetUUID)
}
