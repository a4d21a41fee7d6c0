package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/host"
	"github.com/roadstead-io/roadstead/internal/agent/locks"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// The agent does what the device API, or an action that waited at the server, asks for. An act and the steps of an update never run at
// once; after an act the applier looks anew at what there is.
var _ deviceapi.Acts = (*Agent)(nil)

func (a *Agent) locks() locks.Dir { return locks.Dir(filepath.Join(a.cfg.RunDir, "services")) }

// hold keeps everybody else from changing containers until the function that it answers is called.
func (a *Agent) hold(ctx context.Context) (release func(), err error) {
	select {
	case a.acting <- struct{}{}:
		return func() { <-a.acting }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// overridden says that update locks do not count.
func (a *Agent) overridden(want *desired) bool {
	a.mu.Lock()
	force := a.st.force
	a.mu.Unlock()
	return force || setting(want, "SUPERVISOR_OVERRIDE_LOCK") == "true" || setting(want, "OVERRIDE_LOCK") == "true"
}

// lockable are the services whose locks count: those of the given fleets that are wanted or that have a container. None means all fleets.
func (a *Agent) lockable(want *desired, fleets map[string]bool) []locks.Service {
	all := map[locks.Service]bool{}
	if want != nil {
		for _, svc := range want.target.Services {
			if fleets == nil || fleets[svc.App.UUID] {
				all[locks.Service{Fleet: svc.App.ID, Name: svc.Name}] = true
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.st.containers {
		id, err := strconv.ParseInt(c.Labels[composition.LabelAppID], 10, 64)
		if name := c.Labels[composition.LabelServiceName]; err == nil && composition.ValidName(name) && (fleets == nil || fleets[c.Labels[composition.LabelAppUUID]]) {
			all[locks.Service{Fleet: id, Name: name}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(x, y locks.Service) int { return strings.Compare(x.Name, y.Name) })
}

// act does something to one fleet, with the locks of its services.
func (a *Agent) act(ctx context.Context, app deviceapi.App, force bool, f func(*fleetHere) error) error {
	release, err := a.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	want := a.wanted()
	if want == nil {
		return fmt.Errorf("%w: no target state is known yet", deviceapi.ErrNotFound)
	}
	id, ok := want.fleet(app)
	if !ok {
		return fmt.Errorf("%w: the device has no such app", deviceapi.ErrNotFound)
	}
	if err := a.refresh(ctx); err != nil {
		return err
	}
	unlock, err := a.locks().Take(a.lockable(want, map[string]bool{id.UUID: true}), force || a.overridden(want))
	if err != nil {
		return err
	}
	defer unlock()
	here := &fleetHere{App: id}
	for _, svc := range want.target.Services {
		if svc.App.UUID == id.UUID {
			here.services = append(here.services, svc)
		}
	}
	a.mu.Lock()
	for _, c := range a.st.containers {
		if c.Labels[composition.LabelAppUUID] == id.UUID {
			here.containers = append(here.containers, c)
		}
	}
	a.mu.Unlock()
	// Once begun it is finished, whether or not who asked still waits.
	err = f(here)
	a.again()
	return errors.Join(err, a.refresh(context.WithoutCancel(ctx)))
}

// again lets the applier plan anew, after a failure, too.
func (a *Agent) again() {
	a.mu.Lock()
	a.st.epoch++
	a.mu.Unlock()
	poke(a.wake)
}

// fleetHere is a fleet on this device: what is wanted of it, and what there is.
type fleetHere struct {
	composition.App
	services   []plan.Service
	containers []engine.Container
}

func (f *fleetHere) of(name string) []engine.Container {
	var out []engine.Container
	for _, c := range f.containers {
		if c.Labels[composition.LabelServiceName] == name {
			out = append(out, c)
		}
	}
	return out
}

// fleet finds one by its uuid or its number.
func (d *desired) fleet(app deviceapi.App) (composition.App, bool) {
	for _, have := range d.apps {
		if app.UUID != "" && have.UUID == app.UUID || app.UUID == "" && have.ID == app.ID {
			return have, true
		}
	}
	return composition.App{}, false
}

// RestartApp makes every container of a fleet anew.
func (a *Agent) RestartApp(ctx context.Context, app deviceapi.App, force bool) error {
	return a.act(ctx, app, force, func(f *fleetHere) error {
		ctx := context.WithoutCancel(ctx)
		a.logs.system("Restarting application")
		for _, svc := range slices.Backward(f.services) {
			for _, c := range f.of(svc.Name) {
				if err := a.cfg.Engine.Stop(ctx, c.ID); err != nil {
					return err
				}
			}
		}
		for _, svc := range f.services {
			if err := a.remake(ctx, f, svc); err != nil {
				return err
			}
		}
		return nil
	})
}

// Purge empties a fleet's volumes. Its containers are made anew by the applier.
func (a *Agent) Purge(ctx context.Context, app deviceapi.App, force bool) error {
	return a.act(ctx, app, force, func(f *fleetHere) error {
		ctx := context.WithoutCancel(ctx)
		a.logs.system("Purging data")
		for _, c := range slices.Backward(f.containers) {
			if err := errors.Join(a.cfg.Engine.Stop(ctx, c.ID), a.cfg.Engine.Remove(ctx, c.ID)); err != nil {
				return err
			}
		}
		volumes, err := a.cfg.Engine.Volumes(ctx)
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if v.Labels[composition.LabelAppUUID] == f.UUID {
				if err := a.cfg.Engine.RemoveVolume(ctx, v.Name); err != nil {
					return err
				}
			}
		}
		a.unstop(f.UUID, "")
		a.logs.system("Purged data")
		return nil
	})
}

// unstop forgets that services were stopped: one, or all of a fleet.
func (a *Agent) unstop(fleet, service string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.st.stopped, func(key string, _ bool) bool {
		return key == fleet+"/"+service || service == "" && strings.HasPrefix(key, fleet+"/")
	})
}

// Service restarts, stops or starts one service.
func (a *Agent) Service(ctx context.Context, app deviceapi.App, which deviceapi.Service, verb deviceapi.Verb, force bool) error {
	return a.act(ctx, app, force || verb == deviceapi.Start, func(f *fleetHere) error {
		ctx := context.WithoutCancel(ctx)
		at := slices.IndexFunc(f.services, func(s plan.Service) bool {
			return which.Name != "" && s.Name == which.Name || which.Name == "" && which.ImageID != 0 && s.ImageID == which.ImageID
		})
		if which == (deviceapi.Service{}) && len(f.services) == 1 {
			at = 0
		}
		if at < 0 {
			return fmt.Errorf("%w: the app has no such service", deviceapi.ErrNotFound)
		}
		svc := f.services[at]
		step := plan.Step{App: f.UUID, Service: svc.Name}
		switch verb {
		case deviceapi.Stop:
			a.mu.Lock()
			a.st.stopped[f.UUID+"/"+svc.Name] = true
			a.mu.Unlock()
			a.logs.system(fmt.Sprintf("Killing service '%s'", svc.Name))
			defer a.doing(step, "Stopping")()
			for _, c := range f.of(svc.Name) {
				if err := a.cfg.Engine.Stop(ctx, c.ID); err != nil {
					return err
				}
			}
			return nil
		case deviceapi.Start, deviceapi.Restart:
			a.unstop(f.UUID, svc.Name)
			if verb == deviceapi.Start && slices.ContainsFunc(f.of(svc.Name), func(c engine.Container) bool { return c.State == "running" }) {
				return nil
			}
			a.logs.system(fmt.Sprintf("%sing service '%s'", map[deviceapi.Verb]string{deviceapi.Start: "Start", deviceapi.Restart: "Restart"}[verb], svc.Name))
			defer a.doing(step, "Starting")()
			return a.remake(ctx, f, svc)
		}
		return fmt.Errorf("%w: %q is nothing to do to a service", deviceapi.ErrInvalid, verb)
	})
}

// remake ends the containers of a service and starts one anew. While an update is under way it starts again what there was: the update makes
// the rest. So it does where the engine no longer knows the image by the name that it has in this release: a container that a newer release
// did not change was kept, and what it came from is gone.
func (a *Agent) remake(ctx context.Context, f *fleetHere, svc plan.Service) error {
	e := a.cfg.Engine
	a.unstop(f.UUID, svc.Name)
	images, err := e.Images(ctx)
	if err != nil {
		return err
	}
	there := slices.Contains(images, svc.Image())
	for _, c := range f.of(svc.Name) {
		if err := e.Stop(ctx, c.ID); err != nil {
			return err
		}
		if !there || c.Labels[composition.LabelConfig] != svc.Spec.Config.Labels[composition.LabelConfig] || c.Name != svc.Spec.Name {
			if err := e.Start(ctx, c.ID); err != nil {
				return err
			}
			continue
		}
		if err := e.Remove(ctx, c.ID); err != nil {
			return err
		}
		id, err := e.Create(ctx, svc.Spec)
		if err != nil {
			return err
		}
		a.logs.system(fmt.Sprintf("Started service '%s'", svc.Name))
		return e.Start(ctx, id)
	}
	return nil // the applier makes one that is not there
}

// Update polls at once.
func (a *Agent) Update(_ context.Context, force, cancel bool) (accepted bool, err error) {
	if !force && setting(a.wanted(), "SUPERVISOR_INSTANT_UPDATE_TRIGGER") == "false" {
		return false, nil
	}
	a.mu.Lock()
	a.st.force, a.st.forcePoll = a.st.force || force, a.st.forcePoll || force
	if cancel && a.st.cancelPulls != nil {
		a.st.cancelPulls()
	}
	a.mu.Unlock()
	if force {
		a.again()
	}
	poke(a.pollNow)
	return true, nil
}

// Healthy fails when the agent does not do its work.
func (a *Agent) Healthy(context.Context) error {
	limit := 2*a.interval() + time.Minute
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.st.polled) > limit {
		return errors.New("the server has not been reached for long")
	}
	return nil
}

// State tells everything.
func (a *Agent) State(context.Context) (deviceapi.State, error) {
	macs, ips := host.Addresses()
	want := a.wanted()
	out := deviceapi.State{
		UUID: string(a.who.UUID), Type: a.conf.DeviceType, Arch: host.Arch(), OSVersion: a.osName, AgentVersion: a.cfg.Version, IPAddress: ips, MACAddress: macs,
	}
	if a.channel != nil {
		s := a.channel.Status()
		out.Channel = deviceapi.ChannelState{Enabled: s.Wanted(), Connected: s.Address.IsValid()}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out.Failed = a.st.failed
	if want == nil {
		return out, nil
	}
	out.Name, out.Applied = want.device.Name, a.st.update == "done"
	for _, app := range want.apps {
		f := deviceapi.FleetState{App: deviceapi.App{ID: app.ID, UUID: app.UUID}, Name: app.Name, Commit: app.Commit, ReleaseID: app.ReleaseID, UpdateStatus: a.st.update}
		for _, svc := range want.target.Services {
			if svc.App.UUID == app.UUID {
				f.Services = append(f.Services, a.st.serviceState(svc, a.cfg.Timing.Steady))
			}
		}
		out.Fleets = append(out.Fleets, f)
	}
	return out, nil
}

func (s *status) serviceState(svc plan.Service, steady time.Duration) deviceapi.ServiceState {
	rep := s.service(svc, time.Now(), steady)
	out := deviceapi.ServiceState{
		Service: deviceapi.Service{Name: svc.Name, ImageID: svc.ImageID}, ID: svc.ID, Image: svc.Image(), Status: rep.Status, DownloadProgress: rep.DownloadProgress,
		Environment: map[string]string{},
	}
	for _, c := range s.containers {
		if c.Labels[composition.LabelAppUUID] == svc.App.UUID && c.Labels[composition.LabelServiceName] == svc.Name &&
			c.Labels[composition.LabelConfig] == svc.Spec.Config.Labels[composition.LabelConfig] {
			out.ContainerID = c.ID
		}
	}
	for _, line := range svc.Spec.Config.Env {
		if name, val, ok := strings.Cut(line, "="); ok && !strings.HasSuffix(name, "_API_KEY") {
			out.Environment[name] = val
		}
	}
	return out
}

// RenewKey replaces a key of the device API; the containers of a fleet get theirs with the applier's next look.
func (a *Agent) RenewKey(_ context.Context, fleet string) (string, error) {
	key, err := a.keys.Renew(fleet)
	if err != nil {
		return "", err
	}
	if err := a.remember(); err != nil {
		return "", err
	}
	poke(a.dirty)
	return key, nil
}
