package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// apply brings the device to its target state, again and again: when there is a new one, when a container changes, and after
// a failure with growing waits.
func (a *Agent) apply(ctx context.Context) error {
	retry := remote.Backoff{Min: a.cfg.Timing.ApplyRetry}
	var last *desired
	epoch := 0
	for {
		a.mu.Lock()
		want := a.st.want
		if want != last || epoch != a.st.epoch {
			retry.Reset()
		}
		last, epoch = want, a.st.epoch
		a.mu.Unlock()
		wait := time.Duration(-1) // until woken
		err := a.reconcile(ctx)
		a.mu.Lock()
		a.st.failed = err != nil
		a.mu.Unlock()
		if a.bridge != nil && want != nil {
			a.bridge.ensure(ctx, want)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			retry.Max = max(a.interval(), 10*time.Second)
			wait = retry.Next()
			a.log.Error("could not apply the target state", "error", err, "again_in", wait.Round(time.Millisecond))
			a.logs.system(fmt.Sprintf("Could not apply the target state, retrying in %s: %v", wait.Round(time.Second), err))
		} else {
			retry.Reset()
			wait = a.nextLook()
		}
		if !a.pause(ctx, wait, retry.Failures() > 0) {
			return nil
		}
	}
}

// pause waits for the time, for a reason to look, or for the end, which it answers with false. After a failure only a new
// target state is a reason: what changes on the engine is mostly our own doing.
func (a *Agent) pause(ctx context.Context, wait time.Duration, failed bool) bool {
	var timeout <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	a.mu.Lock()
	before, epoch := a.st.want, a.st.epoch
	a.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timeout:
			return true
		case <-a.wake:
			a.mu.Lock()
			fresh := a.st.want != before || a.st.epoch != epoch
			a.mu.Unlock()
			if fresh || !failed {
				return true
			}
		}
	}
}

// reconcile plans and acts until nothing is left to do.
func (a *Agent) reconcile(ctx context.Context) error {
	for range 10 { // a plan that never ends is a fault; it goes on at the next occasion
		a.mu.Lock()
		want, epoch := a.st.want, a.st.epoch
		a.mu.Unlock()
		if want == nil {
			return nil
		}
		cur, err := a.observe(ctx)
		if err != nil {
			return err
		}
		p := plan.Make(cur, a.withStopped(want.target))
		if len(p.Steps) == 0 {
			return a.finish(want, p)
		}
		a.mu.Lock()
		a.st.update = updateStatus(p)
		a.st.busy = time.Now()
		a.mu.Unlock()
		poke(a.dirty)
		if err := a.execute(ctx, want, epoch, p.Steps); err != nil {
			a.mu.Lock()
			a.st.doing = map[string]string{}
			a.mu.Unlock()
			return err
		}
	}
	return nil
}

// withStopped marks the services that somebody stopped.
func (a *Agent) withStopped(target plan.Target) plan.Target {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.st.stopped) == 0 {
		return target
	}
	target.Services = slices.Clone(target.Services)
	for i, svc := range target.Services {
		target.Services[i].Stopped = a.st.stopped[svc.App.UUID+"/"+svc.Name]
	}
	return target
}

func updateStatus(p plan.Plan) string {
	if slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return s.Kind == plan.Pull }) {
		return "downloading"
	}
	return "applying changes"
}

// finish notes that the target state is reached, but for services that wait for others.
func (a *Agent) finish(want *desired, p plan.Plan) error {
	if len(p.Waiting) > 0 {
		return nil
	}
	if a.gate != nil {
		a.gate.Forget() // also what came of images that are not wanted any more
	}
	a.mu.Lock()
	if a.st.update != "done" {
		a.st.update, a.st.busy = "done", time.Now()
		poke(a.dirty)
	}
	if !a.st.forcePoll {
		a.st.force = false
	}
	a.st.pulls = map[string]int{}
	a.st.applied = want.commits
	a.mu.Unlock()
	return a.store.change(func(m *memory) { m.Applied = want.commits })
}

// observe lists what is on the engine.
func (a *Agent) observe(ctx context.Context) (plan.Current, error) {
	var cur plan.Current
	err := a.cfg.Engine.Ping(ctx)
	if err == nil {
		err = a.refresh(ctx)
	}
	if err == nil {
		cur.Networks, err = a.cfg.Engine.Networks(ctx)
	}
	if err == nil {
		cur.Volumes, err = a.cfg.Engine.Volumes(ctx)
	}
	var images []string
	if err == nil {
		images, err = a.cfg.Engine.Images(ctx)
	}
	if err != nil {
		return cur, err
	}
	cur.Images = map[string]bool{}
	for _, ref := range images {
		cur.Images[ref] = true
	}
	cur.Pulled = slices.DeleteFunc(a.store.get().Pulled, func(ref string) bool { return !cur.Images[ref] })
	cur.Held = map[string]bool{}
	a.mu.Lock()
	defer a.mu.Unlock()
	cur.Containers = a.st.containers
	a.st.images = cur.Images
	now := time.Now()
	for id, r := range a.st.restarts {
		cur.Held[id] = now.Before(r.next)
	}
	return cur, nil
}

// refresh lists the containers, for the report and for the logs.
func (a *Agent) refresh(ctx context.Context) error {
	list, err := a.cfg.Engine.Containers(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.st.containers = list
	a.mu.Unlock()
	a.logs.follow(list)
	poke(a.dirty)
	return nil
}

// parallel is how many steps of one kind run at once; all others run one by one.
var parallel = map[plan.Kind]int{plan.Pull: 3, plan.Stop: 4}

// execute does the steps in order and ends at the first that fails, or when the target state is not the wanted one any more. Nobody else
// changes containers during a step, but for a download; when somebody did between two, the rest of the plan is void. From the first
// container that ends it holds the update locks of that container's fleet.
func (a *Agent) execute(ctx context.Context, want *desired, epoch int, steps []plan.Step) error {
	unlock := func() {}
	defer func() { unlock() }()
	locked := false
	void := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.st.want != want || a.st.epoch != epoch
	}
	for len(steps) > 0 {
		n := 1
		for n < len(steps) && parallel[steps[0].Kind] > 0 && steps[n].Kind == steps[0].Kind {
			n++
		}
		release := func() {}
		if steps[0].Kind != plan.Pull {
			var err error
			if release, err = a.hold(ctx); err != nil {
				return err
			}
		}
		if void() {
			release()
			return nil
		}
		if kind := steps[0].Kind; !locked && (kind == plan.Stop || kind == plan.Remove) {
			var err error
			if unlock, err = a.locks().Take(a.lockable(want, ending(steps)), a.overridden(want)); err != nil {
				unlock = func() {}
				release()
				return err
			}
			locked = true
		}
		err := a.together(ctx, steps[:n])
		release()
		if err != nil && !void() {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// ending are the fleets of which steps end a container.
func ending(steps []plan.Step) map[string]bool {
	out := map[string]bool{}
	for _, s := range steps {
		if s.Kind == plan.Stop || s.Kind == plan.Remove {
			out[s.App] = true
		}
	}
	return out
}

// together does steps of one kind, those that may run at once.
func (a *Agent) together(ctx context.Context, steps []plan.Step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kind := steps[0].Kind
	if kind == plan.Pull {
		a.mu.Lock()
		a.st.cancelPulls = cancel
		a.mu.Unlock()
		defer func() {
			a.mu.Lock()
			a.st.cancelPulls = nil
			a.mu.Unlock()
		}()
	}
	var group errgroup.Group
	group.SetLimit(max(1, parallel[kind]))
	for _, s := range steps {
		group.Go(func() error { return a.do(ctx, s) })
	}
	return group.Wait()
}

// do is one step.
func (a *Agent) do(ctx context.Context, s plan.Step) error {
	e := a.cfg.Engine
	switch s.Kind {
	case plan.Pull:
		return a.pull(ctx, s)
	case plan.CreateVolume:
		return e.CreateVolume(ctx, *s.Volume)
	case plan.CreateNetwork:
		err := e.CreateNetwork(ctx, *s.Network)
		if want := a.wanted(); err == nil && a.bridge != nil && want != nil && s.Network.Name == composition.APINetworkName {
			a.bridge.ensure(ctx, want) // before a container asks
		}
		return err
	case plan.Create:
		defer a.doing(s, "Installing")()
		_, err := e.Create(ctx, *s.Spec)
		return err
	case plan.Stop:
		a.logs.system(fmt.Sprintf("Killing service '%s'", s.Service))
		defer a.doing(s, "Stopping")()
		return e.Stop(ctx, s.Container)
	case plan.Start:
		return a.start(ctx, s)
	case plan.Remove:
		return e.Remove(ctx, s.Container)
	case plan.Rename:
		return e.Rename(ctx, s.Container, s.Name)
	case plan.RemoveNetwork:
		return e.RemoveNetwork(ctx, s.Name)
	case plan.RemoveVolume:
		a.logs.system(fmt.Sprintf("Removing volume '%s'", s.Name))
		return e.RemoveVolume(ctx, s.Name)
	case plan.Settle:
		return remote.Sleep(ctx, a.cfg.Timing.Settle)
	case plan.RemoveImage:
		return a.removeImage(ctx, s.Image)
	}
	return fmt.Errorf("unknown step %q", s.Kind)
}

// doing shows in the report what is done to a service, until the function that it answers is called.
func (a *Agent) doing(s plan.Step, what string) func() {
	key := s.App + "/" + s.Service
	a.mu.Lock()
	a.st.doing[key] = what
	a.st.busy = time.Now()
	a.mu.Unlock()
	poke(a.dirty)
	return func() {
		a.mu.Lock()
		delete(a.st.doing, key)
		a.mu.Unlock()
	}
}

func (a *Agent) pull(ctx context.Context, s plan.Step) error {
	if err := a.trust(s.Image); err != nil {
		return err
	}
	if err := a.store.change(func(m *memory) {
		if !slices.Contains(m.Pulled, s.Image) {
			m.Pulled = append(m.Pulled, s.Image)
		}
	}); err != nil {
		return err
	}
	a.logs.system(fmt.Sprintf("Downloading image '%s'", s.Image))
	a.log.Info("downloading", "service", s.Service, "image", s.Image)
	progress := func(percent int) {
		a.mu.Lock()
		a.st.pulls[s.Image] = percent
		a.st.busy = time.Now()
		a.mu.Unlock()
		poke(a.dirty)
	}
	progress(0)
	auth := engine.Auth{Username: api.DeviceRegistryUser(a.who.UUID), Password: a.who.Key}
	if err := a.download(ctx, s, auth, progress); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.st.pulls, s.Image)
	a.st.images[s.Image] = true
	a.mu.Unlock()
	poke(a.dirty)
	a.logs.system(fmt.Sprintf("Downloaded image '%s'", s.Image))
	return nil
}

// start starts a container. When a new one does not start, what it was to replace runs again.
func (a *Agent) start(ctx context.Context, s plan.Step) error {
	a.noteRestart(s.Container)
	defer a.doing(s, "Starting")()
	err := a.cfg.Engine.Start(ctx, s.Container)
	if err == nil {
		a.log.Info("started", "service", s.Service)
		a.logs.system(fmt.Sprintf("Started service '%s'", s.Service))
		return a.refresh(ctx)
	}
	a.logs.system(fmt.Sprintf("Failed to start service '%s': %v", s.Service, err))
	for _, old := range s.Replaces {
		if again := a.cfg.Engine.Start(ctx, old); again != nil {
			err = errors.Join(err, again)
		}
	}
	return err
}

// removeImage gives an image up. One that somebody else uses stays, and is not ours any more.
func (a *Agent) removeImage(ctx context.Context, ref string) error {
	err := a.cfg.Engine.RemoveImage(ctx, ref)
	if err != nil {
		a.log.Info("an old image stays", "image", ref, "reason", err)
		if ctx.Err() != nil {
			return err
		}
	}
	return a.store.change(func(m *memory) {
		m.Pulled = slices.DeleteFunc(m.Pulled, func(have string) bool { return have == ref })
	})
}

// restart counts how often we started one container, so that one that ends at once is not started in a hot loop.
type restart struct {
	count int
	next  time.Time
}

func (a *Agent) noteRestart(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.st.containers, func(c engine.Container) bool { return c.ID == id }) {
		return // a new one, known by its name as yet
	}
	r := a.st.restarts[id]
	r.count++
	r.next = time.Now().Add(min(a.cfg.Timing.ApplyRetry<<min(r.count, 20), 5*time.Minute))
	a.st.restarts[id] = r
}

// nextLook is when something held back may be started, or counts as running; negative when there is nothing of the kind.
func (a *Agent) nextLook() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, next := time.Now(), time.Duration(-1)
	sooner := func(t time.Time) {
		if d := t.Sub(now); d > 0 && (next < 0 || d < next) {
			next = d
		}
	}
	for _, c := range a.st.containers {
		if c.State == "exited" || c.State == "created" {
			sooner(a.st.restarts[c.ID].next)
		}
		if l := a.st.lives[c.ID]; l.ended && c.State == "running" {
			sooner(l.started.Add(a.cfg.Timing.Steady + time.Millisecond))
		}
	}
	return next
}

// life is what we saw of one container.
type life struct {
	started time.Time
	ended   bool // by itself, at least once
}

// watch follows what happens to the containers. When the engine goes away it waits for it.
func (a *Agent) watch(ctx context.Context) error {
	retry := remote.Backoff{Min: 500 * time.Millisecond, Max: 30 * time.Second}
	var pending sync.WaitGroup
	defer pending.Wait()
	pending.Go(func() { a.refreshOn(ctx) })
	for {
		if err := a.cfg.Engine.Ping(ctx); err == nil {
			retry.Reset()
			poke(a.seen) // something may have happened while we did not look
			poke(a.wake)
			err = a.cfg.Engine.Events(ctx, func(e engine.Event) {
				if a.note(e) {
					poke(a.seen)
				}
			})
			if ctx.Err() == nil {
				a.log.Warn("the engine's events ended", "error", err)
			}
		} else if ctx.Err() == nil {
			a.log.Warn("the engine does not answer", "error", err)
		}
		if remote.Sleep(ctx, retry.Next()) != nil {
			return nil
		}
	}
}

// refreshOn lists the containers whenever something was seen, but not for every single thing in a burst.
func (a *Agent) refreshOn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.seen:
		}
		if remote.Sleep(ctx, 20*time.Millisecond) != nil {
			return
		}
		if err := a.refresh(ctx); err != nil {
			a.log.Debug("could not list the containers", "error", err) // watch and apply say it when the engine is away
		}
		poke(a.wake)
	}
}

// note remembers what an event says and answers whether it matters.
func (a *Agent) note(e engine.Event) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.st.lives[e.ID]
	switch {
	case e.Action == "start":
		l.started = time.Now()
	case e.Action == "die":
		l.ended = true
		if time.Since(l.started) > a.cfg.Timing.Steady {
			delete(a.st.restarts, e.ID)
		}
	case e.Action == "destroy":
		delete(a.st.lives, e.ID)
		delete(a.st.restarts, e.ID)
		return true
	case e.Action == "rename", e.Action == "pause", e.Action == "unpause", strings.HasPrefix(e.Action, "health_status"):
		return true
	default:
		return false
	}
	a.st.lives[e.ID] = l
	return true
}
