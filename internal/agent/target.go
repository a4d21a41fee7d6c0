package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/host"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// desired is a target state in the form that the planner takes.
type desired struct {
	device  *api.DeviceTarget
	target  plan.Target
	commits map[string]string // fleet → commit
	apps    []composition.App // with the release that is wanted, if any
	leftOut []composition.LeftOut
}

var (
	imageRule  = pattern.New(`^[a-z0-9.-]+(:[0-9]+)?/[a-z0-9/._-]+@sha256:[0-9a-f]{64}$`)
	commitRule = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,127}$`) // no underscore: it separates the parts of a container's name
)

// defaultPollInterval holds until a target state or config.json says otherwise.
const defaultPollInterval = 15 * time.Minute

// interval is the time between polls.
func (a *Agent) interval() time.Duration {
	a.mu.Lock()
	want := a.st.want
	a.mu.Unlock()
	ms := a.conf.AppUpdatePollInterval
	if n, err := strconv.ParseInt(setting(want, "SUPERVISOR_POLL_INTERVAL"), 10, 64); err == nil && n > 0 {
		ms = n
	}
	if ms <= 0 {
		return defaultPollInterval
	}
	return min(max(time.Duration(ms)*time.Millisecond, time.Second), 24*time.Hour)
}

// setting reads a configuration variable: its BALENA_ name wins over its RESIN_ name.
func setting(want *desired, name string) string {
	if want == nil {
		return ""
	}
	if val, ok := want.device.Config["BALENA_"+name]; ok {
		return val
	}
	return want.device.Config["RESIN_"+name]
}

// poll asks for the target state for ever.
func (a *Agent) poll(ctx context.Context) error {
	retry := remote.Backoff{Min: a.cfg.Timing.PollRetry}
	unmanaged := remote.Backoff{Min: max(a.interval(), a.cfg.Timing.UnmanagedFloor), Max: time.Hour}
	for {
		err := a.pollOnce(ctx)
		interval := a.interval()
		wait := remote.Jitter(interval+interval/20, 0.1) // a twentieth more or less
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			retry.Reset()
			unmanaged.Reset()
			a.mu.Lock()
			a.st.polled = time.Now()
			forced := a.st.forcePoll
			a.st.forcePoll = false
			a.mu.Unlock()
			if forced {
				a.again()
			}
			a.tell(ctx)
			wait = a.waiting.sooner(wait)
			a.confMu.Lock()
			_ = a.birth.Finish(a.who) // it has logged the error, and is called again
			a.confMu.Unlock()
		case remote.StatusOf(err) == http.StatusUnauthorized:
			wait = unmanaged.Next()
			a.log.Error("the server does not know this device any more; what runs keeps running", "error", err, "again_in", wait.Round(time.Second))
		default:
			retry.Max = interval
			wait = remote.Wait(min(retry.Next(), interval), err)
			a.log.Warn("could not poll", "error", err, "again_in", wait.Round(time.Millisecond))
		}
		if !a.untilPoll(ctx, wait) {
			return nil
		}
	}
}

// least is the time between two polls, whoever wants the next one.
const least = time.Second

// untilPoll waits until the next poll is due or wanted, or for the end, which it answers with false.
func (a *Agent) untilPoll(ctx context.Context, wait time.Duration) bool {
	if remote.Sleep(ctx, min(wait, least)) != nil {
		return false
	}
	t := time.NewTimer(max(wait-least, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-a.pollNow:
	}
	return true
}

// pollOnce fetches the target state and, when it is a new one, hands it to the applier.
func (a *Agent) pollOnce(ctx context.Context) error {
	a.mu.Lock()
	before := a.st.etag
	a.mu.Unlock()
	have := before
	if a.waiting.refused { // the tag may be the server's, and what came with it somebody else's: "not modified" would leave it so
		have = ""
	}
	text, etag, err := a.server.Target(ctx, a.who.UUID, a.who.Key, have)
	switch {
	case err != nil:
		return err
	case text == nil:
		a.renew(ctx)
		return nil
	case etag != before || etag == "":
		a.queue.Poke() // an action that begins to wait makes a new tag
	}
	a.waiting.checked = false
	want, err := a.understand(text)
	if err == nil {
		err = a.verify(ctx, want)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		// Nothing changes on the device. The file keeps the target that works; the next start will see this one again.
		a.reject(etag, text, err)
		return nil
	}
	a.waiting.refused = false
	if err := a.store.change(func(m *memory) {
		m.ETag, m.Target = etag, text
		if m.NameAtInit == "" {
			m.NameAtInit = want.device.Name
		}
	}); err != nil {
		return err
	}
	a.take(want, etag)
	a.log.Info("new target state", "releases", want.commits)
	return nil
}

// remember takes the target state of the last run.
func (a *Agent) remember() error {
	m := a.store.get()
	if len(m.Target) == 0 {
		return nil
	}
	want, err := a.understand(m.Target)
	if err == nil && a.checks != nil {
		err = a.checks.Remembered(want.device)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.st.applied = maps.Clone(m.Applied)
	a.mu.Unlock()
	a.take(want, m.ETag)
	return nil
}

// take makes a target state the wanted one. A download for the one before ends.
func (a *Agent) take(want *desired, etag string) {
	a.mu.Lock()
	before := a.st.want
	a.st.want, a.st.etag, a.st.rejected, a.st.omitOld = want, etag, nil, false
	maps.DeleteFunc(a.st.stopped, func(key string, _ bool) bool { // another release, another start
		app, _, _ := strings.Cut(key, "/")
		return before == nil || before.commits[app] != want.commits[app]
	})
	if a.st.cancelPulls != nil {
		a.st.cancelPulls()
	}
	a.mu.Unlock()
	if before == nil || !slices.Equal(before.leftOut, want.leftOut) {
		for _, l := range want.leftOut {
			a.log.Warn("left out", "field", l.Field, "reason", l.Reason)
			a.logs.system(fmt.Sprintf("Left out of the release: %s: %s", l.Field, l.Reason))
		}
	}
	if a.channel != nil {
		a.channel.Set(want.device.Config)
	}
	poke(a.wake)
	poke(a.dirty)
}

// rejectedOf reads of a target state that cannot be used which releases it was about.
func rejectedOf(uuid api.DeviceUUID, text []byte) map[string]string {
	var all api.TargetState
	if json.Unmarshal(text, &all) != nil || all[uuid] == nil {
		return nil
	}
	out := map[string]string{}
	for app, t := range all[uuid].Apps {
		if t != nil {
			for commit := range t.Releases {
				out[app] = commit
			}
		}
	}
	return out
}

// understand checks a target state and translates it. A part of it that is wrong makes all of it unusable: a device never
// runs half a release.
func (a *Agent) understand(text []byte) (*desired, error) {
	var all api.TargetState
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	mine := all[a.who.UUID]
	if mine == nil {
		return nil, errors.New("the target state is not about this device")
	}
	want := &desired{device: mine, target: plan.Target{Apps: map[string]bool{}}, commits: map[string]string{}}
	for _, uuid := range slices.Sorted(maps.Keys(mine.Apps)) {
		app := mine.Apps[uuid]
		if app == nil || app.IsHost || app.Class == "app" {
			continue // the operating system, and balena's supervisor for it, are not ours to update
		}
		if !composition.ValidName(uuid) {
			return nil, fmt.Errorf("%q is not the uuid of a fleet", uuid)
		}
		want.target.Apps[uuid] = true
		want.apps = append(want.apps, composition.App{ID: app.ID, UUID: uuid, Name: app.Name})
		for _, commit := range slices.Sorted(maps.Keys(app.Releases)) {
			if app.Releases[commit] == nil || want.commits[uuid] != "" {
				continue
			}
			if !commitRule.MatchString(commit) {
				return nil, fmt.Errorf("%q is not a release", commit)
			}
			want.commits[uuid] = commit
			id := composition.App{ID: app.ID, UUID: uuid, Name: app.Name, ReleaseID: app.Releases[commit].ID, Commit: commit}
			want.apps[len(want.apps)-1] = id
			if err := a.addRelease(want, id, app.Releases[commit]); err != nil {
				return nil, err
			}
		}
	}
	if slices.ContainsFunc(want.target.Services, func(s plan.Service) bool { return s.Spec.Networks[composition.APINetworkName] != nil }) {
		want.target.Networks = append(want.target.Networks, composition.APINetwork())
	}
	return want, nil
}

func (a *Agent) addRelease(want *desired, app composition.App, rel *api.ReleaseTarget) error {
	networks, volumes := map[string]bool{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(rel.Services)) {
		t := rel.Services[name]
		if t == nil {
			continue
		}
		if !imageRule.MatchString(t.Image) {
			return fmt.Errorf("services.%s.image: %q is not an image by digest", name, t.Image)
		}
		svc, err := composition.ForService(a.device(want.device.Name), app, name, t)
		if err != nil {
			return err
		}
		want.target.Services = append(want.target.Services, plan.Service{App: app, Service: svc})
		want.leftOut = append(want.leftOut, svc.LeftOut...)
		for _, n := range svc.Networks {
			networks[n] = true
		}
		for _, v := range svc.Volumes {
			volumes[v] = true
		}
	}
	for name := range rel.Networks {
		networks[name] = networks[name] || name != "default"
	}
	for name := range rel.Volumes {
		volumes[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		if !networks[name] {
			continue // nobody joins the default network
		}
		n, leftOut, err := composition.ForNetwork(app, name, rel.Networks[name])
		if err != nil {
			return err
		}
		want.target.Networks = append(want.target.Networks, n)
		want.leftOut = append(want.leftOut, leftOut...)
	}
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		v, leftOut, err := composition.ForVolume(app, name, rel.Volumes[name])
		if err != nil {
			return err
		}
		want.target.Volumes = append(want.target.Volumes, v)
		want.leftOut = append(want.leftOut, leftOut...)
	}
	return nil
}

func (a *Agent) device(nameNow string) composition.Device {
	name := nameNow
	if m := a.store.get(); m.NameAtInit != "" {
		name = m.NameAtInit
	}
	var keyOf func(string) string
	if a.keys != nil {
		keyOf = a.keys.Fleet
	}
	return composition.Device{
		APIKeyOf: keyOf, UUID: a.who.UUID, Name: name, Type: a.conf.DeviceType, Arch: host.Arch(), OSVersion: a.osName,
		APIKey: a.told(), APIURL: a.conf.APIEndpoint, EngineSocket: a.cfg.EngineSocket,
		SharedDir: filepath.Join(a.cfg.RunDir, "services"),
		Exists: func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		},
	}
}

// trust makes the engine accept the registry that an image comes from.
func (a *Agent) trust(ref string) error {
	if len(a.root) == 0 {
		return nil
	}
	registry, _, _ := strings.Cut(ref, "/")
	return engine.Trust(a.cfg.CertsDir, registry, a.root)
}
